"""MME's figures: two questions a picture, sums over subtasks."""

from __future__ import annotations

import pytest

from eval import metrics
from eval.metrics.mme import COGNITION, PERCEPTION


@pytest.mark.parametrize(
    ("text", "official", "lmms"),
    [
        ("Yes", "yes", "yes"),
        ("no.", "no", "no"),
        ("No, it is not", "no", "no"),
        ("It is: yes", None, None),
        ("", None, None),
        (" yes", "yes", "yes"),
        ("  yes", None, "yes"),
        ("Not", "no", "no"),
        ("y", None, "yes"),
        ("N.", None, "no"),
        ("I know", None, None),
        ("yes and no", "yes", "yes"),
    ],
)
def test_answers(text, official, lmms):
    assert metrics.get("mme").score(text, (), {}) == official
    assert metrics.get("mme:lmms_eval").score(text, (), {}) == lmms


def rows(subtask: str, right: list[tuple[bool, bool]]) -> list[dict]:
    answers = {True: "yes", False: "no"}
    return [
        {"subtask": subtask, "image": f"{subtask}/{i}", "references": ["yes"], "score": answers[one]}
        for i, pair in enumerate(right)
        for one in pair
    ]


def test_figures_of_a_subtask():
    found = metrics.get("mme").summarize(rows("count", [(True, True), (True, False), (False, False)]))
    by = found["by_subtask"]["count"]
    assert by["accuracy"]["value"] == 0.5 and by["accuracy_plus"]["value"] == pytest.approx(1 / 3)
    assert by["score"]["value"] == pytest.approx(50 + 100 / 3) and by["score"]["n"] == 3
    assert found["accuracy"] == by["accuracy"] and "perception" not in found and "cognition" not in found


def test_sums_over_all_subtasks():
    whole = [row for part in PERCEPTION for row in rows(part, [(True, True), (True, False)])]
    whole += [row for i, part in enumerate(COGNITION) for row in rows(part, [(True, True)] * (i + 1))]
    found = metrics.get("mme").summarize(whole)
    assert found["perception"]["value"] == pytest.approx(10 * (75 + 50)) and found["cognition"]["value"] == pytest.approx(800)
    low, high = found["perception"]["interval"]
    assert low < 1250 < high


def test_unparsed_answers_are_wrong_and_counted():
    found = metrics.get("mme").summarize([{**row, "score": None} for row in rows("OCR", [(True, True)])])
    assert found["accuracy"]["value"] == 0 and found["unparsed"]["count"] == 2


@pytest.mark.parametrize("change", [{"subtask": "counting"}, {"image": None}])
def test_rows_without_their_names_are_refused(change):
    with pytest.raises(ValueError, match="mme needs `image` and `subtask`"):
        metrics.get("mme").summarize([{**rows("OCR", [(True, True)])[0], **change}])


@pytest.mark.parametrize("right", [True, False])
def test_sums_stay_in_their_range_and_are_not_certain(right):
    whole = [row for i, part in enumerate(COGNITION) for row in rows(part, [(right, right)] * (3 + 40 * i))]
    low, high = metrics.get("mme").summarize(whole)["cognition"]["interval"]
    assert 0 <= low < high <= 800 and (high == 800 if right else low == 0)
