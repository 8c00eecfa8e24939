"""One arm of one task: what is asked, kept, resumed and summed up."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import time

import pytest
import torch

import vlm
from eval import cases, metrics
from eval.arms import make
from eval.engine import Budget
from eval.evaluate import Running, collect, evaluate
from eval.models.own import Own, fingerprint
from eval.score import score_case
from eval.store import RECORDS
from eval.summarize import score, summarize, summary_lines
from eval.tasks import Item, Task
from eval.work import Chunks, Ranks
from tests.eval.conftest import picture

TASK = Task("mine", lambda data, split: [], "relaxed_accuracy", by=("kind",), mean_of="kind", max_new_tokens=4)
ARM = make(TASK)


@pytest.fixture
def own(model_and_processor):
    return Own(*model_and_processor)


def by(size: int, **more) -> Running:
    return Running(Budget(size), **more)


def test_records_hold_everything_and_do_not_depend_on_the_batch(own, items, tmp_path):
    records = {n: collect(own, TASK, items, tmp_path / str(n), arm=ARM, running=by(n)) for n in (1, 7, 64)}
    assert records[1] == records[7] == records[64]
    assert [r["id"] for r in records[1]] == [item.id for item in items]
    first = records[1][0]
    keys = {"id", "input", "question", "references", "output", "rationale", "prediction", "score", "image", "kind", "logprob"}
    keys |= {"tokens", "metric", "parser", "prompt_hash", "image_hash", "requests", "finish", "prompt_tokens", "new_tokens"}
    assert set(first) == keys and first["references"] == ["0"] and first["image"] == "p0"
    assert first["metric"] == "relaxed_accuracy:pix2struct" and first["finish"] in ("stop", "length")
    assert first["prompt_tokens"] == len(own.processor.encode_text(ARM.ask(items[0]).send(None).sample))
    assert [json.loads(line) for line in (tmp_path / "7" / RECORDS).read_text().splitlines()] == records[7]


def test_a_tight_token_budget_gives_the_same_records(own, items, tmp_path):
    whole = collect(own, TASK, items, tmp_path / "whole", arm=ARM)
    tight = Running(Budget(rows=64, tokens=700))
    assert collect(own, TASK, items, tmp_path / "tight", arm=ARM, running=tight) == whole


class StoppedError(Exception):
    pass


def stop_after(model: torch.nn.Module, batches: int):
    """The model's `generate`, failing at the call after `batches`."""
    calls, generate = [], model.generate

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) > batches:
            raise StoppedError
        return generate(*args, **kwargs)

    return stopping


def test_resuming_with_another_batch_size_gives_the_same_records(own, items, tmp_path, monkeypatch):
    whole = collect(own, TASK, items, tmp_path / "whole", arm=ARM)
    with monkeypatch.context() as patch:
        patch.setattr(own.model, "generate", stop_after(own.model, 3))
        with pytest.raises(StoppedError):
            collect(own, TASK, items, tmp_path / "resumed", arm=ARM, running=by(4))
    assert len((tmp_path / "resumed" / RECORDS).read_text().splitlines()) == 12
    with monkeypatch.context() as patch:
        patch.setattr(own.model, "generate", stop_after(own.model, 2))  # 18 items are left: two batches, not three
        assert collect(own, TASK, items, tmp_path / "resumed", arm=ARM, running=by(9)) == whole
    assert (tmp_path / "resumed" / RECORDS).read_bytes() == (tmp_path / "whole" / RECORDS).read_bytes()


def test_another_checkpoint_or_prompt_is_refused_and_a_changed_picture_asked_again(own, items, tmp_path):
    model = own.model
    before = collect(own, TASK, items, tmp_path, arm=ARM)
    with pytest.raises(ValueError, match="other settings"):
        collect(own, TASK, items, tmp_path, arm=make(TASK, "single"))
    changed = [dataclasses.replace(items[0], images=(picture(255),)), *items[1:]]
    after = collect(own, TASK, changed, tmp_path, arm=ARM)
    assert after[1:] == before[1:] and after[0]["input"] != before[0]["input"]
    mark = fingerprint(model)
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    assert fingerprint(rounded) == fingerprint(copy.deepcopy(rounded).float())  # the same weights
    with torch.no_grad():
        model.decoder.norm.weight[0] += 1e-3
    try:
        assert fingerprint(model) != mark
        with pytest.raises(ValueError, match="checkpoint was"):
            collect(Own(model, own.processor), TASK, items, tmp_path, arm=ARM)
    finally:
        with torch.no_grad():
            model.decoder.norm.weight[0] = 1.0


def test_another_shape_with_the_same_weights_is_another_model(own):
    mark = own.fingerprint()
    other = copy.deepcopy(own.model)
    other.decoder.set_rope(theta=50_000.0)
    assert Own(other, own.processor).fingerprint() != mark
    other = copy.deepcopy(own.model)
    other.config = dataclasses.replace(other.config, fusion=dataclasses.replace(other.config.fusion, gate_init=0.5))
    assert Own(other, own.processor).fingerprint() != mark
    same = copy.deepcopy(own.model)
    same.decoder.config = dataclasses.replace(same.decoder.config, context_length=77)  # no arithmetic goes by it
    assert Own(same, own.processor).fingerprint() == mark
    text = other.decoder
    assert Own(text, own.processor).fingerprint() != Own(other, own.processor).fingerprint()


