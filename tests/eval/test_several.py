"""Several arms and several seeds: the same items, compared pair by pair."""

from __future__ import annotations

import json
import sys

import pytest

import vlm
from eval.arms import make
from eval.evaluate import evaluate
from eval.fewshot import Pool, RandomSupport
from eval.models import Completion
from eval.run import main
from eval.several import run_several, several_lines, spread
from eval.summarize import summary_lines
from eval.tasks import Item, Task
from tests.eval.arms.scripted import shown

TASK = Task("mine", lambda data, split: [], "relaxed_accuracy", max_new_tokens=4)
ITEMS = [Item(f"q{i}", f"What is {i} plus 1?", (str(i + 1),), group=f"g{i}") for i in range(40)]


class Knowing:
    """Right when it reasons; directly, right every other time, but always with an example that says 7."""

    def fingerprint(self):
        return "knowing"

    def length(self, sample):
        return 10

    def complete(self, requests):
        return [[Completion(self.answer(shown(r.sample)), tokens=(1, 2))] * r.num_samples for r in requests]

    def answer(self, text):
        number = int(text.rpartition("What is ")[2].split()[0])
        if text.endswith("Reason:"):
            return f" it is {number + 1}\nAnswer: {number + 1}" if number else " I do not know"
        return f" {number + 1 if number % 2 or '[ 7]' in text else -1}"


def run(tmp_path, arms, items=ITEMS):
    return run_several(lambda arm, out: evaluate(Knowing(), TASK, items, out, arm=arm), arms, tmp_path)


def test_each_arm_is_compared_with_the_first(tmp_path):
    summary = run(tmp_path, {cot: {0: make(TASK, cot)} for cot in ("none", "single", "self_consistency")})
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    arms = summary["arms"]
    assert [arms[cot]["relaxed_accuracy"]["value"] for cot in arms] == [0.5, 0.975, 0.975]
    assert [arms[cot]["unparsed"]["value"] for cot in arms] == [0.0, 0.025, 0.025]
    versus = arms["single"]["against_none"]
    assert versus["difference"]["value"] == pytest.approx(0.475) and versus["difference"]["interval"][0] > 0.2
    assert (versus["only_a_right"], versus["only_b_right"], versus["left_out"]) == (19, 0, 0)
    assert versus["mcnemar_p"] == pytest.approx(2 * 0.5**19)
    assert arms["self_consistency"]["oracle_at_10"]["value"] == 0.975
    assert (tmp_path / "two_stage").exists() is False and (tmp_path / "single" / "records.jsonl").exists()
    assert any("McNemar p" in line for line in several_lines(summary, summary_lines))


def test_items_of_an_earlier_longer_run_are_not_compared(tmp_path):
    arms = {cot: {0: make(TASK, cot)} for cot in ("none", "single")}
    longer = run(tmp_path, arms)
    shorter = run(tmp_path, arms, ITEMS[:10])["arms"]["single"]
    assert shorter["relaxed_accuracy"]["n"] == shorter["against_none"]["difference"]["n"] == 10
    assert run(tmp_path, arms) == longer


def test_one_arm_is_an_evaluation_as_ever(tmp_path):
    summary = run(tmp_path, {"none": {0: make(TASK)}})
    assert summary["relaxed_accuracy"]["value"] == 0.5 and (tmp_path / "records.jsonl").exists()
    assert several_lines(summary, summary_lines) == summary_lines(summary)


def test_seeds_have_a_mean_and_a_spread(tmp_path):
    pool = Pool(tuple(Item(f"s{i}", "?", ("7" if i == 0 else "8",)) for i in range(4)), {})
    arms = {seed: make(TASK, support=RandomSupport(pool, 1, seed)) for seed in (0, 1, 2)}
    summary = run(tmp_path, {"none": arms})
    figure = summary["support_seeds"]["relaxed_accuracy"]
    each = list(figure["seeds"].values())
    assert figure["value"] == pytest.approx(sum(each) / 3) and figure["spread"] > 0 and list(figure["seeds"]) == ["0", "1", "2"]
    assert (tmp_path / "support-seed-2" / "records.jsonl").exists()
    assert "over 3 seeds" in "\n".join(several_lines(summary, summary_lines))


def test_spread_is_the_sample_standard_deviation():
    figure = {"interval": None, "n": 5, "variant": "v"}
    found = spread(
        {s: {"a": {**figure, "value": v}, "task": "x", "b": {**figure, "value": None}} for s, v in ((0, 0.2), (1, 0.6))}
    )
    assert found == {
        "a": {"value": 0.4, "spread": pytest.approx(0.08**0.5), "n": 5, "variant": "v", "seeds": {"0": 0.2, "1": 0.6}}
    }


@pytest.fixture
def command(model_and_processor, tmp_path, monkeypatch, capsys):
    """`eval.run` on a model of ours: its output; mistakes are raised."""
    vlm.save(tmp_path / "run" / "model", *model_and_processor)

    def run_command(*flags: str) -> str:
        base = ["eval.run", "--checkpoint", str(tmp_path / "run"), "--task", "charts", "--limit", "8"]
        monkeypatch.setattr(sys, "argv", [*base, *flags])
        main()
        return capsys.readouterr().out

    return run_command


def test_the_command_runs_arms_with_similar_examples(command, tmp_path):
    flags = (
        "--cot",
        "none,calculator",
        "--shots",
        "2",
        "--support",
        "rices",
        "--support-pool",
        "12",
        "--rationale-tokens",
        "8",
    )
    said = command(*flags, "--out", str(tmp_path / "out"))
    assert "12 examples, 12 with a rationale" in said and "McNemar p" in said
    arms = json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]
    assert arms["none"]["shots"] == 2 and arms["calculator"]["support"] == "rices" and "against_none" in arms["calculator"]
    assert len(list((tmp_path / "run" / "eval").glob("features-*.safetensors"))) == 1
    command(*flags, "--out", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["arms"] == arms


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--convention", "own2"), "did you mean 'own'"),
        (("--support-seeds", "3"), "--support-seeds 3 needs --shots"),
        (("--samples", "3"), "--samples 3 is for --cot self_consistency"),
        (("--shots", "99"), "--shots 99"),
        (("--shots", "2", "--support", "rices", "--support-encoder", "x"), "--support-encoder 'x'"),
        (("--shots", "2", "--support", "rices", "--support-seeds", "2", "--support-pool", "0"), "every seed shows the same"),
    ],
)
def test_mistakes_are_one_line(command, flags, said):
    with pytest.raises(ValueError, match=said):
        command(*flags)


def test_an_unknown_arm_is_told_with_the_nearest(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        command("--cot", "none,two_stages")
    assert "unknown arm 'two_stages': did you mean 'two_stage'" in capsys.readouterr().err
