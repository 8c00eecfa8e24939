"""Scorers of answers against what the official scorers gave, case by case, and against published figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eval import metrics

DATA = Path(os.environ.get("VLM_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data not found: set VLM_DATA")

METRIC = {  # the file's name for a metric → ours
    "relaxed_accuracy": "relaxed_accuracy:pix2struct",
    "relaxed_accuracy_multi_ref_max": "relaxed_accuracy:pix2struct",
    "chartqapro_relaxed": "relaxed_accuracy:chartqapro",
    "vqa_accuracy": "vqa_accuracy:official",
    "vqa_accuracy_no_answer_id": "vqa_accuracy:official_no_answer_id",
    "vqa_accuracy_evalai": "vqa_accuracy:evalai",
    "anls": "anls:rrc",
    "pope_parse": "pope:official",
    "pope_metrics": "pope:official",
}
VARIANT = {  # the beginning of the file's name for another harness → ours, options
    "lmms_eval_chartqa": ("relaxed_accuracy:lmms_eval", {}),
    "qwen_vl_swapped_args": ("relaxed_accuracy:qwen_vl", {}),
    "lm_eval_harness_RelaxedCorrectness": ("relaxed_accuracy:lm_eval", {}),
    "lm_eval_harness_explicit_prompt": ("relaxed_accuracy:lm_eval_explicit_prompt", {}),
    "chartqapro_lmms_year_YES": ("relaxed_accuracy:chartqapro", {"year_flags": ["YES"]}),
    "chartqapro_lmms": ("relaxed_accuracy:chartqapro", {}),
    "pix2struct_anls": ("anls:pix2struct", {}),
    "lmms_eval_anls": ("anls:lmms_eval", {}),
    "mmf_stvqa_anls": ("anls:mmf", {}),
    "lmms_eval": ("pope:lmms_eval", {}),
}


def expected() -> list[tuple[str, dict, object]]:
    """Label, row and official score of every case that is ours."""
    found = []
    for path in sorted((DATA / "conformance").glob("*.jsonl")):
        for row in map(json.loads, path.read_text().splitlines()):
            if row["metric"] in METRIC:
                found.append((METRIC[row["metric"]], row, row["official_score"]))
                found += [variant(name, row, score) for name, score in row.get("variants", {}).items()]
    return found


def variant(name: str, row: dict, score: object) -> tuple[str, dict, object]:
    label, options = next(known for start, known in VARIANT.items() if name.startswith(start))
    if "explicit" in name:
        row = {**row, "prediction": f"Final Answer: {row['prediction']}"}
    if isinstance(score, str) and score not in ("yes", "no"):
        score = None  # another word than yes and no, or an exception: no score
    return label, {**row, **options}, score


def score(label: str, row: dict) -> object:
    metric = metrics.get(label)
    if isinstance(row["prediction"], list):
        return metric.parts.score_list(row["prediction"], row["references"], row)
    return metric.score(row["prediction"], row["references"] or (), row)


def same(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict):
        return all(same(found[name], value) for name, value in wanted.items())
    return found == wanted if wanted is None or isinstance(wanted, str) else found == pytest.approx(wanted, abs=1e-11)


@needs_data
def test_every_case_and_every_variant_is_the_official_one():
    cases = expected()
    wrong = [(label, row["id"], want) for label, row, want in cases if not same(score(label, row), want)]
    assert len(cases) >= 750 and not wrong


TABLE = """
105 / 100|1|1|1|1|1|0
105.2 / 100|0|0|1|0|0|0
95 / 100|1|1|0|1|1|0
0.0 / 0|0|0|0|1|1|0
0 / 0%|0|0|0|1|1|0
50 / 50%|0|0|0|1|1|0
0.5 / 50%|1|1|1|1|0|0
14.5% / 14.5|0|0|0|1|1|0
1,000 / 1000|0|0|0|1|0.8|0
$100 / 100|0|0|0|1|0.75|0
abc  / abc|0|0|1|0|1|1
Yes. / Yes|0|0|0|1|1|1
Apple / A|0|0|0|1|0|0
[1,2] / [1, 2]|0|0|0|0|1|1
nan / nan|0|0|0|0|0|1
2011 / 2010|1|1|1|1|1|0
"""


@pytest.mark.parametrize("line", TABLE.strip("\n").splitlines())
def test_where_harnesses_disagree_on_relaxed_accuracy(line):
    pair, *wanted = line.split("|")
    prediction, reference = pair.split(" / ")
    names = ("pix2struct", "lmms_eval", "qwen_vl", "lm_eval", "chartqapro", "chartqapro")
    scorers = [metrics.get(f"relaxed_accuracy:{name}").score for name in names]
    flags = ["NO"] * 5 + ["YES"]
    found = [scorer(prediction, [reference], {"year_flags": [flag]}) for scorer, flag in zip(scorers, flags, strict=True)]
    assert found == [float(value) for value in wanted]


def rows(name: str) -> list[dict]:
    return json.loads((DATA / "predictions" / name).read_text())


def percent(label: str, scored: list[dict], figure: str) -> float:
    metric = metrics.get(label)
    refs = [metrics.references(row) for row in scored]
    done = [{**row, "score": metric.score(row["prediction"], ref, row)} for row, ref in zip(scored, refs, strict=True)]
    return round(100 * metric.summarize(done)[figure]["value"], 2)


@needs_data
@pytest.mark.parametrize(("split", "figure"), [(None, 79.88), ("human", 66.24), ("augmented", 93.52)])
def test_published_chartqa_figures(split, figure):
    picked = [row for row in rows("chartqa_chartast.json") if split in (None, row["split"])]
    assert percent("relaxed_accuracy", picked, "relaxed_accuracy") == figure


@needs_data
def test_published_textvqa_figure():
    assert percent("vqa_accuracy:evalai", rows("textvqa_llava15_13b.json"), "vqa_accuracy") == 61.25


@needs_data
def test_published_pope_figures_of_one_file_with_three_categories():
    metric = metrics.get("pope")
    scored = [{**row, "score": metric.score(row["prediction"], (), row)} for row in rows("pope_llava15_13b.json")]
    by = metric.summarize(scored)["by_category"]
    f1 = {name: round(100 * figures["f1"]["value"], 2) for name, figures in by.items()}
    assert f1 == {"random": 87.14, "popular": 86.25, "adversarial": 84.46}
    low, high = by["random"]["f1"]["interval"]
    assert low < 0.8714 < high < low + 0.05
