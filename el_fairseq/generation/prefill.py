"""Prefill: the prefixes of a batch for language models, read in one forward pass.

Stock consumes a prefix one token a step, for every beam. Here the models see all prefixes once, as in training, once a
sentence; every self-attention keeps what it would have cached, shared by the beams (``PrefixCache``).
"""

import math

import torch
from fairseq.models import FairseqLanguageModel

from el_fairseq.cache import CACHES, PrefixCaches
from el_fairseq.convert.attentions import layers_of
from el_fairseq.convert.el_attention import draws_dropout, why_foreign
from el_fairseq.generation.decoder_step import change_in_decoder, why_no_fast_step
from el_fairseq.generation.next_token import mean_of_distributions
from el_fairseq.generation.sequence_pass import prefill_pass

CHUNK_TOKENS = 256  # whose distributions over the vocabulary are in memory at once


def why_no_prefill(generator):
    """Why prefixes have to be consumed one token a step, or None."""
    if generator.lm_model is not None:
        return "--lm-path: another model scores every step"
    for model in generator.model.models:
        if not isinstance(model, FairseqLanguageModel):
            return f"{type(model).__name__} is not a language model"
        foreign = why_foreign(model.decoder)
        if foreign is not None:
            return foreign
        if not all(hasattr(layer.self_attn, "prefill") for layer in layers_of(model.decoder)):
            return f"{type(model).__name__} decodes with stock attention"
        if draws_dropout(model):
            return "dropout (--retain-dropout): every step draws its own"
        change = change_in_decoder(model.decoder)
        if change is not None:
            return change
    return None


def prefix_lengths(prefixes, pad, eos, limit):
    """How many leading tokens each of ``prefixes [B, P]`` has before padding or end-of-sentence, ``limit`` at most."""
    ended = (prefixes.eq(pad) | prefixes.eq(eos)).cumsum(dim=1) > 0
    return [min(length, limit) for length in (~ended).sum(dim=1).tolist()]