def test_a_saved_model_is_the_same_model(own, tmp_path):
    model = copy.deepcopy(own.model)
    model.decoder.config = dataclasses.replace(model.decoder.config, rope_theta=50_000, balance_loss=0)  # floats in a file
    model.config = dataclasses.replace(model.config, decoder=model.decoder.config)
    vlm.save(tmp_path / "model", model, own.processor)
    assert Own.load(tmp_path / "model").fingerprint() == Own(model, own.processor).fingerprint()


def test_blanking_hides_the_picture(own, items, tmp_path):
    same_text = [dataclasses.replace(item, question="Which?") for item in items]
    blank = collect(own, TASK, same_text, tmp_path / "blank", arm=make(TASK, blank=True))
    seen = collect(own, TASK, same_text, tmp_path / "seen", arm=ARM)
    assert len({r["logprob"] for r in blank}) == 1 < len({r["logprob"] for r in seen})


def test_a_blanked_sample_gives_the_pixels_of_a_blanked_batch(own, items):
    wide = dataclasses.replace(items[0], images=(picture(9, 50),))
    batches = [own.processor([arm.ask(wide).send(None).sample]) for arm in (ARM, make(TASK, blank=True))]
    assert torch.equal(batches[0].with_blank_images().images, batches[1].images)


def test_shards_add_up_to_the_whole(own, items, tmp_path):
    whole = evaluate(own, TASK, items, tmp_path / "whole", arm=ARM)
    first = evaluate(own, TASK, items, tmp_path / "parts", arm=ARM, running=Running(shard=(1, 2)))
    last = evaluate(own, TASK, items, tmp_path / "parts", arm=ARM, running=Running(shard=(0, 2)))
    assert first["missing"] == 15 and last == whole and whole["missing"] == 0


def test_training_mode_is_restored(own, items, tmp_path):
    own.model.train()
    collect(own, TASK, items[:2], tmp_path, arm=ARM)
    assert own.model.training
    own.model.eval()


def broken(items: list[Item], tmp_path) -> list[Item]:
    """One picture that is cut off, one that is missing, one text that is no Unicode."""
    mended = list(items)
    mended[3] = dataclasses.replace(items[3], images=(picture(1)[:60],))
    mended[4] = dataclasses.replace(items[4], images=(tmp_path / "no.png",))
    mended[5] = dataclasses.replace(items[5], question="a\ud800")
    return mended


def test_an_item_that_cannot_be_asked_stops_nothing_and_is_tried_again(own, items, tmp_path):
    out = tmp_path / "out"
    summary = evaluate(own, TASK, broken(items, tmp_path), out, arm=ARM, running=by(8))
    assert summary["errors"]["count"] == 3 and summary["relaxed_accuracy"]["n"] == 27 and summary["missing"] == 0
    records = [json.loads(line) for line in (out / RECORDS).read_bytes().splitlines()]
    assert [r["id"] for r in records] == [item.id for item in items]
    assert "image cannot be decoded" in records[3]["error"] and "no.png" in records[4]["error"]
    assert "not valid Unicode" in records[5]["error"] and "3 items could not be asked" in summary_lines(summary)[-1]
    (tmp_path / "no.png").write_bytes(items[4].images[0])
    again = evaluate(own, TASK, broken(items, tmp_path), out, arm=ARM)
    assert again["errors"]["count"] == 2 and again["relaxed_accuracy"]["n"] == 28
    assert evaluate(own, TASK, items, tmp_path / "sound", arm=ARM)["relaxed_accuracy"]["n"] == 30


def test_too_many_errors_end_the_run(own, items, tmp_path):
    lost = [dataclasses.replace(item, images=(b"no picture",)) for item in items]
    with pytest.raises(ValueError, match=r"of 30 items cannot be asked, more than --max-errors 0\.01; the first is q"):
        collect(own, TASK, lost, tmp_path / "a", arm=ARM, running=by(4))
    with pytest.raises(ValueError, match="none of 30 items could be asked"):
        evaluate(own, TASK, lost, tmp_path / "b", arm=ARM, running=by(4, max_errors=1.0))


def test_a_run_that_stopped_for_errors_goes_on_when_the_cause_is_mended(own, items, tmp_path):
    lost = [dataclasses.replace(item, images=(tmp_path / f"{item.group}.png",)) for item in items]
    with pytest.raises(ValueError, match="cannot be asked, more than --max-errors"):
        collect(own, TASK, lost, tmp_path / "out", arm=ARM, running=by(12))
    for item, there in zip(lost, items, strict=True):
        item.images[0].write_bytes(there.images[0])
    mended = evaluate(own, TASK, lost, tmp_path / "out", arm=ARM, running=by(1))
    assert "errors" not in mended and mended["relaxed_accuracy"]["n"] == 30


