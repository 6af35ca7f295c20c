"""The beams of a sentence share one cache, and nothing in it moves when they change places.

A step writes M tokens to it, one a beam. A table, the same for all layers, says which tokens are ancestors of which
beam: it is a mask of the attention. Where stock copies the past of every beam in every layer to where the beam went,
only the table moves. Tokens that are no beam's ancestor any more are evicted when the cache is full, or when a sentence
is pruned; mostly that is most of them, because beams share their beginnings.
"""

import math
import weakref

import torch

from el_fairseq.cache.buffer import BLOCK, GrowingBuffer, sentences_of_rows
from el_fairseq.cache.layout import Layout, keys_and_values
from el_fairseq.ops import grouped_attention


class AncestorTable:
    """Which of the tokens of a sentence are ancestors of each of its beams: the tokens that the beam consists of.

    ``strangers [B, M, tokens]`` is True where a token is not; the group's caches are in ``caches``.
    """

    moves_with_beams = True

    def __init__(self, beams: int, strangers: torch.Tensor):
        self.beams, self.strangers = beams, strangers
        self.others = ~torch.eye(beams, dtype=torch.bool, device=strangers.device)  # [M, M]
        self.caches: weakref.WeakSet = weakref.WeakSet()  # a cycle would outlive the batch

    def remember(self, cache):
        self.caches.add(cache)
        return cache

    def drop_lost_beams(self, new: torch.Tensor) -> torch.Tensor:
        """Entries ``new [P, N, K, 1, C]`` with zeros for what is infinite or no number.

        The beams they are of are lost, as they are in stock: nothing is left for them to attend to, and their scores
        become NaN, without touching the others. A stranger counts 0 times its value, which has to be a number for that.
        """
        finite = new.isfinite()
        lost = ~finite.movedim(1, 0).flatten(1).all(dim=1)  # [N]
        self.strangers.logical_or_(lost.view(-1, self.beams, 1))
        return new.masked_fill(~finite, 0.0)

    def side_by_side(self, new: torch.Tensor) -> torch.Tensor:
        """Entries of one token a beam, ``[P, N, K, 1, C]``, as M tokens of a sentence, ``[P, B, K, M, C]``."""
        return new.squeeze(3).unflatten(1, (-1, self.beams)).movedim(2, 3)

    def tensors(self):
        return [self.strangers]


class BeamCaches(AncestorTable):
    """The table of caches that grow.

    Args:
        sentences: B.
        beams: M.
        device: of the table.
    """

    def __init__(self, sentences: int, beams: int, device: torch.device):
        super().__init__(beams, torch.zeros(sentences, beams, 0, dtype=torch.bool, device=device))

    def new_cache(self, layout):
        return self.remember(BeamCache(layout, self))

    def enter(self, tokens: int, padding: torch.Tensor | None) -> None:
        """Enter this step's tokens, the last M of so many; ``padding [B·M, 1]`` are left out. Once a step, by the first
        layer that asks."""
        if self.strangers.size(2) < tokens:
            new = self.others.expand(self.strangers.size(0), -1, -1)  # [M, M] -> [B, M, M]
            if padding is not None:
                new = new | padding.view(-1, 1, self.beams)
            self.strangers = torch.cat((self.strangers, new), dim=2)

    def reorder(self, order):
        sentences = sentences_of_rows(order, self.beams, self.strangers.size(0))
        shape = order.numel() // self.beams, self.beams, self.strangers.size(2)
        self.strangers = self.strangers.flatten(0, 1).index_select(0, order).view(shape)
        if sentences is not None or any(cache.entries.room < self.beams for cache in self.caches):
            self._evict(sentences)

    def _evict(self, sentences):
        """Keep ``sentences [B']`` (None: all), and the ancestors of their beams."""
        alive = ~self.strangers.all(dim=1)  # [B', tokens]
        count = int(alive.sum(dim=1).max())
        kept = alive.byte().sort(dim=1, descending=True, stable=True).indices[:, :count]  # first those that are alive
        self.strangers = self.strangers.gather(2, kept.unsqueeze(1).expand(-1, self.beams, -1))
        if sentences is None:
            sentences = torch.arange(alive.size(0), device=alive.device)
        for cache in self.caches:
            cache.entries.keep(sentences, kept)


class BeamCache:
    """``[P, B, K, tokens, C]``: the tokens of all beams of a sentence side by side, but for those that were evicted."""

    moves_with_beams = False

    def __init__(self, layout: Layout, table: BeamCaches):
        self.layout, self.table = layout, table
        self.entries = GrowingBuffer(block=BLOCK * table.beams)

    def append(self, new, padding):
        self.table.enter(self.entries.length + self.table.beams, padding)
        if not math.isfinite(new.sum(dtype=torch.promote_types(new.dtype, torch.float32)).item()):
            new = self.table.drop_lost_beams(new)
        self.entries.append(self.table.side_by_side(new))

    def attend(self, query, attn_mask, **softmax):
        refuse_mask(attn_mask)
        return grouped_attention(
            query, *keys_and_values(self.entries.filled), self.table.strangers.unsqueeze(2), **softmax
        )

    def reorder(self, order):
        """Nothing to do: the table follows the beams, for all layers at once."""

    def tensors(self):
        return [] if self.entries.storage is None else [self.entries.storage]


def refuse_mask(attn_mask: torch.Tensor | None) -> None:
    """Raise ``ValueError`` for an ``attn_mask``."""
    if attn_mask is not None:
        raise ValueError("attn_mask: the tokens of all beams of a sentence stand side by side, in no order")
