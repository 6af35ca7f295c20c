"""Each row has entries of its own, which move with it, as in stock: whatever is neither beam search nor captured."""

import torch

from el_fairseq.cache.buffer import GrowingBuffer
from el_fairseq.cache.contract import CACHES, Cache, CacheGroup
from el_fairseq.cache.layout import Layout, keys_and_values
from el_fairseq.ops import grouped_attention, grouped_sdpa, merge_masks


class RowCaches:
    """Nothing in common."""

    beams = 1
    moves_with_beams = False

    def new_cache(self, layout):
        return RowCache(layout)

    def reorder(self, order):
        """Nothing to do: each cache follows the beams."""

    def tensors(self):
        return []


class RowCache(Cache):
    """``[P, N, K, t, C]``. Padding is kept too, once there is any."""

    moves_with_beams = True

    def __init__(self, layout: Layout):
        self.layout = layout
        self.entries = GrowingBuffer()
        self.padding: torch.Tensor | None = None  # [N, t], True where the token was padding; None while there is none

    def append(self, new, padding):
        seen = self.entries.length
        self.entries.append(new)
        if padding is not None or self.padding is not None:
            grown = torch.zeros(new.size(1), self.entries.length, dtype=torch.bool, device=new.device)
            if self.padding is not None:
                grown[:, :seen] = self.padding
            if padding is not None:
                grown[:, seen:] = padding
            self.padding = grown

    def attend(self, query, attn_mask, **softmax):
        mask = merge_masks(self.padding, attn_mask, query.dtype)
        return grouped_attention(query, *keys_and_values(self.entries.filled), mask, **softmax)

    def decode(self, qkv, heads, padding, scale):
        qkv = qkv.view(qkv.size(0), 3, heads, 1, -1).transpose(0, 1)  # [N, 3·H·d] -> [3, N, H, 1, d]
        self.append(qkv[1:], padding)
        key, value = self.entries.filled.unbind(0)
        mask = None if self.padding is None else merge_masks(self.padding, None, key.dtype)
        return grouped_sdpa(qkv[0], key, value, mask, scale=scale)[0].flatten(1)

    def reorder(self, order):
        self.entries.reorder(order)
        if self.padding is not None:
            self.padding = self.padding.index_select(0, order)

    def tensors(self):
        return [tensor for tensor in (self.entries.storage, self.padding) if tensor is not None]


def group_in(incremental_state: dict) -> CacheGroup:
    """The group that was put into fairseq's incremental state; where none was, each row has entries of its own."""
    return incremental_state.get(CACHES) or RowCaches()
