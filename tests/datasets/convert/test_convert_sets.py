"""The official layouts of questions and captions: what each becomes, what is skipped and why."""

import json
import os
from pathlib import Path

import pytest
from convert_fakes import LAYOUTS, convert, counts, png, put, read, reasons, shown

from datasets.convert.__main__ import main
from vlm.sample import Image

REAL = Path(os.environ.get("VLM_DATA", "../shared/data"))
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (VLM_DATA)")
ASKED = "<>Question: Which?\nA. this\nB. that\n"


@pytest.fixture
def made(tmp_path):
    """Lay out a set by its name in `LAYOUTS` and convert it: (SRC, what conversion with some options gives)."""

    def make(layout, change=lambda src: None):
        name, lay_out = LAYOUTS[layout]
        src = tmp_path / layout
        lay_out(src)
        change(src)

        def run(*options):
            dst = tmp_path / f"dst{len(list(tmp_path.iterdir()))}"
            summary = convert(name, src, dst, *options)
            return summary, {source: read(str(dst / f"{source}-*.tar")) for source in summary["kept"]}

        return run

    return make


def edit(path, function) -> None:
    value = json.loads(path.read_text())
    put(path, function(value) or value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_again_gives_the_same_bytes(layout, tmp_path):
    name, lay_out = LAYOUTS[layout]
    lay_out(tmp_path / "src")
    for dst in ("a", "b", "b"):
        convert(name, tmp_path / "src", tmp_path / dst)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / dst).iterdir()} for dst in ("a", "b"))
    assert first == second and len(first) >= 2


