"""Stock self-attention to whole sentences, whose projections go through their own modules while a CPU evaluates."""

import torch
from fairseq.modules import MultiheadAttention
from torch.nn.functional import scaled_dot_product_attention

from el_fairseq.modules.packed_linear import PackedLinear
from el_fairseq.ops import merge_masks


def has_plain_projections(attention):
    """Whether this is fairseq's own self-attention over four linear layers, with no extra keys and no pruned heads."""
    return (
        type(attention) is MultiheadAttention
        and attention.self_attention
        and attention.bias_k is None
        and not (attention.add_zero_attn or attention.skip_embed_dim_check or attention.use_xformers)
        and all(type(getattr(attention, f"{name}_proj")) is PackedLinear for name in ("q", "k", "v", "out"))
    )


class PackedAttention(MultiheadAttention):
    """``MultiheadAttention`` over the same parameters: stock's hands their weights to PyTorch's own attention, past the
    modules and what they do for speed (``PackedLinear``).
    """

    def forward(self, query, key, value, key_padding_mask=None, **options):
        """As ``MultiheadAttention.forward``: ``[S, B, E]``, padding ``[B, S]`` and ``attn_mask [S, S]`` -> output
        ``[S, B, E]``, weights."""
        if not self._computes(query, key, value, options):
            return super().forward(query, key, value, key_padding_mask, **options)
        mask = merge_masks(key_padding_mask, options.get("attn_mask"), query.dtype)
        mask = ~mask[:, None, None] if mask is not None and mask.dim() == 2 else mask  # [B or 1, 1, 1 or S, S]
        queries, keys, values = (
            projection(query).view(*query.shape[:2], self.num_heads, self.head_dim).permute(1, 2, 0, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # [S, B, E] -> [B, H, S, d]
        context = scaled_dot_product_attention(queries, keys, values, mask)
        return self.out_proj(context.permute(2, 0, 1, 3).reshape(query.shape)), None

    def _computes(self, query, key, value, options):
        """Whether no more is asked for than this class computes, and where it is faster."""
        asks = (
            options.get("need_weights", True)
            or not query is key is value
            or options.get("incremental_state") is not None
            or any(options.get(name, False) for name in ("need_head_weights", "before_softmax", "static_kv"))
        )
        mask, dropout = options.get("attn_mask"), self.dropout_module
        return not (
            asks
            or (mask is not None and not mask.is_floating_point())
            or (dropout.p > 0 and (self.training or dropout.apply_during_inference))
            or torch.is_grad_enabled()
            or query.device.type != "cpu"
            or type(self.q_proj) is not PackedLinear
        )
