"""Rates and starts by width: what the papers say of each kind of weight, and nothing at the base width."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from train_runs import ROOT, TINY, train

from train.config import OptimConfig, read_config
from train.fit import main
from train.optim.at_width import at_width
from train.optim.build import build_optimizer
from train.optim.matrices import matrices
from train.optim.width import start_at_width
from train.start import check_run
from vlm.command import status
from vlm.meta import on_meta
from vlm.model import GROUPS, VLM

BASE, WIDE = 32, 64
CONFIG = read_config(TINY).model


@pytest.fixture(scope="module")
def wide() -> VLM:
    with on_meta():
        return VLM(at_width(CONFIG, WIDE))


def rates(model: VLM, kind: str) -> dict[str, tuple[float, float]]:
    """Name → rate over `lr`, and its product with the decay over theirs."""
    config = OptimConfig(kind=kind, base_width=BASE, weight_decay=0.1)
    optimizer = build_optimizer(model, dict.fromkeys(GROUPS, 1.0), config, 1e-2)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"] / 1e-2, group["lr"] * group["weight_decay"] / 1e-3)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found.keys() == set(names.values())
    return found


OF_BOTH = {
    "decoder.embedding.weight": 1, "decoder.norm.weight": 1 / 2, "decoder.layers.0.moe.router.weight": 1 / 2,
    "decoder.layers.0.moe_norm.weight": 1, "fusion.0.attention_gate": 1, "resampler.latents": 1, "resampler.time": 1,
    "encoder.model.pos_embed": 1, "encoder.model.blocks.0.attn.qkv.bias": 1,
}  # fmt: skip
HIDDEN = (
    "decoder.layers.1.attention.query.weight", "decoder.layers.1.attention.key.weight", "decoder.layers.0.attention.out.weight",
    "decoder.layers.0.moe.experts.gate_up", "decoder.layers.0.moe.experts.down", "fusion.0.key_value.weight",
    "fusion.0.ffn.1.weight", "resampler.layers.0.ffn.3.weight", "encoder.model.blocks.0.attn.qkv.weight",
    "encoder.model.blocks.0.mlp.fc2.weight",
)  # fmt: skip
KERNEL = "encoder.model.patch_embed.proj.weight"  # [D, 3, 8, 8]: its fan-in, 192, is the longer side at both widths


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_rates_at_twice_the_width(kind: str, wide: VLM) -> None:
    found = rates(wide, kind)
    hidden = {"adamw": 1 / 2, "muon": 2**-0.5}[kind]
    kernel = {"adamw": 1.0, "muon": 2**0.5}[kind]
    expected = OF_BOTH | dict.fromkeys(HIDDEN, hidden) | {KERNEL: kernel}
    assert {name: found[name][0] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_decays_a_weight_as_at_the_base_width(kind: str, wide: VLM) -> None:
    found = rates(wide, kind)
    assert {round(decay, 9) for _, decay in found.values()} == {0, 1}
    assert found["decoder.norm.weight"][1] == found["decoder.embedding.weight"][1] == 0


def test_muons_updates_have_the_spectral_norm_of_the_condition() -> None:
    """√(fan_out / fan_in) times one number at every width, where an orthogonal matrix times `scale` has `scale`."""
    sizes: dict[str, list[float]] = {}
    for width in (32, 64, 128):
        with on_meta():
            model = VLM(at_width(CONFIG, width))
        names, rate = {id(p): name for name, p in model.named_parameters()}, rates(model, "muon")
        taken = (m for part in GROUPS for m in matrices(model.group(part)))
        for m in taken:
            name, (fan_in, fan_out) = names[id(m.weight)], m.fans
            if "pos_embed" not in name and "time" not in name and "latents" not in name:
                sizes.setdefault(name, []).append(rate[name][0] * m.scale / (fan_out / fan_in) ** 0.5)
    assert len(sizes) > 20
    for name, size in sizes.items():
        assert size == pytest.approx([size[0]] * 3), name


def test_factors_have_few_groups_with_plain_names(wide: VLM) -> None:
    groups = build_optimizer(wide, dict.fromkeys(GROUPS, 1.0), OptimConfig(base_width=BASE), 1e-2).param_groups
    names = [group["name"] for group in groups]
    assert names[-3:] == ["decoder/x0.5/decay", "decoder/plain", "decoder/x0.5/plain"] and len(set(names)) == len(names) <= 10


def test_starts_at_twice_the_width() -> None:
    plain, started = (VLM(at_width(CONFIG, WIDE)) for _ in range(2))
    started.load_state_dict(plain.state_dict())
    start_at_width(started, BASE)
    factors = {"decoder.embedding.weight": 2**0.5, "decoder.norm.weight": 0.5}
    factors |= {f"decoder.layers.{i}.moe.router.weight": 0.5**0.5 for i in range(2)}
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(started.get_parameter(name), weight * factors.get(name, 1.0))
    assert started.decoder.embedding.weight.std().item() == pytest.approx(BASE**-0.5, rel=0.02)


def test_an_untied_head_starts_as_the_table() -> None:
    wide = at_width(CONFIG, WIDE)
    model = VLM(dataclasses.replace(wide, decoder=dataclasses.replace(wide.decoder, tie_embeddings=False)))
    start_at_width(model, BASE)
    for table in (model.decoder.embedding.weight, model.decoder.head_weight):
        assert table.std().item() == pytest.approx(BASE**-0.5, rel=0.02)
    assert rates(model, "adamw")["decoder.head.weight"][0] == 1


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_at_the_base_width_nothing_is_different(kind: str, tmp_path: Path) -> None:
    short = ("budget_scale=0.1e-6", f"optim.kind={kind}")
    runs = [train(tmp_path / "without", *short), train(tmp_path / "with", *short, f"optim.base_width={BASE}")]
    for file in ("model/model.safetensors", "metrics.csv"):
        assert len({(run / file).read_bytes() for run in runs}) == 1


def test_a_wider_run_has_its_rates_and_resumes(tmp_path: Path) -> None:
    short = ("budget_scale=0.1e-6", "optim.base_width=16", "optim.kind=muon")
    run = train(tmp_path / "run", *short)
    assert ",lr/decoder/x0.5/plain," in (run / "metrics.csv").read_text()
    before = (run / "model" / "model.safetensors").read_bytes()
    for checkpoint in (run / "checkpoints" / "2-tune").glob("step-*"):
        checkpoint.rename(tmp_path / checkpoint.name)
    train(run, *short)
    assert (run / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")))
def test_every_shipped_model_has_other_widths(name: str) -> None:
    config = read_config(ROOT / "configs" / f"{name}.yaml").model
    assert at_width(config, config.decoder.dim) is config
    for width in (64, 128, 256, 512, 1024):
        model = at_width(config, width)
        assert model.decoder.dim == width and model.decoder.head_size == config.decoder.head_size
        with on_meta():
            VLM(model)


@pytest.mark.parametrize(("value", "message"), [("0", "optim.base_width: input"), ("40", "optim.base_width: width 40")])
def test_a_base_width_that_cannot_be_is_one_line(value: str, message: str, tmp_path: Path, capsys) -> None:
    assert status(lambda: main([TINY, "--set", f"optim.base_width={value}", f"run.dir={tmp_path / 'run'}"])) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_widths_between_heads_are_refused() -> None:
    for width in itertools.chain(range(1, 16), (17, 24, 40, 63)):
        with pytest.raises(ValueError, match=f"width {width} is not a whole number of the decoder's"):
            at_width(CONFIG, width)


def test_a_base_with_other_weights_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    encoder = "{library: timm, name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, depth: 1}"
    sets = [f"model.encoder={encoder}", "model.resampler.dim=384", "optim.base_width=16", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=r"optim.base_width: at width 16 .* not have the same weights"):
        check_run(read_config(TINY, sets))
