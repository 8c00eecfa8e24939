"""The scoring command: rows in, rows and summary out, one line for what cannot be read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import cases, metrics, score


def run(monkeypatch, *args: str, stdin: str = "") -> None:
    monkeypatch.setattr(sys, "argv", ["eval.score", *args])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    score.main()


ROWS = [
    {"prediction": "3", "references": "3", "id": 7},
    {"prediction": "4", "label": "8"},
    {"prediction": "x", "answers": ["y", "X"]},
]


def test_rows_come_back_with_scores_and_a_summary(tmp_path, monkeypatch, capsys):
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    run(monkeypatch, "relaxed_accuracy", str(cases), "--out", str(tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == [{**row, "score": s} for row, s in zip(ROWS, (1.0, 0.0, 1.0), strict=True)]
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert summary["relaxed_accuracy"]["variant"] == "pix2struct" and summary["relaxed_accuracy"]["n"] == 3
    assert json.loads(capsys.readouterr().err) == summary


def test_standard_input_and_output(monkeypatch, capsys):
    run(monkeypatch, "exact_match", "-", stdin=json.dumps(ROWS[0]))
    assert json.loads(capsys.readouterr().out)["score"] == 1.0


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "null", '{"references": "a"}', '{"prediction": 3, "references": "a"}', '{"prediction": "a"}',
     '{"prediction": "a", "references": []}', '{"prediction": "a", "references": [1]}', "[" * 100_000,
     '{"prediction": "a", "references": null}', '{"prediction": ["a"], "references": ["a"]}', '{"prediction": NaN}',
     '{"prediction": "a", "references": "a", "x": -Infinity}', f'{{"prediction": "a", "references": {"9" * 5000}}}',
     '{"prediction": "a", "references": "a", "choices": 4}', '{"prediction": "a", "references": [["a"]]}',
     '{"prediction": "a", "references": "a", "score": 1, "x": 1e999}', '{"prediction": {"a": "b"}, "references": "a"}'],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(line, monkeypatch):
    good = json.dumps(ROWS[0])
    with pytest.raises(ValueError, match=r"^-:2: ") as error:
        run(monkeypatch, "exact_match", "-", stdin=f"{good}\n{line}\n")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_users_mistake_is_one_line_and_exit_code_2():
    done = subprocess.run([sys.executable, "-m", "eval.score", "relaxd_accuracy", "none.jsonl"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown metric 'relaxd_accuracy': did you mean 'relaxed_accuracy'?\n"


def test_a_file_may_be_scored_in_place_and_is_kept_on_a_mistake(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"prediction": "5", "references": ["5"]}) + "\n")
    command = [sys.executable, "-m", "eval.score", "relaxed_accuracy", str(path), "--out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(path.read_text())["score"] == 1
    before = path.read_text() + "not json\n"
    path.write_text(before)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and ":2: not JSON" in done.stderr and path.read_text() == before


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x89PNG\r\n", b'{"prediction": "\xff", "references": "a"}'])
def test_files_without_rows_are_one_line_with_their_name(content, tmp_path, monkeypatch):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}") as error:
        run(monkeypatch, "relaxed_accuracy", str(path))
    assert "\n" not in str(error.value)


def scored(monkeypatch, tmp_path, rows: list[str], *args: str) -> tuple[list[str], dict]:
    """Scored lines and the summary of rows given as lines."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(rows).encode())
    run(monkeypatch, args[0], str(path), "--out", str(tmp_path / "out.jsonl"), *args[1:])
    out = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    return out, json.loads((tmp_path / "out.jsonl.summary.json").read_text())


@pytest.fixture
def score_lines(monkeypatch, tmp_path):
    return lambda rows, *args: scored(monkeypatch, tmp_path, rows, *args)


def test_rows_come_back_as_they_were_lone_surrogates_and_long_numbers_included(score_lines):
    text = r'{ "prediction":"\ud800", "references" : ["\ud800"], "x": 0.10000000000000000001, "y": 1e999, "é": "é\u2028" }'
    out, _ = score_lines([text], "exact_match")
    assert out == [text[:-1] + ', "score": 1.0}']


