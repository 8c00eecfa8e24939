"""`python -m vlm.interop import|export|upcycle SRC DST`: weights in, weights out, and dense models made mixtures of experts.

    import    a Hugging Face directory or a GGUF file → a model directory
    export    a run or model directory → a Hugging Face directory
    upcycle   any of these, dense → a model directory with experts

A destination is written when it is not there, is empty, or holds a model of the kind that is written; anything else stays.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vlm.command import parser, run
from vlm.files import read_json
from vlm.interop import open as published
from vlm.interop.hf import export
from vlm.interop.text import TextFiles
from vlm.interop.upcycle import upcycle
from vlm.load import check_replaceable, load, save
from vlm.model import VLM, TextDecoder
from vlm.processor import Processor

DTYPES = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Opened = tuple[TextDecoder | VLM, Processor]


def main(arguments: list[str] | None = None) -> None:
    """Raises `ValueError` in one line for a source that cannot be read and a destination that would be lost."""
    options = _parser().parse_args(arguments)
    options.act(options)


def _parser() -> argparse.ArgumentParser:
    root = parser(
        "vlm.interop",
        "Weights in and out, and dense models made mixtures of experts.",
        "python -m vlm.interop import SmolLM2-135M-Instruct.Q4_1.gguf models/smol",
    )
    commands = root.add_subparsers(required=True, metavar="import|export|upcycle")
    add = _command(
        commands, "import", _import, "a Hugging Face directory or a GGUF file → a model directory", "Mixtral-8x7B mixtral"
    )
    add("--tokenizer", type=Path, metavar="DIR", help="Hugging Face directory with the tokenizer (default: SRC's own)")
    add = _command(
        commands, "export", _export, "a run or model directory → a Hugging Face directory", "runs/vlm out --decoder-only"
    )
    add("--family", help="model_type to write (default: the first that can say what the model is)")
    add("--decoder-only", action="store_true", help="leave out what sees")
    example = "models/smol models/smol-8x --experts 8 --top-k 2 --reinit 0.5"
    add = _command(
        commands, "upcycle", _upcycle, "a dense model → a mixture of experts that starts as the same function", example
    )
    add("--experts", type=int, default=8, help="(default: %(default)s)")
    add("--top-k", type=int, default=2, help="experts a token (default: %(default)s)")
    add("--every", type=int, default=1, metavar="N", help="every N-th layer gets experts (default: %(default)s)")
    add("--noise", type=float, default=0.0, help="added to each copy, in deviations of the matrix (default: %(default)s)")
    add("--reinit", type=float, default=0.0, help="share of hidden units drawn anew, 0 to 1 (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    return root


def _command(commands, name: str, act: Callable, about: str, example: str) -> Callable:
    """Adds the command; returns what adds an option to it."""
    made = parser(f"vlm.interop {name}", about, f"python -m vlm.interop {name} {example}")
    command = commands.add_parser(
        name, help=about, description=about, epilog=made.epilog, formatter_class=made.formatter_class, prog=made.prog
    )
    command.add_argument("src", type=Path, metavar="SRC")
    command.add_argument("dst", type=Path, metavar="DST")
    command.add_argument("--dtype", choices=DTYPES, default="stored", help="of the weights in DST (default: as in SRC)")
    command.set_defaults(act=act)
    return command.add_argument


def _import(options: argparse.Namespace) -> None:
    _check_places(options.src, options.dst, "sha256")
    if _is_ours(options.src):
        raise ValueError(f"{options.src} is a model directory already")
    model, processor = _open(options.src, DTYPES[options.dtype], options.tokenizer)
    _save(options.dst, model, processor)


def _export(options: argparse.Namespace) -> None:
    _check_places(options.src, options.dst, "model_type")
    with _step(f"reading {options.src}"):
        model, processor = load(options.src, dtype=DTYPES[options.dtype])
    model = model.decoder if options.decoder_only and isinstance(model, VLM) else model
    first, eos, pad = (processor.special[role] for role in ("bos", "eos", "pad"))
    bos = first or processor.special.get("template_bos")
    text = TextFiles(processor.tokenizer, processor.chat_template, bos, eos, pad, add_bos=first is not None)
    with _step(f"writing {options.dst}"):
        export(model, options.dst, options.family, text=text)


def _upcycle(options: argparse.Namespace) -> None:
    _check_places(options.src, options.dst, "sha256")
    model, processor = _open(options.src, DTYPES[options.dtype])
    with _step(f"making {options.experts} experts of each feed-forward"):
        model = upcycle(
            model, options.experts, options.top_k, options.noise, options.reinit, seed=options.seed, every=options.every
        )
    _save(options.dst, model, processor)


def _open(source: Path, dtype: torch.dtype | None, tokenizer: Path | None = None) -> Opened:
    """A model of any kind that we read, and its processor."""
    with _step(f"reading {source}"):
        if source.is_dir() and not _is_foreign(source):
            return load(source, dtype=dtype)
        try:
            return published.load(source, dtype=dtype, tokenizer=tokenizer)
        except ImportError as error:  # an extra that is not installed; the line says which
            raise ValueError(str(error)) from None


def _save(directory: Path, model: TextDecoder | VLM, processor: Processor) -> None:
    with _step(f"writing {directory}"):
        save(directory, model, processor)
    print(f"{directory}: {sum(p.numel() for p in model.parameters()):,} parameters")


def _check_places(source: Path, destination: Path, key: str) -> None:
    """Raise unless the source is there and nothing but a model, known by `key` in its config.json, would be replaced."""
    if not source.exists():
        raise ValueError(f"{source} is not there")
    if destination.resolve() == source.resolve():
        raise ValueError(f"{destination} is the source: give another destination")
    check_replaceable(destination, key)


def _config(directory: Path) -> dict:
    path = directory / "config.json"
    return read_json(path) if path.is_file() else {}


def _is_foreign(directory: Path) -> bool:
    return "model_type" in _config(directory)


def _is_ours(path: Path) -> bool:
    return "sha256" in _config(path) or "sha256" in _config(path / "model")


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Says on standard output what goes on and how long it took; standard error is for what went wrong."""
    started = time.monotonic()
    print(f"{what} …", flush=True)
    yield
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    run(main)
