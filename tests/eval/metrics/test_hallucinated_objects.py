"""CHAIR, HallusionBench and AMBER: quirks of the official code, and figures counted by hand."""

from __future__ import annotations

import pytest

from eval import metrics
from eval.metrics import coco_words


def scored(label: str, rows: list[dict]) -> list[dict]:
    metric = metrics.get(label)
    return [{**row, "score": metric.score(row.get("prediction", ""), metrics.references(row), row)} for row in rows]


def figures(label: str, rows: list[dict]) -> dict:
    return metrics.get(label).summarize(scored(label, rows))


MENTIONS = """
buses and a bus|bus|bus,bus
men and women play tennis|person,person|person
A baby elephant boards a passenger train.|elephant,train|elephant,train
two wine glasses beside a wine glass|wine glass,wine glass|wine glass,wine glass
the seat of the toilet|toilet|toilet
a hot dog, a hot, dog|hot dog,dog|hot dog,dog
a man skiing past vases, ties and canoes|person,vase|person,skis,tie,boat
a train track|train|
an iPhone on a stove top oven|oven,oven|oven,oven
the man's dogs weren't "puppies"|person,dog,dog|person,dog,dog
people and geese|person,bird|person,bird
knives, mice; scissors|knife,mouse,scissors|knife,mouse,scissors
a motor bike and a motorbike|motorcycle|motorcycle
"""


@pytest.mark.parametrize("line", MENTIONS.strip().splitlines())
def test_objects_mentioned_in_the_two_dialects(line):
    caption, *wanted = line.split("|")
    for variant, names in zip(("original", "opera"), wanted, strict=True):
        found = metrics.get(f"chair:{variant}").score(caption, (), {"gold_objects": []})
        assert ",".join(found["mentioned"]) == names
        assert found["hallucinated"] == found["mentioned"]


def test_every_category_is_a_word_of_itself_and_there_are_eighty():
    known = coco_words.categories()
    assert len(set(known.values())) == 80
    assert all(known[name] == name for name in known.values())


def test_chair_counts_mentions_captions_and_gold_objects():
    rows = [
        {"prediction": "a dog and a dog and a cat", "gold_objects": ["dog", "couch"]},
        {"prediction": "a sofa", "gold_objects": [], "references": ["someone on a couch"]},
        {"prediction": "nothing", "gold_objects": ["car"]},
    ]
    found = {name: (figure["value"], figure["n"]) for name, figure in figures("chair", rows).items()}
    third = pytest.approx(1 / 3)
    assert found == {"CHAIRi": (0.25, 4), "CHAIRs": (third, 3), "recall": (0.5, 4), "words": (pytest.approx(11 / 3), 3)}
    assert figures("chair", rows[2:])["CHAIRi"]["value"] is None


@pytest.mark.parametrize(
    ("row", "message"), [({}, "gold_objects"), ({"gold_objects": "dog"}, "list"), ({"gold_objects": ["dgo"]}, "dog")]
)
def test_chair_without_usable_gold(row, message):
    with pytest.raises(ValueError, match=message):
        metrics.get("chair").score("a dog", (), row)


def question(category: str, figure: int, number: int, mark: int, subset: int = 0) -> dict:
    return {
        "category": category,
        "subcategory": "x",
        "set_id": subset,
        "figure_id": figure,
        "question_id": number,
        "mark": mark,
    }


def test_hallusionbench_by_question_pair_and_figure():
    rows = [question("VD", 0, 0, 1), question("VD", 1, 0, 2), question("VD", 0, 1, 1), question("VD", 1, 1, 1)]
    rows += [question("VS", 0, 0, 2), question("VS", 1, 0, 1)]
    found = figures("hallusionbench", rows)
    values = {name: found[name]["value"] for name in ("aAcc", "qAcc", "fAcc", "easy", "hard")}
    assert values == pytest.approx({"aAcc": 5 / 6, "qAcc": 2 / 3, "fAcc": 2 / 3, "easy": 1, "hard": 2 / 3})
    assert found["VS"]["aAcc"]["value"] == 1  # unclear without a figure is right
    assert found["fAcc"]["n"] == 3  # and is no figure
    with pytest.raises(ValueError, match="VD_x_0_0_0 occurs twice"):
        figures("hallusionbench", rows + rows[:1])


def test_hallusionbench_with_and_without_a_judge():
    row = question("VD", 1, 0, 1)
    del row["mark"]
    with pytest.raises(ValueError, match="judge-required"):
        metrics.get("hallusionbench").score("Yes, it is.", ["1"], row)
    marks = [
        metrics.get("hallusionbench:yes_no").score(text, ["1"], row)["mark"]
        for text in ("Yes, it is.", "No.", "yes and no", "maybe")
    ]
    assert marks == [1, 0, 2, 2]
    with pytest.raises(ValueError, match="set_id"):
        metrics.get("hallusionbench:yes_no").score("yes", ["yes"], {"category": "VD", "subcategory": "x"})


def test_amber_takes_no_as_positive_and_keeps_its_roundings():
    kind = "discriminative-hallucination"
    rows = [
        {"prediction": p, "references": [t], "type": kind}
        for p, t in (("No", "no"), ("No", "yes"), ("Yes", "no"), ("yes", "yes"))
    ]
    found = figures("amber", rows)
    assert found["accuracy"]["value"] == 0.25  # "yes" is not "Yes"
    assert found["unparsed"]["count"] == 1
    assert found["precision"]["value"] == found["recall"]["value"] == 0.5
    assert found["f1"]["value"] == 0.5 and found["existence"]["f1"]["value"] == 0.5  # 0.49995 and 0.4995, each rounded
    one = figures("amber", [{"prediction": "No", "references": ["no"], "type": kind}])
    assert one["accuracy"]["value"] == one["f1"]["value"] == 0.999


def test_amber_described_and_asked():
    described = {
        "type": "generative",
        "prediction": "Trees and skies, a dog near trees",
        "truth": {"tree": ["trunk"], "sky": []},
        "hallu": ["dog", "cat"],
        "vocabulary": ["car"],
        "references": [],
    }
    (row,) = scored("amber:generative_exact", [described])
    assert row["score"] == {
        "words": ["sky", "dog", "tree"],
        "hallucinated": ["dog"],
        "covered": 2,
        "imagined": 1,
        "truth": 2,
        "hallu": 2,
    }
    found = figures("amber:exact", [described, {"prediction": "No", "references": ["no"], "type": "discriminative-relation"}])
    values = {name: found[name]["value"] for name in ("CHAIR", "Cover", "Hal", "Cog", "f1")}
    assert values == pytest.approx({"CHAIR": 0.333, "Cover": 1.0, "Hal": 1.0, "Cog": 0.5, "f1": 0.999}, abs=0.0011)
    assert found["AMBER"]["value"] == pytest.approx((1 - values["CHAIR"] + values["f1"]) / 2)
    with pytest.raises(ValueError, match="truth"):
        metrics.get("amber:generative_exact").score("x", (), {"hallu": []})
