"""A small classifier of unwanted text: logistic regression over hashed words and pairs of words.

As fastText's (Joulin et al., 2017) with one dimension: each word and each pair of neighbours has a weight in a table of 2^18,
and a text's logit is their mean plus a bias. A text of any length takes no memory, and the file 1 MB (safetensors: nothing that
could run code). Labels come from the user: `{"text": "…", "label": 1}` a row, 1 unwanted, 0 wanted. A tenth of the rows is held
out to measure what is reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from torch import Tensor

from datasets.convert.common import Skips
from datasets.convert.rows import read_rows
from datasets.quality.words import Digest, Hashes, ngrams, walk

FORMAT = "unwanted-text classifier 1"
BITS = 18
MAX_BYTES = 64 << 20  # of a classifier's file
MAX_FEATURES = 50_000  # of one text in training
MIN_STEPS = 300  # of training, however few the texts
HELD_OUT = 10  # one text in so many
_LABELS = {0: 0, 1: 1, "0": 0, "1": 1, "wanted": 0, "unwanted": 1}


def features(hashes: Hashes, bits: int = BITS) -> NDArray[np.int64]:
    """Words [words] → places in the table [2 words - 1]."""
    both = np.concatenate([ngrams(hashes, 1), ngrams(hashes, 2)])
    return (both >> np.uint64(64 - bits)).astype(np.int64)


class Classifier:
    """Reads texts chunk by chunk: `add` what `logits` gives, and `probability` of the sum over the number of features."""

    def __init__(self, weight: NDArray[np.float32], bias: float) -> None:
        """`weight` [2^bits]"""
        self.weight, self.bias = weight, bias
        self.bits = len(weight).bit_length() - 1

    def total(self, hashes: Hashes) -> tuple[float, int]:
        """(sum of the weights of the words' features, number of these)."""
        places = features(hashes, self.bits)
        return float(self.weight[places].sum(dtype=np.float64)), len(places)

    def probability(self, total: float, count: int) -> float:
        """That a text is unwanted."""
        logit = self.bias + total / max(1, count)
        return float(0.5 * (1 + np.tanh(0.5 * logit)))  # the logistic function without overflow

    def read(self, text: str) -> float:
        """Probability that `text` is unwanted."""
        sums = [self.total(chunk.hashes) for chunk in walk(text)]
        return self.probability(sum(total for total, _ in sums), sum(count for _, count in sums))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight, "bias": np.array([self.bias], np.float32)}
        part = path.with_name(f".{path.name}.new")
        part.write_bytes(to_bytes(tensors, metadata={"format": FORMAT}))
        part.replace(path)


def load(path: Path) -> Classifier:
    """Raises `ValueError` naming the file when it is no classifier."""
    if not path.is_file():
        raise ValueError(f"classifier {path} does not exist")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"classifier {path} is larger than {MAX_BYTES:,} bytes")
    try:
        with safe_open(path, framework="numpy") as file:
            known = (file.metadata() or {}).get("format")
            tensors = {name: file.get_tensor(name) for name in ("weight", "bias")} if known == FORMAT else {}
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"classifier {path} is not a whole safetensors file: {' '.join(str(error).split())}") from None
    if not tensors:
        raise ValueError(f"classifier {path} has the format {known!r}: want {FORMAT!r}")
    weight, bias = tensors["weight"], tensors["bias"]
    whole = weight.ndim == 1 and len(weight) > 1 and len(weight) & (len(weight) - 1) == 0 and bias.shape == (1,)
    if not whole or weight.dtype != np.float32 or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"classifier {path}: want finite float32 weight [power of 2] and bias [1]")
    return Classifier(weight, float(bias[0]))


@dataclass(frozen=True, slots=True)
class Labelled:
    """Features of texts, one after the other: text `i` has `places[starts[i] : starts[i + 1]]`."""

    places: Tensor  # [features] int64
    starts: Tensor  # [texts + 1] int64
    labels: Tensor  # [texts] float32

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, offsets and labels of some texts, for `embedding_bag`."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        places = torch.cat([self.places[self.starts[r] : self.starts[r + 1]] for r in rows.tolist()])
        return places, lengths.cumsum(0) - lengths, self.labels[rows]


