"""`python -m eval.compare OUT_A OUT_B`: is one evaluation better than another on the same items? Paired, with its interval."""

from __future__ import annotations

import json
from pathlib import Path

from eval import cli, stats
from eval.store import RECORDS, read_records


def compare(a: Path, b: Path) -> dict:
    """Score of A − B over the items that both answered from the same question and references, and McNemar's counts.

    Raises `ValueError` when the two share no item, `FileNotFoundError` where there are no records.
    """
    first, second = ({r["id"]: r for r in read_records(Path(out) / RECORDS)} for out in (a, b))
    same = [key for key in first if key in second and _asked(first[key]) == _asked(second[key])]
    if not same:
        raise ValueError(f"{a} and {b} have no item in common")
    ours, theirs = ([records[key]["score"] for key in same] for records in (first, second))
    images = [first[key]["image"] for key in same]
    return {
        "difference": stats.paired_difference(ours, theirs, images, variant="score of A minus score of B, paired"),
        "only_a_right": sum(x > y for x, y in zip(ours, theirs, strict=True)),
        "only_b_right": sum(x < y for x, y in zip(ours, theirs, strict=True)),
        "left_out": len(first.keys() | second.keys()) - len(same),
    }


def _asked(record: dict) -> tuple:
    return record["question"], tuple(record["references"])


def main() -> None:
    example = "python -m eval.compare runs/vlm/eval/charts runs/other/eval/charts"
    parser = cli.parser("eval.compare", "Paired difference of two evaluations of the same items.", example)
    parser.add_argument("a", type=Path, metavar="OUT_A", help="directory with records.jsonl")
    parser.add_argument("b", type=Path, metavar="OUT_B")
    args = parser.parse_args()
    print(json.dumps(compare(args.a, args.b), indent=2))


if __name__ == "__main__":
    cli.run(main)
