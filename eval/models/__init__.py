"""What can be asked: our own models, a Hugging Face model, an endpoint. One protocol: all are measured by the same ruler.

An arm of an evaluation (direct, rationale first, few-shot, a control) is a generator that yields `Request`s and is sent what
the model wrote, so that any number of steps a question takes is batched over all questions by one engine (`eval.engine`).
"""

from __future__ import annotations

from pathlib import Path

import torch

from eval.models.base import Completion, Model, Request, UnusableError

__all__ = ["Completion", "Model", "Request", "UnusableError", "open"]


def open(spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """`hf:PATH` is a Hugging Face model, `endpoint:URL#MODEL` a server, anything else a run or model directory of ours."""
    kind, colon, rest = spec.partition(":")
    if colon and kind == "hf":
        from eval.models.hf import HuggingFace

        return HuggingFace.load(rest, device=device, dtype=dtype)
    if colon and kind == "endpoint":
        from eval.models.endpoint import Endpoint

        return Endpoint.open(rest)
    from eval.models.own import Own

    return Own.load(Path(spec), device=device, dtype=dtype)
