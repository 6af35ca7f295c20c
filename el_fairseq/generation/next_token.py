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

    New memory is slow on a CPU: the system hands it over page by page, which took longer than log-softmax itself for
    all scores of a large batch. So a single converted decoder computes its logits for some rows at a time, and their
    log-probabilities go to one buffer. Every other ensemble decodes as it does.

    Args:
        ensemble: fairseq's ``EnsembleModel``.
        temperature: as in ``SequenceGenerator``.
        plan: the ``BatchPlan``.
    """

    def __init__(self, ensemble, temperature, plan):
        self.ensemble, self.temperature, self.plan = ensemble, temperature, plan
        self.buffer = self.lprobs = None  # for the largest number of rows, and for that of the last step
        self.step = None  # the ``DecoderStep`` of the batch, or its ``GraphedStep``
        if plan.one_product:
            decoder = ensemble.single_model.decoder
            self.project = linear_fn(decoder.output_projection)
            self.vocabulary = decoder.output_projection.weight.size(0)  # a tied embedding may have grown

    def __call__(self, tokens, encoder_outs, states):
        """As ``EnsembleModel.forward_decoder``, of ``NewestTokens``: log-probabilities ``[rows, V]``, which hold until
        the next step, and attention weights ``[rows, S]`` or None."""
        if not self.plan.one_product:
            return self.ensemble.forward_decoder(tokens.whole, encoder_outs, states, self.temperature)
        source = encoder_outs[0] if self.ensemble.has_encoder() else None
        features, attention = self._features(tokens, source, states[0])
        return self.normalize(features), attention

    def _features(self, tokens, source, state):
        """``[rows, D]`` and attention weights ``[rows, S]`` or None."""
        decoder = self.ensemble.single_model.decoder
        if self.plan.fast_step:
            if self.step is None or self.step.state is not state:
                self.step = DecoderStep(decoder, state)
                if self.plan.capture is not None:
                    self.step = GraphedStep(self.step, state[CACHES], self.plan.capture)
            return self.step(tokens, source)
        features, extra = decoder.forward(tokens.whole, encoder_out=source, incremental_state=state, features_only=True)
        attention = None if extra is None else extra["attn"][0]
        return features[:, -1], None if attention is None else attention[:, -1]

    def normalize(self, features):
        """Features ``[rows, D]`` of the one model -> log-probabilities ``[rows, V]``, in the buffer."""
        rows, vocabulary = features.size(0), self.vocabulary
        if self.lprobs is None or self.lprobs.size(0) != rows:
            self.lprobs = self._buffer_of(rows, features)
        lprobs, parts = self.lprobs, 1
        if features.device.type == "cpu":
            parts = min(rows, -(-rows * vocabulary * features.element_size() // PART_BYTES))
        if parts == 1:
            self._normalize(features, lprobs)
        else:
            for some, out in zip(features.tensor_split(parts), lprobs.tensor_split(parts)):
                self._normalize(some, out)
        return lprobs

    def _buffer_of(self, rows, features):
        """The first ``[rows, V]`` of the buffer; as far apart as ``best_of_rows`` wants them, where it reads them."""
        if self.buffer is None or self.buffer.size(0) < rows:
            width = row_width(self.vocabulary) if self.plan.by_groups else self.vocabulary
            self.buffer = features.new_empty(rows, width, dtype=LOG_SOFTMAX_DTYPE)
            self.buffer[:, self.vocabulary :] = -math.inf
        return self.buffer[:rows, : self.vocabulary]

    def _normalize(self, features, out):
        logits = self.project(features)
        if self.temperature != 1:
            logits.div_(self.temperature)
        torch.log_softmax(logits, dim=-1, dtype=LOG_SOFTMAX_DTYPE, out=out)
