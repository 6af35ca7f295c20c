"""A step of a stock Transformer decoder as straight-line code.

fairseq's decoder finds out at every step, in every layer, what it is: which options it has, where its state lies, what
its masks are. For a few rows that takes as long as the products themselves. Here it is found out once a batch.
"""

import torch
from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules import FairseqDropout
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase

from el_fairseq.convert.el_attention import KNOWN_DECODERS, draws_dropout, layers_of
from el_fairseq.generation.attention_step import attention_step
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.ops.products import product_of
from el_fairseq.stock import change_in, is_stocks

EXTRACT = ("extract_features", "extract_features_scriptable")
DROPOUTS = ("dropout_module", "activation_dropout_module")
EXTRAS = ("c_attn", "attn_ln", "ffn_layernorm", "w_resid")  # of layers, by --scale-heads, --scale-attn and the like


def is_straight(decoder):
    """Whether ``DecoderStep`` computes what this converted decoder does: without options it does not know, in
    evaluation, in the precision of the weights, and with nothing changed in it."""
    return (
        decoder.quant_noise is None
        and type(decoder.dropout_module) is FairseqDropout
        and all(is_stocks(decoder, name, *KNOWN_DECODERS) for name in EXTRACT)
        and all(map(_is_plain, layers_of(decoder)))
        and not any(module.training for module in decoder.modules())
        and not draws_dropout(decoder)
        and not torch.is_autocast_enabled(next(decoder.parameters()).device.type)
        and change_in_decoder(decoder) is None
    )


def change_in_decoder(decoder):
    """As ``change_in``."""
    return change_in(decoder, (TransformerDecoderLayerBase, ELMultiheadAttention, SharedKVAttention))


def _is_plain(layer):
    attentions = [attention for attention in (layer.self_attn, layer.encoder_attn) if attention is not None]
    return (
        all(isinstance(attention, (ELMultiheadAttention, SharedKVAttention)) for attention in attentions)
        and all(is_stocks(layer, name, TransformerDecoderLayerBase) for name in ("forward", "residual_connection"))
        and all(type(getattr(layer, name)) is FairseqDropout for name in DROPOUTS)
        and not any(getattr(layer, name) is not None for name in EXTRAS)
    )


class DecoderStep:
    """The steps of one batch.

    Args: decoder: for which ``is_straight``. state: its incremental state.
    """

    def __init__(self, decoder, state):
        self.decoder, self.state = decoder, state
        self.each_layer = [_Layer(layer, state) for layer in layers_of(decoder)]
        self.gives_attention = is_stocks(decoder, "extract_features", TransformerDecoderBase)
        self.encoder_out, self.source, self.source_padding = None, None, None

    def __call__(self, tokens, encoder_out):
        """As ``TransformerDecoder.forward(features_only=True)`` for the last of ``tokens [N, n]``: features ``[N, D]``,
        and the attention of the last layer to the source, ``[N, S]``, or None."""
        x, padding = self.inputs(tokens)
        self.look_at(encoder_out)
        return self.layers(x, padding if bool(padding.any()) else None)

    def look_at(self, encoder_out):
        """Note the source, which is another one when sentences have left."""
        if encoder_out is self.encoder_out:
            return
        self.encoder_out, self.source, self.source_padding = encoder_out, None, None
        for self.source in encoder_out["encoder_out"][:1]:
            for padding in encoder_out["encoder_padding_mask"][:1]:
                self.source_padding = padding.bool() if bool(padding.any()) else None

    def inputs(self, tokens):
        """What the first layer reads for the last of ``tokens [N, n]``, ``[N, D]``, and whether that is padding,
        ``[N, 1]``."""
        decoder, last = self.decoder, tokens[:, -1]
        x = decoder.embed_scale * decoder.embed_tokens(last)
        if decoder.project_in_dim is not None:
            x = decoder.project_in_dim(x)
        if decoder.embed_positions is not None:
            x += decoder.embed_positions(tokens, incremental_state=self.state)[:, -1]
        x = x if decoder.layernorm_embedding is None else decoder.layernorm_embedding(x)
        return x, last.eq(decoder.padding_idx).unsqueeze(1)

    def layers(self, x, padding):
        """From inputs ``[N, D]`` to features and attention."""
        weights, last = None, self.decoder.num_layers - 1
        layers = zip(self.decoder.layers, self.each_layer)  # --decoder-layerdrop draws where one iterates
        for i, (_, layer) in enumerate(layers):
            x, found = layer(x, padding, self.source, self.source_padding, self.gives_attention and i == last)
            weights = found if i == last else weights
        if self.decoder.layer_norm is not None:
            x = self.decoder.layer_norm(x)
        if self.decoder.project_out_dim is not None:
            x = self.decoder.project_out_dim(x)
        return x, None if weights is None else weights.float().to(x).mean(dim=0).squeeze(1)  # [H, N, 1, S] -> [N, S]


class _Layer:
    """``TransformerDecoderLayer.forward`` for a single token a row."""

    def __init__(self, layer, state):
        self.normalizes_before = layer.normalize_before
        self.self_attention = attention_step(layer.self_attn, state)
        self.norm_self, self.norm_out = layer.self_attn_layer_norm.forward, layer.final_layer_norm.forward
        self.cross_attention = None
        if layer.encoder_attn is not None:
            self.cross_attention = attention_step(layer.encoder_attn, state)
            self.norm_cross = layer.encoder_attn_layer_norm.forward
        self.first, self.activation, self.second = product_of(layer.fc1), layer.activation_fn, product_of(layer.fc2)

    def __call__(self, x, padding, source, source_padding, wanted):
        """``x [N, D]`` -> ``[N, D]``, and the weights of cross-attention where they are wanted."""
        before, weights = self.normalizes_before, None
        y, _ = self.self_attention(self.norm_self(x) if before else x, padding, False)
        x = y.add_(x) if before else self.norm_self(y.add_(x))
        if self.cross_attention is not None and source is not None:
            y, weights = self.cross_attention(self.norm_cross(x) if before else x, source_padding, wanted, source)
            x = y.add_(x) if before else self.norm_cross(y.add_(x))
        y = self.second(self.activation(self.first(self.norm_out(x) if before else x)))
        return y.add_(x) if before else self.norm_out(y.add_(x)), weights