@pytest.mark.parametrize("name", sorted({name for name, _ in LAYOUTS.values()}))
def test_another_layout_is_said_in_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "src/readme.md", b"nothing")
    assert main([name, "src", "dst"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: src ") and error.count("\n") == 1 and not (tmp_path / "dst").exists()


def test_opencqa(made):
    run = made("opencqa", lambda src: edit(src / "train.json", lambda rows: [*rows, {"image": "1.png", "question": "Why?"}]))
    summary, samples = run()
    assert counts(summary) == {"train": (1, 1), "val": (1, 1), "test": (1, 1)}
    assert reasons(summary) == {"no question or no answer": 1}
    for (sample,) in samples.values():
        assert sample.segments[0] == Image(png(1)) and shown(sample) == "<>Question: Why?\nAnswer:[ So .]"
    _, samples = run("--context", "summary")
    for split in ("val", "test"):
        assert shown(samples[split][0]) == "<>A title\nIt is so .\nQuestion: Why?\nAnswer:[ So .]"
    (sample,) = run("--context", "article", "--split", "test")[1]["test"]
    assert "A title\nAll of it .\nQuestion" in shown(sample)


def test_opencqa_rows_of_another_length(made):
    summary, _ = made("opencqa", lambda src: put(src / "test_extended.json", {"1": ["1.png"], "2": {}}))()
    assert reasons(summary) == {"row is no list of 7": 2} and "test" not in summary["kept"]


def test_scienceqa_problems(made):
    summary, samples = made("scienceqa")()
    assert counts(summary) == {"train": (1, 1), "train_rationales": (1, 1), "test": (1, 0)} and not summary["skipped"]
    lead = "<>Question: Context: Look.\nWhich?\nA. this\nB. that\n"
    assert shown(samples["train"][0]) == f"{lead}Answer:[ B]"
    assert shown(samples["train_rationales"][0]) == f"{lead}Reason:[ A lecture.\nThat one.\nAnswer: B]"
    assert shown(samples["test"][0]) == "Question: Which?\nA. this\nB. that\nAnswer:[ A]"
    assert samples["train"][0].meta == {"subject": "natural science"}


def test_scienceqa_what_cannot_be_used(made):
    def change(src):
        (src / "pid_splits.json").unlink()
        rows = json.loads((src / "problems.json").read_text())
        bad = [
            {"answer": 2},
            {"answer": True},
            {"choices": "ab"},
            {"choices": [1, 2]},
            {"question": " "},
            {"split": "minival"},
            {"image": "x.png"},
        ]
        rows |= {str(n): rows["1"] | one for n, one in enumerate(bad, 10)}
        put(src / "problems.json", rows | {"x": []})

    summary, _ = made("scienceqa", change)("--split", "train")
    assert counts(summary) == {"train": (1, 1), "train_rationales": (1, 1)}
    assert reasons(summary) == {
        "no question, choices or answer": 5, "no split": 1, "image missing": 1, "row is no object": 1,
    }  # fmt: skip


def test_scienceqa_rows_read_as_the_problems_do(made):
    summary, samples = made("scienceqa_rows")()
    assert counts(summary) == {"test": (2, 1)}
    assert [shown(s) for s in samples["test"]] == [f"{ASKED}Answer:[ B]", f"{ASKED[2:]}Answer:[ A]"]
    assert [s.key for s in samples["test"]] == ["5", "6"]


def test_vqav2(made):
    run = made("vqav2")
    summary, samples = run()
    assert counts(summary) == {"train2014": (2, 2)} and not summary["skipped"]
    first, second = samples["train2014"]
    assert shown(first) == "<>Question: How many?\nAnswer:[ 1]" and shown(second) == "<>Question: Where?\nAnswer:[ here]"
    assert first.meta["answers"] == {"2": 1, "1": 2, "3": 1} and first.meta["answer_type"] == "number"
    assert [s.segments[-1].text for s in run("--answers", "each")[1]["train2014"]] == [" 1", " 2", " 3", " here"]
    summary, samples = run("--answers", "each", "--min-votes", "2")
    assert [s.key for s in samples["train2014"]] == ["90#0"] and reasons(summary) == {"no answer with enough votes": 1}


def test_vqav2_equal_votes_go_to_the_first(made):
    def equal(record):
        record["annotations"][0]["answers"] = [{"answer": a} for a in ("two", "one", "one", "two", 3)]

    _, samples = made("vqav2", lambda src: edit(src / "v2_mscoco_train2014_annotations.json", equal))()
    assert samples["train2014"][0].segments[-1].text == " two"


def test_vqav2_what_has_no_partner(made):
    def change(src):
        edit(src / "v2_mscoco_train2014_annotations.json", lambda r: r["annotations"].append({"question_id": 90}))
        extra = {"question_id": 92, "image_id": 9, "question": "Who?"}
        edit(
            src / "v2_OpenEnded_mscoco_train2014_questions.json", lambda r: r["questions"].extend([extra, {"question_id": 93}])
        )

    summary, _ = made("vqav2", change)()
    assert reasons(summary) == {
        "annotation without a question": 1, "question without an annotation": 1, "no question or no image_id": 1,
    }  # fmt: skip


def test_coco_captions(made):
    run = made("coco_caption")
    summary, samples = run()
    assert counts(summary) == {"train2014": (2, 2), "val2017": (1, 1)} and not summary["skipped"]
    assert [shown(s) for s in samples["train2014"]] == ["<>[A dot.]", "<>[One dot]"]
    assert len(run("--captions", "first")[1]["train2014"]) == 1
    summary, samples = run("--karpathy")
    assert counts(summary) == {"train": (2, 2), "test": (2, 2)}
    assert samples["train"][0].segments[0] == Image(png(9))


def test_a_karpathy_split_without_official_files(tmp_path):
    put(tmp_path / "src/flickr30k-images/1.jpg", png(1))
    row = {"filename": "1.jpg", "imgid": 0, "split": "val", "sentences": [{"raw": "A dot."}, {"raw": 3}, "x"]}
    bad = [row | {"split": "x"}, row | {"sentences": None}, row | {"sentences": []}, row | {"filename": "2.jpg"}, 3]
    put(tmp_path / "src/dataset_flickr30k.json", {"images": [row, *bad], "dataset": "flickr30k"})
    summary = convert("coco_caption", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"val": (1, 1)} and shown(read(tmp_path / "dst")[0]) == "<>[A dot.]"
    assert reasons(summary) == {"no split or no sentences": 3, "image without a caption": 1, "image missing": 1}
    assert counts(convert("coco_caption", tmp_path / "src/dataset_flickr30k.json", tmp_path / "one")) == {"val": (1, 1)}


def test_coco_captions_without_partner(made):
    def change(record):
        record["annotations"] += [{"image_id": 77, "caption": "x"}, {"image_id": 9}, {"image_id": "9", "caption": "x"}]
        record["images"] += [{"id": 8, "file_name": "8.jpg"}, {"file_name": "7.jpg"}]

    summary, _ = made("coco_caption", lambda src: edit(src / "annotations/captions_train2014.json", change))()
    assert reasons(summary) == {
        "caption of an image that is not listed": 1, "no caption or no image_id": 2, "image without a caption": 1,
        "image without an id": 1,
    }  # fmt: skip


def test_pictures_may_lie_elsewhere_when_the_user_says_so(made, tmp_path):
    def move(src):
        (src / "train2014").rename(tmp_path / "pictures")

    run = made("vqav2", move)
    with pytest.raises(AssertionError):
        run()
    (tmp_path / "all").mkdir()
    (tmp_path / "pictures").rename(tmp_path / "all/train2014")
    assert counts(run("--images", str(tmp_path / "all"))[0]) == {"train2014": (2, 2)}


def test_images_must_be_a_folder(tmp_path, capsys):
    LAYOUTS["vqav2"][1](tmp_path / "src")
    assert main(["vqav2", str(tmp_path / "src"), str(tmp_path / "dst"), "--images", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: --images nowhere is no folder\n"


@real
@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("opencqa", {"train": (3000, 3000), "val": (1158, 1158), "test": (1159, 1159)}),
        ("scienceqa", {"test": (2116, 1016)}),
    ],
)
def test_real_data_agrees_with_its_description(name, counted, tmp_path):
    summary = convert(name, REAL / name, tmp_path)
    assert counts(summary) == counted and not summary["skipped"]
    for sample in read(tmp_path)[::97]:
        assert shown(sample).count("Question: ") == 1 and sample.segments[-1].learn
