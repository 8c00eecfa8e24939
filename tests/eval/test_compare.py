"""Two evaluations of the same items."""

from __future__ import annotations

import json

import pytest

from eval.compare import compare, compare_records


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


def test_mcnemar_the_flips_and_every_figure_of_a_mapping(tmp_path):
    def rows(scores):
        return [
            {"id": f"{i}", "image": f"{i}", "question": "q", "references": [], "metric": "anls:rrc", "score": score}
            for i, score in enumerate(scores)
        ]

    better = compare_records(rows([{"f1": 1.0, "precision": 0.5}] * 8), rows([{"f1": 0.0, "precision": 0.5}] * 8))
    assert set(better) == {"f1", "precision"}
    assert better["f1"]["mcnemar_p"] == pytest.approx(2 * 0.5**8) and better["f1"]["flips"]["to_a"] == [
        str(i) for i in range(8)
    ]
    assert better["f1"]["difference"]["value"] == 1 and better["f1"]["bootstrap_p"] is None  # of eight pictures
    assert better["precision"]["mcnemar_p"] == 1 == better["precision"]["bootstrap_p"]
    many = compare_records(rows([{"f1": 1.0}] * 30), rows([{"f1": 0.0}] * 30))
    assert many["f1"]["bootstrap_p"] < 0.01
    low, high = better["precision"]["difference"]["interval"]
    assert low < 0 < high  # eight items that agree prove no equality


def test_a_parsers_answers_count_as_right_or_wrong(tmp_path):
    row = {"image": "p", "question": "q", "references": ["yes"], "metric": "pope:official", "id": "1"}
    result = compare_records([{**row, "score": "yes"}], [{**row, "score": "no"}])
    assert next(iter(result.values()))["only_a_right"] == 1


def test_other_metrics_and_unscored_records_are_not_compared(tmp_path):
    for name, more in (("a", {"metric": "anls:rrc", "score": 1}), ("b", {"metric": "token_f1", "score": 1}), ("c", {})):
        (tmp_path / name).mkdir()
        row = {"id": "1", "input": "", "question": "q", "references": ["r"], "image": "", **more}
        (tmp_path / name / "records.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="different metrics: anls:rrc, token_f1"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="no item in common that both scored"):
        compare(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("key", ["question", "references", "image"])
def test_a_record_that_says_not_what_was_asked_is_named(key, tmp_path):
    folder = write(tmp_path / "a", {"1": 1.0})
    row = json.loads((folder / "records.jsonl").read_text())
    del row[key]
    (folder / "records.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"records.jsonl: the record of '1' has no `{key}`"):
        compare(folder, folder)
