"""What the other engines have to know of a fairseq model, and of the environment they are imported into."""

import sys

import torch


def shape_of(model):
    """``(layers, heads, normalise first, activation)``; ValueError where layers differ, as no peer's do."""
    parts = [part for part in (getattr(model, "encoder", None), model.decoder) if part is not None]
    options = {
        (
            layer.self_attn.num_heads,
            layer.normalize_before,
            getattr(layer.activation_fn, "__name__", "?"),
        )
        for part in parts
        for layer in part.layers
    }
    if len(options) > 1:
        raise ValueError(f"layers differ in heads, order of normalisation or activation: {sorted(options)}")
    return ([len(part.layers) for part in parts], *options.pop())


def positions_of(part):
    """Positions ``[n, D]`` of an encoder or decoder, from the first one that a token can have."""
    table = part.embed_positions
    if table is None:
        raise ValueError("the model has no positions")
    weight = table.weight if isinstance(table, torch.nn.Embedding) else table.weights
    return weight[table.padding_idx + 1 :].detach()


def hide_broken_torchaudio():
    """transformers, which CTranslate2 imports too, imports any torchaudio that is there, also one for another torch."""
    try:
        import torchaudio
    except (ImportError, OSError):
        sys.modules["torchaudio"] = None