class PrefixSession:
    """The prefixes of a batch, prefilled; and the decoder steps after them, of those sentences that need one.

    The search goes on as in stock: at each step the next token of every sentence, a given one while its prefix lasts.
    So the rows of a sentence start when its prefix has ended, those with the shortest first; the caches are in that
    order.

    Args:
        next_token: a ``NextToken``.
        tokens: ``[B, P + 1]``, what precedes the prefixes, and the prefixes.
        lengths: tokens of each prefix, a list.
        beams: M.

    ``scores [B, P]`` are the log-probabilities of the prefixes' tokens, 0 after them.
    """

    encoder_outs = None

    def __init__(self, next_token, tokens, lengths, beams):
        self.next_token, self.beams = next_token, beams
        self.tokens = tokens[:, 1:]
        self.lengths = torch.tensor(lengths, device=tokens.device)
        self.slots = sorted(range(len(lengths)), key=lengths.__getitem__)  # the sentence in each place of the caches
        self.prefixes = PrefixCaches([lengths[i] + 1 for i in self.slots], beams, tokens.device)
        models = next_token.ensemble.models
        self.states = [{CACHES: self.prefixes} for _ in models]
        self._index()
        features = [self._read(model, state, tokens) for model, state in zip(models, self.states)]
        self._score(features)

    def step(self, step, tokens):
        """As of ``Session``: the token that follows is a given one, as far as it counts."""
        started = sum(length <= step for length in self.prefixes.lengths)
        if started > self.prefixes.started:
            self._start(started)
        return self._lprobs(step, tokens, started), None

    def _lprobs(self, step, tokens, started):
        rows = self.rows
        if started < len(self.slots):
            known = self._known(step).repeat_interleave(self.beams, dim=0)
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
        if self.prefixes.started:
            order = places[order[self.rows]]
            for cache in self._caches():
                cache.reorder(order)

    def _caches(self):
        return [cache for state in self.states for cache in state.values() if cache is not self.prefixes]

    def _index(self):
        """``rows``: the row in each place of the caches; ``places``: the place of each row."""
        device, m = self.lengths.device, self.beams
        rows = torch.tensor(self.slots, dtype=torch.long, device=device).unsqueeze(1) * m
        rows = (rows + torch.arange(m, device=device)).view(-1)
        self.places = torch.empty_like(rows).index_copy_(0, rows, torch.arange(rows.numel(), device=device))
        self.rows = rows[: self.prefixes.started * m]
        self.in_order = self.slots == list(range(len(self.slots)))

    def _start(self, sentences):
        more = (sentences - self.prefixes.started) * self.beams
        for cache in self._caches():
            cache.start(more)
        self.prefixes.start(sentences)
        self._index()

    def _keep(self, sentences):
        """Drop all sentences but these, ``[B']``."""
        self.tokens, self.scores, self.next, self.lengths = (
            x.index_select(0, sentences) for x in (self.tokens, self.scores, self.next, self.lengths)
        )
        number = {old: new for new, old in enumerate(sentences.tolist())}
        slots = [slot for slot, sentence in enumerate(self.slots) if sentence in number]
        self.slots = [number[self.slots[slot]] for slot in slots]
        filler = self.prefixes.keep(slots)
        kept_slots = torch.tensor(slots, device=sentences.device)
        for cache in self._caches():
            cache.keep(kept_slots, filler)
        self._index()

    def _decode(self, tokens):
        lprobs, _ = self.next_token(tokens, [None] * len(self.states), self.states)
        return lprobs

    def _known(self, step):
        """``[B, V]``: what follows a prefix that ends here; the next token alone of one that goes on."""
        if step >= self.tokens.size(1):
            return self.next
        known = self.next.new_full(self.next.shape, -math.inf)
        known.scatter_(1, self.tokens[:, step : step + 1], self.scores[:, step : step + 1])
        return torch.where(self.lengths.eq(step).unsqueeze(1), self.next, known)

    def _read(self, model, state, tokens):
        """The decoder's features ``[B, P + 1, D]``; what its self-attentions keep of the tokens goes to ``state``."""
        slots = None if self.in_order else torch.tensor(self.slots, device=tokens.device)

        def keep(layer, hidden):  # of self-attention, [P + 1, B, D]
            hidden = hidden if slots is None else hidden.index_select(1, slots)
            layer.self_attn.prefill(state, hidden)

        if not torch.is_grad_enabled() and why_no_fast_step(model.decoder) is None:
            return prefill_pass(model.decoder, tokens, keep)
        features, extra = model.decoder(tokens, features_only=True)
        inputs = extra["inner_states"][::-1]  # of the layers, [P + 1, B, D] each
        del extra
        for layer in layers_of(model.decoder):
            hidden = inputs.pop()  # given up as soon as it is kept: all of them are as much as the caches
            keep(layer, layer.self_attn_layer_norm(hidden) if layer.normalize_before else hidden)
        return features

    def _score(self, features):
        """Set ``scores [B, P]``, and ``next [B, V]``: what follows each prefix."""
        sentences = torch.arange(self.lengths.numel(), device=self.lengths.device)
        self.next = self._distributions([x[sentences, self.lengths] for x in features]).clone()
        inside = torch.arange(self.tokens.size(1), device=self.lengths.device) < self.lengths.unsqueeze(1)  # [B, P]
        given, features = self.tokens[inside], [x[:, :-1][inside] for x in features]  # [n], [n, D]
        scores = [self.next.new_empty(0)]
        for start in range(0, given.numel(), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            lprobs = self._distributions([x[part] for x in features])  # [CHUNK_TOKENS, V]
            scores.append(lprobs.gather(1, given[part].unsqueeze(1)).squeeze(1))
        self.scores = self.next.new_zeros(inside.shape).masked_scatter_(inside, torch.cat(scores))

    def _distributions(self, features):
        """Log-probabilities ``[n, V]`` from the features ``[n, D]`` of each model; they hold until the next ones."""
        if self.next_token.plan.one_product:
            return self.next_token.normalize(features)
        lprobs = []
        for model, x in zip(self.next_token.ensemble.models, features):
            logits = model.decoder.output_layer(x.unsqueeze(0)).div_(self.next_token.temperature)
            lprobs.append(model.get_normalized_probs((logits, None), log_probs=True, sample=None).squeeze(0))
        return lprobs[0] if len(lprobs) == 1 else mean_of_distributions(torch.stack(lprobs))
