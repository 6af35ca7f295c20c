"""The one core: attention whose keys and values are shared by every query row of a batch entry."""

from collections.abc import Callable

import torch

FEW_ROWS = 16  # of queries


def shared_kv_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    dropout: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``softmax(query · keyᵀ + mask) · value``, with one set of keys and values for all ``R`` query rows.

    Args:
        query: ``[B, R, C]``, already scaled.
        key: ``[B, S, C]``.
        value: ``[B, S, C']``; for EL-attention the same tensor as ``key``.
        mask: ``[B', S]`` or ``[B', R, S]``; boolean (True: leave this key out) or a float that is added to the scores.
            Where ``B'`` is less than ``B``, each entry holds for ``B / B'`` successive ones. Or ``[B, M, 1, S]``: each
            row of it holds for ``R / M`` successive query rows.
        dropout: a callable applied to the attention weights, or None.

    Returns:
        ``output [B, R, C']``; ``weights [B, R, S]`` before dropout, in float32, of a query in float64 in float64; and
        ``mass [B, R]``, what the weights of a row sum to after dropout (None without dropout, where it is 1).
    """
    scores = scores_of(query, key)
    if mask is not None:
        if mask.dim() == 4:
            grouped = scores.view(*mask.shape[:2], -1, scores.size(2))  # [B, R, S] -> [B, M, R / M, S]
        else:
            mask = mask[:, None, None] if mask.dim() == 2 else mask.unsqueeze(1)  # -> [B', 1, 1 or R, S]
            grouped = scores.view(mask.size(0), -1, *scores.shape[1:])  # [B, R, S] -> [B', B / B', R, S]
        grouped = grouped.masked_fill_(mask, float("-inf")) if mask.dtype == torch.bool else grouped + mask
        scores = grouped.view_as(scores)
    weights = softmax(scores)
    applied = weights.to(value.dtype)
    mass = None
    if dropout is not None:
        applied = dropout(applied)
        mass = applied.sum(dim=-1)
    return torch.bmm(applied, value), weights, mass


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over keys, in float32 whatever the dtype of a model is, as in fairseq; float64 stays."""
    return torch.softmax(scores, dim=-1, dtype=torch.float64 if scores.dtype is torch.float64 else torch.float32)


def scores_of(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """``[B, R, C] · [B, S, C]ᵀ -> [B, R, S]``."""
    if query.device.type == "cpu" and query.size(1) <= FEW_ROWS:  # half the time of the product the other way round
        return torch.bmm(key, query.transpose(1, 2)).transpose(1, 2).contiguous()
    return torch.bmm(query, key.transpose(1, 2))
