"""Caches after a prefill: what is kept of a prefix is kept once, for all beams that continue it."""

from typing import Any

import torch
import torch.nn.functional as F

from el_fairseq.cache.buffer import GrowingBuffer
from el_fairseq.cache.contract import Cache
from el_fairseq.cache.layout import Layout, keys_and_values
from el_fairseq.ops import prefix_attention


class PrefixCaches:
    """The prefixes of B sentences, shortest first, of which the first ``started`` are being continued by M rows each.

    A longer prefix is read to its end while shorter ones are already being continued: a token that the rows of the
    shortest have generated and those of a longer one have not is filler there.

    Args:
        lengths: tokens of each prefix, begin-of-sentence included, ascending.
        beams: M.
        device: of the masks.
    """

    moves_with_beams = False

    def __init__(self, lengths: list[int], beams: int, device: torch.device):
        self.lengths, self.beams, self.device = lengths, beams, device
        self.start(0)

    @property
    def width(self) -> int:
        """Tokens of the longest prefix that is being continued."""
        return self.lengths[self.started - 1]

    def start(self, sentences: int) -> None:
        """From now on the first ``sentences`` are being continued."""
        self.started = sentences
        self._grown: Any = None
        self.masks: tuple = (
            None,
            None,
        )  # [started, width] and [started·M, width - shortest], True where the place is not used
        if self.started and self.width > self.lengths[0]:
            lengths = torch.tensor(self.lengths[: self.started], device=self.device).unsqueeze(1)
            places = torch.arange(self.width, device=self.device)
            filler = places[self.lengths[0] :] < lengths
            self.masks = places >= lengths, filler.repeat_interleave(self.beams, dim=0)

    def keep(self, slots: list[int]) -> int:
        """Only the sentences in ``slots`` remain. Returns how many leading tokens of the rows are filler in all."""
        shortest, started = self.lengths[0], sum(slot < self.started for slot in slots)
        self.lengths = [self.lengths[slot] for slot in slots]
        self.start(started)
        return self.lengths[0] - shortest

    def paddings(self, tokens: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """``[started, width]`` of the prefixes and ``[started·M, tokens]`` of what the rows keep; or None."""
        padding, filler = self.masks
        if filler is None:
            return None, None
        if self._grown is None or self._grown.size(1) != tokens:  # once a step, for all layers
            self._grown = F.pad(filler[:, :tokens], (0, max(0, tokens - filler.size(1))))
        return padding, self._grown

    def new_cache(self, layout):
        return PrefixCache(layout, self)

    def reorder(self, order):
        """Nothing to do: beams of a sentence have its prefix in common."""

    def tensors(self):
        return [mask for mask in self.masks if mask is not None]


class PrefixCache(Cache):
    """``prefix [P, B, K, prefix tokens, C]``, in the order of the group, and ``entries`` of what the rows generated."""

    moves_with_beams = True

    def __init__(self, layout: Layout, group: PrefixCaches):
        self.layout, self.group = layout, group
        self.prefix: Any = None  # a tensor, from the prefill on
        self.entries = GrowingBuffer()

    def prefill(self, entries: torch.Tensor) -> None:
        """Begin with the entries of all prefixes, ``[P, B, K, p, C]``."""
        kept = only_prefixes(entries, self.group.lengths)
        # Hidden states may be a view of something larger, which would stay in memory with them.
        is_view = kept is entries and self.layout is Layout.HIDDEN
        self.prefix = kept.clone(memory_format=torch.contiguous_format) if is_view else kept.contiguous()

    def append(self, new, padding):
        """As of ``Cache``; ``padding`` is not kept: only rows of score -inf hold any, and they never come back."""
        self.entries.append(new)

    def attend(self, query, attn_mask, *, want_weights, **softmax):
        if attn_mask is not None:
            raise ValueError("attn_mask: after a prefix every token attends to all before it")
        paddings = self.group.paddings(self.entries.length)
        prefix, own = keys_and_values(self.shared()), keys_and_values(self.entries.filled)
        context, weights, mass = prefix_attention(query, prefix, own, paddings, **softmax)
        return context, weights if want_weights else None, mass

    def shared(self) -> torch.Tensor:
        """``prefix``, as far as it is being continued: a view."""
        return self.prefix[:, : self.group.started, :, : self.group.width]

    def start(self, rows: int) -> None:
        """``rows`` more rows begin."""
        self.entries.add_rows(rows)

    def keep(self, sentences: torch.Tensor, filler: int) -> None:
        """Prefixes of ``sentences [B']`` remain; ``filler`` as ``PrefixCaches.keep`` returned it, before rows go."""
        self.prefix = self.prefix.index_select(1, sentences)
        if self.group.started == 0:
            self.entries = GrowingBuffer()
        else:
            self.entries.drop(filler)

    def reorder(self, order):
        self.entries.reorder(order)

    def tensors(self):
        return [tensor for tensor in (self.entries.storage, self.prefix) if tensor is not None]


def only_prefixes(entries: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """``entries [P, B, K, p, C]`` with zeros after each prefix: what is masked counts 0 times what it holds, which has
    to be a number for that."""
    if min(lengths) == entries.size(3):
        return entries
    ends = torch.tensor(lengths, device=entries.device).unsqueeze(1)
    after = torch.arange(entries.size(3), device=entries.device) >= ends  # [B, p]
    return entries.masked_fill(after[:, None, :, None], 0.0)  # -> [B, 1, p, 1]