def test_a_row_scored_before_is_scored_anew(score_lines):
    row = {"prediction": "a", "references": "b", "score": 1, "guessed": True, "text": "\ud800"}
    out, _ = score_lines([json.dumps(row)], "exact_match")
    assert json.loads(out[0]) == {"prediction": "a", "references": "b", "text": "\ud800", "score": 0.0}


def test_no_answer_is_wrong_and_counted(score_lines):
    rows = [json.dumps({"prediction": p, "references": ""}) for p in (None, "", "")]
    out, summary = score_lines(rows, "exact_match")
    assert [json.loads(line)["score"] for line in out] == [0.0, 1.0, 1.0]
    assert summary["unparsed"]["count"] == 1 and summary["exact_match"]["value"] == pytest.approx(2 / 3)


def test_a_row_may_hold_a_whole_file(score_lines):
    out, summary = score_lines([json.dumps({"prediction": ["yes", "no", "yes"], "references": ["yes", "no", "no"]})], "pope")
    assert json.loads(out[0])["score"] == {"accuracy": 2 / 3, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes_ratio": 2 / 3,
                                           "TP": 1, "FP": 1, "TN": 1, "FN": 0}  # fmt: skip
    assert summary["f1"]["value"] == pytest.approx(2 / 3) and summary["f1"]["n"] == 3


@pytest.mark.parametrize("references", [None, ["yes"], ["yes", 1], "yes"])
def test_a_file_in_a_row_needs_a_label_for_each_answer(score_lines, references):
    with pytest.raises(ValueError, match=r"rows.jsonl:1: `references` is a list of 2 labels"):
        score_lines([json.dumps({"prediction": ["yes", "no"], "references": references})], "pope")


UNSURE = [
    json.dumps({"prediction": p, "label": "yes", "image": f"{i % 7}"}) for i, p in enumerate(["yes", "perhaps", "dunno"] * 40)
]


def test_an_unparsed_answer_is_null_unless_a_guess_is_asked_for(score_lines):
    out, summary = score_lines(UNSURE, "pope:lmms_eval")
    assert [json.loads(line)["score"] for line in out[:3]] == ["yes", None, None]
    assert (
        summary["unparsed"]["count"] == 80 and "guessed" not in summary and summary["accuracy"]["value"] == pytest.approx(1 / 3)
    )


def test_guesses_depend_on_seed_and_row_only(score_lines):
    first, summary = score_lines(UNSURE, "pope:lmms_eval", "--unparsed", "random:7")
    rows = [json.loads(line) for line in first]
    assert summary["guessed"]["count"] == summary["unparsed"]["count"] == 80 == sum("guessed" in row for row in rows)
    assert summary["guessed"]["variant"] == "random:7" and {row["score"] for row in rows} == {"yes", "no"}
    assert 0.5 < summary["accuracy"]["value"] < 0.85
    half = [line if i % 2 else json.dumps({"prediction": "yes", "label": "yes"}) for i, line in enumerate(UNSURE)]
    other, _ = score_lines(half, "pope:lmms_eval", "--unparsed", "random:7")
    assert [line for i, line in enumerate(other) if i % 2] == [line for i, line in enumerate(first) if i % 2]
    assert score_lines(UNSURE, "pope:lmms_eval", "--unparsed", "random:8")[0] != first


@pytest.mark.parametrize("unparsed", ["random", "random:", "random:x", "first", "random:-1"])
def test_unparsed_takes_a_seed(score_lines, unparsed):
    with pytest.raises(ValueError, match="random:SEED"):
        score_lines(UNSURE, "pope:lmms_eval", "--unparsed", unparsed)


def test_unparsed_needs_a_parser(score_lines):
    with pytest.raises(ValueError, match="exact_match:ignore_case does not parse"):
        score_lines(UNSURE, "exact_match", "--unparsed", "random:0")


