"""`python -m eval.detect --checkpoint RUN --image IMAGE "text"`: what each token of a text owes to the picture.

Prints log-probability, pointwise mutual information with the picture and the doubt of every detector, in nats; doubtful
tokens, by the detector and threshold of the run's own evaluation, are marked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import vlm
from eval import cli
from eval.hallucination import DETECTORS, TokenSignals, read_signals
from eval.hallucination.marking import Marking
from vlm import prompt
from vlm.sample import Image

QUESTION = "Describe the chart."


def table(signals: TokenSignals, marking: Marking | None) -> str:
    """One line a token."""
    doubts = {name: detector(signals) for name, detector in DETECTORS.items()}
    doubt = [None] * len(signals.tokens) if marking is None else marking.detector(signals)
    lines = [f"{'token':<20}{'log p':>9}{'PMI':>9}" + "".join(f"{name:>11}" for name in doubts)]
    for i, (a, b) in enumerate(signals.spans):
        piece = signals.text[a:b]
        mark = "  ?" if marking is not None and marking.doubtful(piece, doubt[i]) else ""
        numbers = f"{signals.logprob[i]:>9.3f}{signals.pmi[i]:>9.3f}" + "".join(
            f"{values[i]:>11.3f}" for values in doubts.values()
        )
        lines.append(f"{cli.printable(repr(piece)[1:-1])[:19]:<20}{numbers}{mark}")
    return "\n".join(lines)


def main() -> None:
    args = _arguments()
    if not args.text.strip():
        raise ValueError("the text to judge is empty")
    image = Image(cli.read_picture(args.image))
    model, processor = vlm.load(args.checkpoint, device=cli.device(args.device), dtype=torch.float32)
    question = prompt.question([image], args.question)
    signals = read_signals(model, processor, [question], [processor.tokenize(" " + args.text.strip())])[0]
    marking = Marking.load(args.checkpoint)
    print(table(signals, marking))
    if marking is None:
        print("(no token is marked: the run has no chart evaluation that chose a detector and threshold)")
    else:
        print(f"(? = doubtful: {marking.detector.name} above {marking.threshold:.3f})")


def _arguments() -> argparse.Namespace:
    parser = cli.parser(
        "eval.detect",
        "Hallucination scores of each token of a text about a picture.",
        'python -m eval.detect --checkpoint runs/vlm --image chart.png "red 7; blue 3"',
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run or model directory")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("text", help="what is said of the picture")
    parser.add_argument("--question", default=QUESTION, help=f"what the text answers (default: {QUESTION!r})")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
