"""Self-attention to keys and values that stay where they were written, in Triton.

A program has one head of one hypothesis. It looks up which row wrote each position, and reads that row's key and value
once. Memory traffic is all there is to it: no products of matrices.

Tested against the oracle in Triton's interpreter, and compiled for compute capability 8.0 and 9.0. It has not run on a
GPU yet: of its speed nothing is known.
"""

import torch
import triton
import triton.language as tl

TOKENS = 64  # looked up at once
WARPS = 4
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["length"])
def _attend(
    query,
    key,
    value,
    padding,
    ancestors,
    output,
    heads,
    length,
    query_row,
    query_head,
    key_row,
    key_head,
    key_token,
    value_row,
    value_head,
    value_token,
    padding_row,
    ancestors_row,
    SHARING: tl.constexpr,
    PADDED: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column, token = tl.arange(0, COLUMNS), tl.arange(0, TOKENS)
    real = column < DIM
    q = tl.load(query + row * query_row + head * query_head + column, mask=real, other=0.0).to(tl.float32) * LOG2E
    key += head // SHARING * key_head + column
    value += head // SHARING * value_head + column
    context = tl.zeros((COLUMNS,), tl.float32)
    top, total = float("-inf"), 0.0
    for start in range(0, length, TOKENS):
        at = start + token
        shown = at < length
        if PADDED:
            shown = shown & (tl.load(padding + row * padding_row + at, mask=shown, other=1) == 0)
        writer = tl.load(ancestors + row * ancestors_row + at, mask=shown, other=0).to(tl.int64)
        wanted = shown[:, None] & real[None, :]
        k = tl.load(key + (writer * key_row + at * key_token)[:, None], mask=wanted, other=0.0)
        v = tl.load(value + (writer * value_row + at * value_token)[:, None], mask=wanted, other=0.0)
        scores = tl.where(shown, tl.sum(k.to(tl.float32) * q[None, :], axis=1), float("-inf"))
        highest = tl.maximum(top, tl.max(scores))
        base = tl.where(highest == float("-inf"), 0.0, highest)  # nothing seen yet: -inf - -inf would be NaN
        weights = tl.exp2(scores - base)
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(weights)
        context = context * fade + tl.sum(v.to(tl.float32) * weights[:, None], axis=0)
        top = highest
    tl.store(output + (row * heads + head) * DIM + column, context / total, mask=real)


def ancestral_attention(query, key, value, ancestors, padding=None):
    """As ``el_fairseq.ops.kernels.ancestral_attention``; the columns of each tensor, keys and values of one width C,
    have to lie side by side."""
    n, heads, dim = query.shape
    output = query.new_empty(n, heads, dim)
    _attend[heads, n](
        query,
        key,
        value,
        ancestors if padding is None else padding.view(torch.uint8),
        ancestors,
        output,
        heads,
        ancestors.size(1),
        *query.stride()[:2],
        *key.stride()[:3],
        *value.stride()[:3],
        0 if padding is None else padding.stride(0),
        ancestors.stride(0),
        SHARING=heads // key.size(1),
        PADDED=padding is not None,
        DIM=dim,
        COLUMNS=triton.next_power_of_2(dim),
        TOKENS=TOKENS,
        num_warps=WARPS,
    )
    return output
