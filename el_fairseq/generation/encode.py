"""The encoder output of a batch; on a CPU a few sentences at a time, so that little is computed for padding."""

import torch
from fairseq.sequence_generator import EnsembleModel

from el_fairseq.convert.el_attention import is_converted
from el_fairseq.generation.plan import explain
from el_fairseq.generation.sequence_pass import EncoderPass, change_in_encoder, why_no_fast_pass
from el_fairseq.ops.products import CHUNK_ROWS
from el_fairseq.stock import has_stock_method, log_once

INPUTS = {"src_tokens", "src_lengths", "prev_output_tokens"}  # what is known to have a row for each sentence


def encode(ensemble, net_input):
    """As ``EnsembleModel.forward_encoder``: the output for all of ``net_input``, arbitrary where there is padding as
    stock's is; a list with one of each model, or None without encoders."""
    if not has_stock_method(ensemble, "forward_encoder", EnsembleModel):
        return ensemble.forward_encoder(net_input)
    if not ensemble.has_encoder():
        return None
    return [_encode(model, net_input) for model in ensemble.models]


def why_whole_batch(model, net_input):
    """Why the encoder has to see the whole batch, or None: its output for a sentence is known not to depend on the
    others then, and products of fewer rows are faster."""
    if not INPUTS.issuperset(net_input):
        return f"inputs beside tokens: {', '.join(sorted(set(net_input) - INPUTS))}"
    if net_input["src_tokens"].device.type != "cpu":
        return "not a CPU"
    if not is_converted(model):
        return "the model was not converted"
    return why_no_fast_pass(model.encoder)


def _encode(model, net_input):
    reason = why_whole_batch(model, net_input)
    if reason is None:
        change = change_in_encoder(model.encoder)
        if change is None:
            return encode_parts(model.encoder, net_input)
        log_once(f"{type(model.encoder).__name__} encodes by its own modules: {change}")
    else:
        explain(f"{type(model.encoder).__name__} encodes by its own modules: {reason}")
    return model.encoder.forward_torchscript(net_input)


def encode_parts(encoder, net_input):
    """The output of a stock encoder for tokens ``[B, S]``, sentence by sentence or as many as
    ``CHUNK_ROWS`` tokens allow."""
    tokens = net_input["src_tokens"]
    real, read = tokens.ne(encoder.padding_idx), EncoderPass(encoder)
    hidden, embedding = None, None
    for part in neighbours(real.sum(dim=1).tolist(), CHUNK_ROWS):
        (columns,) = real[part].any(dim=0).nonzero(as_tuple=True)
        span = slice(int(columns[0]), int(columns[-1]) + 1) if columns.numel() else slice(None)
        x, embedded = read(tokens[part, span])
        if hidden is None:
            hidden = x.new_zeros(*tokens.t().shape, x.size(2))  # [S, B, D]
            embedding = embedded.new_zeros(*tokens.shape, embedded.size(2))  # [B, S, D]
        hidden[span, part], embedding[part, span] = x, embedded
    return {
        "encoder_out": [hidden],
        "encoder_padding_mask": [~real],
        "encoder_embedding": [embedding],
        "encoder_states": [],
        "fc_results": [],
        "src_tokens": [],
        "src_lengths": [real.sum(dim=1, dtype=torch.int32).unsqueeze(1)],
    }


def neighbours(lengths, tokens):
    """Slices of neighbours in ``lengths``, padded to the longest of them no more than ``tokens``, or one by one."""
    start = longest = 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and longest * (i + 1 - start) > tokens:
            yield slice(start, i)
            start, longest = i, length
    yield slice(start, len(lengths))
