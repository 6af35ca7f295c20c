"""Shared keys and values through PyTorch's ``scaled_dot_product_attention``: training memory without the scores."""

import torch
import torch.nn.functional as F

ONES = 8  # columns of ones behind the values; one would do, but fused kernels want widths that are multiples of 8


def shared_kv_sdpa(query, key, value, mask=None, *, dropout=0.0, want_mass=False):
    """``softmax(query · keyᵀ + mask) · value`` for every head, over one set of keys and values.

    Neither is copied for the heads: on a CPU the grouped-query form reads them as they are (without dropout), on CUDA,
    where that form excludes masks from the fused kernels, an expanded view does.

    Args:
        query: ``[N, H, T, d]``, already scaled.
        key: ``[N, S, d]``. value: ``[N, S, d']``.
        mask: ``[N or 1, 1, T or 1, S]``, boolean (True: leave this key out) or added to the scores; or None.
        dropout: probability, applied to the attention weights.
        want_mass: also return what the weights sum to after dropout.

    Returns:
        ``output [N, H, T, d']`` and ``mass [N, H, T]`` or None.
    """
    if mask is not None:
        mask = ~mask if mask.dtype == torch.bool else mask.to(query.dtype)  # PyTorch's says which keys are read
    if want_mass:
        value = torch.cat((value, value.new_ones(*value.shape[:2], ONES)), dim=-1)
    key, value = key.unsqueeze(1), value.unsqueeze(1)  # [N, S, d] -> [N, 1, S, d]
    if query.is_cuda:
        key, value = (x.expand(-1, query.size(1), -1, -1) for x in (key, value))
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=1.0, enable_gqa=not query.is_cuda
    )
    return (output[..., :-ONES], output[..., -1]) if want_mass else (output, None)
