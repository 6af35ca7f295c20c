"""Masks: one from the two that fairseq passes, and in the form that is added to scores."""

import torch


def merge_masks(
    padding: torch.Tensor | None, attn_mask: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """What hides keys: ``[N, 1, 1, S]`` boolean where only padding does, else ``[N or 1, 1, T, S]``, added to scores.

    Args:
        padding: ``[N, S]``, True where there is no token, or None.
        attn_mask: ``[T, S]``, added to the scores, or boolean (True: leave the key out), or None.
        dtype: of the scores.

    Raises:
        ValueError: an ``attn_mask`` of another number of dimensions.
    """
    if attn_mask is None:
        return None if padding is None else padding.bool()[:, None, None]
    if attn_mask.dim() != 2:
        raise ValueError(f"attn_mask of shape {list(attn_mask.shape)}: [T, S] is expected, one mask for all heads")
    if attn_mask.dtype.is_floating_point:
        mask = attn_mask.to(dtype)
    else:
        mask = torch.zeros_like(attn_mask, dtype=dtype).masked_fill_(attn_mask.bool(), float("-inf"))
    mask = mask[None, None]  # [T, S] -> [1, 1, T, S]
    return mask if padding is None else mask.masked_fill(padding.bool()[:, None, None], float("-inf"))


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean ``mask [..., S]``, True where a key is left out, as numbers that are added to scores.

    A row without any key holds NaN: that is what its softmax is, in stock as in ``shared_kv_attention``, where
    PyTorch's fused attention gives zeros.
    """
    numbers = torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    return numbers.masked_fill_(mask.all(dim=-1, keepdim=True), float("nan"))
