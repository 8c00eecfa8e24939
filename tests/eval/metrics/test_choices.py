"""Parsers of a chosen answer: the official ones case by case and quirk by quirk, and ours, which never guesses."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from eval import metrics

DATA = Path(os.environ.get("VLM_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data not found: set VLM_DATA")

CITIES = {"A": "Paris", "B": "London", "C": "New York", "D": "Rome"}
LABEL = {
    "mmmu_mc_parse": "mmmu",
    "mmmu_open": "mmmu",
    "mmcot_extract_ans": "mmcot",
    "scienceqa_gpt3_extract": "scienceqa_gpt3",
    "scienceqa_lmms": "lmms_scienceqa",
    "mathvista_normalize": "mathvista",
}


def parse(variant: str, prediction: str, references=(), **options):
    return metrics.get(f"multiple_choice:{variant}").score(prediction, references, options)


@needs_data
def test_every_official_case():
    cases = [json.loads(line) for line in (DATA / "conformance/mc_parsing.jsonl").read_text().splitlines()]
    for case in cases:
        wanted = None if case["official_score"] in ("FAILED", "<random choice>") else case["official_score"]
        references = [case["references"]] if isinstance(case["references"], str) else ()
        options = {key: case[key] for key in ("choices", "question_type", "answer_type", "precision") if key in case}
        assert parse(LABEL[case["metric"]], case["prediction"], references, **options) == wanted, case["id"]
    assert len(cases) >= 28


TABLE = """
A|A|1|None|None
(A)|A|0|None|None
A. text|None|1|None|None
a|None|1|None|None
**C**|None|0|None|None
The answer is (B).|B|0|B|None
The answer is A.|A|0|None|A
The answer is A|A|0|None|None
The answer is Apple.|None|0|None|A
A man is standing|A|0|None|None
The answer is B because A is wrong|A|0|None|B
The answer is (A). The answer is (B).|B|0|None|None
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_where_parsers_disagree(line):
    output, *wanted = line.split("|")
    found = [parse("mmmu", output, choices=CITIES), f"{parse('lmms_scienceqa', output, ['A']):.0f}"]
    found += [parse(name, output) for name in ("mmcot", "scienceqa_gpt3")]
    assert [str(one) for one in found] == wanted


def test_mmmu_reads_the_last_mention_and_choice_texts_only_in_long_answers():
    assert parse("mmmu", "(B) or (A) or (B), not (C)", choices=CITIES) == "C"
    assert parse("mmmu", "It could be London but I say Paris", choices=list(CITIES.values())) == "A"
    assert parse("mmmu", "London", choices=CITIES) is None
    assert parse("mmmu", "'A.,", choices=CITIES) == "A"  # marks are taken off one kind after the other
    assert parse("mmmu", "A,.", choices=CITIES) is None
    assert parse("mmmu", "A.'", choices=CITIES) is None
    assert parse("mmmu", "A',", choices=CITIES) == "A"


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("12 apples. So 13", "13", 1),
        ("x = 3.14159", "3.14", 1),
        ("0.5", "1/2", 0),
        ("It is 1,000", "1000", 1),
        ("ab", "b", 0),
        ("a b c", "b", 1),
    ],
)
def test_mmmu_open_questions(output, gold, right):
    assert parse("mmmu", output, [gold]) == right


@pytest.mark.parametrize(
    ("output", "kind", "precision", "wanted"),
    [
        ("3.7", "integer", None, "3"),
        ("$5", "integer", None, None),
        ("inf", "integer", None, None),
        ("1.25", "float", 1, "1.2"),
        ("2.675", "float", 2.0, "2.67"),
        ("2.5", "float", None, "2"),
        ("nan", "float", None, None),
        ("nan", "float", 1, "nan"),
        ("[1, 2]", "list", None, "[1, 2]"),
    ],
)
def test_mathvista_numbers(output, kind, precision, wanted):
    assert parse("mathvista", output, question_type="free_form", answer_type=kind, precision=precision) == wanted


def test_mathvista_takes_the_nearest_choice_and_its_quick_extraction_refuses():
    options = {"choices": ["12", "5"], "question_type": "multi_choice"}
    assert parse("mathvista", "(B) 12", **options) == "5"
    assert parse("mathvista", "b", **options) == "5"  # by edit distance, not by letter
    assert parse("mathvista", "", **options) == "5"
    assert parse("mathvista_quick", "it is twelve", **options) is None
    assert parse("mathvista_quick", 'The answer is "12".', **options) == "12"