def read_labelled(path: Path, skips: Skips) -> tuple[Labelled, Labelled]:
    """(trained on, held out): of each label a tenth, the first in the order of their digests, and one at least.

    Raises `ValueError` when there are not two texts of each label.
    """
    texts: tuple[dict, dict] = ({}, {})  # by label: digest → places
    for text, label in _rows(path, skips):
        key, places = _read(text)
        if not len(places):
            skips.add("text without words", text[:40])
        elif key in texts[0] or key in texts[1]:
            skips.add("text again", text[:40])
        else:
            texts[label][key] = places
    wanted, unwanted = map(len, texts)
    if min(wanted, unwanted) < 2:
        raise ValueError(f"{path}: {unwanted} unwanted and {wanted} wanted texts: at least 2 of each are needed")
    train, held_out = [], []
    for label, found in enumerate(texts):
        rows = [(places, label) for _, places in sorted(found.items())]
        cut = max(1, len(rows) // HELD_OUT)
        held_out += rows[:cut]
        train += rows[cut:]
    return _joined(train), _joined(held_out)


def _read(text: str) -> tuple[bytes, NDArray[np.int32]]:
    """(digest, features) of a text, the latter cut to MAX_FEATURES."""
    digest, places = Digest(), [np.zeros(0, np.int64)]
    for chunk in walk(text):
        digest.add(chunk)
        places.append(features(chunk.hashes))
    return digest.value, np.concatenate(places)[:MAX_FEATURES].astype(np.int32)


def _rows(path: Path, skips: Skips) -> Iterator[tuple[str, int]]:
    for where, row in read_rows(path, skips):
        text, label = row.get("text"), row.get("label")
        if isinstance(text, str) and isinstance(label, bool | int | str) and label in _LABELS:
            yield text, _LABELS[label]
        else:
            skips.add("row without text and label 0 or 1", where)


def _joined(rows: list[tuple[NDArray[np.int32], int]]) -> Labelled:
    starts = np.cumsum([0, *(len(places) for places, _ in rows)])
    places = torch.from_numpy(np.concatenate([places for places, _ in rows])).long()
    return Labelled(places, torch.from_numpy(starts), torch.tensor([float(label) for _, label in rows]))


def fit(
    data: Labelled, *, epochs: int = 5, batch: int = 64, rate: float = 0.3, decay: float = 1e-6, seed: int = 0
) -> Classifier:
    """Adam on the logistic loss, both labels weighing the same, for `epochs`, or as many more as make MIN_STEPS steps.

    The same data and seed give the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(1 << BITS, 1, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    share = data.labels.mean().item()
    optimizer = torch.optim.Adam([weight, bias], lr=rate)
    epochs = max(epochs, math.ceil(MIN_STEPS * batch / len(data)))
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - epoch / epochs)
        for rows in torch.randperm(len(data), generator=generator).split(batch):
            places, offsets, labels = data.batch(rows)
            logits = torch.nn.functional.embedding_bag(places, weight, offsets, mode="mean")[:, 0] + bias
            balance = torch.where(labels > 0, 0.5 / share, 0.5 / (1 - share))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, balance)
            (loss + decay * weight.square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return Classifier(weight.detach()[:, 0].numpy(), bias.item())


def measure(classifier: Classifier, data: Labelled) -> dict[str, float]:
    """Precision and recall at a probability of 0.5, and the area under the ROC curve (ties count half)."""
    sums = [(float(classifier.weight[p.numpy()].sum(dtype=np.float64)), len(p)) for p in _texts(data)]
    scores = np.array([classifier.probability(total, count) for total, count in sums])
    unwanted = data.labels.numpy() > 0
    called = scores >= 0.5
    right = int((called & unwanted).sum())
    positive, negative = int(unwanted.sum()), int((~unwanted).sum())
    ranks = scipy.stats.rankdata(scores)[unwanted].sum() - positive * (positive + 1) / 2
    return {
        "texts": len(data),
        "precision": right / max(1, int(called.sum())),
        "recall": right / positive,
        "auc": float(ranks) / (positive * negative),
    }


def _texts(data: Labelled) -> list[Tensor]:
    return [data.places[a:b] for a, b in zip(data.starts[:-1].tolist(), data.starts[1:].tolist(), strict=True)]


def train(labelled: Path, model: Path, *, epochs: int = 5, seed: int = 0) -> dict:
    """Train on labelled rows, write the classifier, and return (and write beside it) how it does on the held-out rows."""
    if not labelled.is_file():
        raise ValueError(f"labelled texts {labelled} do not exist")
    if model.is_dir():
        raise ValueError(f"MODEL {model} is a folder: name a file in it")
    skips = Skips()
    data, held_out = read_labelled(labelled, skips)
    classifier = fit(data, epochs=epochs, seed=seed)
    classifier.save(model)
    unwanted = int(data.labels.sum())
    figures = {"trained_on": {"texts": len(data), "unwanted": unwanted}, "held_out": measure(classifier, held_out)}
    summary = figures | {"epochs": epochs, "seed": seed, "skipped": skips.summary()}
    model.with_name(f"{model.name}.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary
