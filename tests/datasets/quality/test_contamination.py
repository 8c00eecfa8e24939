import json

import pytest
from quality_fakes import changed, chart, clean, encoded, prose, sample, shards

from datasets.quality.__main__ import main
from datasets.quality.overlap import EvalIndex
from datasets.quality.pictures import perceptual_hash
from vlm.prompt import question
from vlm.sample import Image


def ask(text, answer="5", picture=None, key="q", source="eval"):
    built = question([Image(picture)] if picture else [], text, answer=answer, key=key)
    return type(built)(built.segments, key, source)


def kinds(overlap):
    found = {"picture": overlap.pictures, "question": overlap.questions, "text": overlap.texts}
    return {kind: sorted(numbers) for kind, numbers in found.items() if numbers}


def overlap(evaluation, train):
    index = EvalIndex(15)
    hashes = lambda one: [perceptual_hash(s.data) for s in one.segments if isinstance(s, Image)]  # noqa: E731
    for number, one in enumerate(evaluation):
        index.add(str(number), one, hashes(one))
    return kinds(index.overlap(train, hashes(train)))


def test_stretches_of_thirteen_words():
    passage = prose(1, 60)
    words = passage.split()
    filler = prose(2, 40)
    inside = lambda n: overlap([sample(passage)], sample(f"{filler} {' '.join(words[20 : 20 + n])} {filler}"))  # noqa: E731
    assert inside(12) == {} and inside(13) == {"text": [0]} and inside(40) == {"text": [0]}


@pytest.mark.parametrize(("length", "found"), [(7, False), (8, True), (12, True)])
def test_shorter_texts_count_as_a_whole_down_to_eight_words(length, found):
    short = " ".join(prose(3).split()[:length])
    assert bool(overlap([ask(short)], sample(f"{prose(4)} {short} {prose(5)}"))) == found
    assert overlap([ask(short)], sample(f"{prose(4)} {short.rsplit(' ', 1)[0]} {prose(5)}")) == {}


def test_questions_agree_word_by_word_whatever_the_prompt():
    asked = ask("How many bars?")
    assert overlap([asked], ask("how many bars", "7")) == {"question": [0]}
    assert overlap([asked], sample("How many bars?")) == {"question": [0]}
    assert overlap([asked], ask("How many blue bars?", "5")) == {} == overlap([asked], sample("How many bars? Five."))
    assert overlap([asked], ask("What is it?", "5")) == {}  # answers and prompts are no questions


def test_pictures_by_their_looks():
    evaluation = [
        ask("A?", picture=encoded(chart(1))),
        ask("B?", picture=encoded(chart(1))),
        ask("C?", picture=encoded(chart(2))),
    ]
    assert overlap(evaluation, ask("D?", picture=encoded(chart(1), "JPEG", quality=50))) == {"picture": [0, 1]}
    assert overlap(evaluation, ask("C?", picture=encoded(chart(3)))) == {"question": [2]}


@pytest.fixture
def sets(tmp_path):
    passage = prose(11, 100)
    evaluation = [
        ask("How many bars?", picture=encoded(chart(1)), key="both"),
        ask("How tall?", picture=encoded(chart(2)), key="picture"),
        ask("What colour?", picture=encoded(chart(3)), key="clean"),
        ask(passage, key="text"),
    ]
    train = [
        ask("How many bars?", picture=encoded(chart(1), "JPEG", quality=60), key="t0", source="train"),
        ask("How wide?", picture=encoded(chart(2)), key="t1", source="train"),
        sample(prose(12) + " " + " ".join(passage.split()[:50]), key="t2", source="train"),
        sample(prose(13), key="t3", source="train"),
        sample(encoded(chart(9))[:80], prose(14), key="t4", source="train"),
    ]
    return shards(train, tmp_path / "train"), shards(evaluation, tmp_path / "eval")