def test_figures_by_a_key(score_lines):
    rows = [
        json.dumps({"prediction": p, "references": "a", "split": s})
        for p, s in (("a", "human"), ("b", "human"), ("a", "other"))
    ]
    _, summary = score_lines(rows, "exact_match", "--by", "split")
    assert {name: figures["exact_match"]["value"] for name, figures in summary["by_split"].items()} == {
        "human": 0.5,
        "other": 1.0,
    }
    with pytest.raises(ValueError, match=r"rows.jsonl:1: --by kind"):
        score_lines(rows, "exact_match", "--by", "kind")


def test_a_metric_of_a_corpus_sees_all_rows_at_once(score_lines, monkeypatch):
    corpus = metrics.Variant(score_corpus=lambda rows: [len(rows) / 10 for _ in rows])
    monkeypatch.setitem(metrics.METRICS, "corpus", {"whole": corpus})
    out, summary = score_lines([json.dumps({"prediction": "a", "references": ["a"]})] * 3, "corpus")
    assert [json.loads(line)["score"] for line in out] == [0.3] * 3 and summary["corpus"]["variant"] == "whole"


VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé\ud800\u2028"\\', max_size=5)
KEYS = st.sampled_from(["", "choices", "score", "guessed", "é", "\ud800", "x"])


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES | st.lists(VALUES, max_size=3)))
def test_any_row_comes_back_whole_or_is_a_users_mistake(extra):
    row = {**extra, "prediction": "a", "references": "a"}
    metric = metrics.get("exact_match")
    try:
        case = cases.case(json.dumps(row).encode(), metric)
    except ValueError:
        assert "choices" in extra
        return
    assert json.loads(case.scored(1.0)) == {**{k: v for k, v in row.items() if k != "guessed"}, "score": 1.0}


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def lines():
        for i in range(20_000):
            yield json.dumps({"prediction": "x" * 1000, "references": "y", "image": str(i)}).encode() + b"\n"

    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(lines()))
    metric = metrics.get("exact_match")
    summary = score.Summary(metric, None)
    tracemalloc.start()
    with path.open("rb") as file:
        for _ in score.scored_lines(
            metric, partial(cases.case, metric=metric), file, "rows", summary, score.guesser(metric, None), lambda size: None
        ):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.rows == 20_000 and peak < 3 << 20


def test_an_endless_line_is_said(monkeypatch):
    monkeypatch.setattr(cases, "LONGEST_LINE", 1000)
    with pytest.raises(ValueError, match="line 1 is longer than 1,000 bytes"):
        run(monkeypatch, "exact_match", "-", stdin="[" * 2000)


def test_a_gold_object_file_says_what_is_in_each_picture(score_lines, tmp_path):
    (tmp_path / "gold.json").write_text('{"139": ["dog"], "b": []}')
    rows = ['{"prediction": "a dog and a cat", "image": 139}', '{"prediction": "a cat", "image": "b"}']
    lines, _ = score_lines(rows, "chair", "--gold-objects", str(tmp_path / "gold.json"))
    assert [json.loads(line)["score"]["hallucinated"] for line in lines] == [["cat"], ["cat"]]
    assert lines[1].startswith(rows[1][:-1])
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: `image` .c. is not in the gold-object file"):
        score_lines(['{"prediction": "a cat", "image": "c"}'], "chair", "--gold-objects", str(tmp_path / "gold.json"))
    (tmp_path / "gold.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"gold\.json: a gold-object file is a JSON object"):
        score_lines(rows, "chair", "--gold-objects", str(tmp_path / "gold.json"))


def test_rows_that_could_not_be_asked_are_left_out_and_counted(score_lines):
    rows = ['{"prediction": "a", "references": "a"}', '{"prediction": null, "references": "b", "error": "no such picture"}']
    lines, summary = score_lines(rows, "exact_match")
    assert lines[1].rstrip() == rows[1]
    assert summary["exact_match"]["value"] == 1 and summary["exact_match"]["n"] == 1 and summary["errors"] == {"count": 1}