def test_items_that_no_process_did_end_the_run_in_one_line(own, items, tmp_path):
    other = os.fork()
    if not other:
        with Chunks(tmp_path / ".chunks-0-of-1-by-1", [0], 1, lambda item: False, lambda: None) as chunks:
            next(chunks.take())
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with pytest.raises(ValueError, match=r"1 of 30 items are missing: the same command does them"):
            evaluate(own, TASK, items, tmp_path, arm=ARM, running=by(64, ranks=Ranks(0, 2), patience=0.3))
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    assert json.loads((tmp_path / "summary.json").read_text())["missing"] == 1


def test_predictions_without_scores_are_scored_later(own, items, tmp_path):
    whole = evaluate(own, TASK, items, tmp_path / "whole", arm=ARM)
    alone = evaluate(own, TASK, items, tmp_path / "alone", arm=ARM, running=Running(scored=False))
    assert "relaxed_accuracy" not in alone and alone["cut"] == whole["cut"]
    assert "score" not in json.loads((tmp_path / "alone" / RECORDS).read_text().splitlines()[0])
    assert evaluate(own, TASK, items, tmp_path / "alone", arm=ARM) == whole


def test_an_id_that_occurs_twice_is_named(own, items, tmp_path):
    with pytest.raises(ValueError, match="the id 'q0' occurs twice"):
        collect(own, TASK, [*items, items[0]], tmp_path, arm=ARM)


def test_mean_of_splits_is_not_the_pooled_mean():
    rows = [
        {"score": s, "prediction": "x", "references": ["x"], "image": str(i), "kind": k}
        for i, (s, k) in enumerate([(1, "a"), (1, "a"), (1, "a"), (0, "b")])
    ]
    summary = summarize(TASK, rows)
    assert summary["relaxed_accuracy"]["value"] == 0.75
    assert summary["mean_of_kinds"]["value"] == pytest.approx(0.5)
    assert summary["by_kind"]["b"]["n"] == 1


ROW = {
    "output": "", "image": "p", "question": "?", "subtask": "existence", "category": "VS", "subcategory": "chart",
    "set_id": "0", "figure_id": "1", "choices": {"A": "yes", "B": "no"}, "gold_objects": ["dog"], "truth": ["dog"],
    "hallu": {"cat": []}, "safe": [], "dimension": "generative", "type": "generative", "labels": "x", "mark": "0",
    "kind": "a",
}  # fmt: skip


@pytest.mark.parametrize("label", [f"{name}:{variant}" for name, found in metrics.METRICS.items() for variant in found])
def test_no_answer_is_scored_by_every_metric_as_eval_score_does(label):
    metric = metrics.get(label)
    if metric.score is None:
        return  # of a corpus
    rows = [
        {**ROW, "id": str(i), "question_id": str(i), "prediction": p, "references": ["yes"]}
        for i, p in enumerate([None, "yes"])
    ]
    try:
        metric.score("yes", ["yes"], rows[1])
    except ValueError as error:
        pytest.fail(f"the row lacks what {label} needs: {error}")
    score(metric, rows)
    alone = cases.Case(dict(rows[0]), "", ["yes"])
    assert rows[0]["score"] == score_case(metric, alone)
    assert type(rows[0]["score"]) is type(rows[1]["score"]) or (metric.parses and rows[0]["score"] is None)
    assert metric.summarize(rows)


TABLE = "year | apples\n2020 | 3"


def test_empty_tables_are_no_perfect_tables():
    rows = [{"id": str(i), "prediction": p, "references": [TABLE], "image": str(i)} for i, p in enumerate([None, TABLE])]
    score(metrics.get("chart_table:rms"), rows)
    figures = metrics.get("chart_table:rms").summarize(rows)
    assert figures["f1"]["value"] == 0.5 and figures["f1"]["n"] == 2 and "chart_table" not in figures


def test_unparsed_outputs_are_counted_and_wrong():
    rows = [{"prediction": p, "references": ["3"], "image": p or "", "kind": "value", "finish": "stop"} for p in (None, "3")]
    score(metrics.get(TASK.metric), rows)
    summary = summarize(TASK, rows)
    assert summary["unparsed"]["value"] == 0.5 == summary["relaxed_accuracy"]["value"] and summary["cut"]["value"] == 0
    lines = summary_lines({"task": "t", "metric": "m", **summary})
    assert any(line.split()[:2] == ["by_kind", "value"] for line in lines)


def test_an_interval_of_a_mean_of_splits_stays_below_one():
    rows = [{"score": 1, "prediction": "x", "references": ["x"], "image": str(i), "kind": "ab"[i > 9]} for i in range(60)]
    low, high = summarize(TASK, rows)["mean_of_kinds"]["interval"]
    assert 0.7 < low < high == 1


def test_a_tag_that_items_lack_is_said_before_anything_is_asked(own, items, tmp_path):
    task = dataclasses.replace(TASK, by=("colour",))
    with pytest.raises(ValueError, match="figures are by 'colour', which item q0 does not have"):
        collect(own, task, items, tmp_path, arm=ARM)
    assert not (tmp_path / RECORDS).exists()
