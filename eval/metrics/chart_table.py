"""Chart → table: RMS (relative mapping similarity) and RNSS, as DePlot's scorer computes them (Liu et al., 2023).

A table is text: cells between " | ", one row a line, an optional first line "title | …". `rms` matches the cells by their
row and column names and compares the values (a number may be off by less than 10 %), `rnss` compares numbers only. Both are
reported from 0 to 1; the official tool prints percent.

Quirks kept: a target of 0 costs 1 against 0 and 0 against anything else in RNSS; "5%" is a number in RMS and none in RNSS;
an empty prediction has a precision of 1; "f1" is F1 (one upstream version reports recall under that name).

Cost: time and memory grow with cells of one table × cells of the other (10,000 × 10,000: under a GB). Where that passes
`DENSE`, cells of equal names are paired first, which changes no score unless several pairings are equally good. Past `LIMIT`
a prediction is not read transposed, and tables that still do not fit are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from eval.metrics.base import Variant

TEXT_THETA = 0.5  # a normalised edit distance of this or more counts as 1
NUMBER_THETA = 0.1  # so does a relative difference of this or more
DENSE, LIMIT = 4_000_000, 110_000_000  # pairs of cells
PADDED = 1_000_000  # cells of a table filled up to a rectangle
ROWS = 256  # of a cost matrix, computed at once
Rows = list[tuple[str, ...]]
Cells = list[tuple[str, str]]  # (row and column name, value)
Scores = tuple[float, float, float]  # precision, recall, F1


def rms(prediction: str, references: Sequence[str], options: Mapping) -> dict[str, float]:
    """`{precision, recall, f1}` of the best of the references, the prediction read as it is or transposed.

    Raises `ValueError` for tables past `LIMIT`.
    """
    title, rows = parse(prediction)
    gold = [_cells(*parse(text)) for text in references]
    scores = _scores(gold, _cells(title, rows))
    if max(score[-1] for score in scores) < 1:  # the transposed reading cannot be better than a perfect one
        scores = _transposed_scores(gold, title, rows) + scores
    return dict(zip(("precision", "recall", "f1"), max(scores, key=lambda score: score[-1]), strict=True))


def _scores(gold: list[Cells], found: Cells) -> list[Scores]:
    return [_precision_recall_f1(target, found) for target in gold]


def _transposed_scores(gold: list[Cells], title: str | None, rows: Rows) -> list[Scores]:
    if len(rows) * max(map(len, rows), default=0) > PADDED:
        return []
    found = _cells(title, list(zip_longest(*rows, fillvalue="")))
    return _scores([target for target in gold if len(target) * len(found) <= LIMIT], found)


def rnss(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """Similarity of the two sets of numbers; best of the references."""
    return max(_numbers_match(_numbers(reference), _numbers(prediction)) for reference in references)


def parse(text: str) -> tuple[str | None, Rows]:
    """(title, rows of stripped lower-case cells)."""
    lines = text.lower().splitlines()
    title = None
    if lines and lines[0].startswith("title |"):
        title = lines.pop(0).removeprefix("title |").strip()
    return title, [tuple(cell.strip() for cell in line.split(" | ")) for line in lines]


def _cells(title: str | None, rows: Rows) -> Cells:
    """Values by "row name column name"; of equal names the last value, at the first's place. The title is a cell too."""
    cells = {} if title is None else {"title": title}
    header = rows[0] if rows else ()
    for row in rows[1:]:
        for name, value in zip(header[1:], row[1:], strict=False):
            cells[f"{row[0]} {name}"] = value
    return list(cells.items())


def _precision_recall_f1(target: Cells, found: Cells) -> Scores:
    if not target or not found:
        return float(not found), float(not target), float(not found and not target)
    pairs = _assign([name for name, _ in target], [name for name, _ in found])
    score = 0.0
    for t, p in pairs:
        score += _similarity(target[t], found[p])
    if score == 0:
        return 0.0, 0.0, 0.0
    precision, recall = score / len(found), score / len(target)
    return precision, recall, 2 * precision * recall / (precision + recall)


def _assign(target: list[str], found: list[str]) -> list[tuple[int, int]]:
    """Pairs (target index, prediction index) of least total distance between names."""
    if len(target) * len(found) <= DENSE:
        return list(zip(*linear_sum_assignment(_distances(target, found)), strict=True))
    index = {name: p for p, name in enumerate(found)}
    same = [(t, index[name]) for t, name in enumerate(target) if name in index]
    paired_t, paired_p = {t for t, _ in same}, {p for _, p in same}
    rest_t = [t for t in range(len(target)) if t not in paired_t]
    rest_p = [p for p in range(len(found)) if p not in paired_p]
    check_size(len(rest_t) * len(rest_p))
    rest = linear_sum_assignment(_distances([target[t] for t in rest_t], [found[p] for p in rest_p]))
    return same + [(rest_t[t], rest_p[p]) for t, p in zip(*rest, strict=True)]


def check_size(pairs: int) -> None:
    if pairs > LIMIT:
        raise ValueError(f"tables too large to match: {pairs:,} pairs of cells, the limit is {LIMIT:,}")


def _distances(target: list[str], found: list[str]) -> np.ndarray:
    """[T, P] normalised edit distances, 1 from `TEXT_THETA` on; rounded as 1 − (1 − d), the original's way."""
    cost = np.empty((len(target), len(found)))
    widths = np.array([len(name) for name in found], dtype=np.int32)
    for start in range(0, len(target), ROWS):
        names = target[start : start + ROWS]
        longest = np.maximum(np.array([len(name) for name in names], dtype=np.int32)[:, None], np.maximum(widths, 1))
        distance = process.cdist(names, found, scorer=Levenshtein.distance, dtype=np.int32) / longest
        cost[start : start + ROWS] = np.where(distance < TEXT_THETA, 1 - (1 - distance), 1.0)
    return cost


def _similarity(target: tuple[str, str], found: tuple[str, str]) -> float:
    names = anls(target[0], found[0])
    wanted, got = number(target[1]), number(found[1])
    if got is not None and wanted:
        return names * (1 - relative_distance(wanted, got, NUMBER_THETA))
    return names if target[1] == found[1] else names * anls(target[1], found[1])


def anls(target: str, found: str) -> float:
    longest = max(len(target), len(found), 1)
    distance = Levenshtein.distance(target, found, score_cutoff=longest // 2) / longest
    return 1 - distance if distance < TEXT_THETA else 0


def number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relative_distance(target: float, found: float, theta: float = 1.0) -> float:
    if not target:
        return float(not found)  # inverted in the original, and kept
    distance = min(abs((target - found) / target), 1)
    return distance if distance < theta else 1


def _numbers(text: str) -> list[float]:
    parts = [part for line in text.splitlines() for part in line.split(" | ") if not part.strip().endswith("%")]
    return [value for part in parts if (value := number(part)) is not None]


def _numbers_match(target: list[float], found: list[float]) -> float:
    if not target or not found:
        return float(not target and not found)
    check_size(len(target) * len(found))
    t, p = np.array(target)[:, None], np.array(found)[None, :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.abs((t - p) / t)
    near = np.where(relative < 1, relative, 1.0)  # nan is far
    cost = np.where(t == 0, (p == 0).astype(float), near)
    rows, columns = linear_sum_assignment(cost)
    return float(1 - cost[rows, columns].sum() / max(len(target), len(found)))


VARIANTS = {"rms": Variant(rms), "rnss": Variant(rnss)}
