"""Scorers of answers: their quirks, and that no text makes them fail or take long."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import metrics
from eval.metrics import anls, vqa

ANSWERS = ("relaxed_accuracy", "vqa_accuracy", "anls", "pope", "exact_match", "token_f1")
LABELS = [f"{name}:{variant}" for name in ANSWERS for variant in metrics.METRICS[name]]


@pytest.mark.parametrize(
    ("prediction", "references", "official", "evalai"),
    [("Yes", ["yes"] * 10, 0, 1), ("2", ["two"] * 10, 0, 1), ("the dog", ["dog"] * 10, 0, 1),
     ("Yes", ["yes"] * 9 + ["no"], 1, 1), ("none", ["0"] * 9 + ["zero"], 1, 1),
     ("black,white", ["black white"] * 9 + ["b"], 1, 0),
     ("what's up", ["whats up"] * 9 + ["x"], 1, 0), ("he's", ["hes"] * 9 + ["x"], 1, 0), ("1,000", ["1000"] * 9 + ["x"], 1, 1),
     ("t-shirt", ["tshirt"] * 9 + ["t shirt"], 0.3, 0.3), ("tee -shirt", ["tee shirt"] * 9 + ["x"], 1, 1),
     ("$1,000.50", ["1000.50"] * 9 + ["x"], 0, 0), ("5.0", ["5"] * 9 + ["5.0"], 0.3, 0.3), ("a", ["a"] * 9 + ["b"], 1, 1),
     ("9:30", ["9 30"] * 9 + ["x"], 0, 0), ("." * 40 + "a b", ["b"] * 9 + ["x"], 0, 0), ("its", ["it's"] * 9 + ["x"], 0, 0),
     ("Im", ["i'm"] * 9 + ["x"], 0, 0), ("٣", ["٣"] * 9 + ["x"], 1, 1), ("a\nb", ["a\tb"] * 10, 1, 1)],
)  # fmt: skip
def test_vqa_accuracy_where_scripts_disagree(prediction, references, official, evalai):
    assert metrics.get("vqa_accuracy:official").score(prediction, references, {}) == pytest.approx(official)
    assert metrics.get("vqa_accuracy:evalai").score(prediction, references, {}) == pytest.approx(evalai)


def test_vqa_periods_go_up_to_the_32nd_and_before_no_digit():
    assert vqa.normalize("." * 31 + "x.y.5") == "xy.5"
    assert vqa.normalize("." * 32 + "x.y") == "x.y"


@given(st.text(alphabet="a,.;-?!'5 \t\n/٣ÀÉ", max_size=80))
def test_cached_and_uncached_normalization_agree(text):
    assert vqa.normalize(text) == vqa._normalize(text) and vqa.normalize_evalai(text) == vqa._normalize_evalai(text)


@given(st.lists(st.sampled_from(["cat", "dog", "Cat", "a cat"]), min_size=1, max_size=12), st.sampled_from(["cat", "dog", "x"]))
def test_vqa_accuracy_is_the_mean_over_leaving_one_out(references, prediction):
    gold = [vqa.normalize_evalai(text) for text in references]
    others = [gold[:i] + gold[i + 1 :] for i in range(len(gold))]
    mean = sum(min(1, rest.count(prediction) / 3) for rest in others) / len(gold)
    assert metrics.get("vqa_accuracy:evalai").score(prediction, references, {}) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("prediction", "reference", "rrc", "pix2struct"),
    [("ab", "ac", 0.5, 0), (" hello  world ", "hello world", 1, 1 - 3 / 14), ("", "", 1, None), ("ß", "s", 0.5, 0),
     ("kitten", "sitting", 4 / 7, 4 / 7), ("abcde", "abxyz", 0, 0), ("  ", "", 1, 0), ("a" * 300_000, "b", 0, 0),
     ("A\u00a0b", "a b", 1, 2 / 3)],
)  # fmt: skip
def test_anls_edges(prediction, reference, rrc, pix2struct):
    assert metrics.get("anls").score(prediction, [reference], {}) == pytest.approx(rrc)
    found = metrics.get("anls:pix2struct").score(prediction, [reference], {})
    assert found == (None if pix2struct is None else pytest.approx(pix2struct))


@settings(max_examples=300)
@given(st.text("abß İ", max_size=12), st.lists(st.text("abß İ", max_size=12), min_size=1, max_size=3))
def test_anls_is_the_definition(prediction, references):
    def one(gold):
        words, wanted = (" ".join(text.lower().split()) for text in (prediction, gold))
        length = max(len(prediction.upper()), len(gold.upper()))
        row = list(range(len(wanted) + 1))
        for i, a in enumerate(words, 1):
            before, row[0] = row[0], i
            for j, b in enumerate(wanted, 1):
                before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
        return 1 - (row[-1] / length if length else 0)

    best = max(map(one, references))
    assert metrics.get("anls").score(prediction, references, {}) == pytest.approx(best if best >= 0.5 else 0)


def test_long_answers_take_bounded_time_and_endless_ones_are_said():
    rng = random.Random(0)
    one, two = ("".join(rng.choices("abcdefgh", k=100_000)) for _ in range(2))
    start = time.process_time()
    anls.rrc(one, [two], {})
    assert time.process_time() - start < 5
    with pytest.raises(ValueError, match="too long to compare"):
        anls.rrc("ab" * 200_000, ["ba" * 200_000], {})


@pytest.mark.parametrize(
    ("answer", "official", "lmms"),
    [("NO", "yes", "no"), ("No,sir", "yes", None), ("no!", "yes", None), ("", "yes", None), (".no", "yes", None),
     ("Yes. There is no cat.", "yes", None), ("There is not a dog.", "no", None), ("not", "no", None), ("1. No", "yes", None),
     ("Yes, but not in the foreground", "no", None), (" Yes\n", "yes", "yes"), ("cannot", "yes", None)],
)  # fmt: skip
def test_pope_parsers(answer, official, lmms):
    assert metrics.get("pope").score(answer, (), {}) == official
    assert metrics.get("pope:lmms_eval").score(answer, (), {}) == lmms


def scored(label: str, rows: list[tuple[str, str]], **options) -> list[dict]:
    metric = metrics.get(label)
    return [{"prediction": p, "references": g, **options, "score": metric.score(p, (g,), {})} for p, g in rows]


def test_pope_ratios_that_are_undefined_are_null_in_the_official_way_and_zero_in_the_other():
    nobody = [("no", "yes"), ("no", "no")]
    figures = metrics.get("pope").summarize(scored("pope", nobody))
    assert [figures[name]["value"] for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [
        0.5,
        None,
        0,
        None,
        0,
    ]
    figures = metrics.get("pope:lmms_eval").summarize(scored("pope:lmms_eval", nobody))
    assert [figures[name]["value"] for name in ("precision", "recall", "f1", "yes_ratio")] == [0, 0, 0, 0.5]


def test_pope_counts_what_does_not_parse_as_wrong_and_says_how_many():
    rows = scored("pope:lmms_eval", [("yes", "yes"), ("perhaps", "yes"), ("no", "no"), ("No.", "no")])
    figures = metrics.get("pope:lmms_eval").summarize(rows)
    assert figures["accuracy"]["value"] == 0.5 and figures["unparsed"]["count"] == 2
    assert (figures["precision"]["value"], figures["recall"]["value"]) == (1, 1)
    assert all(figure["variant"] == "lmms_eval" for figure in figures.values())


def test_pope_answers_without_gold_have_a_yes_share_only():
    metric = metrics.get("pope")
    figures = metric.summarize([{"prediction": p, "references": None, "score": p} for p in ("yes", "no", "yes", "yes")])
    assert figures.keys() == {"yes_ratio", "unparsed"} and figures["yes_ratio"]["value"] == 0.75


def test_pope_names_a_gold_answer_that_is_neither():
    with pytest.raises(ValueError, match="'yes' or 'no', not 'maybe'"):
        metrics.get("pope").parts.score_list(["yes"], ["maybe"], {})


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "score"),
    [("[2010, 2013]", "[2010, 2012]", {"year_flags": ["YES", "YES"]}, 0.5),
     ("[2010, 2013]", "[2010, 2012]", {"year_flags": "YES"}, 0.5),
     ("[1, 2, 3]", "[1, 2]", {}, 2 / 3), ("['a', 'b']", "['a', 'b']", {}, 1), ("5%", "5", {}, 1),
     ("B", "b", {"question_type": "Multi Choice"}, 1), ("104", "100", {"question_type": "Fact Checking"}, 0),
     ("[]", "[]", {}, 1), ("0", "0.0", {}, 1), ("3)", "3", {}, 0), ("3))", "3)", {}, 2 / 3), ("a   b c", "a b", {}, 0.6),
     ("5. \n", "5", {"year_flags": "YES"}, 1)],
)  # fmt: skip
def test_chartqapro(prediction, reference, options, score):
    assert metrics.get("relaxed_accuracy:chartqapro").score(prediction, [reference], options) == pytest.approx(score)


@pytest.mark.parametrize(
    "text",
    ["[" * 300 + "]" * 300, "[" + "-" * 9000 + "1]", "[" + "1+" * 4000 + "1]", f"[0x{'f' * 9000}]", "[\ud800]", "[\x00]",
     "[{[]: 1}]", "9" * 1_000_000, "1e" + "9" * 100_000, "%" * 1_000_000, "answer" + "*" * 100_000, "." * 1_000_000,
     "a,1" * 100_000],
)  # fmt: skip
def test_hostile_texts_take_bounded_time_in_every_scorer(text):
    for label in LABELS:
        start = time.process_time()
        metrics.get(label).score(text, [text, "yes"], {})
        assert time.process_time() - start < 2, label


def test_ten_thousand_fuzzed_texts_never_raise():
    rng = random.Random(1)
    pieces = [
        "%",
        ",",
        "$",
        "[",
        "]",
        "'",
        '"',
        "{",
        "(",
        "\\",
        "\n",
        "\t",
        " ",
        ".",
        "1e999",
        "nan",
        "-inf",
        "0x",
        "1_0",
        "٣",
        "²",
    ]
    pieces += ["\ud800", "\x00", "İ", "ß", "a", "the", "no", "yes", "answer:", "**", "0.0", "é", "🙂", "\u2028", "don't"]
    scorers = [metrics.get(label).score for label in LABELS]
    for _ in range(10_000):
        prediction, *gold = ("".join(rng.choices(pieces, k=rng.randint(0, 8))) for _ in range(3))
        for score in scorers:
            value = score(prediction, gold, {})
            assert value is None or isinstance(value, str) or 0 <= value <= 1


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [("Yes.", "Yes", 1), ("Yes", "Yes.", 0), ("U.S.", "U.S.", 0), ("abc ", "abc", 0), ("abc%", "abc", 1), ('"Yes"', "yes", 1),
     ('"Yes', "yes", 0), ("'a\"", "a", 0), ("yes", "'yes'", 1), ('"', "", 1), ("5)", "5", 1), ("50 %).", "50%", 1),
     ("2010-2011. ", "2010-2011", 1), ('"5"', "5", 0), ("[1, 2", "[1, 2]", 1), ("Apple", "A", 1),
     ("(A)", "A", 0), ("", "A", 0)],
)  # fmt: skip
def test_lm_eval_cleans_texts_and_numbers_each_in_its_way(prediction, reference, score):
    assert metrics.get("relaxed_accuracy:lm_eval").score(prediction, [reference], {}) == score


@pytest.mark.parametrize(
    ("label", "prediction", "reference", "score"),
    [("token_f1", "The cat sat", "a cat", 2 / 3), ("token_f1", "the", "a", 0), ("token_f1:squad2", "the", "a", 1),
     ("token_f1", "U.S.", "us", 1), ("exact_match:squad", "The U.S.", "us", 1), ("exact_match:lmms_eval", "Red!", "red", 1),
     ("exact_match:lmms_eval", " red", "red", 0), ("relaxed_accuracy:qwen_vl", " 95 ", "100", 0),
     ("relaxed_accuracy:vlmevalkit", " 95 ", "100", 1),
     ("relaxed_accuracy:lm_eval_explicit_prompt", "so\n**Answer:** *5*", "5", 1),
     ("relaxed_accuracy:lm_eval_explicit_prompt", "5", "5", 0), ("vqa_accuracy:aokvqa", "cat", "cat", 1 / 3),
     ("vqa_accuracy:lmms_eval_vqav2", "Yes", "yes", 0)],
)  # fmt: skip
def test_other_variants(label, prediction, reference, score):
    assert metrics.get(label).score(prediction, [reference], {}) == pytest.approx(score)


def test_means_leave_out_what_has_no_score_and_count_it():
    rows = [{"prediction": "", "references": "", "score": None}, {"prediction": "a", "references": "a", "score": 1.0}]
    figures = metrics.get("anls:pix2struct").summarize(rows)
    assert figures["anls"]["value"] == 1 and figures["anls"]["n"] == 1 and figures["unparsed"]["count"] == 1


def test_means_of_several_figures_have_their_names():
    rows = [{"score": {"f1": 1.0, "recall": None}}, {"score": {"f1": 0.0, "recall": 0.5}}, {"score": {"f1": 0.5}}]
    figures = metrics.get("token_f1").summarize(rows)
    assert figures["f1"]["value"] == 0.5 and figures["recall"]["value"] == 0.5 and figures["recall"]["n"] == 1


@pytest.mark.parametrize("row", [{"references": None, "label": "5"}, {"label": None, "answers": ["5"]}, {"references": "5"}])
def test_references_are_the_first_accepted_name_that_is_not_null(row):
    assert metrics.references(row) == ["5"]
