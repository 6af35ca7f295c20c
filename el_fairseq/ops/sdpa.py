"""Keys and values that heads share, through PyTorch's fused attention: training memory without the scores."""

import torch
import torch.nn.functional as F

from el_fairseq.ops.masks import additive

ONES = 8  # columns of ones after the values; one would do, but fused kernels want widths that are multiples of 8


def grouped_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
    want_mass: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``softmax(query · keyᵀ + mask) · value`` for every head, without attention weights in memory.

    Keys and values are not copied for the heads that share them.

    Args:
        query: ``[N, H, T, C]``.
        key: ``[N, K, S, C]``, K = H or 1.
        value: ``[N, K, S, C']``.
        mask: ``[N or 1, 1, T or 1, S]``, boolean (True: leave this key out) or added to the scores; or None.
        scale: of the scores.
        dropout: probability, applied to the attention weights.
        want_mass: also return what the weights sum to after dropout.

    Returns:
        ``output [N, H, T, C']`` and ``mass [N, H, T]`` or None.
    """
    if mask is not None:
        mask = additive(mask, query.dtype) if mask.dtype == torch.bool else mask.to(query.dtype)
    if want_mass:
        value = torch.cat((value, value.new_ones(*value.shape[:3], ONES)), dim=-1)
    shared = key.size(1) < query.size(1)
    if shared and query.is_cuda:  # the grouped-query form excludes masks from the fused kernels there
        key, value = (x.expand(-1, query.size(1), -1, -1) for x in (key, value))
        shared = False
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale, enable_gqa=shared
    )
    return (output[..., :-ONES], output[..., -1]) if want_mass else (output, None)
