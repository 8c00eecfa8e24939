"""Tiny downloads in the layouts of the official releases: two or three questions of each, every field that people have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.eval.conftest import picture


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def lines(path: Path, rows: Sequence[Mapping]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pictures(folder: Path, *names: str) -> None:
    for level, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(level))


def packed(path: Path, rows: Sequence[Mapping], images: Sequence[str] = ("image",), group: int = 2) -> None:
    """A parquet file as Hugging Face writes it; a picture is given by its level, `None` for none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = list(rows[0])
    columns = {name: [row[name] for row in rows] for name in names}
    for name in images:
        columns[name] = [None if level is None else {"bytes": picture(level), "path": None} for level in columns[name]]
    arrays = [pa.array(columns[name], kind if name in images else None) for name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names=names), path, row_group_size=group)


def chartqa(root: Path) -> None:
    row = {"imgname": "a.png", "query": "How many?", "label": "3"}
    dump(root / "test/test_human.json", [row, {**row, "query": "How much?", "label": 4}])
    dump(root / "test/test_augmented.json", [row])
    dump(root / "test/test_rationales.json", [{**row, "rationale": "I count."}])
    pictures(root / "test/png", "a.png")


def chartqa_packed(root: Path) -> None:
    rows = [{"image": i, "query": "How many?", "label": ["3"], "human_or_machine": i % 2} for i in range(3)]
    packed(root / "data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet", rows)


def opencqa(root: Path) -> None:
    dump(
        root / "test.json", [{"image": "1.png", "title": "T", "context": "C", "question": "Why?", "answer": "Because. It is."}]
    )
    pictures(root / "chart_images", "1.png")


def opencqa_extended(root: Path) -> None:
    row = ["1.png", "T", "article", "summary", "Why?", "Because.", "It is because."]
    dump(root / "etc/data(full_summary_article)/test_extended.json", {"1": row, "2": row})
    pictures(root / "chart_images", "1.png")


def plotqa(root: Path) -> None:
    row = {
        "image_index": 7,
        "qid": 0,
        "question_string": "What is the sum?",
        "answer": 3.5,
        "template": "reasoning",
        "type": "bar",
    }
    dump(root / "data/test/qa_pairs_V2.json", {"qa_pairs": [row, {**row, "answer": "Yes"}]})
    pictures(root / "data/test/png", "7.png")


PROBLEM = {
    "question": "Which is it?",
    "choices": ["this", "that"],
    "answer": 1,
    "hint": "Look.",
    "image": "image.png",
    "task": "closed choice",
    "grade": "grade3",
    "subject": "natural science",
    "topic": "physics",
    "category": "Magnets",
    "skill": "Compare",
    "lecture": "Lecture.",
    "solution": "Solution.",
    "split": "test",
}


def scienceqa(root: Path) -> None:
    bare = {**PROBLEM, "image": None, "hint": "", "subject": "language science", "grade": "grade10", "answer": 0}
    dump(root / "problems.json", {"4": PROBLEM, "5": bare, "6": {**PROBLEM, "split": "train"}})
    dump(root / "pid_splits.json", {"test": ["4", "5"], "train": ["6"], "trainval": ["6"], "val": []})
    pictures(root / "test", "4/image.png")


