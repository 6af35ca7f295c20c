"""The fast path over whole sentences: stock Transformer layers as straight-line code, an encoder's, and a decoder's for
a prefill.

As in ``decoder_step``, what stays the same is found out once, and products are those of ``ops.products``. Without
gradients, in evaluation, for parts in which nothing was changed (``changed_module``).
"""

from functools import partial

import torch
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch.nn.functional import scaled_dot_product_attention

from el_fairseq.convert.attentions import layers_of
from el_fairseq.convert.el_attention import draws_dropout
from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.ops.packed import round_up
from el_fairseq.ops.products import drop_stale, linear_fn
from el_fairseq.stock import changed_module, has_stock_method

LAYER = ("forward", "residual_connection")
ENCODER = ("forward", "forward_scriptable", "forward_torchscript", "forward_non_torchscript", "forward_embedding")


def why_no_fast_pass(encoder):
    """Why ``EncoderPass`` may not compute what this encoder does, or None; without a reason the output for a sentence
    does not depend on the others."""
    if not isinstance(encoder, TransformerEncoderBase):
        return f"{type(encoder).__name__} is not a Transformer encoder"
    for method in ENCODER:
        if not has_stock_method(encoder, method, TransformerEncoderBase):
            return f"{type(encoder).__name__}.{method} is not stock's"
    if getattr(encoder, "return_fc", False):
        return "return_fc"
    if not all(map(_is_plain, layers_of(encoder))):
        return "a layer that is not stock's"
    if torch.is_grad_enabled():
        return "gradients are wanted"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    if any(module.training for module in encoder.modules()):
        return "training mode"
    if draws_dropout(encoder):
        return "dropout (--retain-dropout)"
    return None


def _is_plain(layer):
    return (
        isinstance(layer, TransformerEncoderLayerBase)
        and all(
            has_stock_method(layer, name, TransformerEncoderLayerBase) for name in ("forward", "residual_connection")
        )
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
    """As ``changed_module``."""
    return changed_module(encoder, (TransformerEncoderLayerBase, MultiheadAttention, SharedKVAttention))


class EncoderPass:
    """An encoder without ``why_no_fast_pass``, for the sentences of a batch."""

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


def prefill_pass(decoder, tokens, keep):
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
        # What padding there is comes after the prefixes, where no token of theirs looks.
        rows = _Layer(layer)(rows, sizes, causal=True, keep=partial(keep, layer))
    rows = rows if decoder.layer_norm is None else decoder.layer_norm(rows)
    x = _of_tokens(rows, sizes).transpose(0, 1)  # [P, B, D] -> [B, P, D]
    return x if decoder.project_out_dim is None else decoder.project_out_dim(x)


def _in_rows(x):
    """``x [B, S, D]`` as rows ``[R, D]``, token by token of all sentences, and ``(S, B)``: after the S·B rows are some
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
        self.first, self.second = linear_fn(layer.fc1), linear_fn(layer.fc2)
        if isinstance(self.attention, SharedKVAttention):
            drop_stale(self.attention.children())
            self.attend = self._attend_by_module
        else:
            names = ("q_proj", "k_proj", "v_proj", "out_proj")
            self.query, self.key, self.value, self.out = (linear_fn(getattr(self.attention, name)) for name in names)
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
