"""Conversations, pages, pairs and clips: where pictures land, and what is skipped and why."""

import gzip
import io
import itertools
import zipfile

import numpy as np
import PIL.Image
import pytest
from convert_fakes import LAYOUTS, convert, counts, lines, png, put, read, reasons, shown, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.convert.__main__ import main, run
from datasets.convert.conversation import conversation
from datasets.convert.mmc4 import assign
from datasets.tokenizer import train_tokenizer
from vlm.image import ImageTransform
from vlm.processor import Processor
from vlm.sample import Image, Sample, Video


def talk(*values):
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "images", "text"),
    [
        (["<image>\nWhat?", "It."], 1, "<0>Question: What?\nAnswer:[ It.]"),
        (["What?\n<image>", "It."], 1, "<0>Question: What?\nAnswer:[ It.]"),
        (["<image>\n<image>\nWhat?", "It."], 2, "<0><1>Question: What?\nAnswer:[ It.]"),
        (["<image> or <image>?", "It."], 2, "<0>Question: or <1>?\nAnswer:[ It.]"),
        (["Is <image> it or <image>?", "No."], 2, "Question: Is <0> it or <1>?\nAnswer:[ No.]"),
        (["<image>A?", "a", "<image>B?", "b"], 2, "<0>Question: A?\nAnswer:[ a]<1>Question: B?\nAnswer:[ b]"),
        (["A?", "a"], 2, "<0><1>Question: A?\nAnswer:[ a]"),
        (["A?", "<image> a", "B?"], 0, "Question: A?\nAnswer:[ <image> a]"),
    ],
)
def test_pictures_in_a_conversation(values, images, text):
    pictures = [Image(bytes([n])) for n in range(images)]
    segments = conversation(talk(*values), pictures)
    named = [f"<{pictures.index(s)}>" if isinstance(s, Image) else shown(Sample((s,))) for s in segments]
    assert "".join(named) == text


