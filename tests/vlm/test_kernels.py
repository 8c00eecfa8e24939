"""Triton's kernels of training, interpreted, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlm.kernels.cross_entropy import cross_entropy_
from vlm.kernels.gated import gated_gradient
from vlm.kernels.rows import sum_rows, take_rows
from vlm.moe import _gated, _WeightedDown, grouped_matmul


@pytest.mark.parametrize(("rows", "vocabulary"), [(0, 7), (1, 1), (3, 17), (4, 5000), (2, 8192)])
def test_cross_entropy_and_its_gradient(rows, vocabulary):
    torch.manual_seed(vocabulary)
    logits = (5 * torch.randn(rows, vocabulary)).requires_grad_()
    labels = torch.randint(vocabulary, (rows,))
    expected = F.cross_entropy(logits, labels, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    found = logits.detach().clone()
    torch.testing.assert_close(cross_entropy_(found, labels), expected.detach(), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize(("tokens", "top_k", "width"), [(5, 4, 7), (9, 16, 1500), (3, 5, 1024), (1, 1, 1)])
def test_rows_to_the_experts_and_back(tokens, top_k, width):
    torch.manual_seed(width)
    order = torch.randperm(tokens * top_k)
    place = order.argsort()
    x, rows = torch.randn(tokens, width), torch.randn(tokens * top_k, width)
    assert torch.equal(take_rows(x, order, top_k), x[order // top_k])
    torch.testing.assert_close(sum_rows(rows, place, top_k), rows[place].unflatten(0, (tokens, top_k)).sum(dim=1))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 1), (5, 24), (3, 3000)])
def test_gradients_between_the_products_of_an_expert(rows, width, activation):
    torch.manual_seed(width)
    y, weights = torch.randn(rows, 2 * width, requires_grad=True), torch.rand(rows, requires_grad=True)
    h, grad = _gated(y, weights, activation), torch.randn(rows, width)
    of_y, of_weights = torch.autograd.grad(h, (y, weights), grad)
    for hidden in (True, False):
        found = gated_gradient(y.detach(), weights.detach(), grad, activation, hidden)
        for ours, theirs in zip(found, (of_y, h.detach()[: rows * hidden], of_weights), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ends", [(3, 3, 10), (0, 10, 10), (1, 2, 10)])
def test_the_second_product_of_experts_and_its_gradients(ends):
    torch.manual_seed(1)
    y, weights = torch.randn(10, 32, requires_grad=True), torch.rand(10, requires_grad=True)
    down, ends = torch.randn(3, 16, 8, requires_grad=True), torch.tensor(ends, dtype=torch.int32)
    ours = _WeightedDown.apply(y, weights, down, ends, "silu")
    plain = grouped_matmul(_gated(y, weights, "silu"), down, ends)
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad(out.square().sum(), (y, weights, down)) for out in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    frozen = _WeightedDown.apply(y, weights, down.detach(), ends, "silu")
    for one, other in zip(torch.autograd.grad(frozen.square().sum(), (y, weights)), gradients[1], strict=False):
        torch.testing.assert_close(one, other)
