"""The likeliest token of each row and its log-probability, in one reading of the logits: greedy choice without a filter.

B rows, V vocabulary.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlm.kernels.tiles import begin


@triton.jit
def pick(logits_ptr, tokens_ptr, found_ptr, V: tl.constexpr, BLOCK_V: tl.constexpr, EARLY: tl.constexpr):
    """logits [B, V] → tokens [B], and token and log-probability side by side, float32 [B, 2]; a program has a row. Of equal
    logits the first; where they are not numbers, nor is the log-probability."""
    begin(EARLY)
    row = tl.program_id(0)
    v = tl.arange(0, BLOCK_V)
    largest = tl.full([BLOCK_V], float("-inf"), tl.float32)
    where = tl.zeros([BLOCK_V], tl.int32)
    total = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, V, BLOCK_V):
        inside = start + v < V
        x = tl.load(logits_ptr + row * V + start + v, mask=inside, other=float("-inf")).to(tl.float32)
        top = tl.maximum(largest, x)
        reference = tl.where(top == float("-inf"), 0.0, top)
        total = total * tl.exp(largest - reference) + tl.exp(x - reference)
        where = tl.where(x > largest, start + v, where)
        largest = top
    best = tl.max(largest, axis=0)
    token = tl.min(tl.where(largest == best, where, V), axis=0)
    total = tl.sum(total * tl.exp(largest - best), axis=0)
    token = tl.minimum(token, V - 1)
    tl.store(tokens_ptr + row, token.to(tl.int64))
    tl.store(found_ptr + row * 2, token.to(tl.float32))
    tl.store(found_ptr + row * 2 + 1, -tl.log(total))
