"""COCO caption metrics through pycocoevalcap, as the official server computed them: BLEU-1 to 4, METEOR, ROUGE-L, CIDEr.

Tokens are the Penn Treebank's and METEOR is a Java program, so `java` has to be there. CIDEr is on its own scale (0 to 10;
papers print 100 times that) and weighs words by the references of the rows scored: a part of a set is another measure. BLEU of
the summary is of the corpus, not a mean. SPICE is left out: it downloads a parser when first used.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO

from eval import stats
from eval.metrics.base import Figures, Metric, Row, Score, Variant, references, whole

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")


def coco(rows: Sequence[Row]) -> list[Score]:
    """A mapping for each row: the metrics of its caption, and `tokens` as they were compared.

    Raises `ValueError` without Java or pycocoevalcap.
    """
    package = _package()
    found = {i: [{"caption": _line(row["prediction"] or "")}] for i, row in enumerate(rows)}
    gold = {i: [{"caption": _line(text)} for text in references(row)] for i, row in enumerate(rows)}
    with redirect_stdout(StringIO()):
        found, gold = package["tokens"]().tokenize(found), package["tokens"]().tokenize(gold)
        bleu = package["bleu"](4).compute_score(gold, found, verbose=0)[1]
        others = {name: package[name]().compute_score(gold, found)[1] for name in ("METEOR", "ROUGE_L", "CIDEr")}
    columns = dict(zip(BLEU, bleu, strict=True)) | others
    return [
        {name: float(values[i]) for name, values in columns.items()}
        | {"tokens": {"prediction": found[i][0], "references": list(gold[i])}}
        for i in range(len(rows))
    ]


def _package() -> dict[str, type]:
    if shutil.which("java") is None:
        raise ValueError("caption needs Java (tokens and METEOR are Java programs): no `java` on the PATH")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError:
        raise ValueError('caption needs the package pycocoevalcap: pip install "flamingo-moe[caption]"') from None
    return {"tokens": PTBTokenizer, "bleu": Bleu, "METEOR": Meteor, "ROUGE_L": Rouge, "CIDEr": Cider}


def _line(text: str) -> str:
    """One line: the tokenizer reads a caption a line, and METEOR's protocol sets fields apart by "|||"."""
    return " ".join(text.replace("|||", " ").encode("utf-8", "replace").decode("utf-8").split())


def figures(metric: Metric, rows: list[Row]) -> Figures:
    """Means over rows, but for BLEU, which is of the corpus and has no interval."""
    scores = [row["score"] for row in rows]
    images = [row.get("image") for row in rows]
    groups = images if all(isinstance(image, str) for image in images) else None
    means = {
        name: stats.mean([score[name] for score in scores], groups, variant=metric.variant)
        for name in ("METEOR", "ROUGE_L", "CIDEr")
    }
    gold = {i: score["tokens"]["references"] for i, score in enumerate(scores)}
    found = {i: [score["tokens"]["prediction"]] for i, score in enumerate(scores)}
    with redirect_stdout(StringIO()):
        values = _package()["bleu"](4).compute_score(gold, found, verbose=0)[0]
    bleu = {name: stats.figure(value, None, len(rows), metric.variant) for name, value in zip(BLEU, values, strict=True)}
    return bleu | means


VARIANTS = {"coco": Variant(score_corpus=coco, tally=whole(figures))}
