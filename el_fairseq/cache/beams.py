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
from el_fairseq.cache.contract import Cache
from el_fairseq.cache.layout import Layout, keys_and_values
from el_fairseq.ops import grouped_attention, grouped_sdpa


class AncestorTable:
    """Which of the tokens of a sentence are ancestors of each of its beams: the tokens that the beam consists of.

    ``mask [N, tokens]``, of N = B·M rows, is 0 where a token is one, -inf where it is not, and NaN for a beam that is
    lost; it is added to scores. The group's caches are in ``caches``.

    Args:
        sentences: B.
        beams: M.
        device: of the mask.
        dtype: of the scores.
    """

    moves_with_beams = True
    tokens_at_first = 0  # that there is room for in the mask, of each beam

    def __init__(self, sentences: int, beams: int, device: torch.device, dtype: torch.dtype = torch.float32):
        self.beams = beams
        masked = torch.tensor(-math.inf, dtype=dtype, device=device)
        self.mask = masked.repeat(sentences * beams, self.tokens_at_first * beams)
        self.others = masked.repeat(beams, beams).fill_diagonal_(0.0)  # of the tokens of one step, [M, M]
        self.columns: torch.Tensor | None = None  # ``others`` for each sentence, [N, M]
        self.caches: weakref.WeakSet = weakref.WeakSet()  # a cycle would outlive the batch

    def remember(self, cache):
        self.caches.add(cache)
        return cache

    def drop_lost_beams(self, new: torch.Tensor) -> torch.Tensor:
        """Entries ``new [P, N, K, 1, C]`` with zeros for what is infinite or no number.

        The beams they are of are lost, as they are in stock: their scores become NaN, without touching the others. A
        token that is masked counts 0 times its value, which has to be a number for that.
        """
        finite = new.isfinite()
        lost = ~finite.movedim(1, 0).flatten(1).all(dim=1)  # [N]
        self.mask.masked_fill_(lost.unsqueeze(1), math.nan)
        return new.masked_fill(~finite, 0.0)

    def new_columns(self, padding: torch.Tensor | None) -> torch.Tensor:
        """The mask of one token more of each beam, ``[N, M]``; ``padding [N, 1]`` are left out."""
        rows = self.mask.size(0)
        if padding is None:
            if self.columns is None or self.columns.size(0) != rows:
                self.columns = self.others.repeat(rows // self.beams, 1)
            return self.columns
        tokens = padding.view(-1, 1, self.beams)
        return self.others.masked_fill(tokens, -math.inf).flatten(0, 1)  # [M, M] -> [B, M, M] -> [N, M]

    def mask_of_sentences(self) -> torch.Tensor:
        """``[B, 1, M, tokens]``, a view: a mask for all heads."""
        rows, tokens = self.mask.shape
        return self.mask.view(rows // self.beams, 1, self.beams, tokens)

    def mask_of_beams(self) -> torch.Tensor:
        """``[B, M, 1, tokens]``, a view: a mask for each beam."""
        rows, tokens = self.mask.shape
        return self.mask.view(rows // self.beams, self.beams, 1, tokens)

    def side_by_side(self, new: torch.Tensor) -> torch.Tensor:
        """Entries of one token a beam, ``[P, N, K, 1, C]``, as M tokens of a sentence, ``[P, B, K, M, C]``."""
        return new.squeeze(3).unflatten(1, (-1, self.beams)).transpose(2, 3)

    def of_sentences(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        """``[N, 3·H·d] -> [3, B, H, M, d]``, a view."""
        return qkv.view(-1, self.beams, 3, heads, qkv.size(1) // (3 * heads)).permute(2, 0, 3, 1, 4)

    def beams_of_heads(self, query: torch.Tensor) -> torch.Tensor:
        """``[N, H, d] -> [B, H, M, d]``, a view."""
        return query.view(-1, self.beams, *query.shape[1:]).transpose(1, 2)

    def attend_fused(self, query, filled, mask, scale):
        """Queries ``[B, H, M, d]`` to all entries ``[2, B, K, S, d]`` of their sentences, K = H or 1: contexts
        ``[N, H·d]``."""
        key, value = filled.unbind(0)
        context, _ = grouped_sdpa(query, key, value, mask, scale=scale)
        b, heads, beams, width = context.shape
        return context.transpose(1, 2).reshape(b * beams, heads * width)

    def tensors(self):
        return [self.mask]


class BeamCaches(AncestorTable):
    """The table of caches that grow.

    Whoever looks for lost beams itself after each step, and takes it back by ``undo_step``, sets ``looks_for_lost`` to
    False: then no cache does at every token.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.looks_for_lost = True
        self.mask_of_heads: torch.Tensor | None = None  # of this step

    def new_cache(self, layout):
        return self.remember(BeamCache(layout, self))

    def enter(self, tokens: int, padding: torch.Tensor | None) -> None:
        """Enter this step's tokens, the last M of so many; ``padding [B·M, 1]`` are left out. Once a step, by the first
        layer that asks."""
        if self.mask.size(1) < tokens:
            self.mask = torch.cat((self.mask, self.new_columns(padding)), dim=1)
            self.mask_of_heads = self.mask_of_sentences()

    def undo_step(self) -> None:
        """Take back the last token of each beam, and look for lost beams from now on: in what is kept, too.

        A key that is infinite goes unnoticed while its products with queries are -inf; with a query of the other sign
        it reaches the beams that it is masked for.
        """
        self.mask = self.mask[:, : -self.beams].clone()
        for cache in self.caches:
            cache.entries.length -= self.beams
            filled = cache.entries.filled
            finite = filled.isfinite()
            lost = ~finite.all(dim=4).all(dim=2).all(dim=0)  # [P, B, K, tokens, C] -> [B, tokens]
            own = (self.mask == 0) & lost.repeat_interleave(self.beams, dim=0)
            owners = own.any(dim=1, keepdim=True)  # [N, 1]
            self.mask.masked_fill_(owners, math.nan)
            filled.masked_fill_(~finite, 0.0)
        self.looks_for_lost = True

    def reorder(self, order):
        """As of ``CacheGroup``; the rows of a sentence stay side by side."""
        rows, beams = self.mask.size(0), self.beams
        pruned = order.numel() < rows
        self.mask = self.mask.index_select(0, order)
        if pruned or any(cache.entries.room < beams for cache in self.caches):
            self._evict(sentences_of_rows(order, beams, rows // beams) if pruned else None)

    def _evict(self, sentences):
        """Keep ``sentences [B']`` (None: all), and the ancestors of their beams."""
        alive = (self.mask == 0).unflatten(0, (-1, self.beams)).any(dim=1)  # [B', tokens]
        count = int(alive.sum(dim=1).max())
        tokens = alive.byte().sort(dim=1, descending=True, stable=True).indices[:, :count]  # first those that are alive
        self.mask = self.mask.gather(1, tokens.repeat_interleave(self.beams, dim=0))
        if sentences is None:
            sentences = torch.arange(alive.size(0), device=alive.device)
        for cache in self.caches:
            cache.entries.keep(sentences, tokens)


class BeamCache(Cache):
    """``[P, B, K, tokens, C]``: the tokens of all beams of a sentence side by side, but for those that were evicted."""

    moves_with_beams = False

    def __init__(self, layout: Layout, table: BeamCaches):
        self.layout, self.table = layout, table
        self.entries = GrowingBuffer(block=BLOCK * table.beams)

    def append(self, new, padding):
        table = self.table
        table.enter(self.entries.length + table.beams, padding)
        if table.looks_for_lost and not is_finite(new):
            new = table.drop_lost_beams(new)
        self.entries.append(table.side_by_side(new))

    def attend(self, query, attn_mask, **softmax):
        refuse_mask(attn_mask)
        mask = self.table.mask_of_beams()
        return grouped_attention(query, *keys_and_values(self.entries.filled), mask, **softmax)

    def decode(self, qkv, heads, padding, scale):
        table = self.table
        if table.looks_for_lost:
            return super().decode(qkv, heads, padding, scale)
        table.enter(self.entries.length + table.beams, padding)
        qkv = table.of_sentences(qkv, heads)
        self.entries.append(qkv[1:])
        return table.attend_fused(qkv[0], self.entries.filled, table.mask_of_heads, scale)

    def decode_shared(self, query, kv, padding, scale):
        table = self.table
        if table.looks_for_lost:
            return super().decode_shared(query, kv, padding, scale)
        table.enter(self.entries.length + table.beams, padding)
        # [N, 2, d] -> [2, B, 1, M, d]
        self.entries.append(kv.unflatten(0, (-1, table.beams)).permute(2, 0, 1, 3).unsqueeze(2))
        return table.attend_fused(table.beams_of_heads(query), self.entries.filled, table.mask_of_heads, scale)

    def reorder(self, order):
        """Nothing to do: the table follows the beams, for all layers at once."""

    def tensors(self):
        return [] if self.entries.storage is None else [self.entries.storage]


def is_finite(x: torch.Tensor) -> bool:
    """Whether no element is infinite or NaN; False may also mean that their sum is too large. Waits for the device."""
    return math.isfinite(x.sum(dtype=torch.float64 if x.dtype is torch.float64 else torch.float32).item())


def refuse_mask(attn_mask: torch.Tensor | None) -> None:
    """Raise ``ValueError`` for an ``attn_mask``."""
    if attn_mask is not None:
        raise ValueError("attn_mask: the tokens of all beams of a sentence stand side by side, in no order")
