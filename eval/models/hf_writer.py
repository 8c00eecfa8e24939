"""Writing with a model of transformers: which token comes next, and when a row ends, is decided here.

transformers asks a logits processor before it chooses; this one chooses, and leaves it a single token. What is kept is a
number a token: with large vocabularies the logits of a batch would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vlm.generate import finish_of, precise
from vlm.sampling import Chooser, Sampling
from vlm.text_stream import checked, stop_at


class Writer:
    """`num_samples` rows a prompt, in order: `tokens`, `logprobs` (at temperature 1) and `finish` of each."""

    def __init__(self, options: Sampling, prompts: int, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        rows, self.options, self.decode, self.stop = prompts * options.num_samples, options, decode, checked(stop)
        nothing = torch.empty(prompts, 0, dtype=torch.long)
        self.chooser = Chooser(options, nothing, nothing.bool(), 0)
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]
        self.finish: list[str | None] = [None] * rows

    def write(self, model: Any, inputs: Any, pad_token: int) -> None:
        """`inputs`: what the processor made of the prompts, padded on the left."""
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        before = model.generation_config
        own = {"eos_token_id": list(self.options.stop_ids) or None, "pad_token_id": pad_token}
        start = {name: getattr(before, name, None) for name in ("bos_token_id", "decoder_start_token_id")}
        samples = self.options.num_samples
        model.generation_config = GenerationConfig(**own, **start)  # a repository's own options do not apply
        try:
            model.generate(
                **inputs,
                max_new_tokens=self.options.max_new_tokens,
                do_sample=samples > 1,  # rows for each prompt; the draw itself is from the one token left
                num_return_sequences=samples,
                logits_processor=LogitsProcessorList([self._choose]),
                stopping_criteria=StoppingCriteriaList([self._ended]),
            )
        finally:
            model.generation_config = before

    def _choose(self, _: Tensor, scores: Tensor) -> Tensor:
        """[B, V] logits → the same with one token left."""
        scores = precise(scores)
        chosen = self.chooser(scores)
        logprobs = scores.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]
        for row, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
            if self.finish[row] is None:
                self._add(row, token, logprob)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _add(self, row: int, token: int, logprob: float) -> None:
        if logprob != logprob:
            raise ValueError("the model's logits are not finite")
        text = [*self.tokens[row], token]
        self.finish[row] = finish_of(text, self.options, self._stops, self.options.max_new_tokens - len(text))
        if token not in self.options.stop_ids:
            self.tokens[row] = text
            self.logprobs[row].append(logprob)

    def _stops(self, tokens: list[int]) -> bool:
        return bool(self.stop) and stop_at(self.decode(tokens), self.stop) is not None

    def _ended(self, tokens: Tensor, _: Any, **options: Any) -> Tensor:
        return torch.tensor([finish is not None for finish in self.finish], device=tokens.device)
