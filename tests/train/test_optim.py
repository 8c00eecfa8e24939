"""Which parameter is in which group, and what rate it gets."""

from __future__ import annotations

import pytest
import torch
from train_runs import TINY

from train.config import OptimConfig, ScheduleConfig, read_config
from train.optim.build import build_optimizer, build_schedule
from train.optim.groups import freeze, parameter_groups
from train.optim.schedule import schedule_factor
from vlm.model import GROUPS, VLM


@pytest.fixture(scope="module")
def model() -> VLM:
    return VLM(read_config(TINY).model)


def test_every_parameter_that_learns_is_in_one_group(model: VLM) -> None:
    train = dict.fromkeys(GROUPS, 1.0)
    freeze(model, train)
    grouped = [id(p) for group in parameter_groups(model, train, 1.0, 0.1) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_only_named_parts_learn(model: VLM) -> None:
    freeze(model, {"fusion": 1.0})
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"fusion"}
    assert {g["name"] for g in parameter_groups(model, {"fusion": 2.0}, 0.1, 0.1)} == {"fusion/decay", "fusion/plain"}
    assert {g["lr"] for g in parameter_groups(model, {"fusion": 2.0}, 0.1, 0.1)} == {0.2}


def test_vectors_gates_and_tables_do_not_decay(model: VLM) -> None:
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, dict.fromkeys(GROUPS, 1.0), 1.0, 0.1)
    decays = {names[id(p)]: group["weight_decay"] > 0 for group in groups for p in group["params"]}
    for name, decay in decays.items():
        table = any(
            part in name for part in ("embedding", "latents", "pos_embed", "cls_token", "gate_", "_gate", ".time", "norm")
        )
        if name.endswith("bias") or (table and "gate_up" not in name) or name == "resampler.time":
            assert not decay, name
    for name in ("decoder.layers.0.moe.experts.down", "resampler.layers.0.query.weight"):
        assert decays.get(name, True), name
    assert any(decays.values())


def test_biases_of_experts_do_not_decay() -> None:
    model = VLM(read_config(TINY, ["model.decoder.ffn_bias=true", "model.decoder.shared_dim=8"]).model)
    decay, plain = parameter_groups(model, {"decoder": 1.0}, 1.0, 0.1)
    moe = model.decoder.layers[0].moe
    for experts in (moe.experts, moe.shared):
        assert all(any(p is q for q in plain["params"]) for p in (experts.gate_up_bias, experts.down_bias))
        assert all(any(p is q for q in decay["params"]) for p in (experts.gate_up, experts.down))


def test_open_clip_tables_do_not_decay() -> None:
    model = torch.nn.Module()
    part = torch.nn.Module()
    part.positional_embedding = torch.nn.Parameter(torch.zeros(4, 8))
    part.proj = torch.nn.Parameter(torch.zeros(8, 8))
    model.group = lambda name: part
    decay, plain = parameter_groups(model, {"encoder": 1.0}, 1.0, 0.1)
    assert decay["params"][0] is part.proj and plain["params"][0] is part.positional_embedding


def test_cosine() -> None:
    factor = schedule_factor(ScheduleConfig(warmup=0.1, final=0.2), 100)
    assert [factor(n) for n in (0, 4, 9, 10, 55, 100, 150)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.6, 0.2, 0.2])


def test_wsd() -> None:
    factor = schedule_factor(ScheduleConfig(kind="wsd", warmup=0.1, decay=0.2, final=0.0), 100)
    assert [factor(n) for n in (0, 9, 10, 80, 90, 99, 100)] == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.05, 0.0])


def test_constant() -> None:
    factor = schedule_factor(ScheduleConfig(kind="constant", warmup=0.0), 100)
    assert [factor(n) for n in (0, 1, 100)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_stages_learn_at_once_and_never_at_an_odd_rate(kind: str, steps: int) -> None:
    factors = [schedule_factor(ScheduleConfig(kind=kind, warmup=1.0, decay=1.0), steps)(n) for n in range(steps + 1)]
    assert factors[0] > 0 and all(0 < f <= 1 for f in factors)


def test_the_schedule_moves_every_group(model: VLM) -> None:
    freeze(model, dict.fromkeys(GROUPS, 1.0))
    optimizer = build_optimizer(model, {"fusion": 1.0, "decoder": 0.5}, OptimConfig(), 0.4)
    schedule = build_schedule(optimizer, ScheduleConfig(warmup=0.5), 8)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1, 0.05}
    optimizer.step()
    schedule.step()
    assert {g["lr"] for g in optimizer.param_groups} == {0.2, 0.1}