ROBUST = r"""
B|B
B|b
B|(b)
B|b)
B|B.
B|**B**
B|[B]
B|'B'
B|（B）
B|Answer: B
B|Answer：Ｂ
B|Ans: B
B|B) London
B|B: London
B|London
B|london.
B|Option B is correct.
B|\\boxed{B}
B|The answer's B
B|The answer is B because A is wrong
B|The answer is not A but B
B|<answer>B</answer>
B|{"answer": "B"}
B|The answer is (B) and not (A)
B|A is wrong. B is the correct answer.
B|I'd go with B
B|So B.
B|Is the answer A? No. The final answer is B.
B|The answer is A. Wait, actually the answer is B.
B|(B) London is right because (A) Paris is in France.
B|Answer: B\n\nThe answer is not A
B|Let me see.\n\nB
A|The answer is A
A|the answer is a
A|A
A|A, because Paris
A|I think Paris is the correct capital
C|The answer is New York.
C|**Answer:** C
C|The correct answer is option C: New York.
C|$\\boxed{\\text{C}}$
None|
None| \n
None|A or B
None|A and B
None|Both A and B are correct
None|The answer is B or C
None|Neither A nor B
None|A man is standing next to a bus
None|the answer is a dog
None|The answer is A man
None|Vitamin C
None|I
None|yes
None|The answer is not A
None|It is not Paris
None|If the answer is A, then we fail
None|Is the answer A?
None|E
None|York
None|B) Paris
None|The answer is B) Paris
None|The answer is A. The answer is C.
None|The answer is B-52
None|A, B, C
None|(A) Paris (B) London (C) New York
None|A) Paris\nB) London
None|A\nB\nC\nD
None|It is New York, not London
None|AB
"""


@pytest.mark.parametrize("line", ROBUST.strip().splitlines())
def test_robust(line):
    letter, output = line.split("|")
    output, wanted = output.replace("\\n", "\n").replace("\\\\", "\\"), None if letter == "None" else letter
    assert parse("robust", output, choices=CITIES) == wanted
    assert parse("robust", output, choices=list(CITIES.values())) == wanted


def test_robust_with_letters_as_texts_and_equal_texts():
    assert parse("robust", "A", choices=["B", "A"]) == "A"
    assert parse("robust", "same", choices=["same", "same"]) is None
    assert parse("robust", "(D)") == "D"
    assert parse("robust", "York", choices=["New York", "York"]) == "B"
    assert parse("robust", "It is New York indeed", choices=["New York", "York"]) == "A"


def test_right_answers_by_letter_or_text_and_what_does_not_parse_is_counted():
    metric = metrics.get("multiple_choice:robust")
    rows = [
        {"prediction": p, "references": [r], "choices": CITIES}
        for p, r in (("B", "B"), ("B", "London"), ("B", "A"), ("?", "A"))
    ]
    found = metric.summarize([{**row, "score": metric.score(row["prediction"], row["references"], row)} for row in rows])
    assert found["multiple_choice"]["value"] == 0.5
    assert found["unparsed"]["count"] == 1


def test_columns_of_scienceqa():
    metric = metrics.get("multiple_choice:mmcot")
    about = [
        ("natural science", "grade2", "", True),
        ("social science", "grade7", "a hint", True),
        ("language science", "grade12", "", False),
    ]
    rows = [
        {"references": ["A"], "score": score, "subject": subject, "grade": grade, "hint": hint, "has_image": image}
        for score, (subject, grade, hint, image) in zip(("A", "B", None), about, strict=True)
    ]
    columns = {name: (figure["value"], figure["n"]) for name, figure in metric.summarize(rows)["scienceqa"].items()}
    third = pytest.approx(1 / 3)
    assert columns == {
        "NAT": (1, 1), "SOC": (0, 1), "LAN": (0, 1), "TXT": (0, 1), "IMG": (0.5, 2), "NO": (0, 1),
        "G1-6": (1, 1), "G7-12": (0, 2), "Avg": (third, 3)
    }  # fmt: skip
    assert "scienceqa" not in metric.summarize([*rows, {"references": ["A"], "score": "A"}])


@pytest.mark.parametrize("choices", [3, "ABC", [1], {"A": None}, {"": "x"}, ["x"] * 27])
def test_unusable_choices_are_the_users_mistake(choices):
    with pytest.raises(ValueError, match="choices"):
        parse("robust", "A", choices=choices)


def test_any_text_parses_or_not_without_an_exception_and_in_bounded_time():
    rng = random.Random(0)
    pieces = [
        "A",
        "(C)",
        "D)",
        "the answer is ",
        "\n",
        " ",
        "not ",
        "**",
        "\\boxed{",
        "Paris",
        "is correct",
        "wait",
        "<answer>",
        "or",
        "١",
        "\x00",
        "1e9",
        "inf",
    ]
    options = {"choices": CITIES, "question_type": "multi_choice"}
    for _ in range(1000):
        text = "".join(rng.choices(pieces, k=rng.randrange(40)))
        assert parse("robust", text, **options) in (None, *CITIES)
        for variant in ("mmmu", "mmcot", "scienceqa_gpt3", "mathvista", "mathvista_quick"):
            parse(variant, text, ["A"], **options)
        assert parse("mmmu", text, ["x"]) in (0, 1)
    started = time.perf_counter()
    for piece in pieces:
        parse("robust", piece * (100_000 // len(piece)), **options)
        parse("mmmu", piece * (100_000 // len(piece)), ["7"])
    assert time.perf_counter() - started < 30