def test_system_message_and_an_answer_before_any_question():
    said = [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Hello"}, *talk("A?", "a")]
    assert shown(Sample(conversation(said, []))) == "Be brief.\nQuestion: A?\nAnswer:[ a]"


@pytest.mark.parametrize(
    ("messages", "images", "reason"),
    [
        (None, 0, "no conversation"),
        (["x"], 0, "no conversation"),
        ([], 0, "no question with an answer"),
        (talk("A?"), 0, "no question with an answer"),
        (talk("A?", " "), 0, "an empty message"),
        (talk("A?", 3), 0, "an empty message"),
        ([*talk("A?"), *talk("B?", "b")], 0, "turns do not alternate"),
        ([{"from": ["human"], "value": "A?"}, *talk("B?", "b")], 0, "turns do not alternate"),
        (talk("<image>A?", "a"), 0, "placeholders and images disagree"),
        (talk("<image>A?", "a"), 2, "placeholders and images disagree"),
        (talk("<image>", "a"), 1, "no question"),
    ],
)
def test_conversations_that_cannot_be_used(messages, images, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        conversation(messages, [Image(b"")] * images)


def test_llava(tmp_path):
    src = tmp_path / "src"
    LAYOUTS["llava"][1](src)
    rows = [
        {"conversations": talk("A?", "a"), "video": "a.mp4"},
        {"conversations": talk("A?", "a"), "image": "../secret.png"},
        {"conversations": talk("A?", "a"), "image": ["coco/train2017/1.jpg", "gone.jpg"]},
        {"conversations": talk("A?", "a")},
    ]
    put(src / "chat.jsonl", lines(*rows))
    put(tmp_path / "secret.png", png(9))
    summary = convert("llava", src, tmp_path / "dst")
    assert counts(summary) == {"chat": (1, 0), "mix": (2, 3)}
    assert reasons(summary) == {
        "a video file, which is not decoded": 1,
        "image missing": 1,
        "image named by a path that leads out": 1,
    }
    one, two = read(str(tmp_path / "dst/mix-*.tar"))
    assert shown(one) == "<>Question: What is it?\nAnswer:[ A dot.]Question: Sure?\nAnswer:[ Yes.]" and one.key == "a"
    assert shown(two) == "Question: Is <> like <>?\nAnswer:[ No.]" and two.key == "2"
    summary = convert("llava", src / "mix.json", tmp_path / "one")
    assert counts(summary) == {"mix": (2, 3)}


def test_pictures_of_one_row_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.convert.pictures.MAX_SAMPLE", 5 * len(png(1)))
    put(tmp_path / "src/1.png", png(1))
    put(tmp_path / "src/a.json", [{"image": ["1.png"] * n, "conversations": talk("A?", "a")} for n in (5, 6)])
    summary = convert("llava", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"a": (1, 5)} and reasons(summary) == {"sample too large": 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.randoms(use_true_random=False))
def test_assignment_has_the_largest_sum(images, sentences, rng):
    similarity = np.array([[rng.random() for _ in range(sentences)] for _ in range(images)])
    found = assign(similarity)
    if images <= sentences:
        best = max(sum(similarity[range(images), p]) for p in itertools.permutations(range(sentences), images))
        assert len(set(found)) == images and np.isclose(similarity[range(images), found].sum(), best)
    else:  # each sentence has one, and the rest stand where they are most similar
        chosen = [i for i in range(images) if found[i] != similarity[i].argmax()]
        assert set(found) == set(range(sentences)) and len(chosen) <= sentences


def test_assignment_is_that_of_the_paper():
    """The example of the release's own documentation: not the most similar sentence of each."""
    similarity = [[0.24363446, 0.31758785, 0.27694184], [0.22331068, 0.32349196, 0.26118797]]
    assert assign(np.array(similarity)).tolist() == [2, 1]


def test_mmc4(tmp_path):
    src = tmp_path / "src"
    LAYOUTS["mmc4"][1](src)
    for level in (1, 2):  # for the second file
        put(src / f"images/{level}.jpg", png(level))
    (src / "docs_shard_0_v2_images/2.jpg").write_bytes(b"no picture")
    summary = convert("mmc4", src, tmp_path / "dst")
    assert counts(summary) == {"mmc4": (2, 3)} and reasons(summary) == {"image broken": 1}
    first, second = read(tmp_path / "dst")
    assert shown(first) == "<>[One. Two. Three.]" and shown(second) == "<>[One.]<>[ Two. Three.]"
    assert first.meta == {"url": "http://example.org"}
    summary = convert("mmc4", src, tmp_path / "similar", "--min-similarity", "0.295")
    assert counts(summary) == {"mmc4": (2, 2)} and reasons(summary) == {"image less similar than asked": 2}
    summary = convert("mmc4", src, tmp_path / "several", "--min-images", "2")
    assert counts(summary) == {"mmc4": (1, 2)} and reasons(summary)["page with too few images"] == 1


@pytest.mark.parametrize(
    "matrix",
    [None, [], "x", [[1, 2, 3]], [[1, 2], [3, 4]], [[1, 2, 3], [4, 5]], [[float("nan")] * 3] * 2, [["a"] * 3] * 2],
)  # fmt: skip
def test_mmc4_without_a_matrix_uses_what_was_published(matrix, tmp_path):
    info = [
        {"image_name": "1.jpg", "matched_text_index": 1, "matched_sim": 0.3},
        {"image_name": "1.jpg", "matched_text_index": 3},
    ]
    put(tmp_path / "src/1.jpg", png(1))
    row = {"text_list": ["One.", " ", "Two."], "image_info": info, "similarity_matrix": matrix}
    put(tmp_path / "src/a.jsonl", lines(row, {"text_list": ["x", 1], "image_info": []}, {"text_list": [""], "image_info": []}))
    summary = convert("mmc4", tmp_path / "src", tmp_path / "dst")
    assert shown(read(tmp_path / "dst")[0]) == "[One.]<>[ Two.]"
    assert reasons(summary) == {"image without a sentence": 1, "no text_list and image_info": 1, "page without text": 1}


def test_mmc4_in_the_official_zip(tmp_path):
    (tmp_path / "src").mkdir()
    row = lines({"text_list": ["One."], "image_info": []})
    with zipfile.ZipFile(tmp_path / "src/docs_shard_0_v2.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs_shard_0_v2.jsonl", row * 2)
    whole = (tmp_path / "src/docs_shard_0_v2.jsonl.zip").read_bytes()
    put(tmp_path / "src/cut.jsonl.zip", whole[:40])
    put(tmp_path / "src/damaged.jsonl.gz", gzip.compress(row)[:12] + b"\xff" * 40)
    with zipfile.ZipFile(tmp_path / "src/empty.jsonl.zip", "w"):
        pass
    summary = convert("mmc4", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"mmc4": (2, 0)} and reasons(summary) == {"file cut off": 3}


def test_pairs_in_folders(tmp_path):
    src = tmp_path / "src"
    LAYOUTS["pairs"][1](src)
    put(src / "00000/3.jpg", png(3))
    put(src / "00000/4.txt", b"Four")
    put(src / "00000/5.jpg", b"no picture")
    put(src / "00000/5.txt", b"Five")
    put(src / "6.jpg", png(6))
    put(src / "6.txt", b"\xff dot")
    put(src / ".hidden/7.jpg", png(7))
    summary = convert("pairs", src, tmp_path / "dst")
    assert counts(summary) == {"pairs": (1, 1), "val": (1, 1)}
    assert reasons(summary) == {
        "picture without a caption": 1, "caption without a picture": 1, "image broken": 1, "caption is not UTF-8": 1,
    }  # fmt: skip
    assert [(s.key, shown(s)) for s in read(str(tmp_path / "dst/pairs-*.tar"))] == [("00000/1.jpg", "<>[A dot.]")]


def test_pairs_in_tables(tmp_path, capsys):
    src = tmp_path / "src"
    LAYOUTS["pairs_table"][1](src)
    put(src / "a.tsv", b'picture\tsays\ntrain/1.png\t"Quoted\n\ntrain/1.png\t \ngone.png\tx\n')
    assert main(["pairs", str(src), str(tmp_path / "dst")]) == 2
    assert "a.tsv has no column file_name or image" in capsys.readouterr().err
    (src / "test/metadata.jsonl").unlink()
    (src / "train/metadata.csv").unlink()
    summary = convert("pairs", src, tmp_path / "dst", "--image-field", "picture", "--caption-field", "says")
    assert counts(summary) == {"pairs": (1, 1)} and reasons(summary) == {"no picture or no caption": 1, "image missing": 1}
    assert shown(read(tmp_path / "dst")[0]) == '<>["Quoted]'


def test_a_cell_without_end_does_not_stop_a_table(tmp_path):
    put(tmp_path / "src/1.png", png(1))
    put(tmp_path / "src/a.csv", b'image,caption\n1.png,one\n1.png,"' + b"x" * 200_000 + b'"\n1.png,two\n')
    summary = convert("pairs", tmp_path / "src", tmp_path / "dst")
    assert counts(summary)["pairs"] == (2, 2) and reasons(summary) == {"row unreadable": 1}


def test_pairs_in_tars(tmp_path):
    src = tmp_path / "src"
    LAYOUTS["pairs_tar"][1](src)
    members = {"1.jpg": png(1), "2.txt": b"Two", "3.jpg": b"no picture", "3.txt": b"Three", "4.jpg": png(4), "4.txt": b" "}
    tar(src / "00001.tar", members | {"../5.jpg": png(5), "6.jpg": png(6), "6.txt": b"Six", "6.json": b"no json"})
    put(src / "00002.tar", b"no tar")
    summary = convert("pairs", src, tmp_path / "dst")
    assert counts(summary) == {"pairs": (2, 2)}
    assert reasons(summary) == {
        "unknown layout": 1, "no picture with a caption": 2, "image broken": 1, "member of a shard: name leads elsewhere": 1,
        "bad record": 1, "file is no tar": 1,
    }  # fmt: skip
    assert [shown(s) for s in read(tmp_path / "dst")] == ["<>[A dot]"] * 2


def test_video_frames(tmp_path):
    src = tmp_path / "src"
    LAYOUTS["video_frames"][1](src)
    summary = convert("video_frames", src, tmp_path / "dst", "--max-frames", "4")
    assert summary["kept"]["train"]["clips"] == summary["kept"]["train"]["samples"] == 4 and not summary["skipped"]
    whole, later, asked, two = read(tmp_path / "dst")
    clip = Video(tuple(map(png, (1, 4, 7, 11))), (0.0, 1.5, 3.0, 5.0))  # frame_10 and frame_11 come after frame_9
    assert whole.segments[0] == asked.segments[0] == clip and shown(whole) == "<>[All of it]"
    assert later.segments[0] == Video(tuple(map(png, (3, 4, 5))), (0.0, 0.5, 1.0))
    assert shown(later) == "<>Question: When?\nAnswer:[ Later.]" and later.key == "a#1"
    assert two.segments[0] == Video((png(1),), (0.0,)) and shown(two) == "<>[Two]"


def test_a_clip_reaches_the_model(tmp_path):
    LAYOUTS["video_frames"][1](tmp_path / "src")
    convert("video_frames", tmp_path / "src", tmp_path / "dst", "--max-frames", "3")
    batch = Processor(train_tokenizer([], 260), ImageTransform(4))(read(tmp_path / "dst")[:2])
    assert batch.num_media == 2 and batch.media_of_frame.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.frame_time.tolist() == [0, 2.5, 5, 0, 0.5, 1]
    assert batch.images.float().mean(dim=(1, 2, 3)).tolist() == [1, 6, 11, 3, 4, 5]


def test_video_frames_that_cannot_be_used(tmp_path):
    for n in (1, 2):
        put(tmp_path / f"src/a/{n}.png", png(n))
    put(tmp_path / "src/a/3.png", b"no picture")
    put(tmp_path / "outside/1.png", png(9))
    row = {"frames": "a", "caption": "x"}
    change = [
        {}, {"frames": "b"}, {"frames": "../outside"}, {"frames": str(tmp_path / "outside")}, {"frames": 3}, {"frames": []},
        {"frames": ["../outside/1.png"]}, {"times": [0, 1]}, {"times": [0, 2, 1]}, {"times": [0, 1, float("nan")]}, {"fps": 0},
        {"fps": "2"}, {"caption": ""}, {"captions": [{"text": "x", "start": 2, "end": 1}]},
        {"captions": [{"text": "y", "start": 50}]},
    ]  # fmt: skip
    put(tmp_path / "src/rows.jsonl", lines(*(row | one for one in change)))
    summary = convert("video_frames", tmp_path / "src", tmp_path / "dst")
    assert summary["kept"]["rows"]["clips"] == 3  # the first row, and the last two's captions of the whole
    assert reasons(summary) == {
        "folder of frames missing": 1, "folder of frames named by a path that leads out": 1,
        "folder of frames named by an absolute path": 1, "no frames": 1, "no frame of the clip": 3,
        "image named by a path that leads out": 1, "image broken": 3,
        "times are not one ascending number a frame": 3, "fps is no number above 0": 2,
        "start and end are no span of seconds": 1, "no caption and no question with an answer": 1,
    }  # fmt: skip
    assert [len(s.segments[0].frames) for s in read(tmp_path / "dst")] == [2, 2, 2]


@pytest.mark.parametrize("option", [("--fps", "0"), ("--fps", "nan"), ("--max-frames", "0")])
def test_video_options_must_make_sense(option, tmp_path, capsys):
    LAYOUTS["video_frames"][1](tmp_path / "src")
    assert main(["video_frames", str(tmp_path / "src"), str(tmp_path / "dst"), *option]) == 2
    assert "must be above 0" in capsys.readouterr().err


def test_names_that_no_text_can_hold(tmp_path):
    put(
        tmp_path / "src/a.json",
        [{"image": "\udcff\x1b[31m", "conversations": talk("A?", "\ud800 a")}, {"conversations": talk("A?", "a")}],
    )
    (tmp_path / "src/a.json").rename(tmp_path / "src" / "a\udcff.json")
    summary = run("llava", tmp_path / "src", tmp_path / "dst")
    assert list(summary["kept"]) == ["a_"] and summary["skipped"]["image missing"]["examples"] == ["��[31m"]


def test_a_sample_that_no_reader_takes_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.shards.MAX_SAMPLE", 10_000)
    put(tmp_path / "src/a.json", [{"conversations": talk("A?", "a" * n)} for n in (10, 10_000)])
    summary = convert("llava", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"a": (1, 0)} and reasons(summary) == {"sample too large": 1}


def test_pictures_that_need_other_programs_are_not_kept(tmp_path):
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.new("RGB", (2, 2)).save(buffer, "EPS")
    put(tmp_path / "src/1.jpg", buffer.getvalue())
    put(tmp_path / "src/2.jpg", png(2))
    put(tmp_path / "src/a.json", [{"image": f"{n}.jpg", "conversations": talk("A?", "a")} for n in (1, 2)])
    assert reasons(convert("llava", tmp_path / "src", tmp_path / "dst")) == {"image broken": 1}


def test_what_is_too_large_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.convert.rows.MAX_LINE", 300)
    buffer = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    put(tmp_path / "src/bomb.png", buffer.getvalue())
    put(tmp_path / "src/1.png", png(1))
    with (tmp_path / "src/2.png").open("wb") as file:
        file.truncate((64 << 20) + 1)
    rows = [{"image": name, "conversations": talk("A?", "a")} for name in ("bomb.png", "2.png", "1.png")]
    put(tmp_path / "src/a.jsonl", lines({"x": "y" * 1000}, *rows))
    summary = convert("llava", tmp_path / "src", tmp_path / "dst")
    assert counts(summary) == {"a": (1, 1)} and reasons(summary) == {"image too large": 2, "line too long": 1}


def test_more_files_than_can_be_open(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.convert.__main__.MAX_SETS", 2)
    for n in range(3):
        put(tmp_path / f"src/{n}.json", [{"conversations": talk("A?", "a")}])
    assert main(["llava", str(tmp_path / "src"), str(tmp_path / "dst")]) == 2
    assert "SRC makes more than 2 sets of shards" in capsys.readouterr().err and not list((tmp_path / "dst").iterdir())
