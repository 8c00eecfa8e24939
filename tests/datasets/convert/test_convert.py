import errno
import gzip
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from convert_fakes import convert, put, read, reasons

from datasets import shards
from datasets.convert import CONVERTERS
from datasets.convert.__main__ import main, write
from vlm.sample import Image, Sample, Text

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060f80f0001040100"
    "5fe5c34b0000000049454e44ae426082"
)
REAL = Path(os.environ.get("VLM_DATA", "../shared/data"))
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (VLM_DATA)")


@pytest.fixture
def chartqa(tmp_path):
    src = tmp_path / "src"
    row = {"imgname": "1.png", "query": "How many?", "label": "3"}
    put(src / "train/png/1.png", PIXEL)
    put(src / "train/png/2.png", b"no picture")
    put(src / "secret.png", PIXEL)
    bad = [row | {"imgname": name} for name in ("2.png", "3.png", "../../secret.png", None)]
    put(src / "train/train_human.json", [row, *bad, {"imgname": "1.png"}, 7])
    put(src / "train/train_augmented.json", [row | {"label": 4.5}])
    put(src / "train/train_rationales.json", [row | {"rationale": "One, two, three."}, row])
    put(src / "test/png/1.png", PIXEL)
    put(src / "test/test_human.json", [row])
    return src


def test_chartqa(chartqa, tmp_path, capsys):
    dst = tmp_path / "dst"
    summary = convert("chartqa", chartqa, dst)
    assert {name: kept["samples"] for name, kept in summary["kept"].items()} == {"train": 2, "train_rationales": 1, "test": 1}
    counts = {reason: skip["count"] for reason, skip in summary["skipped"].items()}
    assert counts == {
        "image broken": 1, "image missing": 2, "image named by a path that leads out": 1, "no question or no answer": 1,
        "row is no object": 1, "no rationale": 1,
    }  # fmt: skip
    assert summary["skipped"]["image named by a path that leads out"]["examples"] == ["../../secret.png"]
    direct, augmented = read(dst / "train-*.tar")
    assert direct.segments == (Image(PIXEL), Text("Question: How many?\nAnswer:", learn=False), Text(" 3"))
    assert augmented.meta == {"image": "1.png", "part": "augmented"} and augmented.segments[-1].text == " 4.5"
    (worked,) = read(dst / "train_rationales-*.tar")
    assert [s.text for s in worked.segments[1:]] == ["Question: How many?\nReason:", " One, two, three.\nAnswer: 3"]
    assert "skipped, image missing: 2 (such as" in capsys.readouterr().out


def test_links_that_lead_out_of_src_are_not_followed(chartqa, tmp_path):
    outside = tmp_path / "outside"
    (chartqa / "test").rename(outside)
    (chartqa / "test").symlink_to(outside)
    (chartqa / "train/png/3.png").symlink_to(outside / "png/1.png")
    summary = convert("chartqa", chartqa, tmp_path / "dst")
    assert "test" not in summary["kept"] and summary["skipped"]["image behind a link that leads out"]["count"] == 1
    assert summary["skipped"]["link that leads out of SRC"]["examples"] == ["test/png"]
    page = {"texts": ["One.", None], "images": [None, "1.png"]}
    put(tmp_path / "pages/a.json", [page])
    put(outside / "b.json", [page])
    (tmp_path / "pages/b.json").symlink_to(outside / "b.json")
    (tmp_path / "pages/images").symlink_to(outside / "png")
    summary = convert("interleaved", tmp_path / "pages", tmp_path / "dst2")
    assert {name: (k["samples"], k["images"]) for name, k in summary["kept"].items()} == {"a": (1, 0)}
    assert reasons(summary) == {"link that leads out of SRC": 1, "image behind a link that leads out": 1}


def test_one_split(chartqa, tmp_path):
    assert list(convert("chartqa", chartqa, tmp_path / "dst", "--split", "test")["kept"]) == ["test"]


