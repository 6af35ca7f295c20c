"""The fast path of a decoder step: that of a stock Transformer decoder as straight-line code.

fairseq's decoder finds out at every step, in every layer, what it is: which options it has, where its state lies, what
its masks are. For a few rows that takes as long as the products themselves. Here it is found out once a batch.
"""

from functools import partial

import torch
from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules import FairseqDropout, LearnedPositionalEmbedding, SinusoidalPositionalEmbedding
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import nn

from el_fairseq.cache import CACHES, BeamCaches
from el_fairseq.cache.beams import is_finite
from el_fairseq.convert.attentions import layers_of
from el_fairseq.convert.el_attention import KNOWN_DECODERS, draws_dropout
from el_fairseq.generation.attention_step import attention_step
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.ops.products import linear_fn
from el_fairseq.stock import changed_module, has_stock_method

EXTRACT = ("extract_features", "extract_features_scriptable")
DROPOUTS = ("dropout_module", "activation_dropout_module")
POSITIONS = (LearnedPositionalEmbedding, SinusoidalPositionalEmbedding)  # that read the number of tokens alone
EXTRAS = {
    "c_attn": "--scale-heads",
    "attn_ln": "--scale-attn",
    "ffn_layernorm": "--scale-fc",
    "w_resid": "--scale-resids",
}


def why_no_fast_step(decoder):
    """Why ``DecoderStep`` may not compute what this converted decoder does, or None: options that it does not know,
    training, another precision than that of the weights, or something that was changed."""
    if decoder.quant_noise is not None:
        return "--quant-noise-pq"
    if type(decoder.dropout_module) is not FairseqDropout:
        return f"dropout_module is a {type(decoder.dropout_module).__name__}"
    for name in EXTRACT:
        if not has_stock_method(decoder, name, *KNOWN_DECODERS):
            return f"{type(decoder).__name__}.{name} is not stock's"
    for layer in layers_of(decoder):
        reason = _why_no_fast_layer(layer)
        if reason is not None:
            return reason
    if any(module.training for module in decoder.modules()):
        return "training mode"
    if draws_dropout(decoder):
        return "dropout (--retain-dropout)"
    if torch.is_autocast_enabled(next(decoder.parameters()).device.type):
        return "autocast"
    return change_in_decoder(decoder)


def change_in_decoder(decoder):
    """As ``changed_module``."""
    return changed_module(decoder, (TransformerDecoderLayerBase, ELMultiheadAttention, SharedKVAttention))


def _why_no_fast_layer(layer):
    attentions = [attention for attention in (layer.self_attn, layer.encoder_attn) if attention is not None]
    if not all(isinstance(attention, (ELMultiheadAttention, SharedKVAttention)) for attention in attentions):
        return "stock attention decodes"
    for name in ("forward", "residual_connection"):
        if not has_stock_method(layer, name, TransformerDecoderLayerBase):
            return f"{type(layer).__name__}.{name} is not stock's"
    for name in DROPOUTS:
        if type(getattr(layer, name)) is not FairseqDropout:
            return f"{name} is a {type(getattr(layer, name)).__name__}"
    for name, option in EXTRAS.items():
        if getattr(layer, name) is not None:
            return option
    return None


