"""`python -m eval.compare OUT_A OUT_B`: is one evaluation better than another on the same items? Paired, with its interval.

For each figure of the metric: both means over the items that both answered, their paired difference, McNemar's exact p (of
items that only one got right; it takes items as independent) and a paired bootstrap's p over pictures; and which items flip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import cli, metrics, stats
from eval.store import RECORDS, read_records
from eval.summarize import values

ASKED = {"question": str, "references": list, "image": str}  # what a record says of its item
SHOWN = 20  # flipped items that the command names, of each kind


def compare(a: Path, b: Path) -> dict:
    """Score of A − B over the items that both answered from the same question and references.

    `difference`, `only_a_right`, `only_b_right`, … of the metric's first figure stand at the top, every figure's under
    `figures`. Raises `ValueError` when the two share no scored item or were scored by other metrics, `FileNotFoundError`
    where there are no records.
    """
    first, second = (_records(out) for out in (a, b))
    same = [key for key in first if key in second and _asked(first[key]) == _asked(second[key])]
    if not same:
        raise ValueError(f"{a} and {b} have no item in common that both scored")
    labels = sorted({str(record.get("metric")) for records in (first, second) for record in records.values()})
    if len(labels) > 1:
        raise ValueError(f"{a} and {b} were scored by different metrics: {', '.join(labels)}")
    pairs = compare_records([first[key] for key in same], [second[key] for key in same])
    return {**next(iter(pairs.values())), "left_out": len(first.keys() | second.keys()) - len(same), "figures": pairs}


def compare_records(a: Sequence[Mapping], b: Sequence[Mapping]) -> dict[str, dict]:
    """Figure → its comparison over records of the same items, in the same order. Items without a number in one are left out."""
    found: dict[str, dict] = {}
    scores = [(_values(x), _values(y), x) for x, y in zip(a, b, strict=True)]
    for name in dict.fromkeys(name for x, y, _ in scores for name in x if name in y):
        rows = [(x[name], y[name], record) for x, y, record in scores if name in x and name in y]
        found[name] = _compared([x for x, _, _ in rows], [y for _, y, _ in rows], [record for _, _, record in rows])
    return found


def _compared(ours: list[float], theirs: list[float], records: Sequence[Mapping]) -> dict[str, Any]:
    images = [record["image"] for record in records]
    flips = [(record["id"], x - y) for x, y, record in zip(ours, theirs, records, strict=True) if x != y]
    better, worse = [key for key, d in flips if d > 0], [key for key, d in flips if d < 0]
    return {
        "a": stats.mean(ours, images, variant="the items that both answered"),
        "b": stats.mean(theirs, images, variant="the items that both answered"),
        "difference": stats.paired_difference(ours, theirs, images, variant="score of A minus score of B, paired"),
        "mcnemar_p": stats.mcnemar(ours, theirs),
        "bootstrap_p": stats.paired_bootstrap(ours, theirs, images),
        "only_a_right": len(better),
        "only_b_right": len(worse),
        "flips": {"to_a": better, "to_b": worse},
    }


def _values(record: Mapping) -> dict[str, float]:
    """A record's figures; one that names no metric has a number for its score."""
    if "metric" in record:
        return values(metrics.get(record["metric"]), record)
    return {"score": float(record["score"])}


def _records(out: Path) -> dict[str, dict]:
    path = Path(out) / RECORDS
    found = {r["id"]: r for r in read_records(path) if "score" in r}
    for record in found.values():
        for key, kind in ASKED.items():
            if not isinstance(record.get(key), kind):
                raise ValueError(f"{path}: the record of {record['id'][:80]!r} has no `{key}` to compare by")
    return found


def _asked(record: dict) -> tuple:
    return record["question"], record["references"]


def shown(result: Any) -> Any:
    """The result with long lists of flipped items cut."""
    if isinstance(result, dict):
        return {key: shown(value) for key, value in result.items()}
    return [*result[:SHOWN], f"… {len(result) - SHOWN} more"] if isinstance(result, list) and len(result) > SHOWN else result


def main() -> None:
    example = "python -m eval.compare runs/vlm/eval/charts runs/other/eval/charts"
    parser = cli.parser("eval.compare", "Paired difference of two evaluations of the same items.", example)
    parser.add_argument("a", type=Path, metavar="OUT_A", help="directory with records.jsonl")
    parser.add_argument("b", type=Path, metavar="OUT_B")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all of it as JSON, every flipped item")
    args = parser.parse_args()
    result = compare(args.a, args.b)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(shown(result), indent=2))


if __name__ == "__main__":
    cli.run(main)
