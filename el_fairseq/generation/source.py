"""The source of a batch, whatever its kind."""

import torch


def source_and_lengths(net_input, eos, pad):
    """The source, ``[B, S, ...]``, and the lengths that length rules refer to, ``[B]``; text, audio or features."""
    if "src_tokens" in net_input:
        source = net_input["src_tokens"]
        lengths = net_input.get("src_lengths")
        if lengths is None:
            lengths = (source.ne(eos) & source.ne(pad)).long().sum(dim=1)
        return source, lengths
    for key in ("source", "features"):
        if key in net_input:
            source, padding = net_input[key], net_input["padding_mask"]
            if padding is None:
                return source, torch.full((source.size(0),), source.size(-1), device=source.device)
            return source, padding.size(-1) - padding.sum(-1)
    raise ValueError(f"net_input has none of src_tokens, source, features: {sorted(net_input)}")