class DecoderStep:
    """The steps of one batch.

    Args:
        decoder: one without ``why_no_fast_step``.
        state: its incremental state.
    """

    def __init__(self, decoder, state):
        self.decoder, self.state = decoder, state
        self.each_layer = [_Layer(layer, state) for layer in layers_of(decoder)]
        self.gives_attention = has_stock_method(decoder, "extract_features", TransformerDecoderBase)
        self.encoder_out, self.source, self.source_padding = None, None, None
        caches = state.get(CACHES)
        self.caches = caches if isinstance(caches, BeamCaches) else None
        if self.caches is not None:
            self.caches.looks_for_lost = False  # this does, once a step instead of once a layer

    def __call__(self, tokens, encoder_out):
        """As ``TransformerDecoder.forward(features_only=True)`` for ``NewestTokens``: features ``[N, D]``, and the
        attention of the last layer to the source, ``[N, S]``, or None."""
        x = self.inputs(tokens)
        self.set_source(encoder_out)
        padding = self.padding(tokens) if tokens.may_be_padding else None
        padding = None if padding is None or not bool(padding.any()) else padding
        features, attention = self.layers(x, padding)
        if self.caches is not None and not self.caches.looks_for_lost and not is_finite(features):
            self.caches.undo_step()
            features, attention = self.layers(x, padding, draws=False)
        return features, attention

    def set_source(self, encoder_out):
        """Note the source, which is another one when sentences were pruned."""
        if encoder_out is self.encoder_out:
            return
        self.encoder_out, self.source, self.source_padding = encoder_out, None, None
        for self.source in encoder_out["encoder_out"][:1]:
            for padding in encoder_out["encoder_padding_mask"][:1]:
                self.source_padding = padding.bool() if bool(padding.any()) else None

    def inputs(self, tokens):
        """What the first layer reads of ``NewestTokens``, ``[N, D]``."""
        decoder = self.decoder
        x = decoder.embed_tokens(tokens.last).mul_(decoder.embed_scale)
        if decoder.project_in_dim is not None:
            x = decoder.project_in_dim(x)
        if decoder.embed_positions is not None:
            x += self._position(tokens)
        return x if decoder.layernorm_embedding is None else decoder.layernorm_embedding(x)

    def padding(self, tokens):
        """Which of ``NewestTokens`` are padding, ``[N, 1]``."""
        return tokens.last.eq(self.decoder.padding_idx).unsqueeze(1)

    def _position(self, tokens):
        """The embedding of the position of ``NewestTokens``, ``[D]`` or one a row."""
        module = self.decoder.embed_positions
        place = tokens.count if module.padding_idx is None else module.padding_idx + tokens.count
        if type(module) is LearnedPositionalEmbedding:
            return module.weight[place]
        if type(module) is not SinusoidalPositionalEmbedding:
            return module(tokens.whole, incremental_state=self.state)[:, -1]
        if place < module.weights.size(0) and not module.onnx_trace:
            return module.weights[place]
        shape_alone = tokens.last.unsqueeze(1).expand(-1, tokens.count)
        with torch.inference_mode(False):  # it may keep a larger table of positions
            return module(shape_alone, incremental_state=self.state)[:, -1]

    def layers(self, x, padding, draws=True):
        """From inputs ``[N, D]`` to features and attention. ``draws``: random numbers, where stock would."""
        weights, last = None, self.decoder.num_layers - 1
        modules = self.decoder.layers if draws else self.each_layer  # --decoder-layerdrop draws where one iterates
        for i, (_, layer) in enumerate(zip(modules, self.each_layer)):
            x, found = layer(x, padding, self.source, self.source_padding, self.gives_attention and i == last)
            weights = found if i == last else weights
        if self.decoder.layer_norm is not None:
            x = self.decoder.layer_norm(x)
        if self.decoder.project_out_dim is not None:
            x = self.decoder.project_out_dim(x)
        return x, weights


def norm_fn(norm):
    """What the layer norm ``norm`` computes, as a function."""
    if type(norm) is not nn.LayerNorm:
        return norm.forward
    return partial(
        torch.layer_norm, normalized_shape=norm.normalized_shape, weight=norm.weight, bias=norm.bias, eps=norm.eps
    )


class _Layer:
    """``TransformerDecoderLayer.forward`` for a single token a row."""

    def __init__(self, layer, state):
        self.normalizes_before = layer.normalize_before
        self.self_attention = attention_step(layer.self_attn, state)
        self.norm_self, self.norm_out = norm_fn(layer.self_attn_layer_norm), norm_fn(layer.final_layer_norm)
        self.cross_attention = None
        if layer.encoder_attn is not None:
            self.cross_attention = attention_step(layer.encoder_attn, state)
            self.norm_cross = norm_fn(layer.encoder_attn_layer_norm)
        self.first, self.activation, self.second = linear_fn(layer.fc1), layer.activation_fn, linear_fn(layer.fc2)

    def __call__(self, x, padding, source, source_padding, wanted):
        """``x [N, D]`` -> ``[N, D]``, and the heads' mean weights of cross-attention, ``[N, S]``, where wanted."""
        before, weights = self.normalizes_before, None
        y, _ = self.self_attention(self.norm_self(x) if before else x, padding, False)
        x = y.add_(x) if before else self.norm_self(y.add_(x))
        if self.cross_attention is not None and source is not None:
            y, weights = self.cross_attention(self.norm_cross(x) if before else x, source_padding, wanted, source)
            x = y.add_(x) if before else self.norm_cross(y.add_(x))
        y = self.second(self.activation(self.first(self.norm_out(x) if before else x)))
        return y.add_(x) if before else self.norm_out(y.add_(x)), weights
