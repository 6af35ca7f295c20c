"""Stock self-attention to whole sentences, whose projections go through their own modules while a CPU evaluates."""

import torch
from fairseq.modules import MultiheadAttention
from torch.nn.functional import scaled_dot_product_attention

from el_fairseq.modules.packed_linear import PackedLinear
from el_fairseq.ops import merge_masks


def has_plain_projections(attention):
    """Whether this is self-attention over four packed linear layers, with no extra keys and no pruned heads."""
    return (
        attention.self_attention
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
        if mask is not None and mask.dim() == 2:  # padding alone, True where there is none to see
            mask = ~mask[:, None, None]  # [B, S] -> [B, 1, 1, S]
        queries, keys, values = (
            projection(query).view(*query.shape[:2], self.num_heads, self.head_dim).permute(1, 2, 0, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # [S, B, E] -> [B, H, S, d]
        context = scaled_dot_product_attention(queries, keys, values, mask)
        return self.out_proj(context.permute(2, 0, 1, 3).reshape(query.shape)), None

    def _computes(self, query, key, value, options):
        """Whether no more is asked for than this class computes, and where it is faster."""
        mask, dropout = options.get("attn_mask"), self.dropout_module
        wanted = any(options.get(name, False) for name in ("need_head_weights", "before_softmax", "static_kv"))
        return (
            query is key is value
            and not (options.get("need_weights", True) or wanted)
            and options.get("incremental_state") is None
            and (mask is None or mask.is_floating_point() and mask.dim() == 2)
            and (dropout.p == 0 or not (self.training or dropout.apply_during_inference))
            and not torch.is_grad_enabled()
            and query.device.type == "cpu"
            and has_plain_projections(self)
        )
