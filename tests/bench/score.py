"""`python -m tests.bench.score [--rows N]`: rows a second of `eval.score`, start included, JSON in and JSON out; one JSON line.

The rows are like VQAv2's: ten answers of which most agree, an answer, a question, an image of five questions. Every twentieth
answer is a text that occurs once, so that the cache of normalised texts is met as real data meet it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = 3000  # answers that come again


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    vocabulary = [
        "yes",
        "no",
        "2",
        "1",
        "white",
        "none",
        "the left",
        "don't",
        *(f"word{i} thing-{i % 7}" for i in range(COMMON)),
    ]
    weights = [1 / (rank + 1) for rank in range(len(vocabulary))]
    picks = iter(rng.choices(vocabulary, weights, k=3 * count))
    with path.open("w") as file:
        for i in range(count):
            answers = [next(picks)] * rng.randint(5, 10)
            answers += [next(picks)] * (10 - len(answers))
            rng.shuffle(answers)
            prediction = f"a thing, number {i}" if i % 20 == 0 else rng.choice(answers).title()
            row = {"question_id": i, "image": f"{i // 5:012d}", "question": "What is on the left of the picture?"}
            file.write(json.dumps({**row, "prediction": prediction, "answers": answers, "answer_type": "other"}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--metric", default="vqa_accuracy")
    args = parser.parse_args()
    if args.rows < 1:
        parser.error(f"argument --rows: {args.rows} is not a whole number of 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        cases, out = Path(folder) / "cases.jsonl", Path(folder) / "scored.jsonl"
        write_rows(cases, args.rows)
        started = time.perf_counter()
        command = [sys.executable, "-m", "eval.score", args.metric, str(cases), "--out", str(out)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            raise SystemExit(done.returncode)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        figure = {
            "bench": "score",
            "metric": args.metric,
            "rows": args.rows,
            "seconds": round(seconds, 2),
            "unit": "rows/s",
            "figure": int(args.rows / seconds),
        }
        figure |= {"cpu_seconds": round(used.ru_utime + used.ru_stime, 2), "peak_mib": used.ru_maxrss // 1024}
        from tests.bench.measure import (
            commit,
            hardware,
            versions,
        )  # now: a process begins with the memory of the one it came from

        figure |= {"input_mib": cases.stat().st_size >> 20, "hardware": hardware("cpu")}
        figure |= {"versions": versions(), "commit": commit()}
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
