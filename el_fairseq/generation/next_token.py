"""Log-probabilities of the next token, at every step of a batch in the same memory."""

import torch
from fairseq.models.fairseq_decoder import FairseqDecoder
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from fairseq.sequence_generator import EnsembleModel

from el_fairseq.cache.ancestors import LINEAGE
from el_fairseq.cache.static import FixedLineage
from el_fairseq.convert.el_attention import is_converted, unwrapped, why_foreign
from el_fairseq.generation.cuda_graph import RecordedStep, recorder
from el_fairseq.generation.decoder_step import DecoderStep, change_in_decoder, is_straight
from el_fairseq.ops.products import product_of
from el_fairseq.stock import is_plain_linear, is_stocks, say_once

LOG_SOFTMAX_DTYPE = torch.float32  # fairseq.utils.log_softmax, whatever the dtype of the model
PART = 2**23  # bytes of logits that are in memory at once on a CPU


class NextToken:
    """The decoder step of an ensemble, from tokens to log-probabilities.

    New memory is slow on a CPU: the system hands it over page by page, which took longer than log-softmax itself for
    all scores of a large batch. So a single converted decoder computes its logits for some rows at a time, and their
    log-probabilities go to one buffer. Every other ensemble decodes as it does.

    Args: ensemble: fairseq's ``EnsembleModel``. temperature: as in ``SequenceGenerator``.
    """

    def __init__(self, ensemble, temperature):
        self.ensemble, self.temperature = ensemble, temperature
        self.buffer = None  # [rows, V]
        self.by_parts = is_one_product(ensemble) and not torch.is_grad_enabled()
        self.is_straight, self.record = False, None
        self.step = None  # the ``DecoderStep`` of the batch, or its ``RecordedStep``
        if self.by_parts:
            decoder = ensemble.single_model.decoder
            self.project = product_of(decoder.output_projection)
            self.vocabulary = decoder.output_projection.weight.size(0)  # a tied embedding may have grown
            self.is_straight = is_straight(decoder)
            self.record = recorder(next(decoder.parameters()).device) if self.is_straight else None
        if not self.is_straight:
            for model in ensemble.models:
                say_what_was_changed(unwrapped(model))

    def __call__(self, tokens, encoder_outs, states):
        """As ``EnsembleModel.forward_decoder``: the last of ``tokens [rows, n]`` is read; log-probabilities
        ``[rows, V]``, which hold until the next step, and attention weights ``[rows, S]`` or None."""
        if not self.by_parts:
            return self.ensemble.forward_decoder(tokens, encoder_outs, states, self.temperature)
        source = encoder_outs[0] if self.ensemble.has_encoder() else None
        features, attention = self._features(tokens, source, states[0])
        return self.normalize(features), attention

    def _features(self, tokens, source, state):
        """``[rows, D]`` and attention weights ``[rows, S]`` or None."""
        decoder = self.ensemble.single_model.decoder
        if self.is_straight:
            if self.step is None or self.step.state is not state:
                self.step, past = DecoderStep(decoder, state), state.get(LINEAGE)
                if isinstance(past, FixedLineage):
                    self.step = RecordedStep(self.step, past, self.record)
            return self.step(tokens, source)
        features, extra = decoder.forward(tokens, encoder_out=source, incremental_state=state, features_only=True)
        attention = None if extra is None else extra["attn"][0]
        return features[:, -1], None if attention is None else attention[:, -1]

    def normalize(self, features):
        """Features ``[rows, D]`` of the one model -> log-probabilities ``[rows, V]``, in the buffer."""
        rows, vocabulary = features.size(0), self.vocabulary
        if self.buffer is None or self.buffer.size(0) < rows:
            self.buffer = features.new_empty(rows, vocabulary, dtype=LOG_SOFTMAX_DTYPE)
        lprobs = self.buffer[:rows]
        parts = 1
        if features.device.type == "cpu":
            parts = min(rows, -(-rows * vocabulary * features.element_size() // PART))
        for some, out in zip(features.tensor_split(parts), lprobs.tensor_split(parts)):
            logits = self.project(some)
            if self.temperature != 1:
                logits.div_(self.temperature)
            torch.log_softmax(logits, dim=-1, dtype=LOG_SOFTMAX_DTYPE, out=out)
        return lprobs


def say_what_was_changed(model):
    """Log why the decoder of a converted model computes by its own modules, if something was put onto one."""
    change = change_in_decoder(model.decoder) if is_converted(model) else None
    if change is not None:
        say_once(f"{type(model.decoder).__name__} decodes by its own modules: {change}")


def is_one_product(ensemble):
    """Whether log-probabilities are known to be the log-softmax of one product, of the one converted model there is."""
    if not is_stocks(ensemble, "forward_decoder", EnsembleModel):
        return False
    model = unwrapped(ensemble.single_model)
    decoder = getattr(model, "decoder", None)
    return (
        ensemble.models_size == 1
        and ensemble.has_incremental_states()
        and why_foreign(decoder) is None
        and is_converted(model)
        and is_plain_linear(getattr(decoder, "output_projection", None))
        and is_stocks(decoder, "forward", TransformerDecoderBase)
        and is_stocks(decoder, "output_layer", TransformerDecoderBase)
        and is_stocks(decoder, "get_normalized_probs", FairseqDecoder)
        and is_stocks(decoder, "get_normalized_probs_scriptable", FairseqDecoder)
        and is_stocks(model, "get_normalized_probs", BaseFairseqModel, TransformerModelBase)
        and is_stocks(model, "get_normalized_probs_scriptable", BaseFairseqModel)
    )
