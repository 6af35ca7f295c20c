"""Log-probabilities of the next token, at every step of a batch in the same memory."""

import math

import torch

from el_fairseq.cache import CACHES
from el_fairseq.generation.cuda_graph import GraphedStep
from el_fairseq.generation.decoder_step import DecoderStep
from el_fairseq.ops import row_width
from el_fairseq.ops.products import linear_fn

LOG_SOFTMAX_DTYPE = torch.float32  # fairseq.utils.log_softmax, whatever the dtype of the model
PART_BYTES = 2**23  # of logits that are in memory at once on a CPU


class NextToken:
    """The decoder step of an ensemble, from tokens to log-probabilities.

    Converted decoders take their steps themselves (``ModelStep``), and their log-probabilities go to one buffer. Every
    other ensemble decodes as it does.

    Args:
        ensemble: fairseq's ``EnsembleModel``.
        temperature: as in ``SequenceGenerator``.
        plan: the ``BatchPlan``.
    """

    def __init__(self, ensemble, temperature, plan):
        self.ensemble, self.temperature, self.plan = ensemble, temperature, plan
        self.buffer = self.lprobs = None  # for the largest number of rows, and for that of the last step
        self.each_lprobs = ()  # views of it, one a model
        self.each = [ModelStep(model, temperature, plan) for model in ensemble.models] if plan.one_product else []

    def __call__(self, tokens, encoder_outs, states):
        """As ``EnsembleModel.forward_decoder``, of ``NewestTokens``: log-probabilities ``[rows, V]``, which hold until
        the next step, and attention weights ``[rows, S]`` or None."""
        if not self.each:
            return self.ensemble.forward_decoder(tokens.whole, encoder_outs, states, self.temperature)
        sources = encoder_outs if self.ensemble.has_encoder() else [None] * len(states)
        found = [step.features(tokens, *each) for step, *each in zip(self.each, sources, states)]
        return self.normalize([features for features, _ in found]), _mean([attention for _, attention in found])

    def normalize(self, features):
        """Features ``[rows, D]`` of each model -> log-probabilities ``[rows, V]``, in the buffer."""
        rows = features[0].size(0)
        if self.lprobs is None or self.lprobs.size(1) != rows:
            self.lprobs = self._buffer_of(rows, features[0])
            self.each_lprobs = self.lprobs.unbind()
        for step, x, out in zip(self.each, features, self.each_lprobs):
            step.normalize(x, out)
        return self.each_lprobs[0] if len(features) == 1 else mean_of_distributions(self.lprobs)

    def _buffer_of(self, rows, like):
        """``[models, rows, V]``, the first rows of the buffer; as far apart as ``best_of_rows`` wants them, where it
        reads them."""
        vocabulary = self.each[0].vocabulary
        if self.buffer is None or self.buffer.size(1) < rows:
            width = row_width(vocabulary) if self.plan.by_groups else vocabulary
            self.buffer = like.new_empty(len(self.each), rows, width, dtype=LOG_SOFTMAX_DTYPE)
            self.buffer[..., vocabulary:] = -math.inf
        return self.buffer[:, :rows, :vocabulary]


class ModelStep:
    """The decoder step of one converted model.

    New memory is slow on a CPU: the system hands it over page by page, which took longer than log-softmax itself for
    all scores of a large batch. So logits are computed for some rows at a time.

    Args:
        model: one of the ensemble.
        temperature, plan: as of ``NextToken``.
    """

    def __init__(self, model, temperature, plan):
        self.decoder, self.temperature, self.plan = model.decoder, temperature, plan
        self.step = None  # the ``DecoderStep`` of the batch, or its ``GraphedStep``
        self.project = linear_fn(self.decoder.output_projection)
        self.vocabulary = self.decoder.output_projection.weight.size(0)  # a tied embedding may have grown

    def features(self, tokens, source, state):
        """``[rows, D]``, and attention weights ``[rows, S]`` or None."""
        if self.plan.fast_step:
            if self.step is None or self.step.state is not state:
                self.step = DecoderStep(self.decoder, state)
                if self.plan.capture is not None:
                    self.step = GraphedStep(self.step, state[CACHES], self.plan.capture, self.plan.static_rows)
            return self.step(tokens, source)
        features, extra = self.decoder.forward(
            tokens.whole, encoder_out=source, incremental_state=state, features_only=True
        )
        attention = None if extra is None else extra["attn"][0]
        return features[:, -1], None if attention is None else attention[:, -1]

    def normalize(self, features, out):
        """Write the log-probabilities of ``features [rows, D]`` to ``out [rows, V]``."""
        rows, parts = features.size(0), 1
        if features.device.type == "cpu":
            parts = min(rows, -(-rows * self.vocabulary * features.element_size() // PART_BYTES))
        if parts == 1:
            self._normalize(features, out)
        else:
            for some, some_out in zip(features.tensor_split(parts), out.tensor_split(parts)):
                self._normalize(some, some_out)

    def _normalize(self, features, out):
        logits = self.project(features)
        if self.temperature != 1:
            logits.div_(self.temperature)
        torch.log_softmax(logits, dim=-1, dtype=LOG_SOFTMAX_DTYPE, out=out)


def mean_of_distributions(lprobs):
    """As ``EnsembleModel`` does: log-probabilities ``[models, rows, V] -> [rows, V]``."""
    return torch.logsumexp(lprobs, dim=0) - math.log(lprobs.size(0))


def _mean(attentions):
    """The mean of those that are there, over all models, as in ``EnsembleModel``; or None."""
    given = [attention for attention in attentions if attention is not None]
    if len(attentions) == 1 or not given:
        return given[0] if given else None
    return sum(given[1:], start=given[0]).div_(len(attentions))
