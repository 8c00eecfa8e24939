"""Two evaluations of the same items."""

from __future__ import annotations

import json

import pytest

from eval.compare import compare


def write(folder, scores: dict[str, float], question: str = "q"):
    folder.mkdir()
    rows = [
        {"id": k, "input": "", "question": question, "references": ["r"], "image": k, "score": s} for k, s in scores.items()
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_paired_over_the_common_items(tmp_path):
    a = write(tmp_path / "a", {"1": 1.0, "2": 1.0, "3": 0.0, "4": 1.0})
    b = write(tmp_path / "b", {"1": 1.0, "2": 0.0, "3": 1.0, "5": 1.0})
    result = compare(a, b)
    assert result["difference"]["value"] == 0 and result["difference"]["n"] == 3
    assert (result["only_a_right"], result["only_b_right"], result["left_out"]) == (1, 1, 2)


def test_the_same_id_of_another_question_is_another_item(tmp_path):
    a, b = write(tmp_path / "a", {"1": 1.0}), write(tmp_path / "b", {"1": 1.0}, question="other")
    with pytest.raises(ValueError, match="no item in common"):
        compare(a, b)
    with pytest.raises(FileNotFoundError):
        compare(a, tmp_path / "c")