def scienceqa_talks(root: Path) -> None:
    text = "<image>\nContext: Look.\nWell.\nWhich is it?\nA. this\nB. that\nC. both"
    rows = [
        {"id": "4", "image": "4/image.png", "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "C"}]}
    ]
    dump(root / "test.json", rows)
    pictures(root / "test", "4/image.png")


def scienceqa_packed(root: Path) -> None:
    rows = [{**PROBLEM, "image": 3}, {**PROBLEM, "image": None}]
    packed(root / "data/test-00000-of-00001.parquet", rows)


MATH = {
    "question": "How long?",
    "image": "images/1.jpg",
    "choices": None,
    "unit": "cm",
    "precision": 1.0,
    "answer": "1.2",
    "question_type": "free_form",
    "answer_type": "float",
    "metadata": {
        "category": "math-targeted-vqa",
        "context": "scientific figure",
        "grade": "college",
        "skills": ["algebra", "geometry"],
        "source": "S",
        "split": "testmini",
        "task": "textbook",
    },
}
CHOICE = {
    "choices": ["3", "145°"],
    "unit": None,
    "precision": None,
    "answer": "145°",
    "question_type": "multi_choice",
    "answer_type": "text",
}


def mathvista(root: Path) -> None:
    dump(root / "data/testmini.json", {"1": {**MATH, "pid": "1"}, "2": {**MATH, **CHOICE, "pid": "2"}})
    pictures(root, "images/1.jpg")


def mathvista_packed(root: Path) -> None:
    rows = [{**MATH, "pid": "1", "decoded_image": 3}, {**MATH, **CHOICE, "pid": "2", "decoded_image": 4}]
    packed(root / "data/testmini-00000-of-00001.parquet", rows, ("decoded_image",))


def mmmu(root: Path) -> None:
    row: dict[str, Any] = {
        "id": "validation_Art_Theory_1",
        "question": "Is <image 1> older than <image 2>?",
        "options": "['yes', \"it's not\"]",
        "explanation": "",
        "answer": "B",
        "question_type": "multiple-choice",
        "img_type": "['Paintings']",
        "subfield": "x",
        "topic_difficulty": "Easy",
    }
    row |= {f"image_{i}": i if i < 3 else None for i in range(1, 8)}
    open_row = {**row, "id": "validation_Art_Theory_2", "options": "[]", "answer": "['0.5', '1/2']", "question_type": "open"}
    packed(root / "Art_Theory/validation-00000-of-00001.parquet", [row, open_row], [f"image_{i}" for i in range(1, 8)])


def ai2d(root: Path) -> None:
    asked = {"abcLabel": True, "answerTexts": ["ears", "nose"], "correctAnswer": 1, "questionId": "0.png-0"}
    for number in (0, 1):
        whole = {"imageName": f"{number}.png", "questions": {"What is A?": {**asked, "questionId": f"{number}.png-0"}}}
        dump(root / f"ai2d/questions/{number}.png.json", whole)
    (root / "ai2d/ai2d_test_ids.csv").write_text("0\n7\n")
    pictures(root / "ai2d/images", "0.png", "1.png")


def ai2d_packed(root: Path) -> None:
    rows = [{"question": "What is A?", "options": ["ears", "nose"], "answer": "1", "image": 3}]
    packed(root / "data/test-00000-of-00001.parquet", rows)


TEN = [{"answer": "cat", "answer_confidence": "yes", "answer_id": i} for i in range(1, 10)] + [
    {"answer": "a dog", "answer_confidence": "maybe", "answer_id": 10}
]


def vqav2(root: Path, prefix: str = "v2_", kind: str = "what is") -> None:
    asked = [{"image_id": 42, "question": "What is it?", "question_id": 42000 + i} for i in range(3)]
    told = [
        {
            "question_type": kind,
            "multiple_choice_answer": "cat",
            "answers": TEN,
            "image_id": 42,
            "answer_type": "other",
            "question_id": 42000 + i,
        }
        for i in (0, 2, 1)
    ]
    dump(root / f"{prefix}OpenEnded_mscoco_val2014_questions.json", {"info": {}, "license": [], "questions": asked})
    dump(root / f"{prefix}mscoco_val2014_annotations.json", {"info": {}, "annotations": told})
    pictures(root / "val2014", "COCO_val2014_000000000042.jpg")


def vqav2_packed(root: Path) -> None:
    rows = [
        {
            "question_type": "what is",
            "multiple_choice_answer": "cat",
            "answers": TEN,
            "image_id": 42,
            "answer_type": "other",
            "question_id": 42000 + i,
            "question": "What is it?",
            "image": i,
        }
        for i in range(3)
    ]
    packed(root / "data/validation-00000-of-00002.parquet", rows[:2])
    packed(root / "data/validation-00001-of-00002.parquet", rows[2:])


def okvqa(root: Path) -> None:
    vqav2(root, "", "nine")


def textvqa(root: Path) -> None:
    row = {
        "question": "What does it say?",
        "image_id": "0a1b",
        "image_classes": ["Sign"],
        "answers": ["stop"] * 10,
        "question_id": 34602,
    }
    dump(root / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_name": "textvqa", "data": [row]})
    pictures(root / "train_images", "0a1b.jpg")


def vizwiz(root: Path) -> None:
    row = {
        "image": "VizWiz_val_00000000.jpg",
        "question": "What is this?",
        "answers": TEN,
        "answer_type": "other",
        "answerable": 1,
    }
    dump(root / "Annotations/val.json", [row, {**row, "image": "VizWiz_val_00000001.jpg", "answer_type": "unanswerable"}])
    pictures(root / "val", "VizWiz_val_00000000.jpg", "VizWiz_val_00000001.jpg")


def docvqa(root: Path) -> None:
    row = {
        "questionId": 49153,
        "question": "What is the total?",
        "question_types": ["form", "table/list"],
        "image": "documents/x_1.png",
        "docId": 14465,
        "ucsf_document_id": "x",
        "ucsf_document_page_no": "1",
        "answers": ["0.28", "$0.28"],
        "data_split": "val",
    }
    dump(root / "spdocvqa_qas/val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": [row]})
    pictures(root / "spdocvqa_images", "x_1.png")


GQA = {"question": "Is it red?", "imageId": "n1", "answer": "yes", "fullAnswer": "Yes, it is.", "isBalanced": True}
TYPES = {"detailed": "attr", "semantic": "attr", "structural": "verify"}


def gqa(root: Path) -> None:
    dump(root / "questions1.2/testdev_balanced_questions.json", {"20": {**GQA, "types": TYPES}, "21": {**GQA, "types": TYPES}})
    pictures(root / "images", "n1.jpg")


def gqa_packed(root: Path) -> None:
    packed(root / "testdev_balanced_instructions/testdev-00000-of-00001.parquet", [{"id": "20", **GQA, "types": TYPES}], ())
    packed(root / "testdev_balanced_images/testdev-00000-of-00001.parquet", [{"id": "n1", "image": 9}])


def coco_caption(root: Path) -> None:
    sentences = [{"raw": f"A cat number {i}.", "tokens": ["a", "cat"], "imgid": 0, "sentid": i} for i in range(5)]
    row = {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "imgid": 0, "cocoid": 42, "sentences": sentences}
    dump(
        root / "dataset_coco.json",
        {"images": [{**row, "split": "test"}, {**row, "cocoid": 43, "split": "restval"}], "dataset": "coco"},
    )
    pictures(root / "val2014", "COCO_val2014_000000000042.jpg")


def pope(root: Path) -> None:
    for category in ("random", "popular", "adversarial"):
        row = {
            "question_id": 1,
            "image": "COCO_val2014_000000000042.jpg",
            "text": "Is there a cat in the image?",
            "label": "yes",
        }
        lines(root / f"output/coco/coco_pope_{category}.json", [row, {**row, "question_id": 2, "label": "no"}])
    pictures(root / "val2014", "COCO_val2014_000000000042.jpg")


def pope_packed(root: Path) -> None:
    rows = [
        {
            "id": str(i),
            "question_id": "1",
            "question": "Is there a cat?",
            "answer": "yes",
            "image_source": "COCO_val2014_1",
            "image": i,
            "category": category,
        }
        for i, category in enumerate(("adversarial", "popular", "random"))
    ]
    packed(root / "data/test-00000-of-00003.parquet", rows[:2])
    packed(root / "data/test-00001-of-00003.parquet", rows[2:])


def amber(root: Path) -> None:
    described = {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}
    asked = {"id": 1005, "image": "AMBER_1.jpg", "query": "Is the sky sunny?"}
    for name, rows in (("all", [described, asked]), ("generative", [described]), ("discriminative", [asked])):
        dump(root / f"data/query/query_{name}.json", rows)
    told = [{"id": 1, "type": "generative", "truth": ["sky", "tree"], "hallu": ["cloud"]}]
    dump(root / "data/annotations.json", [*told, {"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"}])
    dump(root / "data/relation.json", {"sky": [], "tree": ["forest", "leave"], "cloud": [], "person": ["man"]})
    (root / "data/safe_words.txt").write_text("orange\nline")
    pictures(root / "image", "AMBER_1.jpg")


def hallusionbench(root: Path) -> None:
    row = {
        "category": "VD",
        "subcategory": "illusion",
        "visual_input": "1",
        "set_id": "0",
        "figure_id": "0",
        "sample_note": "circle",
        "question_id": "0",
        "question": "Same size?",
        "gt_answer_details": "It is.",
        "gt_answer": "1",
        "filename": "./hallusion_bench/VD/illusion/0_0.png",
    }
    bare = {**row, "category": "VS", "subcategory": "chart", "visual_input": "0", "filename": None, "gt_answer": "0"}
    edited = {**row, "figure_id": "1", "gt_answer": "0", "visual_input": "2"}
    dump(root / "HallusionBench.json", [row, edited, bare])
    pictures(root / "hallusion_bench", "VD/illusion/0_0.png")


def hallusionbench_packed(root: Path) -> None:
    hallusionbench(root)
    rows = json.loads((root / "HallusionBench.json").read_text())
    packed(root / "data/image-00000-of-00001.parquet", [{**row, "image": 1} for row in rows[:2]])
    packed(root / "data/non_image-00000-of-00001.parquet", rows[2:], ())


def mme(root: Path) -> None:
    home = root / "MME_Benchmark_release_version"
    for folder, texts, images in (("count", "", ""), ("artwork", "questions_answers_YN", "images")):
        (home / folder / texts).mkdir(parents=True)
        (home / folder / texts / "0001.txt").write_text(
            "Is it a? Please answer yes or no.\tYes\nIs it b? Please answer yes or no.\tNo\n"
        )
        pictures(home / folder / images, "0001.png")


def mme_packed(root: Path) -> None:
    rows = [
        {
            "question_id": "code_reasoning/0020.png",
            "image": 5,
            "question": f"Is it {answer}?",
            "answer": answer,
            "category": "code_reasoning",
        }
        for answer in ("Yes", "No")
    ]
    packed(root / "data/test-00000-of-00002.parquet", rows)


def nlvr(root: Path) -> None:
    row = {
        "identifier": "dev-850-0-0",
        "sentence": "There are two dogs.",
        "label": "True",
        "left_url": "",
        "right_url": "",
        "synset": "x",
    }
    lines(root / "nlvr2/data/dev.json", [row, {**row, "identifier": "dev-850-0-1", "label": "False"}])
    pictures(root / "dev", "dev-850-0-img0.png", "dev-850-0-img1.png")


def custom(root: Path) -> None:
    row = {"image": "a.png", "question": "Which?", "answers": ["B"], "choices": ["x", "y"], "kind": "k", "id": "one"}
    lines(
        root / "test.jsonl",
        [row, {"images": ["a.png", "b/c.png"], "question": "Which?", "answers": "z", "options": {"year": 3}}],
    )
    pictures(root, "a.png", "b/c.png")


# task, writer, split, how many questions
RELEASES: list[tuple[str, Callable[[Path], None], str, int]] = [
    ("chartqa", chartqa, "test", 3),
    ("chartqa", chartqa_packed, "test", 3),
    ("opencqa", opencqa, "test", 1),
    ("opencqa", opencqa_extended, "test", 2),
    ("plotqa", plotqa, "test_v2", 2),
    ("scienceqa", scienceqa, "test", 2),
    ("scienceqa", scienceqa_talks, "test", 1),
    ("scienceqa", scienceqa_packed, "test", 2),
    ("mathvista", mathvista, "testmini", 2),
    ("mathvista", mathvista_packed, "testmini", 2),
    ("mmmu", mmmu, "validation", 2),
    ("ai2d", ai2d, "test", 1),
    ("ai2d", ai2d_packed, "test", 1),
    ("vqav2", vqav2, "val", 3),
    ("vqav2", vqav2_packed, "val", 3),
    ("okvqa", okvqa, "val", 3),
    ("textvqa", textvqa, "val", 1),
    ("vizwiz", vizwiz, "val", 2),
    ("docvqa", docvqa, "val", 1),
    ("gqa", gqa, "testdev_balanced", 2),
    ("gqa", gqa_packed, "testdev_balanced", 1),
    ("coco_caption", coco_caption, "test", 1),
    ("pope", pope, "all", 6),
    ("pope", pope_packed, "all", 3),
    ("amber", amber, "all", 2),
    ("hallusionbench", hallusionbench, "all", 3),
    ("hallusionbench", hallusionbench_packed, "all", 3),
    ("mme", mme, "test", 4),
    ("mme", mme_packed, "test", 2),
    ("nlvr", nlvr, "dev", 2),
    ("custom", custom, "test", 2),
]
