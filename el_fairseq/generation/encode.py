"""The encoder output of a batch; on a CPU a few sentences at a time, so that little is computed for padding."""

from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq.sequence_generator import EnsembleModel

from el_fairseq.modules.convert import draws_dropout, is_stocks, layers_of
from el_fairseq.modules.packed_attention import PackedAttention
from el_fairseq.modules.packed_linear import ROWS, PackedLinear
from el_fairseq.modules.shared_kv_attention import SharedKVAttention

INPUTS = {"src_tokens", "src_lengths", "prev_output_tokens"}  # what is known to have a row for each sentence
FORWARD = ("forward", "forward_scriptable", "forward_torchscript", "forward_non_torchscript", "forward_embedding")


def encode(ensemble, net_input):
    """As ``EnsembleModel.forward_encoder``: the output for all of ``net_input``, arbitrary where there is padding as
    stock's is; a list with one of each model, or None without encoders."""
    if not is_stocks(ensemble, "forward_encoder", EnsembleModel):
        return ensemble.forward_encoder(net_input)
    if not ensemble.has_encoder():
        return None
    return [
        encode_parts(model.encoder, net_input)
        if is_by_sentence(model, net_input)
        else model.encoder.forward_torchscript(net_input)
        for model in ensemble.models
    ]


def is_by_sentence(model, net_input):
    """Whether the output for a sentence is known not to depend on the others, and products of fewer rows are faster."""
    encoder = model.encoder
    return (
        INPUTS.issuperset(net_input)
        and net_input["src_tokens"].device.type == "cpu"
        and isinstance(encoder, TransformerEncoderBase)
        and all(is_stocks(encoder, method, TransformerEncoderBase) for method in FORWARD)
        and all(map(_is_converted, layers_of(encoder)))
        and not draws_dropout(model)
    )


def _is_converted(layer):
    return (
        is_stocks(layer, "forward", TransformerEncoderLayerBase)
        and isinstance(layer.self_attn, (PackedAttention, SharedKVAttention))
        and type(layer.fc1) is PackedLinear
    )


def encode_parts(encoder, net_input):
    """The output of a stock encoder for tokens ``[B, S]``, sentence by sentence or as many as ``ROWS`` tokens allow."""
    tokens, lengths = net_input["src_tokens"], net_input.get("src_lengths")
    real = tokens.ne(encoder.padding_idx)
    parts = list(neighbours(real.sum(dim=1).tolist(), ROWS))
    if len(parts) == 1:
        return encoder.forward_torchscript(net_input)
    whole = None
    for part in parts:
        (columns,) = real[part].any(dim=0).nonzero(as_tuple=True)
        span = slice(int(columns[0]), int(columns[-1]) + 1) if columns.numel() else slice(None)
        out = encoder.forward(tokens[part, span], None if lengths is None else lengths[part])
        whole = whole or _empty(out, tokens, real)
        whole["encoder_out"][0][span, part] = out["encoder_out"][0]
        whole["encoder_embedding"][0][part, span] = out["encoder_embedding"][0]
        whole["src_lengths"][0][part] = out["src_lengths"][0]
    return whole


def neighbours(lengths, tokens):
    """Slices of neighbours in ``lengths``, padded to the longest of them no more than ``tokens``, or one by one."""
    start = longest = 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and longest * (i + 1 - start) > tokens:
            yield slice(start, i)
            start, longest = i, length
    yield slice(start, len(lengths))


def _empty(out, tokens, real):
    """What will hold the output for all of ``tokens [B, S]``, in the form of a part's."""
    b, s = tokens.shape
    hidden, embedding, lengths = (out[name][0] for name in ("encoder_out", "encoder_embedding", "src_lengths"))
    return {
        **out,
        "encoder_out": [hidden.new_zeros(s, b, hidden.size(2))],
        "encoder_padding_mask": [~real],
        "encoder_embedding": [embedding.new_zeros(b, s, embedding.size(2))],
        "src_lengths": [lengths.new_empty(b, 1)],
    }
