"""Attention whose query heads share keys and values in groups, for rows that share them too."""

from collections.abc import Callable

import torch

from el_fairseq.ops.kernels import hidden_attention
from el_fairseq.ops.sdpa import grouped_sdpa
from el_fairseq.ops.shared_kv import shared_kv_attention


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None,
    mask: torch.Tensor | None = None,
    *,
    dropout: Callable[[torch.Tensor], torch.Tensor] | None = None,
    want_weights: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """``softmax(query · keyᵀ + mask) · value`` whatever is shared.

    M successive query rows and ``H / K`` successive query heads share their keys and values; nothing is copied for
    them. Where weights are wanted or dropped out, and for EL-attention, this is ``shared_kv_attention`` for each pair
    of sentence and key head; else PyTorch's fused attention.

    Args:
        query: ``[N, H, T, C]``, already scaled, N = B·M.
        key: ``[B, K, S, C]``, K = H or 1.
        value: ``[B, K, S, C']``, or None where the keys are the values, too (EL-attention).
        mask: ``[B or 1, M or 1, T or 1, S]``, boolean (True: leave this key out) or added to the scores; or None.
        dropout: a callable applied to the attention weights, or None.
        want_weights: whether weights are needed; without them a fused kernel may serve.

    Returns:
        The context ``[N, H, T, C']``; weights ``[N, H, T, S]`` before dropout, or None where they are not wanted; the
        mass ``[N, H, T]``, what the weights sum to after dropout, or None without dropout.
    """
    n, h, t, c = query.shape
    b, k, _, _ = key.shape
    m = n // b
    fusable = not want_weights and dropout is None
    if fusable and value is not None:
        rows = query.view(b, m, h, t, c).transpose(1, 2).reshape(b, h, m * t, c)  # [N, H, T, C] -> [B, H, M·T, C]
        mask = None if mask is None else _mask_of_rows(mask, m, 1, t).unsqueeze(1)
        context, _ = grouped_sdpa(rows, key, value, mask)
        return context.view(b, h, m, t, -1).transpose(1, 2).reshape(n, h, t, -1), None, None
    shared = h // k * t  # (head, query) pairs of a row that share keys
    rows = query.reshape(b, m, k, shared * c).transpose(1, 2).reshape(b * k, m * shared, c)
    if mask is not None and (k > 1 or t > 1 or mask.size(0) < b):
        mask = _mask_of_rows(mask, m, h // k, t)
        mask = mask.squeeze(1) if mask.size(1) == 1 else mask
    elif mask is not None and mask.size(1) == 1:
        mask = mask[:, 0, 0]  # padding, as kernels read it
    key = key.flatten(0, 1)  # [B, K, S, C] -> [B·K, S, C]
    if fusable:
        context, weights, mass = hidden_attention(rows, key, mask), None, None
    else:
        value = key if value is None else value.flatten(0, 1)
        context, weights, mass = shared_kv_attention(rows, key, value, mask, dropout=dropout)

    def by_row(x):
        """``[B·K, M·H/K·T, X] -> [N, H, T, X]``."""
        return x.view(b, k, m, -1).transpose(1, 2).reshape(n, h, t, -1)

    weights = by_row(weights) if want_weights else None
    return by_row(context), weights, None if mass is None else by_row(mass.unsqueeze(-1)).squeeze(-1)


def _mask_of_rows(mask, m, group, t):
    """``[B, M or 1, T or 1, S] -> [B, M·group·T, S]``, or ``[B, 1, S]`` where it is the same for all rows."""
    b, s = mask.size(0), mask.size(3)
    if group == t == 1 or mask.size(1) == mask.size(2) == 1:
        return mask.flatten(1, 2)
    return mask.unsqueeze(2).expand(b, m, group, t, s).reshape(b, m * group * t, s)
