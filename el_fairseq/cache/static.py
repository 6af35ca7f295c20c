"""Static caches of shared beams: tensors that stay where they are, so that a step can be captured and replayed.

As in ``beams`` the beams of a sentence share one cache, and a table tells whose tokens are whose. Here there is room
for ``ROOM`` steps from the beginning, attention always reads all of it, and nothing depends on values: what was not
written yet is masked like a token of another beam. Nothing is evicted but the sentences that are pruned.
"""

import math

import torch
import torch.nn.functional as F

from el_fairseq.cache.beams import AncestorTable, refuse_mask
from el_fairseq.cache.contract import Cache
from el_fairseq.cache.layout import Layout, keys_and_values
from el_fairseq.cache.prefix import only_prefixes
from el_fairseq.ops import grouped_attention

ROOM = 64  # steps that are made room for at once; a step has to be captured again after that many


class StaticBeamCaches(AncestorTable):
    """The table. Its tensors are replaced in ``reorder`` alone; another ``mask`` means other entries, too."""

    @property
    def tokens_at_first(self):
        return ROOM

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.filled = 0  # columns before this step's tokens
        self.lengths: list[int] = []  # of the prefixes that come first
        self.place = torch.arange(self.beams, device=self.mask.device)  # the columns of this step's tokens

    def start_after(self, lengths: list[int]) -> None:
        """Begin with prefixes of so many tokens, once a sentence, which are ancestors of all its beams."""
        self.lengths, self.filled = lengths, max(lengths)
        counts = torch.tensor(lengths, device=self.mask.device).repeat_interleave(self.beams).unsqueeze(1)  # [N, 1]
        after = torch.arange(self.filled, device=self.mask.device) >= counts
        self.mask = torch.cat((self.mask.new_zeros(after.shape).masked_fill_(after, -math.inf), self.mask), dim=1)
        self.place.add_(self.filled)

    def new_cache(self, layout):
        return self.remember(StaticBeamCache(layout, self))

    def begin_step(self, padding: torch.Tensor) -> None:
        """Enter the tokens of this step, of which ``padding [B·M, 1]`` are left out; once, before the layers."""
        self.mask.index_copy_(1, self.place, self.new_columns(padding))

    def reorder(self, order):
        """As of ``CacheGroup``. There are other tensors where sentences are pruned or there has to be more room."""
        self.filled += self.beams
        rows = self.mask.index_select(0, order)
        pruned, full = rows.size(0) < self.mask.size(0), self.filled == rows.size(1)
        if pruned:
            sentences = order[:: self.beams] // self.beams
            for cache in self.caches:
                cache.entries = cache.entries.index_select(1, sentences)
        if full:
            rows = F.pad(rows, (0, ROOM * self.beams), value=-math.inf)
            for cache in self.caches:
                cache.entries = F.pad(cache.entries, (0, 0, 0, ROOM * self.beams))
        if pruned or full:
            self.mask = rows
        else:
            self.mask.copy_(rows)
        self.place.add_(self.beams)


class StaticBeamCache(Cache):
    """``[P, B, K, columns, C]``, zero where nothing was written yet."""

    moves_with_beams = False

    def __init__(self, layout: Layout, table: StaticBeamCaches):
        self.layout, self.table = layout, table
        self.entries: torch.Tensor | None = None

    def prefill(self, entries: torch.Tensor) -> None:
        """Begin with the entries of all prefixes, ``[P, B, K, p, C]``."""
        room = self.table.mask.size(1) - entries.size(3)
        self.entries = F.pad(only_prefixes(entries, self.table.lengths), (0, 0, 0, room))

    def append(self, new, padding):
        """As of ``Cache``; the table knows the padding since ``begin_step``."""
        self._write(self.table.side_by_side(self.table.drop_lost_beams(new)))

    def _write(self, new):
        if self.entries is None:
            self.entries = new.new_zeros(*new.shape[:3], self.table.mask.size(1), new.size(4))
        self.entries.index_copy_(3, self.table.place, new)

    def attend(self, query, attn_mask, **softmax):
        refuse_mask(attn_mask)
        mask = self.table.mask_of_beams()
        return grouped_attention(query, *keys_and_values(self.entries), mask, **softmax)

    def decode(self, qkv, heads, padding, scale):
        query = self.table.of_sentences(qkv, heads)[0]
        entries = qkv.view(qkv.size(0), 3, heads, 1, -1).transpose(0, 1)  # [N, 3·H·d] -> [3, N, H, 1, d]
        self.append(entries[1:], padding)
        return self.table.attend_fused(query, self.entries, self.table.mask_of_sentences(), scale)

    def decode_shared(self, query, kv, padding, scale):
        self.append(kv.transpose(0, 1)[:, :, None, None], padding)  # [N, 2, d] -> [2, N, 1, 1, d]
        mask = self.table.mask_of_sentences()
        return self.table.attend_fused(self.table.beams_of_heads(query), self.entries, mask, scale)

    def reorder(self, order):
        """Nothing to do: the table follows the beams."""

    def tensors(self):
        return [] if self.entries is None else [self.entries]
