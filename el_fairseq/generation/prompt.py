"""Language models: what the prompts of a batch have in common in length, read in one forward pass.

Stock consumes a prompt one token a step, for every beam. Here the models see it once, as in training, once a sentence;
every self-attention keeps what it would have cached (``start_with_prompt``), shared by all beams of the sentence.
"""

import math

import torch
from fairseq.models import FairseqLanguageModel
from fairseq.modules import FairseqDropout

from el_fairseq.modules.convert import layers_of, why_foreign

CHUNK = 32  # positions whose distributions over the vocabulary are in memory at once


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
        if any(isinstance(m, FairseqDropout) and m.p > 0 and m.apply_during_inference for m in model.modules()):
            return "--retain-dropout: every step draws its own"
    return None


def common_length(prompts, pad, eos, limit):
    """How many leading tokens of ``prompts [B, P]`` are there in each of them, no end-of-sentence among them."""
    ends = (prompts.eq(pad) | prompts.eq(eos)).any(dim=0).nonzero()
    return min(int(ends[0]) if len(ends) else prompts.size(1), limit)


class Prompt:
    """The common part of a batch's prompts, consumed.

    Args:
        ensemble: fairseq's ``EnsembleModel``. tokens: ``[B, c + 1]``, what precedes the prompt and c tokens of it.
        states: incremental states, one a model; filled. beams: M. temperature: as in ``SequenceGenerator``.

    ``scores [B, c]`` are the log-probabilities of the c tokens, ``next [B, V]`` those of what follows.
    """

    def __init__(self, ensemble, tokens, states, beams, temperature):
        self.tokens, self.beams = tokens[:, 1:], beams
        self.steps = self.tokens.size(1)
        features = [_read(model, tokens, state, beams) for model, state in zip(ensemble.models, states)]
        scores = []
        for start in range(0, tokens.size(1), CHUNK):
            lprobs = [
                _lprobs(model, x[:, start : start + CHUNK], temperature) for model, x in zip(ensemble.models, features)
            ]
            lprobs = (
                lprobs[0] if len(lprobs) == 1 else torch.logsumexp(torch.stack(lprobs), dim=0) - math.log(len(lprobs))
            )
            following = tokens[:, start + 1 : start + CHUNK + 1].unsqueeze(2)
            scores.append(lprobs[:, : following.size(1)].gather(2, following).squeeze(2))
        self.scores, self.next = torch.cat(scores, dim=1), lprobs[:, -1].clone()

    def lprobs(self, step):
        """``[B·M, V]`` for ``step <= c``: as the models give them, as far as they count."""
        if step == self.steps:
            return self.next.repeat_interleave(self.beams, dim=0)
        forced = self.next.new_full(self.next.shape, -math.inf)
        forced.scatter_(1, self.tokens[:, step : step + 1], self.scores[:, step : step + 1])
        return forced.repeat_interleave(self.beams, dim=0)


def _read(model, tokens, state, beams):
    """The decoder's features ``[B, c + 1, D]``; what its self-attentions need of the tokens goes to ``state``."""
    seen = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda attention, args, kwargs: seen.append((attention, kwargs["query"])), with_kwargs=True
        )
        for layer in layers_of(model.decoder)
    ]
    try:
        features, _ = model.decoder(tokens, features_only=True)
    finally:
        for hook in hooks:
            hook.remove()
    for attention, hidden in seen:
        attention.start_with_prompt(state, hidden, beams)
    return features


def _lprobs(model, features, temperature):
    logits = model.decoder.output_layer(features).div_(temperature)
    return model.get_normalized_probs((logits, None), log_probs=True, sample=None)
