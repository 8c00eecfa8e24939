"""The chunked cross-entropy against the plain one: values, gradients, memory."""

import pytest
import torch
import torch.nn.functional as F

from vlm import losses
from vlm.batch import IGNORE
from vlm.losses import nll_sum


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(losses, "CHUNK", 8 * 17 * 8)  # 8 positions of 17 logits in float64


def plain(states, labels, head):
    """The reference: all logits at once, by autograd."""
    logits = F.linear(states, head)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")


def case(learnt, dtype=torch.float64, shape=(3, 11), dim=6, vocabulary=17):
    labels = torch.full((shape[0] * shape[1],), IGNORE)
    labels[torch.randperm(len(labels))[:learnt]] = torch.randint(vocabulary, (learnt,))
    states = torch.randn(*shape, dim, dtype=dtype, requires_grad=True)
    head = torch.randn(vocabulary, dim, dtype=dtype, requires_grad=True)
    return states, labels.view(shape), head


@pytest.mark.parametrize("learnt", [0, 1, 7, 8, 9, 16, 33])
def test_value_and_gradients_are_the_plain_ones(learnt):
    states, labels, head = case(learnt)
    chunked, reference = nll_sum(states, labels, head), plain(states, labels, head)
    torch.testing.assert_close(chunked, reference)
    for ours, theirs in zip(*(torch.autograd.grad(3 * x, (states, head)) for x in (chunked, reference)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradcheck_in_double():
    states, labels, head = case(19)
    assert torch.autograd.gradcheck(lambda s, h: nll_sum(s, labels, h), (states, head))


@pytest.mark.parametrize("frozen", ["states", "head"])
def test_what_is_frozen_gets_no_gradient_and_costs_no_buffer(frozen):
    states, labels, head = case(20)
    expected = torch.autograd.grad(plain(states, labels, head), head if frozen == "states" else states)[0]
    (states if frozen == "states" else head).requires_grad_(False)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        loss = nll_sum(states, labels, head)
    assert (head.shape in saved) == (frozen == "states")
    loss.backward()
    torch.testing.assert_close(head.grad if frozen == "states" else states.grad, expected)
    assert (states if frozen == "states" else head).grad is None


def test_without_gradients_the_value_is_the_same_and_no_gradient_is_made(monkeypatch):
    states, labels, head = case(20)
    with_gradients = nll_sum(states, labels, head)
    monkeypatch.setattr(losses, "_gradient", None)
    with torch.no_grad():
        assert torch.equal(nll_sum(states, labels, head), with_gradients)
    assert torch.equal(nll_sum(states.detach(), labels, head.detach()), with_gradients)


def test_two_backward_passes_over_one_graph_agree():
    states, labels, head = case(20)
    loss = nll_sum(states, labels, head)
    first = torch.autograd.grad(loss, (states, head), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, (states, head))))


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32():
    states, labels, head = case(33, dtype=torch.float32, dim=32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, reference = nll_sum(states, labels, head), plain(states, labels, head)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference)
    ours, theirs = (torch.autograd.grad(x, (states, head)) for x in (loss, reference))
    assert [g.dtype for g in ours] == [torch.float32] * 2
    exact = torch.autograd.grad(plain(states.bfloat16(), labels, head.bfloat16()), (states, head))
    for a, b, c in zip(ours, theirs, exact, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.02)
        torch.testing.assert_close(a, c, atol=0.05, rtol=0.02)


def test_weights_in_bfloat16_get_gradients_in_bfloat16():
    states, labels, head = case(33, dtype=torch.bfloat16)
    loss = nll_sum(states, labels, head)
    loss.backward()
    assert loss.dtype == torch.float32 and states.grad.dtype == head.grad.dtype == torch.bfloat16
    wide = [t.detach().double().requires_grad_() for t in (states, head)]
    exact = torch.autograd.grad(plain(wide[0], labels, wide[1]), wide)
    for ours, reference in zip((states.grad, head.grad), exact, strict=True):
        torch.testing.assert_close(ours.double(), reference, atol=0.05, rtol=0.05)


def test_nothing_of_the_size_of_the_logits_is_kept():
    states, labels, head = case(33, shape=(3, 11), vocabulary=101)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        nll_sum(states, labels, head)
    assert max(sizes) <= max(states.numel(), head.numel()) < labels.numel() * 101
