"""What training says of its data: figures by source, bad samples, and what stops a run."""

from __future__ import annotations

import itertools
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from train_runs import config, curve, metrics, train

from datasets.counts import Counts, Skip
from datasets.loader import MixtureLoader
from datasets.shards import ShardWriter
from datasets.source import BadSample
from datasets.text import StdlibSource
from eval.curves import read_curves
from eval.data_table import data_tables
from train.data import _digest
from train.data_figures import SkippedLog, check_skipped, data_figures, totals_of
from vlm.sample import Sample, Text


def write(folder: Path, samples: list[str]) -> Path:
    with ShardWriter(folder, "prose", max_samples=40) as writer:
        for i, text in enumerate(samples):
            writer.write(Sample((Text(text),), str(i)))
    return folder


def prose(folder: Path, *more: str) -> list[str]:
    return [f"sources.prose={{kind: shards, path: {folder}}}", "stages.text.mixture={prose: 1.0, code: 1.0}", *more]


@pytest.fixture
def rot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the standard library cannot be read."""
    get = StdlibSource.get

    def bad(self: StdlibSource, epoch: int, index: int) -> Sample:
        if index % 5 == 2:
            raise BadSample("rotten", f"number {index} \N{SNOWMAN}")
        return get(self, epoch, index)

    monkeypatch.setattr(StdlibSource, "get", bad)


def test_figures_add_up(finished: Path) -> None:
    for stage in ("text", "align", "tune"):
        last = {name: value for s, _, _, name, value in metrics(finished) if s == stage}
        shares = [value for name, value in last.items() if name.startswith("data/share/")]
        assert sum(shares) == pytest.approx(1)
        by_source = sum(value for name, value in last.items() if name.startswith("data/tokens/"))
        assert by_source == sum(curve(finished, "train/tokens", stage))
        steps = len(curve(finished, "train/tokens", stage))
        assert last["data/padding"] == pytest.approx(1 - by_source / (steps * 512))
    assert set(data_tables(read_curves(finished))) == {"text", "align", "tune"}


def test_bad_samples_are_counted_told_and_the_run_goes_on_exactly(rot: None, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "run.log_every=3")
    rows = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert rows and {(r["stage"], r["source"], r["reason"]) for r in rows} == {("text", "code", "rotten")}
    assert len(rows) <= 5 and "\N{SNOWMAN}" in rows[0]["sample"]
    skipped, drawn = curve(whole, "skipped/code/rotten")[-1], curve(whole, "data/samples/code")[-1]
    assert 0.1 < skipped / drawn < 0.4
    table = data_tables(read_curves(whole))["text"]
    assert table.skipped == {"code: rotten": skipped} and table.sources[0].skipped == skipped
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for stage in ("1-align", "2-tune"):
        shutil.rmtree(run / "checkpoints" / stage)
    shutil.rmtree(sorted((run / "checkpoints" / "0-text").iterdir())[-1])
    with (run / "skipped.jsonl").open("a") as file:  # what a killed run wrote, and what somebody else did
        file.write(json.dumps(rows[-1] | {"step": 99}) + "\n" + "{}\n[1]\nnonsense\n" + '{"stage": "te')
    train(run, "run.log_every=3")
    assert (run / "skipped.jsonl").read_text() == (whole / "skipped.jsonl").read_text()
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_too_many_bad_samples_stop_the_run_in_one_line(rot: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data_figures.LEAST", 3)
    with pytest.raises(ValueError, match=r"^source 'code': \d+ of \d+ samples cannot be used \(rotten \d+\), more") as error:
        train(tmp_path / "run", "run.max_skipped=0.05")
    assert "\n" not in str(error.value)
    train(tmp_path / "run", "run.max_skipped=1")  # may be changed when the run goes on


def test_a_source_is_judged_by_its_share_and_not_too_early() -> None:
    few = Counter({"data/samples/a": 99, "skipped/a/x": 99, "data/samples/b": 500, "skipped/b/y/z": 100, "skipped/b/x": 151})
    check_skipped(few, ["a"], 0.0)
    check_skipped(few, ["b"], 0.6)
    with pytest.raises(ValueError, match=r"'b': 251 of 500 samples cannot be used \(x 151, y/z 100\)"):
        check_skipped(few, ["a", "b"], 0.5)


def test_totals_of_counts() -> None:
    counts = Counts(positions=10, tokens=8, source_tokens=Counter(a=6, b=2), drawn=Counter(a=2, b=1))
    counts.skipped["b", "rotten"] += 1
    totals = totals_of(counts) + totals_of(counts)
    figures = dict(data_figures(totals, {"a": 8, "b": 1, "c": 1}))
    assert figures["data/padding"] == pytest.approx(0.2) and figures["data/share/a"] == 0.75
    assert figures["data/tokens/c"] == 0 and figures["skipped/b/rotten"] == 2 and figures["data/samples/a"] == 4
    assert figures["epochs/a"] == 0.5 and figures["epochs/b"] == 2


def test_the_first_few_examples_are_kept_whatever_stands_in_them(tmp_path: Path) -> None:
    log = SkippedLog(tmp_path, "text", 0, ["text"])
    log.write([(1, Skip("a", "r", f"{i} line\nbreak \udcff" + "x" * 9000)) for i in range(9)] + [(1, Skip("b", "r", ""))])
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert Counter(r["source"] for r in rows) == {"a": 5, "b": 1} and len(rows[0]["sample"]) == 500


def test_the_examples_are_of_different_samples(tmp_path: Path) -> None:
    """Each epoch meets the same bad samples again; a resume does not tell them anew."""
    log = SkippedLog(tmp_path, "text", 0, ["text"])
    log.write([(step, Skip("a", "r", "one")) for step in range(1, 9)])
    log = SkippedLog(tmp_path, "text", 8, ["text"])
    log.write([(9, Skip("a", "r", name)) for name in ("one", "two", "three", "four", "five", "six")])
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert sorted((r["step"], r["sample"]) for r in rows) == [(1, "one"), *((9, n) for n in ("five", "four", "six", "three"))]


def hostile(folder: Path) -> Path:
    """A set of two shards: the first holds two members that no sample has, the second is cut off."""
    write(folder, ["some prose " * 40] * 80)
    first, second = sorted(folder.glob("*.tar"))
    with tarfile.open(first, "a") as tar:
        for name in ("../../evil.txt", "/etc/evil.txt"):
            tar.addfile(tarfile.TarInfo(name))
    second.write_bytes(second.read_bytes()[: 30 * 1024])
    return folder


@pytest.mark.parametrize("more", [[], ["run.workers=2"]])
def test_what_shards_hold_and_no_sample_has_is_counted_once(more: list[str], tmp_path: Path) -> None:
    """Whatever the workers, epochs and resumes."""
    options = prose(hostile(tmp_path / "prose"), "stages.tune.mixture={prose: 1.0}", *more)
    whole = train(tmp_path / "whole", *options)
    expected = {"prose: name leads elsewhere": 2, "prose: shard cut off": 1}
    tables = data_tables(read_curves(whole))
    assert tables["text"].passed_over == tables["tune"].passed_over == expected and not tables["align"].passed_over
    rows = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    kept = [(r["stage"], r["reason"], r["sample"].split(": ")[-1]) for r in rows if r["step"] == 0]
    three = [("name leads elsewhere", "../../evil.txt"), ("name leads elsewhere", "/etc/evil.txt")]
    three += [("shard cut off", "after 30 samples")]
    assert kept == [(stage, *one) for stage in ("text", "tune") for one in three]
    assert (
        "in shards, but in no sample: prose: name leads elsewhere 2, prose: shard cut off 1"
        in (whole / "report.html").read_text()
    )
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "2-tune")
    shutil.rmtree(sorted((run / "checkpoints" / "1-align").iterdir())[-1])
    train(run, *options)
    for file in ("skipped.jsonl", "metrics.csv"):
        assert (run / file).read_text() == (whole / file).read_text()


@pytest.mark.parametrize("left", ["0-text", "1-align", "2-tune"])
def test_a_run_of_another_order_is_refused(left: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a stage, and between two; one that is finished draws nothing more."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for stage in sorted((run / "checkpoints").iterdir()):
        if stage.name > left:
            shutil.rmtree(stage)
    monkeypatch.setattr("train.data.ORDER", 99)
    if left == "2-tune":
        train(run)
    else:
        with pytest.raises(ValueError, match="was begun by a version that draws samples in another order"):
            train(run)
    shutil.rmtree(sorted((run / "checkpoints" / left).iterdir())[-1])
    with pytest.raises(ValueError, match="was begun by a version that draws samples in another order") as error:
        train(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_is_one_line(workers: int, tmp_path: Path) -> None:
    folder = write(tmp_path / "prose", ["some prose " * 40] * 200)

    def vanish(*_: object) -> None:
        for path in folder.glob("*.tar"):
            path.unlink()

    hook = torch.optim.AdamW.step
    try:
        torch.optim.AdamW.step = lambda self, *a, **k: (vanish(), hook(self, *a, **k))[1]
        with pytest.raises(ValueError, match=r"^source 'prose': shard .*prose-00000\d.tar can no longer be read: No such file"):
            train(tmp_path / "run", *prose(folder, f"run.workers={workers}", "budget_scale=5e-6"))
    finally:
        torch.optim.AdamW.step = hook


def test_a_source_that_has_changed_is_said_when_a_run_goes_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "prose", ["some prose " * 40] * 20)
    run = train(tmp_path / "run", *prose(folder))
    write(folder, ["some prose " * 40] * 21)
    for path in (run / "checkpoints").glob("[12]-*"):
        shutil.rmtree(path)
    shutil.rmtree(sorted((run / "checkpoints" / "0-text").iterdir())[-1])
    with pytest.raises(ValueError, match="source 'prose' has 21 samples, and had 20 when the run began"):
        train(run, *prose(folder))
    write(folder, ["some prose " * 40] * 19 + ["other"])
    with pytest.raises(ValueError, match="source 'prose' holds other samples than when the run began"):
        train(run, *prose(folder))
    write(folder, ["some prose " * 40] * 20)
    train(run, *prose(folder))


def test_the_first_shard_that_differs_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "prose", [f"some prose, number {i} " * 30 for i in range(120)])
    _, second, third = sorted(folder.glob("*.tar"))
    run = train(tmp_path / "run", *prose(folder))
    for path in (run / "checkpoints").glob("[12]-*"):
        shutil.rmtree(path)
    shutil.rmtree(sorted((run / "checkpoints" / "0-text").iterdir())[-1])
    third.rename(folder / "x")
    second.rename(third)
    (folder / "x").rename(second)
    with pytest.raises(ValueError, match=r"holds other samples .*\(the first shard that differs: .*prose-000001.tar\)"):
        train(run, *prose(folder))
    third.unlink()
    second.unlink()
    with pytest.raises(ValueError, match=r"has 40 samples, and had 120 .*\(shards are missing after .*prose-000000.tar\)"):
        train(run, *prose(folder))
    write(folder, [f"some prose, number {i} " * 30 for i in range(120)])
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    train(run, *prose(folder))


@pytest.mark.parametrize("change", ["merges", "pre_tokenizer", "added_tokens", "normalizer"])
def test_a_tokenizers_digest_is_of_all_that_cuts_up_a_text(change: str, finished: Path) -> None:
    text = (finished / "tokenizer.json").read_text()
    written = json.loads(text)
    assert len(written["model"]["merges"]) > 1
    if change == "merges":
        written["model"]["merges"].reverse()
    else:
        written[change] = {"added_tokens": written["added_tokens"][:-1], "normalizer": {"type": "NFC"}}.get(change)
    before, after = (SimpleNamespace(tokenizer=Tokenizer.from_str(one)) for one in (text, json.dumps(written)))
    assert _digest(before) == _digest(SimpleNamespace(tokenizer=Tokenizer.from_str(text))) != _digest(after)


def test_another_tokenizer_than_the_runs_is_said(tmp_path: Path, finished: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other.json"
    shutil.copytree(finished, run)
    shutil.rmtree(sorted((run / "checkpoints" / "2-tune").iterdir())[-1])
    text = (run / "tokenizer.json").read_text()
    vocabulary = json.loads(text)
    merges = vocabulary["model"]["merges"]
    assert merges
    last = max(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    vocabulary["model"]["vocab"] = {("Ġzz" if k == last else k): v for k, v in vocabulary["model"]["vocab"].items()}
    vocabulary["model"]["merges"] = []
    (run / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match="the tokenizer is not the one that the run has begun with"):
        train(run)
    other.write_text(json.dumps(vocabulary))
    fresh = config(tmp_path / "fresh", f"tokenizer.path={other}")
    assert fresh.tokenizer.path == str(other)


def test_shares_of_tokens_come_out_and_survive_a_resume(tmp_path: Path) -> None:
    more = ["stages.text.mixture={code: 1.0, tables: 1.0}", "stages.text.shares=tokens", "budget_scale=1.5e-6"]
    whole = train(tmp_path / "whole", *more)
    # 30,000 tokens, and code comes in documents of 1,700
    assert curve(whole, "data/share/code", "text")[-1] == pytest.approx(0.5, abs=0.15)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in (run / "checkpoints").glob("[12]-*"):
        shutil.rmtree(path)
    shutil.rmtree(sorted((run / "checkpoints" / "0-text").iterdir())[-1])
    train(run, *more)
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_a_run_goes_on_where_its_data_were_moved(tmp_path: Path) -> None:
    folder = write(tmp_path / "here" / "prose", ["some prose, and more of it. " * 40] * 30)
    more = ["sources.prose={kind: shards, path: prose}", "stages.text.mixture={prose: 1.0, code: 1.0}"]
    whole = train(tmp_path / "whole", *more, f"data_root={tmp_path / 'here'}")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in (run / "checkpoints").glob("[12]-*"):
        shutil.rmtree(path)
    shutil.rmtree(sorted((run / "checkpoints" / "0-text").iterdir())[-1])
    (tmp_path / "there").mkdir()
    folder.rename(tmp_path / "there" / "prose")
    train(run, *more, f"data_root={tmp_path / 'there'}")
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_what_waits_is_told_apart_from_what_was_seen(tmp_path: Path) -> None:
    folder = write(tmp_path / "prose", [f"some prose, number {i}, and more of it. " * 9 for i in range(300)])
    run = train(tmp_path / "run", *prose(folder), "stages.text.mixture={prose: 1.0}")
    last = {name: value for s, _, _, name, value in metrics(run) if s == "text"}
    assert last["data/samples/prose"] == last["data/documents"] > 0 and last["data/waiting"] > 0
    assert last["epochs/prose"] == last["data/samples/prose"] / 300
    table = data_tables(read_curves(run))["text"]
    assert (table.sources[0].samples, table.waiting) == (last["data/samples/prose"], last["data/waiting"])


@pytest.mark.parametrize("after", [0, 3])
def test_data_that_stop_inside_an_accumulated_step_cost_nothing(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and the same command then goes on as if nothing had been."""
    settings = ["stages.text.micro_batches=4", "budget_scale=0.2e-6", "run.checkpoint_every=3"]
    whole = train(tmp_path / "whole", *settings)
    steps = MixtureLoader.__iter__

    def broken(self: MixtureLoader):
        if self.micro_batches == 4:
            yield from itertools.islice(steps(self), 4 * after)
            raise ValueError("the disk is gone")
        yield from steps(self)

    with monkeypatch.context() as patch:
        patch.setattr(MixtureLoader, "__iter__", broken)
        with pytest.raises(ValueError, match="the disk is gone"):
            train(tmp_path / "run", *settings)
    run = train(tmp_path / "run", *settings)
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
