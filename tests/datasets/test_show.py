"""What the page and the counts say of samples whose masks are known."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from dataset_fakes import Rotten, Words, png, processor
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.shards import ShardWriter
from datasets.show.__main__ import look, main
from datasets.show.checks import faults
from datasets.show.page import write_page
from datasets.show.recipe import Recipe, of_config, of_shards, read_config
from datasets.show.summary import report
from datasets.show.trace import Tracer, untag
from datasets.show.view import Budget, row_pieces, row_view
from train.config import read_config as read_run_config
from train.data import StageData
from train.run_dir import RunDirectory
from train.start import first_processor
from vlm.command import status
from vlm.sample import Image, Sample, Text, Video

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR = processor()
HOSTILE = "<script>alert(1)</script></div> <image> \x1b[2J \u202e 漢"


def recipe(sources, length=64, rows=1, max_images=64, epochs=1):
    mixture = Mixture(sources, [1.0] * len(sources), [epochs] * len(sources))
    return Recipe("test", "bytes", mixture, PROCESSOR, rows, length, max_images)


def batch_of(*documents):
    return PROCESSOR.collate([[PROCESSOR.encode(d) for d in row] for row in documents], 80)


def chat(key="c"):
    return Sample((Text("look "), Image(png(1)), Image(png(2)), Text("what?", learn=False), Text(" both")), key=key, source="s")


@pytest.fixture
def shards(tmp_path):
    with ShardWriter(tmp_path / "shards", "evil<b>") as writer:
        writer.write(Sample((Image(png(9)), Text(HOSTILE)), key="<img src=x onerror=alert(1)>\x1b[2J\ud800"))
        writer.write(Sample((Image(b"\x89PNG broken"), Text("x")), key="broken"))
        writer.write(Sample((Video((png(1), png(2)), (0.0, 0.5)), Text("seen?", learn=False), Text(" yes")), key="clip"))
    with ShardWriter(tmp_path / "shards", "other") as writer:
        for i in range(30):
            writer.write(Sample((Text(f"document {i} " * (i + 1)),), key=f"o{i}"))
    return tmp_path / "shards"


def command(*arguments, cwd=ROOT):
    call = [sys.executable, "-m", "datasets.show", *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=100)


class Tags(HTMLParser):
    """Every element of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(20, 90), st.integers(0, 3), st.integers(1, 4))
def test_every_token_is_counted_once_under_its_own_sample(plain, paged, length, images, rows):
    sources = [Words("a", plain, longest=9), Words("b", paged, longest=5, images=images, given=True)]
    shown, summary, wrong = look(recipe(sources, length, rows, max_images=4), 1000, 1000)
    assert not wrong
    whole = {s.name: [PROCESSOR.encode(s.get(0, i)) for i in range(len(s))] for s in sources}
    counts = {row["source"]: row for row in summary.by_source(recipe(sources).mixture)}
    assert counts["a"]["tokens"] == sum(map(len, whole["a"]))
    assert counts["a"]["images"] == 0 and counts["b"]["drawn"] == paged
    assert summary.counts.tokens == sum(d.packed for d in summary.documents) == sum(row.filled for row in shown)
    assert summary.counts.learnt == sum(d.learnt for d in summary.documents) == sum(row.learnt for row in shown)
    assert summary.counts.images == sum(d.images for d in summary.documents)
    assert summary.padding == len(shown) * length - summary.counts.tokens
    for row in shown:
        for piece, (start, stop, _) in zip(row.pieces, row.documents, strict=True):
            words = "".join(token.text for token in piece.tokens if "special" not in token.kind)
            assert words.removeprefix("?") in f"{piece.key} " * 20 and piece.source == piece.key[0]
            assert stop - start >= len(piece.tokens)


def test_tags_come_off_and_leave_what_training_sees():
    sources = [Words("a", 5, longest=9), Words("b", 4, images=2, given=True)]
    plain = next(iter(MixtureLoader(recipe(sources).mixture, PROCESSOR, rows=2, length=64))).batch
    tracer = Tracer(PROCESSOR)
    batch, origin = untag(next(iter(MixtureLoader(recipe(sources).mixture, tracer, rows=2, length=64))).batch)
    for field in dataclasses.fields(plain):
        assert torch.equal(getattr(batch, field.name), getattr(plain, field.name)), field.name
    assert ((origin >= 0) == (plain.document >= 0)).all()