def test_the_command(sets, tmp_path, capsys):
    train, evaluation = sets
    for _ in range(2):
        main(["contamination", str(train), str(evaluation), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "seen, picture and question: 1 (25.00%), by 1 training samples" in out and "train, skipped, picture broken: 1" in out
    summary = json.loads((tmp_path / "out/contamination.json").read_text())
    assert {kind: seen["count"] for kind, seen in summary["seen"].items()} == {
        "picture": 2, "question": 1, "text": 1, "picture and question": 1,
    }  # fmt: skip
    assert summary["seen_by_any"] == {"count": 3, "share": 0.75} and summary["training_samples"] == 5
    rows = {row["sample"].split()[-1]: row for row in map(json.loads, (tmp_path / "out/seen.jsonl").open())}
    assert rows.keys() == {"both", "picture", "text"}
    assert rows["text"]["text_share"] == pytest.approx(38 / 88, abs=0.01)
    assert rows["both"]["kinds"]["picture and question"]["first"] == ["train-000000.tar#0"]


def test_what_overlaps_can_be_dropped(sets, tmp_path):
    train, evaluation = sets
    _, rows = clean(train, tmp_path / "dst", "--against", str(evaluation))
    assert {row["sample"]: (row["reason"], row["of"].split()[-1]) for row in rows if row["of"]} == {
        "t0": ("in an evaluation set, picture", "both"),
        "t1": ("in an evaluation set, picture", "picture"),
        "t2": ("in an evaluation set, text", "text"),
    }
    _, rows = clean(train, tmp_path / "dst", "--against", str(evaluation), "--against-kinds", "question")
    assert {row["sample"] for row in rows if row["of"]} == {"t0"}


def test_a_folder_as_it_was_downloaded(sets, tmp_path, capsys):
    folder = tmp_path / "public"
    (folder / "png").mkdir(parents=True)
    (folder / "png/1.png").write_bytes(encoded(chart(2)))
    (folder / "png/2.png").write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes(encoded(chart(1)))
    (folder / "png/link.png").symlink_to(tmp_path / "secret.png")
    (folder / "test.json").write_text(json.dumps([{"query": "How many bars?"}, {"label": 1}, 3]))
    (folder / "other.json").write_text("{}")
    main(["contamination", str(sets[0]), str(folder)])
    out = capsys.readouterr().out
    assert (
        "2 evaluation samples against 5" in out and "seen, picture: 1 (50.00%)" in out and "seen, question: 1 (50.00%)" in out
    )
    for reason in ("picture broken", "row without a question", "row is no object", "no rows"):
        assert f"evaluation, skipped, {reason}: 1" in out


def test_edited_passages_share_fewer_stretches():
    passage = prose(20, 400)
    index = EvalIndex(15)
    index.add("e", sample(passage), [])
    shares = [
        len(index.overlap(sample(changed(passage, s, 1)), []).texts.get(0, ())) / index.num_stretches[0] for s in (0, 0.05, 0.3)
    ]
    assert shares[0] == 1 > shares[1] > 0.25 > shares[2]


def test_rows_and_pictures_of_a_folder_are_joined(sets, tmp_path, capsys):
    """As shards have them: a picture of the same name elsewhere is another, and one that no row names counts alone."""
    folder = tmp_path / "public"
    for split, number in (("test", 1), ("val", 5)):
        (folder / split / "png").mkdir(parents=True)
        (folder / split / "png/1.png").write_bytes(encoded(chart(number)))
        rows = [{"query": "How many bars?", "imgname": "1.png"}, {"query": "Where?", "imgname": "gone.png"}]
        (folder / split / "rows.json").write_text(json.dumps(rows))
    (folder / "png.png").write_bytes(encoded(chart(2)))
    main(["contamination", str(sets[0]), str(folder), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "5 evaluation samples against 5" in out and "seen, picture and question: 1 (20.00%)" in out
    assert "evaluation, skipped, image missing: 2" in out
    rows = {row["sample"]: set(row["kinds"]) for row in map(json.loads, (tmp_path / "out/seen.jsonl").open())}
    assert rows == {
        "test/rows.json:1": {"picture", "question", "picture and question"}, "val/rows.json:1": {"question"},
        "png.png": {"picture"},
    }  # fmt: skip


def test_a_question_under_a_broken_picture_is_compared_all_the_same(sets, tmp_path, capsys):
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "rows.jsonl").write_text(json.dumps({"question": "How many bars?", "image": "1.png"}))
    main(["contamination", str(sets[0]), str(folder)])
    out = capsys.readouterr().out
    assert "1 evaluation samples" in out and "seen, question: 1 (100.00%)" in out and "picture broken: 1" in out
