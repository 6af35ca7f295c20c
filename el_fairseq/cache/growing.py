"""Decoder state that is written in place: memory that grows in blocks, and what an attention keeps in it."""

import torch
import torch.nn.functional as F

BLOCK = 16  # tokens by which a cache grows for each row: the memory above need is at most this much


class GrowingCache:
    """Preallocated ``[..., capacity, width]`` of which ``[..., :length, :]`` is filled; ``row_dim`` numbers the rows.

    ``append`` writes in place and copies only where a ``block`` of tokens is full; ``reorder`` works in place while no
    row leaves, and on a CPU touches only rows that change.
    """

    def __init__(self, row_dim=0, block=BLOCK):
        self.row_dim, self.block = row_dim, block
        self.buffer = None
        self.length = 0

    @property
    def filled(self):
        """``[..., length, width]``, a view."""
        return self.buffer.narrow(-2, 0, self.length)

    @property
    def room(self):
        """How many tokens fit behind what is there."""
        return 0 if self.buffer is None else self.buffer.size(-2) - self.length

    def append(self, new):
        """Add ``new [..., n, width]`` behind what is there."""
        length = self.length + new.size(-2)
        if self.buffer is None or length > self.buffer.size(-2):
            self._grow(new, -(-length // self.block) * self.block)
        self.buffer.narrow(-2, self.length, new.size(-2)).copy_(new)
        self.length = length

    def _grow(self, like, capacity):
        grown = like.new_empty(*like.shape[:-2], capacity, like.size(-1))
        if self.buffer is not None:
            grown.narrow(-2, 0, self.length).copy_(self.filled)
        self.buffer = grown

    def keep(self, rows, tokens):
        """Only ``rows [n']`` remain, and ``tokens [n', t']`` of each; a full cache gets room for a block more."""
        self.length, capacity = tokens.size(1), tokens.size(1) + (self.room or self.block)
        shape, width = self.buffer.shape[:-1], self.buffer.size(-1)  # [..., n, ..., capacity]
        firsts = torch.arange(0, shape.numel(), shape[-1], device=rows.device).view(shape[:-1])
        firsts = firsts.index_select(self.row_dim, rows)  # [..., n', ...], where the tokens of each begin
        tokens = F.pad(tokens, (0, capacity - self.length))  # anything: what is behind the length is not read
        tokens = tokens.view(-1, *[1] * (firsts.dim() - self.row_dim - 1), capacity)
        places = firsts.unsqueeze(-1) + tokens
        self.buffer = self.buffer.view(-1, width).index_select(0, places.view(-1)).view(*places.shape, width)

    def drop(self, count):
        """Forget the first ``count`` tokens."""
        if count > 0:
            self.buffer, self.length = self.buffer[..., count:, :].clone(), self.length - count

    def add_rows(self, count):
        """Add rows, zero so far, behind those there are."""
        if self.buffer is not None:
            shape = list(self.buffer.shape)
            shape[self.row_dim] = count
            self.buffer = torch.cat((self.buffer, self.buffer.new_zeros(shape)), dim=self.row_dim)

    def reorder(self, order):
        """Row ``i`` becomes what row ``order[i]`` was; fewer rows than before free the memory of the rest."""
        if self.buffer is None:
            return
        rows = self.buffer.size(self.row_dim)
        if order.numel() == rows and order.device.type == "cpu":  # elsewhere it would cost a synchronisation to know
            changed = (order != torch.arange(rows)).nonzero().squeeze(1)
            self.filled.index_copy_(self.row_dim, changed, self.filled.index_select(self.row_dim, order[changed]))
            return
        moved = self.filled.index_select(self.row_dim, order)
        if order.numel() != rows:
            self.buffer = moved.new_empty(*moved.shape[:-2], *self.buffer.shape[-2:])
        self.filled.copy_(moved)


class SelfAttentionState:
    """What one self-attention keeps of its past: hidden states ``[N, t, E]``, or keys and values ``[2, N, H, t, d]``,
    ``[2, N, t, d]`` where all heads share them. Its padding is kept too, once there is any.
    """

    def __init__(self, row_dim):
        self.cache = GrowingCache(row_dim)
        self.padding = None  # [N, t], True where the token was padding; None while there is none

    def append(self, new, padding):
        """Append tokens and return all that is kept; ``padding [N, n]`` or None belongs to the appended tokens."""
        seen = self.cache.length
        self.cache.append(new)
        if padding is not None or self.padding is not None:
            rows = new.size(self.cache.row_dim)
            grown = torch.zeros(rows, self.cache.length, dtype=torch.bool, device=new.device)
            if self.padding is not None:
                grown[:, :seen] = self.padding
            if padding is not None:
                grown[:, seen:] = padding
            self.padding = grown
        return self.cache.filled

    def reorder(self, order):
        self.cache.reorder(order)
        if self.padding is not None:
            self.padding = self.padding.index_select(0, order)

    def tensors(self):
        return [kept for kept in (self.cache.buffer, self.padding) if kept is not None]


class CrossAttentionState:
    """What one cross-attention keeps of the source: keys and values, ``[B, H, S, d]`` each or (all heads share them)
    ``[B, S, d]``; nothing where it reads the encoder output itself. They are kept once a sentence, for its M ``beams``.
    """

    def __init__(self, kept, beams):
        self.kept, self.beams = kept, beams

    def reorder(self, order):
        sentences = sentences_of_rows(order, self.beams, self.kept[0].size(0)) if self.kept else None
        if sentences is not None:
            self.kept = tuple(x.index_select(0, sentences) for x in self.kept)

    def tensors(self):
        return list(self.kept)


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
