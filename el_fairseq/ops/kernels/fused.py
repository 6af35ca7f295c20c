"""EL-attention in one pass over the hidden states: a Triton kernel that reads each of them once for both products.

    fused_attention(query [B, R, D], hidden [B, S, D]) = softmax(query · hiddenᵀ) · hidden

A program has a block of one sentence's rows and a split of its source. It holds a few tokens' hidden states at a
time, all D columns of them, from which it makes their scores, then (online softmax) what they add to the output. Every
warp owns the same columns in both products: of the scores it has a partial sum, the output it has whole. So the large
tensors, hidden states and output, never pass between warps; only the scores do.

Small batches fill a GPU by dividing the source into splits, whose results a second kernel joins.

Tested against the oracle in Triton's interpreter, and compiled for compute capability 8.0, 9.0 and 10.0. It has not
run on a GPU yet: of its speed nothing is known.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

PADDING_TILE = 1024  # bytes of the padding mask looked at at once
# Rows of a program, tokens at once, stages of the pipeline: the first that fit; the last of them in float32.
BLOCKS = ((32, 32, 3), (32, 32, 2), (32, 16, 3), (32, 16, 2), (16, 32, 3), (16, 32, 2), (16, 16, 2))
SHORTEST = 64  # tokens of a split, at least
REGISTERS = 224  # of a thread, of the 255 there are, for what the kernel's tensors need
PRECISION = tl.constexpr("tf32x3")  # float32 on tensor cores, each product as three of fewer bits
LOG2E = tl.constexpr(1.4426950408889634)


class Launch(NamedTuple):
    """How the kernel is cut: ``width`` columns for each of ``warps``, ``chunks`` times, make up D."""

    warps: int
    chunks: int
    width: int
    block_r: int
    block_s: int
    stages: int


def launch_for(rows, dim, itemsize, shared):
    """The ``Launch`` for R rows of width D, elements of ``itemsize`` bytes and ``shared`` bytes of memory a block.

    None where the width is no multiple of 64, or where nothing fits into registers and shared memory.
    """
    if dim % 64:
        return None
    warps = 4 if dim % 128 else 8
    width = min(128, (dim // warps) & -(dim // warps))  # the largest power of two that divides it
    for block_r, block_s, stages in BLOCKS if itemsize == 2 else BLOCKS[-1:]:
        if block_r > 16 and rows <= 16:
            continue
        held = block_r * dim // (32 * warps)  # registers of a thread: output, and of the query half as many at a time
        scores = block_r * block_s // 32  # those of the block, in every warp
        bytes_ = ((stages - 1) * block_s + block_r) * dim * itemsize + warps * block_r * block_s * 4
        if held * 3 // 2 + 2 * scores <= REGISTERS and bytes_ <= shared:
            return Launch(warps, dim // (warps * width), width, block_r, block_s, stages)
    return None


@triton.jit
def _visible(padding, length, TILE: tl.constexpr):
    """The first token that is not padding and the one after the last: ``(length, 0)`` if there is none."""
    first, end = length, 0
    for start in range(0, length, TILE):
        at = start + tl.arange(0, TILE)
        shown = tl.load(padding + at, mask=at < length, other=1) == 0
        first = tl.minimum(first, tl.min(tl.where(shown, at, length)))
        end = tl.maximum(end, tl.max(tl.where(shown, at + 1, 0)))
    return first, end


@triton.jit(do_not_specialize=["rows", "length"])
def _attend(
    query,
    hidden,
    padding,
    output,
    tops,
    totals,
    rows,
    length,
    query_batch,
    query_row,
    hidden_batch,
    hidden_token,
    padding_batch,
    PADDED: tl.constexpr,
    DIVIDED: tl.constexpr,
    WARPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
    TILE: tl.constexpr,
):
    split, splits = tl.program_id(1), tl.num_programs(1)
    b = tl.program_id(2).to(tl.int64)
    padding += b * padding_batch
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    real = (r < rows)[None, :, None]
    column = tl.arange(0, WARPS)[:, None, None] * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    STEP: tl.constexpr = WARPS * WIDTH

    first, end = 0, length
    if PADDED:
        first, end = _visible(padding, length, TILE)
    blocks = tl.cdiv(tl.cdiv(tl.maximum(end - first, 0), splits), BLOCK_S)
    first += split * blocks * BLOCK_S
    end = tl.minimum(end, first + blocks * BLOCK_S)

    q = ()
    context = ()
    query += b * query_batch + r[None, :, None] * query_row + column
    for c in tl.static_range(CHUNKS):
        q = q + (tl.load(query + c * STEP, mask=real, other=0.0),)
        context = context + (tl.zeros((WARPS, BLOCK_R, WIDTH), tl.float32),)
    top = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    hidden += b * hidden_batch
    token = tl.arange(0, BLOCK_S)
    # Read one block ahead: the compiler does not prefetch loads as narrow as these.
    ahead = tl.load(padding + first + token, mask=first + token < end, other=1) if PADDED else 0

    for start in range(first, end, BLOCK_S):
        at = start + token
        shown = at < end
        offset = at.to(tl.int64) * hidden_token
        x = ()
        partial = tl.zeros((WARPS, BLOCK_R, BLOCK_S), tl.float32)
        for c in tl.static_range(CHUNKS):
            x = x + (tl.load(hidden + offset[None, :, None] + c * STEP + column, mask=shown[None, :, None], other=0.0),)
            partial = tl.dot(q[c], tl.permute(x[c], (0, 2, 1)), partial, input_precision=PRECISION)
        if PADDED:
            shown = shown & (ahead == 0)
            ahead = tl.load(padding + at + BLOCK_S, mask=at + BLOCK_S < end, other=1)
        scores = tl.where(shown[None, :], tl.sum(partial, axis=0) * LOG2E, float("-inf"))

        highest = tl.maximum(top, tl.max(scores, axis=1))
        base = tl.where(highest == float("-inf"), 0.0, highest)  # nothing seen yet: -inf - -inf would be NaN
        weights = tl.exp2(scores - base[:, None])
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(weights, axis=1)
        top = highest
        shared = tl.broadcast_to(weights.to(query.dtype.element_ty)[None], (WARPS, BLOCK_R, BLOCK_S))
        grown = ()
        for c in tl.static_range(CHUNKS):
            faded = context[c] * fade[None, :, None]
            grown = grown + (tl.dot(shared, x[c], faded, input_precision=PRECISION),)
        context = grown

    mass = 1.0 / total
    at = (b * splits + split) * rows + r  # rows of output, tops and totals: [B, splits, R]
    output += at[None, :, None] * (CHUNKS * STEP) + column
    for c in tl.static_range(CHUNKS):
        result = context[c] if DIVIDED else context[c] * mass[None, :, None]
        tl.store(output + c * STEP, result, mask=real)
    if DIVIDED:
        tl.store(tops + at, top, mask=r < rows)
        tl.store(totals + at, total, mask=r < rows)


@triton.jit(do_not_specialize=["rows", "splits"])
def _join(parts, tops, totals, output, rows, splits, DIM: tl.constexpr, COLUMNS: tl.constexpr, MOST: tl.constexpr):
    r, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    split = tl.arange(0, MOST)
    at = b * splits * rows + r
    top = tl.load(tops + at + split * rows, mask=split < splits, other=float("-inf"))
    total = tl.load(totals + at + split * rows, mask=split < splits, other=0.0)
    highest = tl.max(top)  # -inf in a row that sees no token, which becomes NaN here
    mass = tl.sum(total * tl.exp2(top - highest))
    context = tl.zeros((COLUMNS,), tl.float32)
    for i in range(splits):
        own = at + i * rows
        part = tl.load(parts + own * DIM + column, mask=column < DIM, other=0.0)
        context += part * tl.exp2(tl.load(tops + own) - highest)
    tl.store(output + (b * rows + r) * DIM + column, context / mass, mask=column < DIM)


def splits_for(batch, rows, length, launch, processors):
    """Into how many splits to divide the sources of ``batch`` sentences, so that all ``processors`` have work."""
    programs = batch * triton.cdiv(rows, launch.block_r)
    return max(1, min(processors // programs, triton.cdiv(length, SHORTEST)))


def fused_attention(query, hidden, launch, splits=1, padding=None):
    """``softmax(query · hiddenᵀ) · hidden`` for R rows that share the hidden states of their sentence.

    Padding at either end of a sentence is not read. A row that sees no token is NaN.

    Args:
        query: ``[B, R, D]``, already scaled; its columns, as those of all that follow, lie side by side.
        hidden: ``[B, S, D]``, of the same dtype: float16, bfloat16, float32. All sums are float32.
        launch: from ``launch_for(R, D, ...)``.
        splits: how many programs share the source of a sentence.
        padding: ``[B, S]`` boolean, True where there is no token, or None.

    Returns:
        ``[B, R, D]``, of the dtype of the query.
    """
    b, rows, dim = query.shape
    length = hidden.size(1)
    divided = splits > 1
    output = query.new_empty(b, rows, dim)
    parts, tops, totals = output, output, output
    if divided:
        parts = output.new_empty(b, splits, rows, dim, dtype=torch.float32)
        tops, totals = output.new_empty(2, b, splits, rows, dtype=torch.float32)
    _attend[triton.cdiv(rows, launch.block_r), splits, b](
        query,
        hidden,
        hidden if padding is None else padding.view(torch.uint8),
        parts,
        tops,
        totals,
        rows,
        length,
        query.stride(0),
        query.stride(1),
        hidden.stride(0),
        hidden.stride(1),
        0 if padding is None else padding.stride(0),
        PADDED=padding is not None,
        DIVIDED=divided,
        WARPS=launch.warps,
        CHUNKS=launch.chunks,
        WIDTH=launch.width,
        BLOCK_R=launch.block_r,
        BLOCK_S=launch.block_s,
        TILE=PADDING_TILE,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    if divided:
        columns, most = triton.next_power_of_2(dim), triton.next_power_of_2(splits)
        _join[rows, b](parts, tops, totals, output, rows, splits, DIM=dim, COLUMNS=columns, MOST=most, num_warps=4)
    return output