def test_interleaved(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    put(src / "images/book/a.png", PIXEL)
    put(src / "b.png", PIXEL)
    page = {
        "id": "book/1",
        "texts": ["One. ", None, " Two.", None, "Three.", None],
        "images": [None, {"file": "book/a.png", "alt": "A dot."}, None, "b.png", None, "https://example.org/c.png"],
    }
    put(src / "book.json", [page, {"texts": ["x"]}, {"texts": ["x"], "images": []}, {"texts": [None], "images": ["b.png"]}])
    put(src / "web.jsonl", json.dumps(page).encode() + b"\nno json\n" + json.dumps(page).encode())
    summary = convert("interleaved", src, dst)
    assert {name: (k["samples"], k["images"]) for name, k in summary["kept"].items()} == {"book": (1, 2), "web": (2, 4)}
    assert {r: s["count"] for r, s in summary["skipped"].items()} == {
        "image missing": 3, "line is no JSON": 1, "no parallel texts and images": 2, "page without text": 1,
    }  # fmt: skip
    (sample,) = read(dst / "book-*.tar")
    assert sample.key == "book/1"
    assert [s.text if isinstance(s, Text) else "<>" for s in sample.segments] == [
        "One.", "<>", "A dot.", "\n\nTwo.", "<>", "\n\nThree.",
    ]  # fmt: skip
    convert("interleaved", src / "book.json", tmp_path / "plain", "--no-alt")
    assert len(read(tmp_path / "plain")[0].segments) == 5


def test_text(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    put(src / "rows.jsonl.gz", gzip.compress(b'{"id": "r1", "text": "one"}\n\n{"no": 1}\n{"text": "  "}\n'))
    put(
        src / "cut.jsonl.gz",
        gzip.compress(b"".join(b'{"text": "%d %s"}\n' % (i, os.urandom(99).hex().encode()) for i in range(999)))[:-9999],
    )
    put(src / "code/a.py", b"print(1)\n")
    put(src / "code/b.PY", b"\xff\xfe")
    put(src / "code/picture.png", PIXEL)
    put(src / ".git/config.txt", b"hidden")
    put(src / "long.txt", b"line of text\n" * 100_000)
    (src / "link.txt").symlink_to(tmp_path / "outside.txt")
    put(tmp_path / "outside.txt", b"outside")
    summary = convert("text", src, dst)
    kept = {name: k["samples"] for name, k in summary["kept"].items()}
    assert (kept["rows"], kept["src"]) == (1, 3) and 100 < kept["cut"] < 999
    assert {r: s["count"] for r, s in summary["skipped"].items()} == {
        "row without a 'text'": 1, "empty": 1, "file is not UTF-8": 1, "file cut off": 1, "link, which is not followed": 1,
        "file of a kind that is not read": 1,
    }  # fmt: skip
    samples = {s.key: s.segments[0].text for s in read(dst / "src-*.tar")}
    assert list(samples) == ["long.txt#0", "long.txt#1", "code/a.py"] and samples["code/a.py"] == "print(1)\n"
    assert samples["long.txt#0"] + samples["long.txt#1"] == "line of text\n" * 100_000
    assert convert("text", src / "long.txt", tmp_path / "one")["kept"]["long"]["samples"] == 2


def test_again_gives_the_same_bytes(chartqa, tmp_path):
    for name in ("a", "b", "b"):
        convert("chartqa", chartqa, tmp_path / name)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chartqua", "src", "dst"], "converter 'chartqua' is unknown; did you mean 'chartqa'?"),
        (["chartqa", "missing", "dst"], "SRC missing does not exist"),
        (["chartqa", "src", "dst"], "src is not in ChartQA's layout"),
        (["interleaved", "src", "dst"], "src is not in the interleaved layout"),
        (["text", "src", "dst"], "src holds no text"),
        (["text", "bad.jsonl", "dst"], "nothing could be used"),
        (["interleaved", "bad.json", "dst"], "bad.json is no JSON"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    put(tmp_path / "bad.jsonl", b"no json\n")
    put(tmp_path / "bad.json", b"no json\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_help_shows_a_real_example(capsys):
    for arguments in (["--help"], *([name, "--help"] for name in CONVERTERS)):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert f"python -m datasets.convert {'chartqa' if len(arguments) == 1 else arguments[0]} " in capsys.readouterr().out


@real
@pytest.mark.parametrize(
    ("name", "folder", "samples", "images"),
    [
        (
            "chartqa",
            "chartqa",
            {"train": 1000, "val": 195, "test": 1245, "train_rationales": 1000, "val_rationales": 195},
            3635,
        ),
        ("interleaved", "openstax", None, 1496),  # 1,342 files, some of them on several pages
        ("text", "text", {"peps": 740, "rfcs": 648}, 0),
    ],
)
def test_real_data_agrees_with_its_description(name, folder, samples, images, tmp_path):
    summary = convert(name, REAL / folder, tmp_path)
    assert not summary["skipped"]
    assert sum(kept["images"] for kept in summary["kept"].values()) == images
    counts = {source: kept["samples"] for source, kept in summary["kept"].items()}
    assert counts == samples if samples else sum(counts.values()) == 504
    for sample in read(tmp_path)[::97]:
        assert any(isinstance(s, Text) and s.learn for s in sample.segments)


def test_an_interrupted_conversion_changes_no_shard(tmp_path):
    def samples(stop):
        for i in range(4):
            if i == stop:
                raise KeyboardInterrupt
            yield Sample((Text(f"{stop} {i}"),), str(i), source="ab"[i % 2])

    write(samples(None), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write(samples(3), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before and len(before) == 2


@pytest.mark.parametrize("full", ["write", "close"])
def test_a_full_disk_is_one_line_and_leaves_all_as_it_was(full, tmp_path, capsys, monkeypatch):
    """Whether the second of two sets meets it while it is written, or with its last bytes."""
    for name in "ab":
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / f"{name}.jsonl").write_text('{"text": "some prose"}\n')
    src, dst = str(tmp_path / "src"), tmp_path / "dst"
    assert main(["text", src, str(dst)]) == 0
    before = {path.name: path.read_bytes() for path in dst.iterdir()}
    (tmp_path / "src" / "a.jsonl").write_text('{"text": "other prose"}\n')
    method, written = getattr(shards.TarWriter, full), Counter()

    def no_space(self, *arguments):
        written[full] += 1
        done = method(self, *arguments)
        if written[full] > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return done

    monkeypatch.setattr(shards.TarWriter, full, no_space)
    capsys.readouterr()
    assert main(["text", src, str(dst)]) == 2
    assert re.fullmatch(r"error: .*dst/[ab]-000000.tar: No space left on device\n", capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in dst.iterdir()} == before


def test_dst_may_be_neither_a_file_nor_inside_src(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("some prose")
    (tmp_path / "file").write_text("")
    for dst, reason in (("file", "is a file"), ("src", "lies in SRC"), ("src/out", "lies in SRC")):
        assert main(["text", str(tmp_path / "src"), str(tmp_path / dst)]) == 2
        assert reason in capsys.readouterr().err


def test_a_destination_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("text")
    (tmp_path / "file").write_text("mine")
    assert main(["text", str(tmp_path / "src"), str(tmp_path / "file" / "dst")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and "file" in said