def test_what_each_token_is_and_sees():
    tracer = Tracer(PROCESSOR)
    batch, origin = untag(tracer.collate([[tracer.encode(chat()), tracer.encode(chat("d"))]], 60))
    pieces = row_pieces(batch, 0, origin, tracer.documents, tracer, Budget())
    row = row_view(batch, 0, pieces, 0, "")
    first, second = pieces
    words = [(t.text, t.kind, t.colour) for t in first.tokens]
    assert words[:2] == [("<bos>", "given special", None), ("l", "learnt", None)]
    assert words[6:9] == [("<eos>", "learnt special", None), ("<image>", "given special", 0), ("<image>", "given special", 1)]
    assert words[9:15] == [(c, "given", 1) for c in "what?"] + [(" ", "learnt", 1)]
    assert [t.label for t in first.tokens if t.label] == ["image 1", "image 2"] == [t.label for t in second.tokens if t.label]
    assert {t.colour for t in second.tokens} == {None, 2, 3}
    assert row.filled == 2 * len(PROCESSOR.encode(chat())) and row.documents[1][:2] == (row.filled // 2, row.filled)
    assert [c for _, c in row.placeholders] == [0, 1, 2, 3]
    assert sum(stop - start for start, stop, _ in row.targets) == row.learnt == int((batch.labels != -100).sum())
    assert "sees image 2" in first.tokens[-1].hint and "position 0" in second.tokens[0].hint


def test_a_wrong_mask_is_named():
    right = batch_of([chat(), Sample((Text("alone"),))], [chat()])
    assert faults(right, PROCESSOR.image_id) == []

    def broken(name, row, token, value):
        tensor = getattr(right, name).clone()
        tensor[row, token] = value
        return faults(dataclasses.replace(right, **{name: tensor}), PROCESSOR.image_id)

    end = len(PROCESSOR.encode(chat()))
    assert broken("labels", 1, 2, 7) == ["label is not the next token of its document: row 1, token 2"]
    assert broken("labels", 0, end - 1, int(right.tokens[0, end])) != []  # across documents
    assert broken("positions", 0, end, end) == [f"position does not count from the document's start: row 0, token {end}"]
    assert broken("image_index", 0, end + 1, 1) == [
        f"image seen is not the last one before the token in its document: row 0, token {end + 1}"
    ]
    assert broken("image_index", 1, end - 1, 2) != []  # the first of two
    assert broken("media_document", 2, 0, 0) == ["rows and documents of the media are not those of their placeholders"]
    assert faults(dataclasses.replace(right, media_of_frame=torch.tensor([0, 1, 2, 2])), PROCESSOR.image_id) != []


def test_skipped_samples_are_counted_and_named():
    _, summary, _ = look(recipe([Rotten("r", 30)]), 5, 100)
    said = "\n".join(report(summary, recipe([Rotten("r", 30)]).mixture, [], []))
    assert "skipped: 10 of r: broken media" in said and "skipped: 10 of r: rotten" in said
    assert summary.by_source(recipe([Rotten("r", 30)]).mixture)[0]["shown"] == 10


def test_a_source_without_a_usable_sample_is_counted():
    class Broken(Words):
        def get(self, epoch, index):
            return Sample((Image(b"no picture"), Text("x")), key=str(index))

    made = recipe([Broken("b", 9)])
    shown, summary, wrong = look(made, 5, 100)
    said = "\n".join(report(summary, made.mixture, wrong, []))
    assert not shown and "skipped: 9 of b: broken media" in said and "rows: 0 of 64 tokens" in said


def test_an_endless_mixture_ends_at_the_limit():
    shown, summary, _ = look(recipe([Words("a", 10)], epochs=None), 3, 25)
    assert len(shown) == 3 < summary.rows and 25 <= summary.counts.drawn.total() < 60


def test_pages_are_bounded(monkeypatch):
    monkeypatch.setattr("datasets.show.__main__.Budget", lambda: Budget(tokens=50, pictures=2))
    shown, _, _ = look(recipe([Words("a", 10, images=1)], length=40), 5, 5)
    tokens = [t for row in shown for piece in row.pieces for t in piece.tokens]
    assert len(tokens) <= 50 and sum(len(t.pictures) for t in tokens) == 2
    assert sum(p.hidden for row in shown for p in row.pieces) == sum(row.filled for row in shown) - 50


def test_a_page_runs_nothing_and_loads_nothing(shards, tmp_path):
    made = of_shards([str(shards)], None, seed=0, length=128, image_size=8)
    shown, summary, wrong = look(made, 20, 100)
    for name in ("a", "b"):
        write_page(tmp_path / name, made, shown, summary, wrong, [HOSTILE])
    page = Tags((tmp_path / "a").read_text())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    harmless = "meta title style svg pattern rect b i p a span code small figure figcaption img footer header article section"
    layout = r"html|head|body|main|div|defs|h\d|table|t[rdh]|ul|li"
    assert all(tag in harmless.split() or re.fullmatch(layout, tag) for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(a["src"].startswith("data:image/") for tag, a in page.tags if tag == "img")
    assert all(a["href"].startswith("#row-") for tag, a in page.tags if tag == "a")
    assert sum(tag == "img" for tag, _ in page.tags) == 3  # a picture and two frames
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in page.text and "\u202e" not in page.text and "\\x1b[2J" in page.text


def test_the_command_says_the_same_twice(shards, tmp_path):
    outs = [command(shards, "--length", 128, "--image-size", 8, "--out", tmp_path / f"{i}.html") for i in range(2)]
    assert [o.returncode for o in outs] == [0, 0], outs[0].stderr
    said = outs[0].stdout
    assert said.replace("0.html", "") == outs[1].stdout.replace("1.html", "")
    assert (tmp_path / "0.html").read_bytes() == (tmp_path / "1.html").read_bytes()
    assert re.search(r"evil<b>\s+3\s+3\s+1\s+3\s", said) and "skipped: 1 of evil<b>: broken media" in said
    assert re.search(r"other\s+30\s+30\s+0\s+0\s", said) and "agree with the tokens" in said and "\x1b" not in said


def test_mistakes_are_one_line(shards, tmp_path):
    config = ROOT / "configs" / "tiny.yaml"
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "none.yaml").write_text("stages: []\nsources: {}")
    mistakes = {
        "no shards at": ["nowhere/*.tar"],
        "name SHARDS, or --config": [],
        "did you mean 'align'": ["--config", config, "--stage", "alin"],
        "list.yaml": ["--config", tmp_path / "list.yaml"],
        "there are no stages": ["--config", tmp_path / "none.yaml"],
        "--count must be": [shards, "--count", "0"],
        "rows of 1 tokens": [shards, "--length", "1"],
        "nowhere.json does not exist": [shards, "--tokenizer", tmp_path / "nowhere.json"],
        "cannot be written": [shards, "--out", tmp_path, "--limit", 1, "--count", 1],
    }
    for said, arguments in mistakes.items():
        with pytest.raises(ValueError, match=re.escape(said)) as error:
            main([str(a) for a in arguments])
        assert "\n" not in str(error.value)
    done = command("nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: no shards at nowhere") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("shares", ["samples", "tokens"])
def test_a_stage_is_shown_in_the_rows_that_its_run_draws(shares, tmp_path):
    path = tmp_path / "tiny.yaml"
    text = (ROOT / "configs" / "tiny.yaml").read_text()
    path.write_text(text.replace("tune\n", f"tune\n    shares: {shares}\n    window: 5\n"))
    config = read_run_config(path)
    stage, made = config.stages[-1], of_config(path, None, None, seed=None, length=None)
    theirs = first_processor(config, RunDirectory(tmp_path / "run", config), None)
    assert made.processor.tokenizer.to_str() == theirs.tokenizer.to_str() and made.processor.image == theirs.image
    options = {"rows": stage.rows, "length": stage.length, "max_images": stage.max_images, "window": 5}
    wanted = next(iter(MixtureLoader(StageData(config, stage, theirs).mixture, theirs, **options))).batch
    options = {"rows": made.rows, "length": made.length, "max_images": made.max_images, "window": made.window}
    batch, _ = untag(next(iter(MixtureLoader(made.mixture, Tracer(made.processor), **options))).batch)
    assert torch.equal(batch.tokens, wanted.tokens) and torch.equal(batch.images, wanted.images)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_configuration_means_what_it_means_to_the_run(path):
    ours, theirs = read_config(path), read_run_config(path)
    for a, b in zip([*ours.stages, ours.validation], [*theirs.stages, theirs.validation], strict=True):
        shared = {f.name for f in dataclasses.fields(a)} & {f.name for f in dataclasses.fields(b)}
        assert {n: getattr(a, n) for n in shared} == {n: getattr(b, n) for n in shared} and len(shared) >= 3
    assert (ours.run.seed, ours.tokenizer.path) == (theirs.run.seed, theirs.tokenizer.path)
    assert ours.tokenizer.documents == theirs.tokenizer.documents
    for name in ("sources", "model", "init_from", "data_root"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_what_is_no_file_is_one_line_and_no_wait(tmp_path, capsys):
    os.mkfifo(tmp_path / "a.tar")
    assert status(lambda: main([str(tmp_path / "a.tar"), "--out", str(tmp_path / "page.html")])) == 2
    assert re.fullmatch(r"error: shard .*a.tar is no file\n", capsys.readouterr().err)


def test_half_a_surrogate_pair_is_a_bad_sample(tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for n, text in enumerate(("some prose", "half \ud83d", "more")):
            data = json.dumps({"segments": [{"text": text}]}).encode()
            info = tarfile.TarInfo(f"{n}.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    main([str(tmp_path / "a.tar"), "--out", str(tmp_path / "page.html")])
    assert re.search(r"\na +3 +3 +1 ", capsys.readouterr().out)  # size, drawn, skipped
