"""Log-probabilities of the next token, at every step of a batch in the same memory."""

import torch
from fairseq.models.fairseq_decoder import FairseqDecoder
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from fairseq.sequence_generator import EnsembleModel
from torch import nn

from el_fairseq.modules.convert import why_foreign

LOG_SOFTMAX_DTYPE = torch.float32  # fairseq.utils.log_softmax, whatever the dtype of the model
PART = 2**23  # bytes of logits that are in memory at once on a CPU


class NextToken:
    """The decoder step of an ensemble, from tokens to log-probabilities.

    New memory is slow on a CPU: the system hands it over page by page, which took longer than log-softmax itself for
    all scores of a large batch. So a single stock decoder computes its logits for some rows at a time, and their
    log-probabilities go to one buffer. Every other ensemble decodes as it does.

    Args: ensemble: fairseq's ``EnsembleModel``. temperature: as in ``SequenceGenerator``.
    """

    def __init__(self, ensemble, temperature):
        self.ensemble, self.temperature = ensemble, temperature
        self.buffer = None  # [rows, V]
        self.by_parts = why_whole(ensemble) is None

    def __call__(self, tokens, encoder_outs, states):
        """As ``EnsembleModel.forward_decoder``: the last of ``tokens [rows, n]`` is read; log-probabilities
        ``[rows, V]``, which hold until the next step, and attention weights ``[rows, S]`` or None."""
        if not self.by_parts:
            return self.ensemble.forward_decoder(tokens, encoder_outs, states, self.temperature)
        decoder = self.ensemble.single_model.decoder
        source = encoder_outs[0] if self.ensemble.has_encoder() else None
        features, extra = decoder.forward(tokens, encoder_out=source, incremental_state=states[0], features_only=True)
        (attention,) = extra["attn"]
        lprobs = self._normalize(features[:, -1], decoder.output_projection)
        return lprobs, None if attention is None else attention[:, -1]

    def _normalize(self, features, projection):
        """Features ``[rows, D]`` -> log-probabilities ``[rows, V]``, in the buffer."""
        rows, vocabulary = features.size(0), projection.weight.size(0)  # a tied embedding may have grown
        if self.buffer is None or self.buffer.size(0) < rows:
            self.buffer = features.new_empty(rows, vocabulary, dtype=LOG_SOFTMAX_DTYPE)
        lprobs = self.buffer[:rows]
        size = max(1, PART // (vocabulary * features.element_size())) if features.device.type == "cpu" else rows
        for some, out in zip(features.split(size), lprobs.split(size)):
            logits = projection(some)
            if self.temperature != 1:
                logits.div_(self.temperature)
            torch.log_softmax(logits, dim=-1, dtype=LOG_SOFTMAX_DTYPE, out=out)
        return lprobs


def why_whole(ensemble):
    """Why log-probabilities are not known to be the log-softmax of one matrix product, or None."""
    if getattr(ensemble.forward_decoder, "__func__", None) is not EnsembleModel.forward_decoder:
        return f"{type(ensemble).__name__} decodes in its own way"
    if ensemble.models_size != 1 or not ensemble.has_incremental_states():
        return f"{ensemble.models_size} models, incremental: {ensemble.has_incremental_states()}"
    model = ensemble.single_model
    decoder = getattr(model, "decoder", None)
    foreign = why_foreign(decoder)
    if foreign is not None:
        return foreign
    methods = (
        (model, "get_normalized_probs", (BaseFairseqModel, TransformerModelBase)),
        (model, "get_normalized_probs_scriptable", (BaseFairseqModel,)),
        (decoder, "get_normalized_probs", (FairseqDecoder,)),
        (decoder, "get_normalized_probs_scriptable", (FairseqDecoder,)),
        (decoder, "output_layer", (TransformerDecoderBase,)),
    )
    for module, name, owners in methods:
        if getattr(type(module), name) not in [getattr(owner, name) for owner in owners]:
            return f"{type(module).__name__}.{name} is not stock's"
    if not isinstance(getattr(decoder, "output_projection", None), nn.Linear):
        return "the output layer is not one Linear"
    return None
