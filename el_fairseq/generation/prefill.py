"""Language models: the prompts of a batch, read in one forward pass.

Stock consumes a prompt one token a step, for every beam. Here the models see all prompts once, as in training, once a
sentence; every self-attention keeps what it would have cached, shared by the beams (``PromptedState``).
"""

import math

import torch
from fairseq.models import FairseqLanguageModel

from el_fairseq.cache.prefix import PromptLayout
from el_fairseq.convert.el_attention import draws_dropout, layers_of, why_foreign
from el_fairseq.generation.decoder_step import change_in_decoder, is_straight
from el_fairseq.generation.sequence_pass import read_prompts

CHUNK = 256  # tokens whose distributions over the vocabulary are in memory at once


def why_step_by_step(generator):
    """Why prompts have to be consumed a token a step, or None."""
    if generator.lm_model is not None:
        return "--lm-path: another model scores every step"
    for model in generator.model.models:
        if not isinstance(model, FairseqLanguageModel):
            return f"{type(model).__name__} is not a language model"
        foreign = why_foreign(model.decoder)
        if foreign is not None:
            return foreign
        if not all(hasattr(layer.self_attn, "start_with_prompt") for layer in layers_of(model.decoder)):
            return f"{type(model).__name__} decodes with stock attention"
        if draws_dropout(model):
            return "dropout (--retain-dropout): every step draws its own"
        change = change_in_decoder(model.decoder)
        if change is not None:
            return change
    return None


def prompt_lengths(prompts, pad, eos, limit):
    """How many leading tokens each of ``prompts [B, P]`` has before padding or end-of-sentence, ``limit`` at most."""
    ended = (prompts.eq(pad) | prompts.eq(eos)).cumsum(dim=1) > 0
    return [min(length, limit) for length in (~ended).sum(dim=1).tolist()]


