"""One arm of one task: what is asked, kept, resumed and summed up."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import vlm
from eval.evaluate import collect, evaluate, fingerprint, summarize
from eval.prompting import Arm, parse
from eval.store import RECORDS
from eval.tasks import Task, charts
from tests.eval.conftest import picture

TASK = Task("mine", lambda data, split: [], "relaxed_accuracy", by=("kind",), mean_of="kind", max_new_tokens=4)


def test_records_hold_everything_and_do_not_depend_on_the_batch(model_and_processor, items, tmp_path):
    records = {size: collect(*model_and_processor, TASK, items, tmp_path / str(size), batch_size=size) for size in (1, 7, 64)}
    assert records[1] == records[7] == records[64]
    assert [r["id"] for r in records[1]] == [item.id for item in items]
    first = records[1][0]
    keys = {
        "id",
        "input",
        "question",
        "references",
        "output",
        "rationale",
        "prediction",
        "score",
        "image",
        "kind",
        "logprob",
        "tokens",
    }
    assert set(first) == keys and first["references"] == ["0"] and first["image"] == "p0"
    assert [json.loads(line) for line in (tmp_path / "7" / RECORDS).read_text().splitlines()] == records[7]


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


def test_resuming_with_another_batch_size_gives_the_same_records(model_and_processor, items, tmp_path, monkeypatch):
    model, processor = model_and_processor
    whole = collect(model, processor, TASK, items, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", stop_after(model, 3))
        with pytest.raises(StoppedError):
            collect(model, processor, TASK, items, tmp_path / "resumed", batch_size=4)
    assert len((tmp_path / "resumed" / RECORDS).read_text().splitlines()) == 12
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", stop_after(model, 2))  # 18 items are left: two batches, not three
        assert collect(model, processor, TASK, items, tmp_path / "resumed", batch_size=9) == whole
    assert (tmp_path / "resumed" / RECORDS).read_bytes() == (tmp_path / "whole" / RECORDS).read_bytes()


def test_kill_9_in_the_middle_loses_only_the_batch_at_work(model_and_processor, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    vlm.save(run / "model", *model_and_processor)
    command = [
        sys.executable,
        "-m",
        "eval.run",
        "--checkpoint",
        str(run),
        "--task",
        "charts",
        "--cot",
        "none",
        "--limit",
        "400",
    ]
    process = subprocess.Popen([*command, "--batch-size", "1", "--out", str(out)], stdout=subprocess.DEVNULL, env=os.environ)
    records = out / RECORDS
    deadline = time.monotonic() + 60
    while (not records.exists() or records.read_bytes().count(b"\n") < 20) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = records.read_bytes().count(b"\n")
    assert 20 <= kept < 400
    model, processor = vlm.load(run)
    resumed = collect(model, processor, charts.TASK, charts.items(0, 400, "sight"), out)
    assert resumed == collect(model, processor, charts.TASK, charts.items(0, 400, "sight"), tmp_path / "whole")


def test_another_checkpoint_or_prompt_is_refused_and_a_changed_picture_asked_again(model_and_processor, items, tmp_path):
    model, processor = model_and_processor
    before = collect(model, processor, TASK, items, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        collect(model, processor, TASK, items, tmp_path, arm=Arm("single"))
    changed = [dataclasses.replace(items[0], images=(picture(255),)), *items[1:]]
    after = collect(model, processor, TASK, changed, tmp_path)
    assert after[1:] == before[1:] and after[0]["input"] != before[0]["input"]
    mark = fingerprint(model)
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    assert fingerprint(rounded) == fingerprint(copy.deepcopy(rounded).float())  # the same weights
    with torch.no_grad():
        model.decoder.norm.weight[0] += 1e-3
    try:
        assert fingerprint(model) != mark
        with pytest.raises(ValueError, match="checkpoint was"):
            collect(model, processor, TASK, items, tmp_path)
    finally:
        with torch.no_grad():
            model.decoder.norm.weight[0] = 1.0


def test_blanking_hides_the_picture(model_and_processor, items, tmp_path):
    same_text = [dataclasses.replace(item, question="Which?") for item in items]
    blank = collect(*model_and_processor, TASK, same_text, tmp_path / "blank", arm=Arm(blank=True))
    seen = collect(*model_and_processor, TASK, same_text, tmp_path / "seen")
    assert len({r["logprob"] for r in blank}) == 1 < len({r["logprob"] for r in seen})


def test_shards_add_up_to_the_whole(model_and_processor, items, tmp_path):
    whole = evaluate(*model_and_processor, TASK, items, tmp_path / "whole")
    first = evaluate(*model_and_processor, TASK, items, tmp_path / "parts", shard=(1, 2))
    last = evaluate(*model_and_processor, TASK, items, tmp_path / "parts", shard=(0, 2))
    assert first["missing"] == 15 and last == whole and whole["missing"] == 0


def test_training_mode_is_restored(model_and_processor, items, tmp_path):
    model, processor = model_and_processor
    model.train()
    collect(model, processor, TASK, items[:2], tmp_path)
    assert model.training
    model.eval()


def test_a_broken_picture_is_named(model_and_processor, items, tmp_path):
    broken = dataclasses.replace(items[3], images=(picture(1)[:60],))
    with pytest.raises(ValueError, match=r"item q3 \(p1\): image cannot be decoded"):
        collect(*model_and_processor, TASK, [broken], tmp_path)


def test_mean_of_splits_is_not_the_pooled_mean():
    rows = [
        {"score": s, "prediction": "x", "image": str(i), "kind": k}
        for i, (s, k) in enumerate([(1, "a"), (1, "a"), (1, "a"), (0, "b")])
    ]
    summary = summarize(TASK, rows)
    assert summary["relaxed_accuracy"]["value"] == 0.75
    assert summary["mean_of_kinds"]["value"] == pytest.approx(0.5)
    assert summary["by_kind"]["b"]["n"] == 1


@pytest.mark.parametrize(
    ("cot", "output", "answer"),
    [("none", " 3", "3"), ("none", " red bar \nQuestion: x", "red bar"), ("none", "  ", None), ("none", "", None),
     ("single", " a; b\nAnswer: 3\nx", "3"), ("single", " never ends", None), ("single", " a\nAnswer: ", None)],
)  # fmt: skip
def test_parsing(cot, output, answer):
    assert parse(output, Arm(cot)).answer == answer


def test_unparsed_outputs_are_counted_and_wrong():
    rows = [
        {"score": 0.0, "prediction": None, "image": "a", "kind": "k"},
        {"score": 1.0, "prediction": "3", "image": "b", "kind": "k"},
    ]
    assert summarize(TASK, rows)["unparsed"]["value"] == 0.5
