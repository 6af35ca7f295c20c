"""Attention to a prefix that several rows share, and to what each row has generated since."""

from collections.abc import Callable

import torch

from el_fairseq.ops.shared_kv import scores_of, softmax


def prefix_attention(
    query: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor | None],
    own: tuple[torch.Tensor, torch.Tensor | None],
    paddings: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    *,
    dropout: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """One softmax over the keys of the prefix and of the row: as if the prefix's were repeated for each of its M rows.

    Args:
        query: ``[N, H, T, C]``, already scaled; the M rows of a prefix side by side, N = B·M.
        prefix: keys ``[B, K, p, C]`` and values ``[B, K, p, C']`` of p tokens, each head shared by ``H / K`` query
            heads; None for values where the keys are the values, too (EL-attention).
        own: keys ``[N, K, t, C]`` and values ``[N, K, t, C']``, likewise.
        paddings: ``[B, p]`` of the prefixes and ``[N, t]`` of own keys, True where a key is left out; or None.
        dropout: a callable applied to the attention weights, or None.

    Returns:
        The context ``[N, H, T, C']``; weights ``[N, H, T, p + t]`` before dropout; the mass ``[N, H, T]``, their sum
        after dropout (None without).
    """
    n, h, t, c = query.shape
    b, k, p, _ = prefix[0].shape
    rows = query.reshape(n * k, -1, c)  # [N, H, T, C] -> [N·K, H/K·T, C]
    shared = _by_prefix(query.reshape(n, k, -1, c), b)  # -> [B·K, M·H/K·T, C]
    (key, value), (own_key, own_value) = _by_head(*prefix), _by_head(*own)  # [B·K, p, C], [N·K, t, C]
    scores_prefix, scores_own = scores_of(shared, key), scores_of(rows, own_key)  # [B·K, M·H/K·T, p], [N·K, H/K·T, t]
    scores_prefix, scores_own = _by_row(scores_prefix, n, k).view(n, h, t, p), scores_own.view(n, h, t, -1)
    prefix_padding, own_padding = paddings
    if prefix_padding is not None:
        left_out = prefix_padding.repeat_interleave(n // b, dim=0)[:, None, None]  # [B, p] -> [N, 1, 1, p]
        scores_prefix = scores_prefix.masked_fill(left_out, float("-inf"))
    if own_padding is not None:
        scores_own = scores_own.masked_fill(own_padding[:, None, None], float("-inf"))
    weights = softmax(torch.cat((scores_prefix, scores_own), dim=-1))
    applied = weights.to(query.dtype)
    applied = applied if dropout is None else dropout(applied)
    applied_prefix = _by_prefix(applied[..., :p].reshape(n, k, -1, p), b)
    from_prefix = torch.bmm(applied_prefix, value)
    from_own = torch.bmm(applied[..., p:].reshape(n * k, h // k * t, -1), own_value)
    context = _by_row(from_prefix, n, k) + from_own.view(n, k, h // k * t, -1)
    return context.view(n, h, t, -1), weights, None if dropout is None else applied.sum(dim=-1)


def _by_head(key, value):
    """``[B, K, S, C] -> [B·K, S, C]``, both; where there are no values, the keys for both."""
    key = key.flatten(0, 1)
    return key, key if value is None else value.flatten(0, 1)


def _by_prefix(x, prefixes):
    """``[B·M, K, X, C] -> [B·K, M·X, C]``: side by side what one head of a prefix serves."""
    n, k, size, c = x.shape
    x = x.view(prefixes, n // prefixes, k, size, c).transpose(1, 2)  # -> [B, K, M, X, C]
    return x.reshape(prefixes * k, -1, c)


def _by_row(x, rows, k):
    """The inverse: ``[B·K, M·X, C] -> [N, K, X, C]``."""
    prefixes, c = x.size(0) // k, x.size(-1)
    x = x.view(prefixes, k, rows // prefixes, -1, c).transpose(1, 2)  # -> [B, M, K, X, C]
    return x.reshape(rows, k, -1, c)
