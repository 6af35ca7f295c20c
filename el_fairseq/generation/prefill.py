"""Prefill: the prefixes of a batch for language models, read in one forward pass.

Stock consumes a prefix one token a step, for every beam. Here the models see all prefixes once, as in training, once a
sentence; every self-attention keeps what it would have cached, shared by the beams.
"""

import math

import torch
from fairseq.models import FairseqLanguageModel

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


class Prefixes:
    """The prefixes of a batch, read by the models: the log-probabilities of their tokens, and of what follows each.

    Args:
        next_token: a ``NextToken``.
        tokens: ``[B, P + 1]``, what precedes the prefixes, and the prefixes.
        lengths: tokens of each prefix, a list.
        states: the incremental state of each model, with a group of caches.
        slots: the sentence in each place of the caches, a list.

    ``scores [B, P]`` are the log-probabilities of the prefixes' tokens, 0 after them; ``next [B, V]`` those of what
    follows each.
    """

    def __init__(self, next_token, tokens, lengths, states, slots):
        self.next_token, self.tokens = next_token, tokens[:, 1:]
        self.lengths = torch.tensor(lengths, device=tokens.device)
        in_order = slots == list(range(len(slots)))
        order = None if in_order else torch.tensor(slots, device=tokens.device)
        models = next_token.ensemble.models
        self._score([_read(model, state, tokens, order) for model, state in zip(models, states)])

    def keep(self, sentences):
        """Drop all but these, ``[B']``."""
        self.tokens, self.scores, self.next, self.lengths = (
            x.index_select(0, sentences) for x in (self.tokens, self.scores, self.next, self.lengths)
        )

    def known(self, step):
        """``[B, V]``: what follows a prefix that ends here; the next token alone of one that goes on."""
        if step >= self.tokens.size(1):
            return self.next
        known = self.next.new_full(self.next.shape, -math.inf)
        known.scatter_(1, self.tokens[:, step : step + 1], self.scores[:, step : step + 1])
        return torch.where(self.lengths.eq(step).unsqueeze(1), self.next, known)

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


def _read(model, state, tokens, order):
    """The decoder's features ``[B, P + 1, D]``; what its self-attentions keep of them goes to ``state``, sentences in
    ``order`` (None: as they are)."""

    def keep(layer, hidden):  # of self-attention, [P + 1, B, D]
        hidden = hidden if order is None else hidden.index_select(1, order)
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
