"""An attention of a decoder during one batch, a token a row at each step: what stays the same is looked up once."""

import torch

from el_fairseq.cache import CACHES, Layout, PrefixCaches
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.ops import additive, grouped_attention, grouped_sdpa
from el_fairseq.ops.products import joint_linear_fn, linear_fn


def attention_step(attention, incremental_state):
    """``attention`` as a function of ``x [N, E]``, for the steps of a batch whose state is ``incremental_state``.

    It is called with padding (of this step's tokens, ``[N, 1]``, or of the source, ``[B, S]``; or None), whether
    weights are wanted, and the source ``[S, B, D]`` of cross-attention, as long as the weights, the mode and the
    options of the module stay. It returns the output ``[N, E]``, and weights ``[N, H, 1, S]`` or None.
    """
    if type(attention) is ELMultiheadAttention:
        kind = _SelfAttentionStep if attention.self_attention else _CrossAttentionStep
        return kind(attention, incremental_state)

    def by_module(x, padding, wanted, source=None):
        query = x.unsqueeze(0)  # [N, E] -> [1, N, E]
        key = query if source is None else source
        output, weights = attention.forward(
            query, key, key, padding, incremental_state, wanted, source is not None, need_head_weights=wanted
        )
        return output.squeeze(0), None if weights is None else weights.transpose(0, 1)

    return by_module


class _SelfAttentionStep:
    """Self-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.output, self.scale = linear_fn(attention.out_proj), attention.scaling

    def __call__(self, x, padding, wanted):
        if self.cache is None:
            self._start(x)
        if self.cache.layout is Layout.PROJECTED:
            context = self.cache.decode(self._qkv(x), padding, self.scale)
        else:
            attention, layout = self.attention, self.cache.layout
            query = attention.expand((self.query(x) * self.scale).unsqueeze(1), layout)
            self.cache.append(x[None, :, None, None], padding)  # [N, E] -> [1, N, 1, 1, E]
            context, _, _ = self.cache.attend(query, None, **attention.softmax(False))
            context = attention.merge(context, None, layout).squeeze(1)
        return self.output(context), None

    def _start(self, x):
        attention = self.attention
        self.cache = attention.self_cache(x.unsqueeze(0), self.incremental_state)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        # Prefixes have gone through the single projections, of which there are packed copies then.
        joins = self.cache.layout is Layout.PROJECTED and not isinstance(
            self.incremental_state.get(CACHES), PrefixCaches
        )
        self.joint = joint_linear_fn(projections) if joins else None
        if self.joint is None:
            self.query, self.key, self.value = map(linear_fn, projections)

    def _qkv(self, x):
        """``[N, E] -> [N, 3, H, d]``."""
        qkv = torch.stack([self.query(x), self.key(x), self.value(x)], 1) if self.joint is None else self.joint(x)
        return qkv.view(x.size(0), 3, self.attention.num_heads, -1)


class _CrossAttentionStep:
    """Cross-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.query, self.output = linear_fn(attention.q_proj), linear_fn(attention.out_proj)
        self.padding = self.mask = None

    def __call__(self, x, padding, wanted, source):
        attention = self.attention
        if self.cache is None:
            self.cache = attention.source_cache(source, x.size(0) // source.size(1), self.incremental_state)
        layout, query = self.cache.layout, self.query(x)
        key, value = self.cache.keys_and_values(source)
        if padding is not None and padding is not self.padding:
            mask = padding[:, None, None]  # [B, S] -> [B, 1, 1, S]
            self.padding, self.mask = padding, mask if layout is Layout.HIDDEN else additive(mask, query.dtype)
        mask = None if padding is None else self.mask
        if layout is Layout.PROJECTED and not wanted:
            query = query.view(key.size(0), -1, *key.shape[1::2]).transpose(1, 2)  # [N, E] -> [B, H, M, d]
            context, _ = grouped_sdpa(query, key, value, mask, scale=attention.scaling)
            return self.output(context.transpose(1, 2).flatten(2).flatten(0, 1)), None  # -> [B·M, H·d]
        query = attention.expand((query * attention.scaling).unsqueeze(1), layout)  # [N, E] -> [N, H, 1, C]
        context, weights, _ = grouped_attention(query, key, value, mask, **attention.softmax(wanted))
        return self.output(attention.merge(context, None, layout).squeeze(1)), weights
