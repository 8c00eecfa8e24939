"""The context grows by stage: rotary positions change where a stage says so, and training, resuming and loading agree on it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from train_runs import ROOT, SHORT, config, launch, same_results, stop_at, train

import vlm
from datasets.shards import ShardWriter
from train import fit as command
from train.config import read_config
from train.start import first_model, set_context
from vlm.config import RopeScaling
from vlm.sample import Sample, Text

LONG = str(ROOT / "configs" / "long.yaml")
SCALING = RopeScaling(kind="yarn", factor=4.0, original_length=64)
TINY_MODEL = [
    "model.encoder={name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, width: 32, depth: 1, num_heads: 2}",
    "model.resampler={dim: 32, num_latents: 4, depth: 1, num_heads: 2, ffn_dim: 64}",
    "model.fusion={every: 2, num_heads: 2, head_dim: 16, ffn_dim: 64}",
    "model.decoder={vocab_size: 512, dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, num_experts: 4, expert_dim: 32}",
    "sources.code.bytes=50000",
    "stages.short.length=64",
    "stages.long.length=256",
    "stages.long.rope_scaling.original_length=64",
    "stages.short.tokens=0.003e12",
    "stages.long.tokens=0.003e12",
    "budget_scale=1.0e-6",
    "run.threads=1",
]


def shrunk(folder: Path) -> list[str]:
    return [*SHORT, *TINY_MODEL, f"data_root={folder / 'data'}", f"run.dir={folder / 'run'}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "data").mkdir()
    with ShardWriter(folder / "data" / "text", "train") as writer:
        for i in range(40):
            text = Text(f"Chapter {i}. " + "It was a long day, and the road went on. " * 20)
            writer.write(Sample((text,), key=f"d{i}", source="train"))
    return command.fit(read_config(LONG, shrunk(folder)))


def test_the_recipe_as_shipped_goes_from_8k_to_32k() -> None:
    short, long = read_config(LONG).stages
    assert (short.length, long.length) == (8192, 32768) and short.rope_scaling is None
    assert long.rope_scaling == RopeScaling(kind="yarn", factor=4.0, original_length=8192)


def test_the_saved_model_has_the_last_stages_positions(whole: Path) -> None:
    saved = json.loads((whole / "model" / "config.json").read_text())["model"]["decoder"]["rope_scaling"]
    model, _ = vlm.load(whole)
    assert saved["kind"] == "yarn" and model.config.decoder.rope_scaling == model.decoder.config.rope_scaling == SCALING
    tokens = torch.arange(200)[None]
    stretched = model.decoder(tokens)
    model.decoder.config = read_config(LONG, shrunk(whole.parent)).model.decoder
    assert not torch.allclose(model.decoder(tokens), stretched)


@pytest.mark.parametrize(("stage", "step"), [("short", 3), ("long", 3)])
def test_resumed_is_uninterrupted_also_across_the_change(stage: str, step: int, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole.parent / "data", tmp_path / "data")
    argv = [LONG, "--set", *shrunk(tmp_path), "run.checkpoint_every=2"]
    assert stop_at(launch(argv, tmp_path / "log"), tmp_path / "run", stage, step) == -signal.SIGKILL
    assert not (tmp_path / "run" / "model").exists() or stage == "long"
    process = launch(argv, tmp_path / "log")
    process.join(60)
    assert process.exitcode == 0 and same_results(whole, tmp_path / "run")


def test_a_stage_without_positions_keeps_those_of_the_one_before(tmp_path: Path) -> None:
    more = ["stages.text.rope_theta=50000.0", "stages.align.rope_scaling={kind: linear, factor: 2.0}"]
    settings = config(tmp_path, *more)
    model = first_model(settings, None)
    seen = []
    for count in (1, 2, 3):
        set_context(model, settings.stages[:count])
        seen.append((model.config.decoder.rope_theta, model.config.decoder.rope_scaling))
    linear = RopeScaling(kind="linear", factor=2.0)
    assert seen == [(50000.0, None), (50000.0, linear), (50000.0, linear)]


def test_a_new_base_changes_what_is_learnt(tmp_path: Path) -> None:
    small = "budget_scale=0.15e-6"
    plain, run = train(tmp_path / "plain", small), train(tmp_path / "run", small, "stages.tune.rope_theta=500.0")
    assert vlm.load(run)[0].decoder.config.rope_theta == 500.0
    curves = [(p / "metrics.csv").read_text() for p in (plain, run)]
    before = [[line for line in text.splitlines() if not line.startswith("tune")] for text in curves]
    assert before[0] == before[1] and curves[0] != curves[1]


def test_a_misspelt_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"rope_scaling\.factr: unknown key; did you mean 'factor'"):
        read_config(LONG, ["stages.long.rope_scaling.factr=2.0"])
    with pytest.raises(ValueError, match="needs original_length"):
        read_config(LONG, ["stages.long.rope_scaling={kind: yarn, factor: 2.0}"])
