"""Tiny sets in the official layouts, and the way a test converts one and reads the shards."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import PIL.Image

from datasets.convert.__main__ import main
from datasets.shards import ShardSource
from vlm.sample import Sample, Text


def png(level: int) -> bytes:
    """A picture that can be told from others."""
    buffer = io.BytesIO()
    PIL.Image.new("L", (2, 2), level).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def lines(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def convert(name, src, dst, *options) -> dict:
    assert main([name, str(src), str(dst), *options]) == 0
    return json.loads((dst / "summary.json").read_text())


def read(path) -> list[Sample]:
    source = ShardSource(path, shuffle=False)
    return [source.get(0, i) for i in range(len(source))]


def reasons(summary) -> dict[str, int]:
    return {reason: skip["count"] for reason, skip in summary["skipped"].items()}


def counts(summary) -> dict[str, tuple[int, int]]:
    return {name: (kept["samples"], kept["images"]) for name, kept in summary["kept"].items()}


def shown(sample: Sample) -> str:
    """The segments in a line: <> for a picture or clip, [ ] around what is learnt."""
    parts = ((f"[{s.text}]" if s.learn else s.text) if isinstance(s, Text) else "<>" for s in sample.segments)
    return "".join(parts)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def opencqa(src: Path) -> None:
    put(src / "chart_images/1.png", png(1))
    row = {"image": "1.png", "question": "Why?", "answer": "So ."}
    put(src / "train.json", [row])
    put(src / "val.json", [{**row, "title": "A title", "context": "It is so ."}])
    official = ["1.png", "A title", "All of it .", "It is so .", "Why?", "So .", "It is so"]
    put(src / "etc/data(full_summary_article)/test_extended.json", {"7": official})


def scienceqa(src: Path) -> None:
    put(src / "images/train/1/image.png", png(1))
    first = {
        "question": "Which?", "choices": ["this", "that"], "answer": 1, "hint": "Look.", "image": "image.png", "split": "train",
        "lecture": "A lecture.", "solution": "That one.", "subject": "natural science", "task": "closed choice",
    }  # fmt: skip
    second = {**first, "image": None, "hint": "", "lecture": "", "solution": "", "split": "test", "answer": 0}
    put(src / "problems.json", {"1": first, "2": second})
    put(src / "pid_splits.json", {"train": ["1"], "test": ["2"], "trainval": ["1"]})


def scienceqa_rows(src: Path) -> None:
    put(src / "test/5/image.png", png(5))
    said = [{"from": "human", "value": "<image>\nWhich?\nA. this\nB. that"}, {"from": "gpt", "value": "B"}]
    text = [{"from": "human", "value": "Which?\nA. this\nB. that"}, {"from": "gpt", "value": "A"}]
    put(src / "test.json", [{"id": "5", "image": "5/image.png", "conversations": said}, {"id": "6", "conversations": text}])


def llava(src: Path) -> None:
    put(src / "coco/train2017/1.jpg", png(1))
    put(src / "images/2.jpg", png(2))
    talk = [
        {"from": "human", "value": "What is it?\n<image>"},
        {"from": "gpt", "value": "A dot."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "Yes."},
    ]
    two = [{"from": "human", "value": "Is <image> like <image>?"}, {"from": "gpt", "value": "No."}]
    rows = [{"id": "a", "image": "coco/train2017/1.jpg", "conversations": talk}]
    rows += [{"id": 2, "image": ["coco/train2017/1.jpg", "2.jpg"], "conversations": two}]
    put(src / "mix.json", rows)


def mmc4(src: Path) -> None:
    for level in (1, 2):
        put(src / f"docs_shard_0_v2_images/{level}.jpg", png(level))
    page = {
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"image_name": "1.jpg", "matched_text_index": 0, "matched_sim": 0.3, "face_detections": None},
            {"image_name": "2.jpg", "matched_text_index": 1, "matched_sim": 0.29, "face_detections": None},
        ],
        "similarity_matrix": [[0.3, 0.1, 0.2], [0.31, 0.29, 0.1]],
        "url": "http://example.org",
        "could_have_url_duplicate": 0,
    }
    put(src / "docs_shard_0_v2.jsonl", lines(page))
    put(src / "docs_shard_1_v2.jsonl.gz", gzip.compress(lines({**page, "similarity_matrix": None})))


def coco_caption(src: Path) -> None:
    put(src / "train2014/COCO_train2014_000000000009.jpg", png(9))
    put(src / "val2017/000000000001.jpg", png(1))
    told = [{"id": 1, "image_id": 9, "caption": "A dot. "}, {"id": 2, "image_id": 9, "caption": "One dot"}]
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 2, "width": 2}
    put(src / "annotations/captions_train2014.json", {"info": {}, "images": [image], "licenses": [{}], "annotations": told})
    told = [{"id": 1, "image_id": 1, "caption": "A point"}]
    put(
        src / "annotations/captions_val2017.json", {"annotations": told, "images": [{"id": 1, "file_name": "000000000001.jpg"}]}
    )
    told = [{"raw": "A dot.", "tokens": ["a", "dot"], "imgid": 0, "sentid": 0}, {"raw": "One dot"}]
    row = {
        "filepath": "train2014",
        "filename": image["file_name"],
        "imgid": 0,
        "sentences": told,
        "split": "restval",
        "cocoid": 9,
    }
    put(src / "dataset_coco.json", {"images": [row, {**row, "split": "test"}], "dataset": "coco"})


def vqav2(src: Path) -> None:
    put(src / "train2014/COCO_train2014_000000000009.jpg", png(9))
    asked = [
        {"image_id": 9, "question": "How many?", "question_id": 90},
        {"image_id": 9, "question": "Where?", "question_id": 91},
    ]
    given = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(["2", "1", "1", "3"], 1)]
    row = {
        "question_type": "how many", "multiple_choice_answer": "1", "answers": given, "image_id": 9, "answer_type": "number",
        "question_id": 90,
    }  # fmt: skip
    other = {"question_id": 91, "image_id": 9, "multiple_choice_answer": "here"}
    put(src / "v2_OpenEnded_mscoco_train2014_questions.json", {"info": {}, "questions": asked, "data_type": "mscoco"})
    put(src / "v2_mscoco_train2014_annotations.json", {"info": {}, "annotations": [row, other]})
    put(src / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": asked})


def pairs(src: Path) -> None:
    put(src / "00000/1.jpg", png(1))
    put(src / "00000/1.txt", b"A dot.\n")
    put(src / "00000/1.json", {"caption": "not this", "url": "http://example.org"})
    put(src / "val/2.PNG", png(2))
    put(src / "val/2.json", {"caption": "Two"})
    put(src / "val/2.txt", b"")


def pairs_table(src: Path) -> None:
    put(src / "train/metadata.csv", b'file_name,text\n1.png,"A dot, ""black"""\nimages/2.png,Two\n')
    put(src / "train/1.png", png(1))
    put(src / "train/images/2.png", png(2))
    put(src / "test/metadata.jsonl", lines({"file_name": "3.png", "caption": "Three"}))
    put(src / "test/images/3.png", png(3))


