"""Muon beside torch's own, which takes plain matrices one at a time, and what it takes for a matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from train_runs import TINY

from train.config import OptimConfig, read_config
from train.optim.build import build_optimizer
from train.optim.groups import freeze
from train.optim.matrices import Matrix, matrices
from train.optim.muon import Muon
from train.optim.muon_kernel import ahead_, apply_
from train.optim.orthogonalize import orthogonalize, symmetric_product
from train.optim.symmetric_kernel import symmetric_product as by_halves
from vlm.model import GROUPS, VLM

OPTIONS = {"betas": (0.9, 0.95), "eps": 1e-8, "fused": True}


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def optimizer_of(*found: Matrix, lr: float = 1e-2, weight_decay: float = 0.1) -> Muon:
    groups = [{"params": [m.weight for m in found], "lr": lr, "weight_decay": weight_decay, "name": "part/muon"}]
    return Muon(groups, found, **OPTIONS)


@pytest.mark.parametrize("shape", [(16, 16), (8, 48), (48, 8)])
def test_steps_of_a_plain_matrix_are_torchs(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    mine = optimizer_of(Matrix(ours))
    other = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # theirs is in bfloat16 everywhere


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 20, 20), (2, 20, 50), (2, 50, 20)):
        left, _, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
        x = left @ torch.linspace(0.05, 1, 20, dtype=torch.float64).diag() @ right
        values = torch.linalg.svdvals(orthogonalize(x))
        assert values.min() > 0.6 and values.max() < 1.3
        assert (orthogonalize(x) - left @ right).norm(dim=-1).max() < 0.4  # each row of the nearest orthogonal matrix
    assert orthogonalize(torch.zeros(1, 4, 6)).abs().max() == 0


@pytest.mark.parametrize(
    ("shape", "parts", "dim", "count", "sides"),
    [
        ((24, 8), 3, 0, 3, (8, 8)), ((8, 24), 1, 0, 1, (8, 24)), ((4, 8, 12), 2, 2, 8, (6, 8)), ((4, 12, 8), 1, 0, 4, (8, 12)),
        ((6, 3, 2, 2), 1, 0, 1, (6, 12)), ((20, 3, 2, 2), 1, 0, 1, (12, 20)),
    ],
)  # fmt: skip
def test_parts_are_taken_apart_and_put_together(shape, parts, dim, count, sides) -> None:
    matrix = Matrix(nn.Parameter(torch.randn(shape)), parts, dim)
    stack = matrix.split(matrix.weight.detach())
    assert matrix.shape == (count, *sides) and stack.shape == (count, *sides)
    assert torch.equal(matrix.join(stack), matrix.weight)


def test_a_fused_projection_and_stacked_experts_are_learnt_as_their_parts() -> None:
    torch.manual_seed(0)
    whole = nn.Parameter(torch.zeros(2, 8, 12))  # two experts, gate and up side by side
    alone = [nn.Parameter(torch.zeros(8, 6)) for _ in range(4)]
    gradient = torch.randn(2, 8, 12)
    whole.grad = gradient
    for weight, part in zip(alone, (p for expert in gradient for p in expert.chunk(2, dim=1)), strict=True):
        weight.grad = part.clone()
    optimizer_of(Matrix(whole, 2, 2)).step()
    optimizer_of(*map(Matrix, alone)).step()
    together = torch.stack([torch.cat([w.detach() for w in alone[i : i + 2]], dim=1) for i in (0, 2)])
    torch.testing.assert_close(whole.detach(), together, atol=1e-5, rtol=1e-2)


def test_large_stacks_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 6, 8), torch.randn(5, 6, 8)
    found = {}
    for limit in (1 << 26, 100, 10, 1):
        monkeypatch.setattr("train.optim.muon.STACK", limit)
        weights = [nn.Parameter(w.clone()) for w in start]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer_of(*map(Matrix, weights)).step()
        found[limit] = torch.stack([w.detach() for w in weights])
    for other in (100, 10, 1):
        torch.testing.assert_close(found[other], found[1 << 26], atol=1e-5, rtol=1e-3)


def test_what_is_a_matrix() -> None:
    model = VLM(read_config(TINY).model)
    names = {id(p): n for n, p in model.named_parameters()}
    found = {names[id(m.weight)]: m.shape[0] for name in GROUPS for m in matrices(model.group(name))}
    assert found["encoder.model.blocks.0.attn.qkv.weight"] == 3
    assert found["fusion.0.key_value.weight"] == found["resampler.layers.0.key_value.weight"] == 2
    assert found["decoder.layers.0.moe.experts.gate_up"] == 8 and found["decoder.layers.0.moe.experts.down"] == 4
    assert found["encoder.model.patch_embed.proj.weight"] == 1
    assert not any(part in name for name in found for part in ("embedding", "router", "norm", "bias", "gate_attention"))


def test_groups_of_muon_hold_every_parameter_once() -> None:
    model = VLM(read_config(TINY).model)
    train = dict.fromkeys(GROUPS, 1.0)
    freeze(model, train)
    optimizer = build_optimizer(model, train, OptimConfig(kind="muon"), 1e-3)
    grouped = sorted(id(p) for group in optimizer.param_groups for p in group["params"])
    assert grouped == sorted(map(id, model.parameters()))
    assert {"decoder/muon", "decoder/decay", "decoder/plain"} <= {g["name"] for g in optimizer.param_groups}
    tables = next(g for g in optimizer.param_groups if g["name"] == "resampler/plain")["params"]
    assert any(p is model.resampler.latents for p in tables)


def test_a_frozen_part_and_a_missing_gradient_stay() -> None:
    first, second = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = optimizer_of(Matrix(first), Matrix(second))
    first.grad = torch.randn(4, 4)
    optimizer.step()
    assert not torch.equal(first, torch.ones(4, 4)) and torch.equal(second, torch.ones(4, 4))
    assert second not in optimizer.state


def test_states_of_another_kind_are_refused() -> None:
    model = VLM(read_config(TINY).model)
    kinds = {kind: build_optimizer(model, {"fusion": 1.0}, OptimConfig(kind=kind), 1e-3) for kind in ("adamw", "muon")}
    for kind, other in (("adamw", "muon"), ("muon", "adamw")):
        with pytest.raises(ValueError, match=f"optim.kind '{other}', and the run's is '{kind}'.*--init-from"):
            kinds[kind].load_state_dict(kinds[other].state_dict())


def test_saved_and_loaded_it_goes_on_to_the_bit() -> None:
    torch.manual_seed(0)
    gradients, weights = torch.randn(4, 6, 8), [nn.Parameter(torch.zeros(6, 8)) for _ in range(2)]
    whole, first = (optimizer_of(Matrix(w)) for w in weights)
    for number, gradient in enumerate(gradients):
        if number == 2:
            state, first = first.state_dict(), optimizer_of(Matrix(weights[1]))
            first.load_state_dict(state)
        for weight, optimizer in zip(weights, (whole, first), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)


def test_a_closure_comes_first_and_a_step_left_out_moves_nothing() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(6, 8)) for _ in range(2)]
    first, second = (optimizer_of(Matrix(w)) for w in weights)
    for number, gradient in enumerate(torch.randn(3, 6, 8)):
        first.left_out = torch.tensor(number == 1)

        def closure(gradient=gradient) -> None:
            weights[0].grad = gradient * (math.nan if first.left_out else 1)

        first.step(closure)
        if number != 1:
            weights[1].grad = gradient
            second.step()
    assert torch.equal(*weights) and weights[0].abs().min() > 0


def test_kernels_are_the_plain_steps() -> None:
    torch.manual_seed(0)
    momentum, gradient, weight, update = torch.randn(4, 3, 1001).unbind()
    expected = 0.95 * momentum + gradient
    for left_out in (False, True):
        flag = torch.tensor(left_out)
        m, w = momentum.clone(), weight.clone()
        ahead = ahead_(gradient, m, 0.95, flag)
        apply_(w, update, 0.9, -0.1, flag)
        torch.testing.assert_close(ahead.float(), gradient + 0.95 * expected, atol=2e-2, rtol=1e-2)
        torch.testing.assert_close(m, momentum if left_out else expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(w, weight if left_out else 0.9 * weight - 0.1 * update, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 40, 70), (1, 200, 131), (3, 130, 130)])
def test_half_a_product_is_the_whole(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(by_halves(x), x @ x.mT, atol=1e-4, rtol=1e-4)
    own = x @ x.mT
    whole = 2.0 * own @ own - 0.5 * own + 3 * torch.eye(shape[1])
    torch.testing.assert_close(by_halves(own, 2.0, -0.5, 3.0), whole, atol=2e-2, rtol=1e-4)
    torch.testing.assert_close(symmetric_product(own, 2.0, -0.5, 3.0), whole, atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_any_device_steps_are_the_cpus_and_one_left_out_moves_nothing(device: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = {(24, 8): (3, 0), (2, 8, 12): (2, 2), (6, 4, 2, 2): (1, 0), (8, 8): (1, 0)}
    start = {shape: torch.randn(shape) for shape in shapes}
    here = {shape: nn.Parameter(w.clone().to(device, dtype)) for shape, w in start.items()}
    there = {shape: nn.Parameter(w.clone().to(dtype).float()) for shape, w in start.items()}
    mine, plain = (optimizer_of(*(Matrix(w, *shapes[s]) for s, w in ws.items()), lr=1.0) for ws in (here, there))
    for step in range(4):
        gradients = {shape: torch.randn(shape).to(dtype).float() for shape in shapes}
        before = {shape: w.detach().clone() for shape, w in here.items()}
        for shape, gradient in gradients.items():
            strided = gradient.to(memory_format=torch.channels_last) if gradient.ndim == 4 else gradient.mT.contiguous().mT
            here[shape].grad = (strided * (math.nan if step == 2 else 1)).to(device, dtype)
            there[shape].grad = gradient
        mine.left_out = torch.tensor(step == 2, device=device)
        mine.step()
        if step != 2:
            plain.step()
        assert all(torch.equal(before[s], here[s]) is (step == 2) for s in shapes)
    for shape, weight in there.items():
        moved = (weight - start[shape]).norm()
        assert (here[shape].float().cpu() - weight).norm() < 0.1 * moved, shape
