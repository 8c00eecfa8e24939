"""Our own models, with vision or text alone, behind the evaluation's protocol.

Pictures of a batch are decoded by several threads, since a fast accelerator would wait for them. Weights decide the answers,
and so do the model's shape (how many experts a token takes), tokenizer and image preprocessing: the fingerprint covers all
four, and the precision computed in.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from pydantic import TypeAdapter

import vlm
from eval.models.base import Completion, Request
from eval.tasks import digest
from vlm.config import DecoderConfig, ModelConfig
from vlm.decoder import TextDecoder
from vlm.model import VLM
from vlm.processor import Encoded, Processor
from vlm.sample import Sample
from vlm.text_stream import Continuation, generate_text


class Own:
    """`VLM` or `TextDecoder` with its processor. Training mode is restored after each call."""

    def __init__(self, model: VLM | TextDecoder, processor: Processor) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Own:
        """A run or model directory."""
        return cls(*vlm.load(path, device=device, dtype=dtype))

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        reading = [
            _shape(self.model),
            self.processor.tokenizer.to_str(),
            repr(self.processor.image),
            json.dumps(self.processor.special),
        ]
        return digest(fingerprint(self.model), *reading, str(next(self.model.parameters()).dtype))

    def length(self, sample: Sample) -> int:
        return len(self.processor.encode_text(sample))

    def context_length(self) -> int | None:
        decoder = self.model.decoder if isinstance(self.model, VLM) else self.model
        return decoder.config.context_length

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Raises `ValueError` naming the sample for a picture that cannot be decoded."""
        if not requests:
            return []
        first = requests[0]
        documents = self._encode([request.sample for request in requests])
        with inference(self.model):
            written = generate_text(
                self.model,
                self.processor,
                self.processor.collate([[document] for document in documents]),
                stop=first.stop,
                max_new_tokens=first.max_new_tokens,
                temperature=first.temperature,
                top_p=first.top_p if first.temperature else 1.0,
                num_samples=first.num_samples,
                seed=[request.seed for request in requests],
            )
        completions = [_completion(text) for text in written]
        return [completions[i : i + first.num_samples] for i in range(0, len(completions), first.num_samples)]

    def _encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self._encode_one, samples))

    def _encode_one(self, sample: Sample) -> Encoded:
        try:
            return self.processor.encode(sample)
        except ValueError as error:
            raise ValueError(f"item {sample.key}: {error}") from None


def _shape(model: VLM | TextDecoder) -> str:
    """The configuration as the parts have it now, without what no answer depends on: where the first weights came from, and the
    length of the training documents."""
    config: ModelConfig | DecoderConfig
    decoder = model.decoder if isinstance(model, VLM) else model
    config = dataclasses.replace(decoder.config, context_length=None)
    if isinstance(model, VLM):
        encoder = dataclasses.replace(model.encoder.config, pretrained=None)
        config = dataclasses.replace(model.config, encoder=encoder, decoder=config)
    as_read = TypeAdapter(type(config)).validate_json(json.dumps(dataclasses.asdict(config)))  # 1 for a float is 1.0
    return repr(as_read)


def _completion(text: Continuation) -> Completion:
    return Completion(text.text, text.finish, tuple(text.tokens), tuple(text.logprobs))


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of the weights, whatever precision holds them: up to 4,096 values of each tensor, evenly spread."""
    parts: list[str | bytes] = []
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        picked = flat[:: max(1, flat.numel() // 4096)].double().cpu().numpy()
        parts += [json.dumps([name, list(tensor.shape)]), picked.tobytes()]
    return digest(*parts)


def device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode before is restored."""
    before = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(before)