class Prompts:
    """The prompts of a batch, consumed; and the decoder steps behind them, of those sentences that need one.

    The search goes on as in stock: at each step the next token of every sentence, a given one while its prompt lasts.
    So the rows of a sentence begin when its prompt has ended, those with the shortest first; what is kept of the past
    stands in that order.

    Args:
        next_token: a ``NextToken``. states: incremental states, one a model, empty. tokens: ``[B, P + 1]``, what
        precedes the prompts and the prompts. lengths: tokens of each prompt, a list. beams: M.

    ``scores [B, P]`` are the log-probabilities of the prompts' tokens, 0 behind them.
    """

    def __init__(self, next_token, states, tokens, lengths, beams):
        self.next_token, self.states, self.beams = next_token, states, beams
        self.tokens = tokens[:, 1:]
        self.lengths = torch.tensor(lengths, device=tokens.device)
        self.slots = sorted(range(len(lengths)), key=lengths.__getitem__)  # the sentence in each place of the states
        self.layout = PromptLayout([lengths[i] + 1 for i in self.slots], beams, tokens.device)
        self._index()
        features = [self._read(model, state, tokens) for model, state in zip(next_token.ensemble.models, states)]
        self._score(features)

    def lprobs(self, step, tokens):
        """``[B·M, V]`` of the token behind ``tokens [B·M, step + 1]``: of a given token, as far as it counts."""
        awake = sum(length <= step for length in self.layout.lengths)
        if awake > self.layout.awake:
            self._wake(awake)
        rows = self.rows
        if awake < len(self.slots):
            known = self._known(step).repeat_interleave(self.beams, dim=0)
            if awake == 0:
                return known
            return known.index_copy_(0, rows, self._decode(tokens.index_select(0, rows)))
        if self.in_order:
            return self._decode(tokens)
        return self._decode(tokens.index_select(0, rows)).index_select(0, self.places)

    def reorder(self, order, sentence_left):
        """Follow the beams: row ``i`` continues row ``order[i]``."""
        places = self.places
        if sentence_left:
            self._keep(order.view(-1, self.beams)[:, 0] // self.beams)
        if self.layout.awake:
            order = places[order[self.rows]]
            for state in self._kept():
                state.reorder(order)

    def _kept(self):
        return [kept for state in self.states for kept in state.values()]

    def _index(self):
        """``rows``: the row in each place of the states; ``places``: the place of each row."""
        device, m = self.lengths.device, self.beams
        rows = torch.tensor(self.slots, dtype=torch.long, device=device).unsqueeze(1) * m
        rows = (rows + torch.arange(m, device=device)).view(-1)
        self.places = torch.empty_like(rows).index_copy_(0, rows, torch.arange(rows.numel(), device=device))
        self.rows = rows[: self.layout.awake * m]
        self.in_order = self.slots == list(range(len(self.slots)))

    def _wake(self, sentences):
        more = (sentences - self.layout.awake) * self.beams
        for kept in self._kept():
            kept.wake(more)
        self.layout.wake(sentences)
        self._index()

    def _keep(self, sentences):
        """Drop all sentences but these, ``[B']``."""
        self.tokens, self.scores, self.next, self.lengths = (
            x.index_select(0, sentences) for x in (self.tokens, self.scores, self.next, self.lengths)
        )
        number = {old: new for new, old in enumerate(sentences.tolist())}
        slots = [slot for slot, sentence in enumerate(self.slots) if sentence in number]
        self.slots = [number[self.slots[slot]] for slot in slots]
        filler = self.layout.keep(slots)
        kept_slots = torch.tensor(slots, device=sentences.device)
        for kept in self._kept():
            kept.keep(kept_slots, filler)
        self._index()

    def _decode(self, tokens):
        lprobs, _ = self.next_token(tokens, [None] * len(self.states), self.states)
        return lprobs

    def _known(self, step):
        """``[B, V]``: what follows a prompt that ends here; the next token alone of one that goes on."""
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
            layer.self_attn.start_with_prompt(state, hidden, self.layout)

        if not torch.is_grad_enabled() and is_straight(model.decoder):
            return read_prompts(model.decoder, tokens, keep)
        features, extra = model.decoder(tokens, features_only=True)
        inputs = extra["inner_states"][::-1]  # of the layers, [P + 1, B, D] each
        del extra
        for layer in layers_of(model.decoder):
            hidden = inputs.pop()  # given up as soon as it is kept: all of them are as much as the state
            keep(layer, layer.self_attn_layer_norm(hidden) if layer.normalize_before else hidden)
        return features

    def _score(self, features):
        """Set ``scores [B, P]``, and ``next [B, V]``: what follows each prompt."""
        sentences = torch.arange(self.lengths.numel(), device=self.lengths.device)
        self.next = self._distributions([x[sentences, self.lengths] for x in features]).clone()
        inside = torch.arange(self.tokens.size(1), device=self.lengths.device) < self.lengths.unsqueeze(1)  # [B, P]
        given, features = self.tokens[inside], [x[:, :-1][inside] for x in features]  # [n], [n, D]
        scores = [self.next.new_empty(0)]
        for start in range(0, given.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            lprobs = self._distributions([x[part] for x in features])  # [CHUNK, V]
            scores.append(lprobs.gather(1, given[part].unsqueeze(1)).squeeze(1))
        self.scores = self.next.new_zeros(inside.shape).masked_scatter_(inside, torch.cat(scores))

    def _distributions(self, features):
        """Log-probabilities ``[n, V]`` from the features ``[n, D]`` of each model; they hold until the next ones."""
        if self.next_token.by_parts:
            return self.next_token.normalize(features[0])
        lprobs = []
        for model, x in zip(self.next_token.ensemble.models, features):
            logits = model.decoder.output_layer(x.unsqueeze(0)).div_(self.next_token.temperature)
            lprobs.append(model.get_normalized_probs((logits, None), log_probs=True, sample=None).squeeze(0))
        return lprobs[0] if len(lprobs) == 1 else torch.logsumexp(torch.stack(lprobs), dim=0) - math.log(len(lprobs))
