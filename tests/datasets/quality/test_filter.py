import contextlib
import io
import json
import random
import tarfile

import pytest
from quality_fakes import changed, chart, clean, contents, encoded, labelled, prose, sample, shards

from datasets.quality.__main__ import main
from datasets.quality.rules import Rules
from vlm import command
from vlm.sample import Sample, Text

GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund, und danach gehen wir alle zusammen nach Hause. " * 3
ENGLISH = "The quick brown fox jumps over the lazy dog, and afterwards all of us walk home together in the rain. " * 3


def reasons(rows):
    return {row["sample"]: row["reason"] for row in rows}


def test_texts(tmp_path):
    base = prose(1)
    src = shards(
        [
            sample(base, key="first"),
            sample(base.upper().replace("\n", "   "), key="again"),
            sample(changed(base, 0.03), key="edited"),
            sample(prose(2), key="other"),
            sample("too short", key="short"),
            sample("12 34.5 | " * 40, key="numbers"),
            sample("\n".join(["the same line again"] * 30), key="lines"),
            sample(" … ", key="empty"),
            sample("one two three four five 1999", key="a"),
            sample("one two three four five 2000", key="b"),
        ],
        tmp_path / "src",
    )
    report, rows = clean(src, tmp_path / "dst")
    assert reasons(rows) == {
        "again": "exact duplicate", "edited": "near duplicate, text", "short": "too short", "numbers": "few letters",
        "lines": "repeated lines", "empty": "empty",
    }  # fmt: skip
    assert {row["of"] for row in rows if "duplicate" in row["reason"]} == {"set-000000.tar#0"}
    assert [s.key for s in contents(tmp_path / "dst")] == ["first", "other", "a", "b"] and report["kept"] == 4
    assert sum(d["count"] for d in report["dropped"].values()) == 6 == len(rows)
    assert all(row["signals"] == {"listed_share": 0.0, "probability": None} for row in rows)


def test_pictures_and_texts_make_a_duplicate_together(tmp_path):
    one, two = chart(1), chart(2)
    question = "How many bars are there?"
    src = shards(
        [
            sample(encoded(one), question, key="first"),
            sample(encoded(one), "What is the highest?", key="question"),
            sample(encoded(two), question, key="picture"),
            sample(encoded(one), question, key="again"),
            sample(encoded(one, "JPEG", quality=50), question, key="looks"),
            sample(question, encoded(one), key="order"),
            sample(encoded(two), encoded(one), question, key="two"),
            sample(encoded(one)[:99], question, key="broken"),
        ],
        tmp_path / "src",
    )
    _, rows = clean(src, tmp_path / "dst")
    assert reasons(rows) == {"again": "exact duplicate", "looks": "near duplicate, pictures", "broken": "picture broken"}
    _, rows = clean(src, tmp_path / "alone", "--pictures", "alone")
    assert reasons(rows) == dict.fromkeys(("question", "again", "looks", "order", "two"), "pictures kept before") | {
        "broken": "picture broken"
    }


def test_near_texts_under_other_pictures_stay(tmp_path):
    text = prose(5)
    parts = [(encoded(chart(1)), text), (encoded(chart(2)), changed(text, 0.03)), (encoded(chart(1)), changed(text, 0.03))]
    _, rows = clean(shards([sample(*p, key=str(i)) for i, p in enumerate(parts)], tmp_path / "src"), tmp_path / "dst")
    assert reasons(rows) == {"2": "near duplicate, text"}


def test_languages(tmp_path):
    pytest.importorskip("py3langid")
    src = shards(
        [sample(ENGLISH, key="en"), sample(GERMAN, key="de"), sample("Kurz, und doch deutsch", key="brief")], tmp_path / "s"
    )
    _, rows = clean(src, tmp_path / "dst", "--languages", "en", "--min-words", "3")
    assert reasons(rows) == {"de": "language"} and rows[0]["detail"] == "de, want en"
    _, rows = clean(src, tmp_path / "both", "--languages", "EN, de", "--min-words", "3")
    assert rows == []
    with pytest.raises(ValueError, match="language 'english' is unknown"):
        Rules(languages=("english",))


