"""What conversion leaves aside is counted under a reason that helps, and what an earlier one left in DST is not read on."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import PIL.features
import pytest
from convert_fakes import LAYOUTS, convert, counts, lines, png, put, read, reasons, shown, tar

from datasets.convert import CONVERTERS
from datasets.convert.__main__ import main, run
from vlm.image import FORMATS

TALK = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dot."}]
UNREAD, LINK, OTHER = "image of a format that is not read", "link, which is not followed", "file of a kind that is not read"


def rows(*texts) -> bytes:
    return lines(*({"text": text} for text in texts))


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [
        ("text", {"a.jsonl": b"no json\n"}, "line is no JSON: 1 (such as a.jsonl:1)"),
        ("text", {"a.weird": b"x"}, f"{OTHER}: 1 (such as a.weird)"),
        ("pairs", {"1.jpg": png(1)}, "picture without a caption: 1 (such as 1.jpg)"),
        ("pairs", {"0.tar.gz": b"x"}, f"{OTHER}: 1 (such as 0.tar.gz)"),
        (
            "video_frames",
            {"a.jsonl": lines({"frames": "b", "caption": "x"})},
            "folder of frames missing: 1 (such as a.jsonl:1)",
        ),
        ("llava", {"a.jsonl": b"null\n"}, "row is no object: 1 (such as a.jsonl:1)"),
    ],
)
def test_where_nothing_could_be_used_the_reasons_are_told(name, files, reason, tmp_path, capsys):
    for file, data in files.items():
        put(tmp_path / "src" / file, data)
    assert main([name, str(tmp_path / "src"), str(tmp_path / "dst")]) == 2
    said = capsys.readouterr()
    assert said.out == f"skipped, {reason}\n" and said.err.count("\n") == 1


def test_files_that_are_not_read_are_counted(tmp_path):
    put(tmp_path / "other.tar", b"x")
    pair = {"1.jpg": png(1), "1.txt": b"One"}
    src = tmp_path / "tars"
    tar(src / "0.tar", pair)
    put(src / "0_stats.json", {"count": 1})
    put(src / "0.parquet", b"PAR1")
    put(src / "1.tar.gz", gzip.compress(b"x"))
    (src / "2.tar").symlink_to(tmp_path / "other.tar")
    (src / "more").symlink_to(tmp_path, target_is_directory=True)
    assert reasons(convert("pairs", src, tmp_path / "a")) == {LINK: 2, OTHER: 1}
    for file in ("a.txt.gz", "b.json", "c.weird", ".hidden.weird"):
        put(tmp_path / "text" / file, b"x")
    put(tmp_path / "text/d.txt", b"prose")
    assert reasons(convert("text", tmp_path / "text", tmp_path / "b")) == {OTHER: 3}
    LAYOUTS["llava"][1](tmp_path / "llava")
    put(tmp_path / "llava/more.json.gz", b"x")
    put(tmp_path / "llava/beside.png", png(1))
    assert reasons(convert("llava", tmp_path / "llava", tmp_path / "c")) == {OTHER: 1}


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"mmc4"}))  # whose second file has no pictures
def test_the_official_layouts_have_nothing_to_skip(layout, tmp_path):
    name, lay_out = LAYOUTS[layout]
    lay_out(tmp_path / "src")
    assert not convert(name, tmp_path / "src", tmp_path / "dst")["skipped"]


@pytest.mark.parametrize("file", ["problems.json", "pid_splits.json", "train.json"])
def test_a_linked_annotation_is_counted(file, tmp_path):
    name, lay_out = LAYOUTS["opencqa" if file == "train.json" else "scienceqa"]
    lay_out(tmp_path / "src")
    (tmp_path / "src" / file).rename(tmp_path / file)
    (tmp_path / "src" / file).symlink_to(tmp_path / file)
    try:
        summary = run(name, tmp_path / "src", tmp_path / "dst")
    except ValueError:
        assert file == "problems.json"  # nothing is left to convert
    else:
        assert reasons(summary) == {"link that leads out of SRC": 1}


def test_pictures_behind_links_and_elsewhere_have_their_own_reasons(tmp_path, capsys):
    put(tmp_path / "far/1.png", png(1))
    names = ["images/1.png", "images/2.png", str(tmp_path / "far/1.png"), "../far/1.png", None, "\0", "x" * 5000]
    put(tmp_path / "src/a.json", [{"image": name, "conversations": TALK} for name in names])
    (tmp_path / "src/images").symlink_to(tmp_path / "far")
    summary = convert("llava", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"a": (1, 0)} and reasons(summary) == {
        "image behind a link that leads out": 1, "image missing": 3, "image named by an absolute path": 1,
        "image named by a path that leads out": 1,
    }  # fmt: skip
    assert "name the folder of the pictures with --images" in capsys.readouterr().out
    again = convert("llava", tmp_path / "src", tmp_path / "dst2", "--images", str(tmp_path / "far"))
    assert "image behind a link that leads out" not in reasons(again)


def test_pictures_that_are_not_read_are_called_so(tmp_path):
    for kind in ("avif", "ico", "svg", "heic"):
        put(tmp_path / f"src/{kind}.{kind}", b"x")
        put(tmp_path / f"src/{kind}.txt", b"A caption")
    put(tmp_path / "src/alone.txt", b"A caption")
    put(tmp_path / "src/1.png", png(1))
    put(tmp_path / "src/1.txt", b"One")
    summary = convert("pairs", tmp_path / "src", tmp_path / "a")
    assert counts(summary) == {"pairs": (1, 1)} and reasons(summary) == {UNREAD: 4, "caption without a picture": 1}
    put(tmp_path / "rows/1.avif", b"x")
    put(tmp_path / "rows/a.json", [{"image": "1.avif", "conversations": TALK}, {"conversations": TALK}])
    assert reasons(convert("llava", tmp_path / "rows", tmp_path / "b")) == {UNREAD: 1}


def test_pairs_of_all_formats_that_are_read(tmp_path):
    endings = {"JPEG2000": "jp2"} if PIL.features.check("jpg_2000") else {}
    endings |= {kind: kind.lower() for kind in FORMATS if kind != "JPEG2000"}
    for kind, ending in endings.items():
        picture = PIL.Image.new("RGB", (8, 8), "red")
        (tmp_path / "src").mkdir(exist_ok=True)
        picture.save(tmp_path / f"src/{kind}.{ending}", kind)
        put(tmp_path / f"src/{kind}.txt", kind.encode())
    summary = convert("pairs", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"pairs": (len(endings),) * 2} and not summary["skipped"] and len(endings) >= 7


def test_bytes_and_characters_that_are_no_text_are_counted(tmp_path):
    src = tmp_path / "src"
    put(src / "a.jsonl", rows("good") + b'{"text": "caf\xe9"}\n' + rows("\ud83d cut", "last"))
    summary = convert("text", src, tmp_path / "a")
    assert reasons(summary) == {"line is not UTF-8": 1, "text is not Unicode": 1}
    assert summary["skipped"]["line is not UTF-8"]["examples"] == ["a.jsonl:2"]
    assert [shown(s) for s in read(tmp_path / "a")] == ["[good]", "[last]"]
    pages = (b'{"texts": ["%s"], "images": [null]}' % text for text in (b"caf\xe9", b"\\udfff", b"x"))
    put(tmp_path / "pages/a.json", b"[%s]" % b",".join(pages))
    summary = convert("interleaved", tmp_path / "pages", tmp_path / "b")
    assert counts(summary) == {"a": (1, 0)} and reasons(summary) == {"text is not Unicode": 2}
    put(tmp_path / "pairs/1.jpg", png(1))
    put(tmp_path / "pairs/t.csv", b"image,caption\n1.jpg,caf\xe9\n1.jpg,fine\n")
    summary = convert("pairs", tmp_path / "pairs", tmp_path / "c")
    assert counts(summary) == {"pairs": (1, 1)} and reasons(summary) == {"line is not UTF-8": 1}


def test_rows_are_counted_from_one_and_none_is_passed_over(tmp_path):
    put(tmp_path / "src/a.json", [None, {"conversations": TALK}])
    put(tmp_path / "src/b.jsonl", b"null\n\n3\n" + lines({"conversations": TALK}))
    summary = convert("llava", tmp_path / "src", tmp_path / "dst")
    assert summary["skipped"] == {"row is no object": {"count": 3, "examples": ["a.json:1", "b.jsonl:1", "b.jsonl:3"]}}
    assert [s.key for s in read(tmp_path / "dst")] == ["a.json:2", "b.jsonl:4"]


@pytest.mark.parametrize("file", ["a.json", "a.jsonl"])
def test_a_number_of_thousands_of_digits_costs_no_row(file, tmp_path):
    row = f'{{"id": {"9" * 5000}, "conversations": {json.dumps(TALK)}}}'
    put(tmp_path / "src" / file, (f"[{row}]" if file == "a.json" else row).encode())
    summary = convert("llava", tmp_path / "src", tmp_path / "dst")
    assert not summary["skipped"] and [s.key for s in read(tmp_path / "dst")] == [f"{file}:1"]


def test_one_bad_span_costs_only_itself(tmp_path):
    for n in range(4):
        put(tmp_path / f"src/a/{n}.png", png(n))
    told = [{"text": "first", "start": 0, "end": 1}, {"text": "bad", "start": 3, "end": 1}, {"text": "last", "start": 2}]
    asked = [{"question": "A?", "answer": "a"}, {"question": "B?", "answer": "b", "start": "x"}]
    put(tmp_path / "src/a.json", [{"frames": "a", "captions": told, "qa": asked}])
    summary = convert("video_frames", tmp_path / "src", tmp_path / "dst")
    assert reasons(summary) == {"start and end are no span of seconds": 2}
    assert [shown(s) for s in read(tmp_path / "dst")] == ["<>[first]", "<>[last]", "<>Question: A?\nAnswer:[ a]"]


def test_times_are_finite(tmp_path, capsys):
    for n in range(2):
        put(tmp_path / f"src/a/{n}.png", png(n))
    put(tmp_path / "src/a.jsonl", lines({"frames": "a", "fps": 1e-320, "caption": "x"}, {"frames": "a", "caption": "y"}))
    summary = convert("video_frames", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"a": (1, 0)} and reasons(summary) == {"fps makes a clip of decades": 1}
    assert b"Infinity" not in next((tmp_path / "dst").glob("*.tar")).read_bytes()
    LAYOUTS["mmc4"][1](tmp_path / "mmc4")
    assert main(["mmc4", str(tmp_path / "mmc4"), str(tmp_path / "b"), "--min-similarity", "nan"]) == 2
    assert "--min-similarity is nan" in capsys.readouterr().err


def test_pairs_leaves_nothing_in_src(tmp_path):
    LAYOUTS["pairs_tar"][1](tmp_path / "src")
    before = sorted(tmp_path.joinpath("src").rglob("*"))
    convert("pairs", tmp_path / "src", tmp_path / "dst")
    assert sorted(tmp_path.joinpath("src").rglob("*")) == before


def shards(dst) -> list[str]:
    return sorted(path.name for path in dst.glob("*.tar"))


def test_sets_that_are_gone_go_from_dst(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    for name in "ab":
        put(src / f"{name}.jsonl", rows("prose"))
    convert("text", src, dst)
    put(dst / "mine-000000.tar", b"mine")
    (src / "b.jsonl").unlink()
    convert("text", src, dst)
    assert shards(dst) == ["a-000000.tar", "mine-000000.tar"]  # what it does not list is not its own


def test_another_conversion_in_dst_is_refused(tmp_path, capsys):
    src, dst = tmp_path / "src", tmp_path / "dst"
    put(src / "a.jsonl", lines({"text": "prose", "other": "words"}))
    put(src / "b.jsonl", rows("prose"))
    convert("text", src, dst)
    before = {path.name: path.read_bytes() for path in dst.iterdir()}
    LAYOUTS["pairs"][1](tmp_path / "pairs")
    assert main(["pairs", str(tmp_path / "pairs"), str(dst)]) == 2
    assert "holds a conversion by 'text'" in capsys.readouterr().err
    assert main(["text", str(src), str(dst), "--field", "other"]) == 2
    assert "holds b-000000.tar of a conversion with other options" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in dst.iterdir()} == before


WRITER = """
import sys
from pathlib import Path
from datasets.convert.destination import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_the_second_of_two_conversions_at_once_is_told(tmp_path, capsys):
    put(tmp_path / "src/a.jsonl", rows("prose"))
    arguments = ["text", str(tmp_path / "src"), str(tmp_path / "dst")]
    first = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "dst")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "in\n"
    assert main(arguments) == 2
    assert "is being written by another process" in capsys.readouterr().err and not shards(tmp_path / "dst")
    first.kill()  # its lock ends with it
    first.communicate()
    assert main(arguments) == 0 and sorted(p.name for p in (tmp_path / "dst").iterdir()) == ["a-000000.tar", "summary.json"]


@pytest.mark.parametrize(
    "summary",
    [b"no json", b"[]", b"{}", b'{"kept": 3}', b'{"kept": {"a": null}}', b'{"kept": {"a": {"shards": [3]}}}',
     b'{"kept": {"a": {"shards": ["../out-000000.tar"]}}, "converter": "text", "options": {"field": "text"}}'],
)  # fmt: skip
def test_a_hostile_summary_removes_nothing(summary, tmp_path):
    out = put(tmp_path / "out-000000.tar", b"mine")
    put(tmp_path / "src/a.jsonl", rows("prose"))
    put(tmp_path / "dst/summary.json", summary)
    convert("text", tmp_path / "src", tmp_path / "dst")
    assert out.read_bytes() == b"mine"


def test_examples_of_the_help_are_of_this_converter(capsys):
    for name in CONVERTERS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        example = capsys.readouterr().out.rsplit("python -m datasets.convert ", 1)[1].split()
        there = {"chartqa", "opencqa", "scienceqa", "text", "openstax"}
        assert example[0] == name and ("shared/data" not in example[1] or Path(example[1]).name in there)
