"""The optimizer's kernel, interpreted, against torch's AdamW."""

from __future__ import annotations

import pytest
import torch

from train.optim.adamw import AdamW
from train.optim.adamw_kernel import adamw_

NEVER = torch.tensor(False)
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("shape", "dtype", "close"), [((2048,), "float32", 1e-6), ((3, 1001), "float32", 1e-6), ((7,), "bfloat16", 0.02)]
)
def test_steps_are_torchs(shape, dtype, close):
    torch.manual_seed(0)
    weight = torch.randn(shape).to(getattr(torch, dtype))
    theirs = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([theirs], **OPTIONS)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 5):
        theirs.grad = torch.randn_like(weight)
        optimizer.step()
        adamw_(weight, theirs.grad, mean, square, torch.tensor(float(step)), NEVER, **OPTIONS)
    state = optimizer.state[theirs]
    for ours, other in ((weight, theirs.detach()), (mean, state["exp_avg"]), (square, state["exp_avg_sq"])):
        torch.testing.assert_close(ours, other, atol=close, rtol=close)


def test_a_state_of_the_other_kind_of_step_is_taken_over():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    states = {}
    for fused in (True, False):
        optimizer = AdamW([weight], **OPTIONS, fused=fused)
        weight.grad = torch.randn(4, 3)
        optimizer.step()
        states[fused] = optimizer.state_dict()
    states[True]["state"][0]["exp_avg"] = states[True]["state"][0]["exp_avg"].t().contiguous().t()
    for fused in (True, False):
        optimizer = AdamW([weight], **OPTIONS, fused=fused)
        optimizer.load_state_dict(states[not fused])
        assert optimizer.param_groups[0]["fused"] is fused
        assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
        assert torch.equal(optimizer.state[weight]["exp_avg"], states[not fused]["state"][0]["exp_avg"])
        optimizer.step()


def test_on_the_cpu_it_is_torchs_and_its_state_is_taken_over():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    mine, other = AdamW([ours], **OPTIONS), torch.optim.AdamW([theirs], **OPTIONS)
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(5)
        mine.step()
        other.step()
    assert torch.equal(ours, theirs)
    again = torch.optim.AdamW([ours], **OPTIONS)
    again.load_state_dict(mine.state_dict())
    assert torch.equal(again.state[ours]["exp_avg"], other.state[theirs]["exp_avg"])


def test_a_step_left_out_moves_nothing():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 5))
    optimizer = AdamW([weight], **OPTIONS, fused=True)
    for left_out in (False, True):
        before = weight.detach().clone()
        weight.grad = torch.full((6, 5), float("nan") if left_out else 1.0)
        optimizer.left_out = torch.tensor(left_out)
        optimizer.step()
        assert torch.equal(before, weight) is left_out
    assert optimizer.state[weight]["step"] == 1

    mean, square = torch.ones(6, 5), torch.ones(6, 5)
    adamw_(weight.data, weight.grad, mean, square, torch.tensor(2.0), torch.tensor(True), **OPTIONS)
    assert torch.equal(before, weight) and torch.equal(mean, torch.ones(6, 5)) and torch.equal(square, mean)


def test_what_a_closure_computes_is_what_is_learnt():
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = AdamW([weight], **OPTIONS, fused=True)

    def closure():
        weight.grad = torch.ones(4)
        return 3.0

    assert optimizer.step(closure) == 3.0 and (weight < 1).all()


def test_a_step_is_left_out_once_and_one_without_gradients_is_none():
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = AdamW([weight], **OPTIONS, fused=True)
    optimizer.left_out = torch.tensor(True)
    for moved in (False, True):
        weight.grad = torch.ones(4)
        optimizer.step()
        assert bool((weight < 1).all()) is moved
    weight.grad = None
    optimizer.step()
    optimizer._on_gpu = lambda: True
    optimizer.step()