def test_both_judges_of_unwanted_text_are_reported(tmp_path):
    rows = labelled(tmp_path / "rows.jsonl")
    main(["train", str(tmp_path / "rows.jsonl"), str(tmp_path / "model")])
    spam, fine = rows[0]["text"], rows[1]["text"]
    (tmp_path / "list").write_text("bad phrase\n")
    src = shards(
        [
            sample(fine, key="fine"),
            sample(spam, key="classifier"),
            sample(f"{prose(9, 20)} " + "bad phrase " * 5, key="list"),
            sample(f"{rows[3]['text']} bad phrase", key="both"),
            sample(f"{prose(2000, 400)} bad phrase", key="mentioned"),
        ],
        tmp_path / "src",
    )
    options = ["--classifier", str(tmp_path / "model"), "--words", str(tmp_path / "list")]
    report, dropped = clean(src, tmp_path / "dst", *options, "--sure-probability", "0.6")
    details = {row["sample"]: row["detail"] for row in dropped if row["reason"] == "unwanted"}
    assert details == {"classifier": "classifier", "list": "word list", "both": "classifier and word list"}
    assert all(row["signals"]["probability"] is not None for row in dropped)
    assert report["unwanted"]["samples_with_listed_words"] == 3 and sum(report["unwanted"]["classifier_histogram"]) == 5
    _, dropped = clean(src, tmp_path / "careful", *options, "--sure-probability", "1", "--sure-share", "1")
    assert [(row["sample"], row["detail"]) for row in dropped][-1] == ("both", "classifier and word list")


def test_the_same_shards_give_the_same_bytes_under_their_names(tmp_path):
    samples = [sample(prose(i), encoded(chart(i)), key=f"k/{i}", source="ab"[i % 2]) for i in range(12)] + [
        sample("no", source="b")
    ]
    src = shards(samples, tmp_path / "src")
    for name in ("x", "y", "y"):
        clean(src, tmp_path / name)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.name[0] != "."} for name in ("x", "y"))
    assert one == two and set(one) == {"a-000000.tar", "b-000000.tar", "report.json", "report.html", "dropped.jsonl"}
    assert sorted(contents(tmp_path / "x"), key=lambda s: s.key) == sorted(
        (Sample(s.segments, s.key, "a+b") for s in samples[:-1]), key=lambda s: s.key
    )


def test_text_of_samples_cannot_act_in_the_report(tmp_path):
    """Markup stays text, and half a surrogate pair, as JSON may hold, does not stop the run."""
    src = shards([sample("<script>alert(1)</script>"), sample(prose(1)), sample("HALF x", key="HALF x")], tmp_path / "src")
    shard = src / "set-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"HALF x", b"\\ud800"))
    _, rows = clean(src, tmp_path / "dst")
    assert [row["reason"] for row in rows] == ["too short", "empty"]
    page = (tmp_path / "dst/report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_damaged_shards_never_stop_a_run(tmp_path):
    """Bytes flipped, cut out or cut off: every command ends, or says in one line that nothing is left."""
    src = shards([sample(prose(i, 60), encoded(chart(i)), key=f"k{i}") for i in range(4)], tmp_path / "src")
    whole, rng, ended = (src / "set-000000.tar").read_bytes(), random.Random(5), 0
    (tmp_path / "bad").mkdir()
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 30, 300])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.5:
            start = rng.randrange(len(damaged))
            del damaged[start : rng.choice([start + 700, len(damaged)])]
        (tmp_path / "bad/set-000000.tar").write_bytes(damaged)
        for command_line in (
            [str(tmp_path / "bad"), str(tmp_path / "dst")],
            ["contamination", str(src), str(tmp_path / "bad")],
        ):
            with contextlib.suppress(ValueError):
                main(command_line)
                ended += 1
    assert ended > 5
    assert {path.name for path in tmp_path.iterdir()} <= {"src", "bad", "dst"}


def test_unreadable_samples_are_counted(tmp_path):
    src = shards([sample(prose(i), key=str(i)) for i in range(6)], tmp_path / "src")
    shard = src / "set-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'{"id": "2"', b'{"id"; "2"', 1))
    (src / "none-000000.tar").write_bytes(b"not a tar")
    with tarfile.open(src / "zero-000000.tar", "w"):
        pass
    report, _ = clean(src, tmp_path / "dst")
    assert report["kept"] == 5
    assert {r: s["count"] for r, s in report["unreadable"].items()} == {"bad record": 1, "shard without samples": 2}


