"""Configuration files: what is taken, and the one line that says why something is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_runs import TINY

from train.config import Config, StageConfig, as_plain, check_config, differences, read_config, to_yaml

SMALL = """\
sources: {code: {kind: stdlib}}
stages:
  - {name: text, tokens: 1e6, train: {decoder: 1.0}, mixture: {code: 1.0}}
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        read_config(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("tokens: 1e6", "tokns: 1e6", "stages.0.tokns: unknown key; did you mean 'tokens'?"),
        ("sources:", "budget_scal: 1.0\nsources:", "budget_scal: unknown key; did you mean 'budget_scale'?"),
        (
            "sources:",
            "model: {decoder: {num_layer: 2}}\nsources:",
            "model.decoder.num_layer: unknown key; did you mean 'num_layers'?",
        ),
        ("sources:", "optim: {learning_rate: 1.0}\nsources:", "optim.learning_rate: unknown key; "),
        ("sources:", "zzz: 1\nsources:", "zzz: unknown key; valid: stages, sources, model"),
        ("tokens: 1e6", "tokens: many", "stages.0.tokens"),
        ("tokens: 1e6", "tokens: -1e6", "greater than 0, not -1000000.0"),
        ("tokens: 1e6", "tokens: 0", "greater than 0, not 0"),
        ("tokens: 1e6", "tokens: .nan", "stages.0.tokens"),
        ("tokens: 1e6", "tokens: .inf", "stages.0.tokens"),
        ("tokens: 1e6", "tokens: null", "stages.0.tokens"),
        ("tokens: 1e6", "tokens: true", "stages.0.tokens"),
        ("tokens: 1e6, ", "", "stages.0.tokens: required, and missing"),
        ("mixture: {code: 1.0}", "mixture: {}", "stage 'text' has an empty mixture"),
        ("mixture: {code: 1.0}", "mixture: {coda: 1.0}", "source 'coda', which is not in sources; did you mean 'code'?"),
        ("mixture: {code: 1.0}", "mixture: {code: -1.0}", "stages.0.mixture.code"),
        ("train: {decoder: 1.0}", "train: {}", "stage 'text' trains nothing"),
        ("train: {decoder: 1.0}", "train: {decodr: 1.0}", "'decoder'"),
        ("tokens: 1e6", "tokens: 1e6, rows: 2.5", "stages.0.rows"),
        ("tokens: 1e6", "tokens: 1e6, rows: 6, micro_batches: 4", "6 rows cannot be taken in 4 micro_batches"),
        ("tokens: 1e6", "tokens: 1e6, length: 1", "stages.0.length"),
        ("sources:", "run: {seed: x}\nsources:", "run.seed"),
        ("sources:", "run: {precision: fp8}\nsources:", "run.precision"),
        ("sources:", "stages: []\nsources:", "YAML"),
        ("name: text", "name: ../text", "plain names"),
    ],
)
def test_one_line_names_the_place(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in SMALL
    message = refusal(written(tmp_path, SMALL.replace(old, new, 1)))
    assert says in message and "c.yaml" in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "- a\n- list\n",
        "just words",
        "a: [1",
        "\tx: 1",
        "a: 1\na: 2",
        b"\xff\xfe\x00s",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!binary aGVsbG8=",
        "a: ${oc.env:HOME",
        "a: " + 3000 * "[" + 3000 * "]",
        "x: &x [1]\ny: *x",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]",
        "a: 2020-01-01",
        "1: 2",
        "#" * (1 << 20) + "\na: 1",
    ],
)
def test_not_a_configuration(text: str | bytes, tmp_path: Path) -> None:
    assert "c.yaml" in refusal(written(tmp_path, text))


def test_no_such_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.yaml")
    assert "does not exist" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.seed", "--set takes key.path=value, not 'run.seed'"),
        ("=3", "--set takes"),
        ("run.sed=3", "run.sed: unknown key; did you mean 'seed'?"),
        ("run.seed=three", "run.seed"),
        ("run.seed=[1", "--set run.seed=[1: not a YAML value"),
        ("run.seed=*x", "--set run.seed=*x: not a YAML value"),
        ("run.dir=a: b", "--set run.dir=a: b: not a YAML value"),
        ("stages.txt.tokens=1", "there is no stage 'txt'; did you mean 'text'?"),
        ("stages.7.tokens=1", "--set stages.7.tokens=1"),
        ("stages.text.tokens=-1", "greater than 0"),
        ("run.seed.more=1", "run.seed"),
        ("run=5", "run"),
        ("budget_scale=nan", "budget_scale"),
        ("run.dir=${nowhere}", ""),
    ],
)
def test_overrides_that_cannot_be(override: str, says: str, tmp_path: Path) -> None:
    if override == "run.dir=${nowhere}":  # a name like any other: nothing is looked up
        assert read_config(written(tmp_path, SMALL), [override]).run.dir == "${nowhere}"
        return
    assert says in refusal(written(tmp_path, SMALL), override)


def test_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    config = read_config(
        path, ["run.seed=3", "stages.text.tokens=2e12", "stages.0.rows=8", "run.dir=1e5x", "optim.betas=[0.8, 0.9]"]
    )
    assert (config.run.seed, config.stages[0].tokens, config.stages[0].rows) == (3, 2e12, 8)
    assert config.optim.betas == (0.8, 0.9)


@pytest.mark.parametrize("tokens", ["2e12", "2.0e12", "2000000000000", "2_000_000_000_000"])
def test_numbers_in_any_notation(tokens: str, tmp_path: Path) -> None:
    assert read_config(written(tmp_path, SMALL.replace("1e6", tokens))).stages[0].tokens == 2e12


def test_the_printed_configuration_reads_back(tmp_path: Path) -> None:
    config = read_config(TINY)
    assert read_config(written(tmp_path, to_yaml(config))) == config


WORDS = st.sampled_from(
    ["1e5", "on", "null", "~", "2020-01-01", "1_000", "0x1f", "a: b", "#x", "é", "", " ", "'", '"', "-", "???", "1:30"]
)


@settings(max_examples=60, deadline=None)
@given(name=WORDS | st.text(max_size=8), number=st.floats(1e-20, 1e30), seed=st.integers(-(2**62), 2**62))
def test_any_value_reads_back(name: str, number: float, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = read_config(TINY)
    config = dataclasses.replace(
        config,
        data_root=name,
        budget_scale=number,
        run=dataclasses.replace(config.run, seed=seed, dir=name),
        sources=config.sources | {"x": {"kind": name, name: [name, number, None, True]}},
    )
    assert read_config(written(tmp_path_factory.mktemp("c"), to_yaml(config))) == config


def test_differences_are_named_by_stage() -> None:
    config = read_config(TINY)
    old, new = as_plain(config), as_plain(config)
    assert differences(old, new) == []
    new["stages"][1]["rows"] = 99
    new["model"]["decoder"]["dim"] = 64
    new["sources"]["more"] = {}
    assert differences(old, new) == ["stages.align.rows", "sources.more", "model.decoder.dim"]


def test_steps_are_the_scaled_budget() -> None:
    config = check_config(
        {
            "stages": [{"name": "a", "tokens": 2e12, "train": {"decoder": 1}, "mixture": {"s": 1}, "rows": 4, "length": 128}],
            "sources": {"s": {}},
            "budget_scale": 1e-9,
        },
        "here",
    )
    assert isinstance(config, Config) and isinstance(config.stages[0], StageConfig)
    assert config.steps(config.stages[0]) == round(2000 / 512)
