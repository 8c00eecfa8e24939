"""A Hugging Face vision-language model behind the evaluation's protocol: `hf:PATH`, a local directory or a hub id.

Prompts are conversations where the processor has a chat template, else pictures and text in a row (Idefics' own lists of
both). Weights come from safetensors alone, and no code from a repository is run. transformers does the writing; which token
comes next is chosen by `vlm.sampling`, as for our own models: draws depend on a request's seed and not on its batch, and
options that a repository sets by itself (a repetition penalty, sampling) do not apply.

A text that holds one of the model's special tokens would be read as such (as a picture, say), so such an item is refused.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import PIL.Image
import torch

from eval.models.base import Completion, Request
from eval.models.conversation import ASSISTANT, Part, Turn, conversation, in_a_row
from eval.models.hf_writer import Writer
from eval.models.own import device_of, fingerprint, inference
from eval.tasks import digest
from vlm.image import open_image
from vlm.sample import Image, Sample, Text
from vlm.sampling import Sampling
from vlm.text_stream import stop_at

INSTALL = "Hugging Face models need transformers: pip install -e '.[hf]'"
TYPICAL = 448  # pixels a side: the picture that stands for all where a prompt's length is asked for
_TEXT = Text("a", learn=False)


class HuggingFace:
    """`model` and `processor` as transformers' Auto classes give them."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tokenizer = model.eval(), processor, processor.tokenizer
        self.tokenizer.padding_side = "left"
        self._fingerprint = digest(fingerprint(model), _shape(model.config), *_reading(processor), str(model.dtype))
        ends = model.generation_config.eos_token_id
        own_ends = ends if isinstance(ends, list) else [ends]
        self.ends = sorted({end for end in (*own_ends, self.tokenizer.eos_token_id) if end is not None})
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        pictures = (self._picture_token, getattr(processor, "fake_image_token", None))
        self.special = sorted({str(token) for token in (*self.tokenizer.all_special_tokens, *pictures) if token})

    @classmethod
    def load(cls, path: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> HuggingFace:
        """Raises `ValueError` in one line for what is no such model, has no safetensors, or wants to run code of its own."""
        try:
            import transformers
        except ImportError:
            raise ValueError(INSTALL) from None
        if not sys.stderr.isatty():
            transformers.utils.logging.disable_progress_bar()
        try:
            processor = transformers.AutoProcessor.from_pretrained(path, trust_remote_code=False)
            model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
                path, trust_remote_code=False, use_safetensors=True, dtype=dtype
            )
        except Exception as error:  # whatever a repository's files can break
            raise ValueError(f"hf:{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
        if not hasattr(processor, "tokenizer"):
            raise ValueError(f"hf:{path}: its processor has no tokenizer ({type(processor).__name__})")
        return cls(model.to(device), processor)

    def fingerprint(self) -> str:
        return self._fingerprint

    def length(self, sample: Sample) -> int:
        """Pictures count as one of a typical size does."""
        parts = in_a_row(sample)
        text = "".join(part for part in parts if isinstance(part, str))
        return len(self.tokenizer(text).input_ids) + sum(isinstance(part, Image) for part in parts) * self._picture_length

    def context_length(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Raises `ValueError` naming the sample for a picture or text that the model cannot be given."""
        written: dict[int, list[Completion]] = {}
        for seeing in (True, False):  # processors do not take both at once
            chosen = [i for i, request in enumerate(requests) if _sees(request.sample) == seeing]
            if chosen:
                written |= zip(chosen, self._complete([requests[i] for i in chosen]), strict=True)
        return [written[i] for i in range(len(requests))]

    def _complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        first = requests[0]
        options = Sampling(
            max_new_tokens=first.max_new_tokens,
            stop_ids=self.ends,
            temperature=first.temperature,
            top_p=first.top_p if first.temperature else 1.0,
            num_samples=first.num_samples,
            seed=[request.seed for request in requests],
        )
        inputs = self._inputs([request.sample for request in requests])
        writer = Writer(options, len(requests), self._decode, first.stop)
        with inference(self.model):
            writer.write(self.model, inputs.to(device_of(self.model), self.model.dtype), self.tokenizer.pad_token_id)
        rows = [self._completion(*row, first.stop) for row in zip(writer.tokens, writer.logprobs, writer.finish, strict=True)]
        return [rows[i : i + first.num_samples] for i in range(0, len(rows), first.num_samples)]

    def _completion(self, tokens: list[int], logprobs: list[float], finish: str | None, stop: Sequence[str]) -> Completion:
        text = self._decode(tokens)
        return Completion(text[: stop_at(text, stop)], finish or "length", tuple(tokens), tuple(logprobs))

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    # -- prompts --------------------------------------------------------------------------------------------------------

    def _inputs(self, samples: Sequence[Sample]) -> Any:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            rows = [[part for part in in_a_row(sample) if isinstance(part, Image)] for sample in samples]
            pictures = list(pool.map(_decoded, rows, [sample.key for sample in samples]))
        for sample in samples:
            self._refuse_special(sample)
        common = {"padding": True, "return_tensors": "pt"}
        if self._takes_lists:
            prompts = [_mixed(sample, images) for sample, images in zip(samples, pictures, strict=True)]
            return self.processor(text=prompts, **common)
        texts = [self._prompt(sample) for sample in samples]
        begun = self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token)
        return self.processor(text=texts, images=pictures if any(pictures) else None, add_special_tokens=not begun, **common)

    def _prompt(self, sample: Sample) -> str:
        if not getattr(self.processor, "chat_template", None):
            return "".join(part if isinstance(part, str) else self._picture_mark(sample.key) for part in in_a_row(sample))
        turns = conversation(sample)
        goes_on = turns[-1].role == ASSISTANT
        try:
            return self.processor.apply_chat_template(
                [_message(turn) for turn in turns],
                tokenize=False,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
            )
        except Exception as error:  # a template is a program of the repository's
            raise ValueError(f"item {sample.key}: the chat template refuses it: {error}") from None

    def _picture_mark(self, key: str) -> str:
        if self._picture_token is None:
            raise ValueError(f"item {key}: {type(self.processor).__name__} has neither a chat template nor an image token")
        return self._picture_token

    @property
    def _picture_token(self) -> str | None:
        token = getattr(self.processor, "image_token", None)
        return None if token is None else str(token)

    @property
    def _takes_lists(self) -> bool:
        """Idefics (2023) reads lists of texts and pictures."""
        return type(self.processor).__name__ == "IdeficsProcessor"

    def _refuse_special(self, sample: Sample) -> None:
        for part in in_a_row(sample):
            found = next((token for token in self.special if token in part), None) if isinstance(part, str) else None
            if found is not None:
                raise ValueError(f"item {sample.key}: its text holds {found!r}, which the model reads as a special token")
            if self._takes_lists and isinstance(part, str) and part.strip().startswith(("http:", "https:", "www.")):
                raise ValueError(f"item {sample.key}: its text begins with an address, which Idefics' processor would fetch")

    @cached_property
    def _picture_length(self) -> int:
        """Tokens that a picture of typical size takes."""
        picture = Image(PIL.Image.new("RGB", (TYPICAL, TYPICAL), "white"))
        with_it, without = (self._inputs([Sample((*media, _TEXT))]) for media in ((picture,), ()))
        return max(1, with_it["input_ids"].shape[1] - without["input_ids"].shape[1])


def _sees(sample: Sample) -> bool:
    return any(isinstance(segment, Image) for segment in sample.segments)


def _message(turn: Turn) -> dict[str, Any]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in turn.parts]
    return {"role": turn.role, "content": parts}


def _mixed(sample: Sample, pictures: Sequence[PIL.Image.Image]) -> list[str | PIL.Image.Image]:
    left = iter(pictures)
    return [part if isinstance(part, str) else next(left) for part in in_a_row(sample)]


def _decoded(pictures: Sequence[Part], key: str) -> list[PIL.Image.Image]:
    try:
        return [open_image(picture.data) for picture in pictures if isinstance(picture, Image)]
    except ValueError as error:
        raise ValueError(f"item {key}: {error}") from None


def _shape(config: Any) -> str:
    """The configuration, wherever its files lie and whichever version reads them."""
    places = ("_name_or_path", "transformers_version")

    def without(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if name not in places}

    plain = json.loads(config.to_json_string(use_diff=False), object_pairs_hook=without)
    return json.dumps(plain, sort_keys=True)


def _reading(processor: Any) -> list[str]:
    """What of the prompt's making the answers depend on."""
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(processor.tokenizer.get_vocab(), sort_keys=True)
    images = getattr(processor, "image_processor", None)
    settings = json.dumps(images.to_dict() if images is not None else {}, sort_keys=True, default=str)
    return [words, settings, str(getattr(processor, "chat_template", None))]
