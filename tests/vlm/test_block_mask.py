"""Block masks against the dense masks they stand for."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from vlm.attention import block_mask, document_mask, grouped_attention, window_mask


def documents(rows: int, length: int, most: int) -> torch.Tensor:
    """Packed rows, each with padding of its own length behind."""
    document = torch.randint(0, most, (rows, length)).sort(dim=1).values
    for row in document:
        row[length - int(torch.randint(0, length // 3 + 1, ())) :] = -1
    return document


@pytest.mark.parametrize("window", [None, 1, 70, 128, 200, 1000])
@pytest.mark.parametrize(
    ("rows", "length", "most"), [(2, 300, 5), (1, 128, 1), (3, 520, 4), (1, 1000, 30), (1, 5, 2), (2, 640, 3)]
)
def test_it_is_the_dense_mask_and_as_sparse_as_can_be(rows, length, most, window):
    torch.manual_seed(length)
    document = documents(rows, length, most)
    dense = window_mask(document_mask(document), torch.arange(length).expand_as(document), window)
    found = block_mask(document, window)
    best = create_block_mask(lambda b, h, q, k: dense[b, 0, q, k], rows, None, length, length, device="cpu")
    q, k, v = (torch.randn(rows, heads, length, 16) for heads in (4, 2, 2))
    y = flex_attention(q, k, v, block_mask=found, enable_gqa=True)
    torch.testing.assert_close(y, grouped_attention(q, k, v, dense), atol=1e-5, rtol=0)
    assert found.sparsity() == best.sparsity()


def test_documents_in_any_order_are_kept_apart():
    torch.manual_seed(0)
    document = torch.randint(0, 3, (1, 400))
    q, k, v = (torch.randn(1, 2, 400, 16) for _ in range(3))
    y = flex_attention(q, k, v, block_mask=block_mask(document, None))
    torch.testing.assert_close(y, grouped_attention(q, k, v, document_mask(document)), atol=1e-5, rtol=0)
