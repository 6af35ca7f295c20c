"""Stock self-attention of an encoder whose projections go through their own modules while a CPU evaluates."""

import torch
from fairseq.modules import MultiheadAttention
from torch.nn.functional import scaled_dot_product_attention

from el_fairseq.modules.packed_linear import PackedLinear


def has_plain_projections(attention):
    """Whether this is fairseq's own self-attention over four linear layers, with no extra keys and no pruned heads."""
    return (
        type(attention) is MultiheadAttention
        and attention.self_attention
        and attention.bias_k is None
        and not (attention.add_zero_attn or attention.skip_embed_dim_check or attention.use_xformers)
        and all(type(getattr(attention, f"{name}_proj")) is PackedLinear for name in ("q", "k", "v", "out"))
    )


class EncoderAttention(MultiheadAttention):
    """``MultiheadAttention`` over the same parameters: stock's hands their weights to PyTorch's own attention, past the
    modules and what they do for speed (``PackedLinear``).
    """

    def forward(self, query, key, value, key_padding_mask=None, **options):
        """As ``MultiheadAttention.forward``: ``[S, B, E]`` and padding ``[B, S]`` -> output ``[S, B, E]``, weights."""
        wants_more = (
            options.get("need_weights", True)
            or not query is key is value
            or any(options.get(name) is not None for name in ("attn_mask", "incremental_state"))
            or any(options.get(name, False) for name in ("need_head_weights", "before_softmax", "static_kv"))
        )
        drops = self.dropout_module.p > 0 and (self.training or self.dropout_module.apply_during_inference)
        if wants_more or drops or torch.is_grad_enabled() or query.device.type != "cpu":
            return super().forward(query, key, value, key_padding_mask, **options)
        mask = None if key_padding_mask is None else ~key_padding_mask.bool()[:, None, None]  # [B, 1, 1, S]
        queries, keys, values = (
            projection(query).view(*query.shape[:2], self.num_heads, self.head_dim).permute(1, 2, 0, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # [S, B, E] -> [B, H, S, d]
        context = scaled_dot_product_attention(queries, keys, values, mask)
        return self.out_proj(context.permute(2, 0, 1, 3).reshape(query.shape)), None