def test_an_interrupted_run_leaves_dst_as_it_was(tmp_path, monkeypatch):
    src = shards([sample(prose(i), key=str(i)) for i in range(6)], tmp_path / "src")
    clean(src, tmp_path / "dst")
    before = {p.name: p.read_bytes() for p in (tmp_path / "dst").iterdir()}
    from datasets.quality.filter import Filter

    judge = Filter.judge

    def stop(self, placed):
        if placed.number == 3:
            raise KeyboardInterrupt
        return judge(self, placed)

    monkeypatch.setattr(Filter, "judge", stop)
    with pytest.raises(SystemExit, match="130"):
        command.run(lambda: main([str(src), str(tmp_path / "dst"), "--min-words", "9"]))
    assert {p.name: p.read_bytes() for p in (tmp_path / "dst").iterdir()} == before


def test_a_long_document_is_read_in_chunks(tmp_path):
    """Two million words in one sample, and its copy with other white space."""
    text = "\n".join(prose(i, 1000) for i in range(200))
    src = shards([sample(text, key="a"), sample(changed(text, 0.02), key="b"), sample(text, "", key="c")], tmp_path / "src")
    _, rows = clean(src, tmp_path / "dst")
    assert reasons(rows) == {"b": "near duplicate, text", "c": "exact duplicate"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "dst"], "no shards at nowhere"),
        (["src", "src"], "DST src holds the shard src/set-000000.tar, which is read"),
        (["src", "src/set-000000.tar"], "DST src/set-000000.tar is a file"),
        (["src", "dst", "--similarity", "2"], "similarity is 2.0: want 0 to 1"),
        (["src", "dst", "--min-letters", "nan"], "min_letters is nan: want a share"),
        (["src", "dst", "--picture-distance", "99"], "picture_distance is 99: want 0 to 15"),
        (["src", "dst", "--max-words", "3"], "max_words is 3: want at least 1 and min_words, 5"),
        (["src", "dst", "--words", "nowhere"], "nowhere does not exist"),
        (["src", "dst", "--classifier", "nowhere"], "classifier nowhere does not exist"),
        (["src", "dst", "--against", "empty"], "empty holds no evaluation samples"),
        (["src", "dst", "--min-words", "999"], "no sample would be kept: 1 dropped, 1 of them for 'too short'"),
        (["train", "nowhere.jsonl", "m"], "labelled texts nowhere.jsonl do not exist"),
        (["train", "src", "m", "--epochs", "0"], "--epochs: want at least 1, got 0"),
        (["contamination", "src", "nowhere"], "no shards at nowhere"),
        (["contamination", "src", "src", "--out", "src/set-000000.tar"], "is a file"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shards([sample(prose(1))], tmp_path / "src")
    with pytest.raises(SystemExit) as end:
        command.run(lambda: main(arguments))
    error = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and message in error[-1] and sum(line.startswith("error") for line in error) == 1
    assert not (tmp_path / "dst").exists() or not list((tmp_path / "dst").iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["contamination", "--help"]])
def test_help_shows_a_real_example(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert "example:\n  python -m datasets.quality" in capsys.readouterr().out


def test_json_of_the_report_names_all_settings(tmp_path):
    report, _ = clean(shards([sample(prose(1))], tmp_path / "src"), tmp_path / "dst")
    assert report["settings"]["similarity"] == 0.5 and report["settings"]["rules"]["min_words"] == 5
    assert report["index"]["samples"] == 1 and json.dumps(report)
    assert isinstance(contents(tmp_path / "dst")[0].segments[0], Text)


def test_small_sets_pass_without_a_line_a_sample(tmp_path, capsys):
    clean(shards([sample(prose(n)) for n in range(12)], tmp_path / "src"), tmp_path / "dst")
    assert " of 12 samples" not in capsys.readouterr().err


def test_where_nothing_can_be_read_the_reasons_are_told(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        info = tarfile.TarInfo("1.json")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"no "))
    with pytest.raises(ValueError, match=r"nothing could be used: skipped, bad record: 1 \(such as a.tar#0"):
        clean(folder, tmp_path / "dst")