def pairs_tar(src: Path) -> None:
    record = json.dumps({"caption": "A dot", "url": "http://example.org", "status": "success"}).encode()
    members = {"000000000.jpg": png(1), "000000000.txt": b"A dot", "000000000.json": record}
    tar(src / "00000.tar", members | {"000000001.jpg": png(2), "000000001.json": record})
    put(src / "00000_stats.json", {"count": 2})


def video_frames(src: Path) -> None:
    for n in range(1, 12):
        put(src / f"clips/a/frame_{n}.png", png(n))
    said = [{"question": "What?", "answer": "A dot."}, {"question": "When?", "answer": "Later.", "start": 1.0, "end": 2.0}]
    rows = [
        {"id": "a", "frames": "clips/a", "fps": 2, "caption": "All of it", "qa": said},
        {
            "frames": ["clips/a/frame_2.png", "clips/a/frame_1.png"],
            "times": [0.5, 1.5],
            "captions": [{"text": "Two", "start": 1}],
        },
    ]
    put(src / "train.jsonl", lines(*rows))


LAYOUTS = {
    "opencqa": ("opencqa", opencqa), "scienceqa": ("scienceqa", scienceqa), "scienceqa_rows": ("scienceqa", scienceqa_rows),
    "llava": ("llava", llava), "mmc4": ("mmc4", mmc4), "coco_caption": ("coco_caption", coco_caption),
    "vqav2": ("vqav2", vqav2),
    "pairs": ("pairs", pairs), "pairs_table": ("pairs", pairs_table), "pairs_tar": ("pairs", pairs_tar),
    "video_frames": ("video_frames", video_frames),
}  # fmt: skip
