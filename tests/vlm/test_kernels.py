"""Triton's kernels of training, interpreted, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlm.kernels.cross_entropy import cross_entropy_
from vlm.kernels.rows import sum_rows, take_rows


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
