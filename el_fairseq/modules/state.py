"""Decoder state that is written in place: memory that grows in blocks, and what an attention keeps in it."""

import torch

BLOCK = 16  # tokens by which a cache grows; the memory above need is at most this much a row


class GrowingCache:
    """Preallocated ``[rows, ..., capacity, width]`` of which ``[..., :length, :]`` is filled.

    ``append`` writes in place and copies only where a block is full; ``reorder`` works in place while no row leaves,
    and on a CPU moves only the rows that change.
    """

    def __init__(self):
        self.buffer = None
        self.length = 0

    @property
    def filled(self):
        """``[rows, ..., length, width]``, a view."""
        return self.buffer.narrow(-2, 0, self.length)

    def append(self, new):
        """Add ``new [rows, ..., n, width]`` behind what is there."""
        length = self.length + new.size(-2)
        if self.buffer is None or length > self.buffer.size(-2):
            self._grow(new, -(-length // BLOCK) * BLOCK)
        self.buffer.narrow(-2, self.length, new.size(-2)).copy_(new)
        self.length = length

    def _grow(self, like, capacity):
        grown = like.new_empty(*like.shape[:-2], capacity, like.size(-1))
        if self.buffer is not None:
            grown.narrow(-2, 0, self.length).copy_(self.filled)
        self.buffer = grown

    def reorder(self, order):
        """Row ``i`` becomes what row ``order[i]`` was; fewer rows than before free the memory of the rest."""
        rows = self.buffer.size(0)
        if order.numel() != rows:
            survivors = self.buffer.new_empty(order.numel(), *self.buffer.shape[1:])
            survivors.narrow(-2, 0, self.length).copy_(self.filled.index_select(0, order))
            self.buffer = survivors
            return
        if order.device.type != "cpu":  # to ask which rows move would make the host wait for the device
            self.filled.copy_(self.filled.index_select(0, order))
            return
        moved = (order != torch.arange(rows)).nonzero().squeeze(1)
        if moved.numel() > 0:
            self.filled.index_copy_(0, moved, self.filled.index_select(0, order[moved]))


class SelfAttentionState:
    """What one self-attention keeps a row: hidden states alone, or keys and values; and padding, once there is any."""

    def __init__(self, caches):
        self.caches = tuple(GrowingCache() for _ in range(caches))
        self.padding = None  # [rows, length], True where the token was padding; None while there is none

    def append(self, news, padding):
        """Append one tensor a cache; ``padding [rows, n]`` or None belongs to the appended tokens."""
        seen = self.caches[0].length
        for cache, new in zip(self.caches, news):
            cache.append(new)
        if padding is not None or self.padding is not None:
            rows, length = news[0].size(0), self.caches[0].length
            grown = torch.zeros(rows, length, dtype=torch.bool, device=news[0].device)
            if self.padding is not None:
                grown[:, :seen] = self.padding
            if padding is not None:
                grown[:, seen:] = padding
            self.padding = grown
        return [cache.filled for cache in self.caches]

    def reorder(self, order):
        for cache in self.caches:
            cache.reorder(order)
        if self.padding is not None:
            self.padding = self.padding.index_select(0, order)

    def tensors(self):
        buffers = [cache.buffer for cache in self.caches]
        return buffers if self.padding is None else [*buffers, self.padding]


class CrossAttentionState:
    """Keys and values ``[B, H, S, d]`` of one cross-attention, once a sentence, shared by its ``beams`` rows."""

    def __init__(self, key, value, beams):
        self.key, self.value, self.beams = key, value, beams

    def reorder(self, order):
        sentences = sentences_of_rows(order, self.beams, self.key.size(0))
        if sentences is not None:
            self.key = self.key.index_select(0, sentences)
            self.value = self.value.index_select(0, sentences)

    def tensors(self):
        return [self.key, self.value]


def sentences_of_rows(order, beams, sentences):
    """Which sentences remain, and in what order, after rows are re-ordered: ``[B']``, or None if nothing changes.

    Args:
        order: ``[B'·M]`` row numbers, the rows of a sentence side by side.
        beams: M. sentences: B, how many there are now.

    Raises:
        ValueError: a group of M rows mixes sentences, so that they could not share their state.
    """
    groups = order.view(-1, beams) // beams  # [B'·M] -> [B', M]
    kept = groups[:, 0]
    if not bool((groups == kept.unsqueeze(1)).all()):
        raise ValueError(f"rows of different sentences in one group of {beams} beams: {order.tolist()}")
    unchanged = kept.numel() == sentences and torch.equal(kept, torch.arange(sentences, device=kept.device))
    return None if unchanged else kept
