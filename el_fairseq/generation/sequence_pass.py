"""Stock Transformer layers over whole sentences as straight-line code: an encoder's, and a decoder's over prompts.

As in ``decoder_step``, what stays the same is found out once, and products are those of ``modules.products``. Without
gradients, in evaluation, for parts in which nothing was changed (``change_in``).
"""

from functools import partial

import torch
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch.nn.functional import scaled_dot_product_attention

from el_fairseq.convert.el_attention import draws_dropout, layers_of
from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.ops.packed import round_up
from el_fairseq.ops.products import forget_stale, product_of
from el_fairseq.stock import change_in, is_stocks

ENCODER = ("forward", "forward_scriptable", "forward_torchscript", "forward_non_torchscript", "forward_embedding")


def is_straight_encoder(encoder):
    """Whether ``read_sentences`` computes what this encoder does; the output for a sentence is its own then."""
    return (
        isinstance(encoder, TransformerEncoderBase)
        and all(is_stocks(encoder, method, TransformerEncoderBase) for method in ENCODER)
        and not getattr(encoder, "return_fc", False)
        and all(map(_is_plain, layers_of(encoder)))
        and not any(module.training for module in encoder.modules())
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not draws_dropout(encoder)
    )


def _is_plain(layer):
    return (
        isinstance(layer, TransformerEncoderLayerBase)
        and all(is_stocks(layer, name, TransformerEncoderLayerBase) for name in ("forward", "residual_connection"))
        and (isinstance(layer.self_attn, SharedKVAttention) or is_plain_attention(layer.self_attn))
    )


def is_plain_attention(attention):
    """Whether this is stock's self-attention with a query, a key and a value a head for each token, and no other."""
    return (
        type(attention) is MultiheadAttention
        and attention.self_attention
        and attention.bias_k is None
        and not (attention.add_zero_attn or attention.skip_embed_dim_check or attention.use_xformers)
        and attention.q_proj.bias is not None  # stock's own pass reads it
    )


def change_in_encoder(encoder):
    """As ``change_in``."""
    return change_in(encoder, (TransformerEncoderLayerBase, MultiheadAttention, SharedKVAttention))


class EncoderPass:
    """An encoder for which ``is_straight_encoder``, for the sentences of a batch."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.layers = [_Layer(layer) for layer in encoder.layers]  # --encoder-layerdrop draws, once as in stock

    def __call__(self, tokens):
        """Tokens ``[B, S]`` -> the output ``[S, B, D]`` and the embedding ``[B, S, D]``."""
        padding = tokens.eq(self.encoder.padding_idx)
        x, embedding = self.encoder.forward_embedding(tokens)
        if bool(padding.any()):
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        else:
            padding = None
        rows, sizes = _in_rows(x)
        del x  # it is as large as all else that is in memory here
        for layer in self.layers:
            rows = layer(rows, sizes, padding)
        rows = rows if self.encoder.layer_norm is None else self.encoder.layer_norm(rows)
        return _of_tokens(rows, sizes), embedding


def read_prompts(decoder, tokens, keep):
    """As a stock decoder without cross-attention, ``features_only``: tokens ``[B, P]`` -> features ``[B, P, D]``.

    ``keep`` is called with each layer and what its self-attention reads, ``[P, B, D]``.
    """
    x = decoder.embed_scale * decoder.embed_tokens(tokens)
    if decoder.project_in_dim is not None:
        x = decoder.project_in_dim(x)
    if decoder.embed_positions is not None:
        x += decoder.embed_positions(tokens)
    x = x if decoder.layernorm_embedding is None else decoder.layernorm_embedding(x)
    rows, sizes = _in_rows(x)
    del x
    for layer in decoder.layers:
        # What padding there is stands behind the prompts, where no token of theirs looks.
        rows = _Layer(layer)(rows, sizes, causal=True, keep=partial(keep, layer))
    rows = rows if decoder.layer_norm is None else decoder.layer_norm(rows)
    x = _of_tokens(rows, sizes).transpose(0, 1)  # [P, B, D] -> [B, P, D]
    return x if decoder.project_out_dim is None else decoder.project_out_dim(x)


def _in_rows(x):
    """``x [B, S, D]`` as rows ``[R, D]``, token by token of all sentences, and ``(S, B)``: behind the S·B rows are some
    of zeros where products on a CPU are made for certain numbers only."""
    b, s, d = x.shape
    rows = x.new_zeros(round_up(s * b) if x.device.type == "cpu" else s * b, d)
    _of_tokens(rows, (s, b)).copy_(x.transpose(0, 1))
    return rows, (s, b)


def _of_tokens(rows, sizes):
    """``[R, D]`` -> ``[S, B, D]``, a view."""
    s, b = sizes
    return rows[: s * b].view(s, b, -1)


class _Layer:
    """A stock layer of an encoder, or of a decoder without cross-attention, for whole sentences."""

    def __init__(self, layer):
        self.before, self.attention, self.activation = layer.normalize_before, layer.self_attn, layer.activation_fn
        self.norm_self, self.norm_out = layer.self_attn_layer_norm, layer.final_layer_norm
        self.first, self.second = product_of(layer.fc1), product_of(layer.fc2)
        if isinstance(self.attention, SharedKVAttention):
            forget_stale(self.attention.children())
            self.attend = self._attend_by_module
        else:
            names = ("q_proj", "k_proj", "v_proj", "out_proj")
            self.query, self.key, self.value, self.out = (product_of(getattr(self.attention, name)) for name in names)
            self.attend = self._attend

    def __call__(self, x, sizes, padding=None, causal=False, keep=None):
        """Rows ``x [R, D]`` -> ``[R, D]``; ``padding [B, S]``, True there, or None. ``keep`` is called with what
        self-attention reads, ``[S, B, D]``."""
        read = self.norm_self(x) if self.before else x
        if keep is not None:
            keep(_of_tokens(read, sizes))
        y = self.attend(read, sizes, padding, causal)
        del read
        x = y.add_(x) if self.before else self.norm_self(y.add_(x))
        del y
        y = self.second(self.activation(self.first(self.norm_out(x) if self.before else x)))
        return y.add_(x) if self.before else self.norm_out(y.add_(x))

    def _attend(self, x, sizes, padding, causal):
        heads = self.attention.num_heads
        query, key, value = (
            _of_tokens(product(x), sizes).unflatten(2, (heads, -1)).permute(1, 2, 0, 3)
            for product in (self.query, self.key, self.value)
        )  # [R, D] -> [B, H, S, d]
        mask = None if padding is None else ~padding[:, None, None]  # [B, S] -> [B, 1, 1, S]
        context = scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        rows = torch.zeros_like(x)
        _of_tokens(rows, sizes).unflatten(2, (heads, -1)).copy_(context.permute(2, 0, 1, 3))
        return self.out(rows)

    def _attend_by_module(self, x, sizes, padding, causal):
        mask = x.new_full((sizes[0],) * 2, -torch.inf).triu(1) if causal else None  # [S, S]
        tokens, rows = _of_tokens(x, sizes), torch.zeros_like(x)
        found, _ = self.attention(tokens, tokens, tokens, padding, need_weights=False, attn_mask=mask)
        _of_tokens(rows, sizes).copy_(found)
        return rows
