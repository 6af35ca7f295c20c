"""Decoding after prefixes that were read in one pass (``prefill.py``)."""

import torch

from el_fairseq.cache import CACHES, PrefixCaches
from el_fairseq.generation.newest_tokens import NewestTokens
from el_fairseq.generation.prefill import Prefixes


class _AfterPrefixes:
    """What both sessions have in common: ``next_token`` decodes, and there is no encoder."""

    encoder_outs = None

    def _decode(self, tokens):
        lprobs, _ = self.next_token(tokens, [None] * len(self.states), self.states)
        return lprobs


class PrefixSession(_AfterPrefixes):
    """The prefixes of a batch, prefilled; and the decoder steps after them, of those sentences that need one.

    The search goes on as in stock: at each step the next token of every sentence, a given one while its prefix lasts.
    So the rows of a sentence start when its prefix has ended, those with the shortest first; the caches are in that
    order.

    Args:
        next_token: a ``NextToken``.
        tokens: ``[B, P + 1]``, what precedes the prefixes, and the prefixes.
        lengths: tokens of each prefix, a list.
        beams: M.
    """

    def __init__(self, next_token, tokens, lengths, beams):
        self.next_token, self.beams, self.device = next_token, beams, tokens.device
        self.slots = sorted(range(len(lengths)), key=lengths.__getitem__)  # the sentence in each place of the caches
        self.group = PrefixCaches([lengths[i] + 1 for i in self.slots], beams, tokens.device)
        self.states = [{CACHES: self.group} for _ in next_token.ensemble.models]
        self._index()
        self.prefixes = Prefixes(next_token, tokens, lengths, self.states, self.slots)

    def step(self, step, tokens):
        """As of ``Session``: the token that follows is a given one, as far as it counts."""
        started = sum(length <= step for length in self.group.lengths)
        if started > self.group.started:
            self._start(started)
        return self._lprobs(step, tokens, started), None

    def _lprobs(self, step, tokens, started):
        rows = self.rows
        if started < len(self.slots):
            known = self.prefixes.known(step).repeat_interleave(self.beams, dim=0)
            if started == 0:
                return known
            return known.index_copy_(0, rows, self._decode(tokens.index_select(rows)))
        if self.in_order:
            return self._decode(tokens)
        return self._decode(tokens.index_select(rows)).index_select(0, self.places)

    def reorder(self, order, pruned):
        places = self.places
        if pruned:
            self._keep(order.view(-1, self.beams)[:, 0] // self.beams)
        if self.group.started:
            order = places[order[self.rows]]
            for cache in self._caches():
                cache.reorder(order)

    def _caches(self):
        return [cache for state in self.states for cache in state.values() if cache is not self.group]

    def _index(self):
        """``rows``: the row in each place of the caches; ``places``: the place of each row."""
        device, m = self.device, self.beams
        rows = torch.tensor(self.slots, dtype=torch.long, device=device).unsqueeze(1) * m
        rows = (rows + torch.arange(m, device=device)).view(-1)
        self.places = torch.empty_like(rows).index_copy_(0, rows, torch.arange(rows.numel(), device=device))
        self.rows = rows[: self.group.started * m]
        self.in_order = self.slots == list(range(len(self.slots)))

    def _start(self, sentences):
        more = (sentences - self.group.started) * self.beams
        for cache in self._caches():
            cache.start(more)
        self.group.start(sentences)
        self._index()

    def _keep(self, sentences):
        """Drop all sentences but these, ``[B']``."""
        self.prefixes.keep(sentences)
        number = {old: new for new, old in enumerate(sentences.tolist())}
        slots = [slot for slot, sentence in enumerate(self.slots) if sentence in number]
        self.slots = [number[self.slots[slot]] for slot in slots]
        filler = self.group.keep(slots)
        kept_slots = torch.tensor(slots, device=sentences.device)
        for cache in self._caches():
            cache.keep(kept_slots, filler)
        self._index()


class StaticPrefixSession(_AfterPrefixes):
    """As ``PrefixSession``, in static caches: after the shortest prefix all rows take captured steps. Where a longer
    one goes on, the token of a row is padding to the model, and its place in the cache is masked.

    Args:
        next_token, tokens, lengths, beams: as of ``PrefixSession``.
        plan: the ``BatchPlan``, with ``StaticBeamCaches``.
        pad: the number of the padding symbol.
    """

    def __init__(self, next_token, tokens, lengths, beams, plan, pad):
        self.next_token, self.beams, self.pad = next_token, beams, pad
        # until the first of these steps what follows is known of all rows, after the last of none
        self.first, self.last = min(lengths), max(lengths)
        self.static_rows = plan.static_rows
        for group in plan.caches:
            group.start_after([length + 1 for length in lengths])
        self.states = [{CACHES: group} for group in plan.caches]
        self.prefixes = Prefixes(next_token, tokens, lengths, self.states, list(range(len(lengths))))
        self.decodes = False  # whether a step was taken since

    def step(self, step, tokens):
        """As of ``Session``."""
        if step <= self.first:
            return self._known(step), None
        self.decodes = True
        if step > self.last:
            return self._decode(tokens), None
        goes_on = (self.prefixes.lengths >= step).repeat_interleave(self.beams)  # [N]
        tokens = NewestTokens(tokens.last.masked_fill(goes_on, self.pad), tokens.count, tokens.whole)
        return torch.where(goes_on.unsqueeze(1), self._known(step), self._decode(tokens)), None

    def reorder(self, order, pruned):
        if pruned:
            self.prefixes.keep(order[:: self.beams] // self.beams)
        if self.static_rows is not None:
            order, pruned = self.static_rows.follow(order, pruned)
        if self.decodes or pruned:
            for state in self.states:
                state[CACHES].reorder(order)

    def _known(self, step):
        return self.prefixes.known(step).repeat_interleave(self.beams, dim=0)
