"""`python -m eval.ask --checkpoint RUN [IMAGE …] "question"`: the answer, streamed word by word, doubtful words marked.

A word is doubtful when the run's own detector says so (chosen by the evaluation at the end of training). Each finished word
is read again with and without the pictures, so marking costs two passes a word; `--plain` leaves it out. Without a picture the
model is its text decoder and nothing is marked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import vlm
from eval import cli
from eval.hallucination import read_signals
from eval.hallucination.marking import Marking, word_doubts
from eval.models.own import device_of, inference
from vlm import prompt
from vlm.chat import chat_sample
from vlm.model import VLM
from vlm.processor import Processor
from vlm.sample import Image, Sample
from vlm.text_stream import TextStream

UNDERLINE, RESET = "\x1b[4;33m", "\x1b[0m"


def answer(
    model: VLM, processor: Processor, question: Sample, marking: Marking | None, max_new_tokens: int = 200
) -> Iterator[tuple[str, bool]]:
    """Yield (word with the blanks before it, is it doubtful) as the model writes."""
    text, written, shown = TextStream(processor.tokenizer), "", 0
    with inference(model):
        batch = processor([question]).to(device_of(model))
        for token, _ in model.stream(batch, max_new_tokens=max_new_tokens, stop_ids=(processor.eos_id,)):
            count = text.read  # tokens of what is written
            piece = text.push(token)
            if piece[:1].isspace() and written[shown:].strip():
                yield from _marked(model, processor, question, text.tokens[:count], marking, shown)
                shown = len(written)
            written += piece
        yield from _marked(model, processor, question, text.tokens, marking, shown)


def _marked(
    model: VLM, processor: Processor, question: Sample, tokens: list[int], marking: Marking | None, shown: int
) -> Iterator[tuple[str, bool]]:
    """The words behind the first `shown` characters."""
    if marking is None:
        yield processor.decode(tokens)[shown:], False
        return
    signals = read_signals(model, processor, [question], [tokens])[0]
    spans = [(max(0, a - shown), max(0, b - shown)) for a, b in signals.spans]
    for word, doubt in word_doubts(signals.text[shown:], spans, marking.detector(signals)):
        yield word, marking.doubtful(word, doubt)


def mark(word: str, doubtful: bool, colour: bool) -> str:
    """A word as printed: underlined on a terminal, followed by [?] elsewhere."""
    text = cli.printable(word)
    if not doubtful:
        return text
    blanks = text[: len(text) - len(text.lstrip())]
    return f"{blanks}{UNDERLINE}{text.lstrip()}{RESET}" if colour else f"{text}[?]"


def main() -> None:
    args = _arguments()
    if Path(args.question).is_file():
        raise ValueError(f"no question: the last argument, {args.question!r}, is a file")
    if not args.question.strip():
        raise ValueError("the question is empty")
    images = [Image(cli.read_picture(path)) for path in args.images]
    model, processor = vlm.load(args.checkpoint, device=cli.device(args.device), dtype=torch.float32)
    marking = Marking.load(args.checkpoint) if images and not args.plain else None
    question = _question(processor, images, args)
    first = True
    for word, doubtful in answer(model, processor, question, marking, args.max_new_tokens):
        print(mark(word.lstrip() if first else word, doubtful, sys.stdout.isatty()), end="", flush=True)
        first = False
    print()


def _question(processor: Processor, images: list[Image], args: argparse.Namespace) -> Sample:
    if not args.chat:
        return prompt.question(images, args.question, reason=args.reason)
    parts = [*({"type": "image", "image": image.data} for image in images), {"type": "text", "text": args.question}]
    return chat_sample(processor, [{"role": "user", "content": parts}], add_generation_prompt=True)


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.ask",
        "Ask a model about pictures; doubtful words are marked.",
        'python -m eval.ask --checkpoint runs/vlm chart.png "which bar is highest?" --reason',
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run or model directory")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE")
    parser.add_argument("question")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--reason", action="store_true", help="let the model write its rationale first")
    how.add_argument("--chat", action="store_true", help="ask through the tokenizer's chat template")
    parser.add_argument("--plain", action="store_true", help="mark nothing (faster)")
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    cli.run(main)
