"""An attention of a decoder during one batch, a token a row at each step: what stays the same is looked up once."""

import torch

from el_fairseq.cache import CACHES, Layout, PrefixCaches
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.ops import grouped_attention, merge_masks
from el_fairseq.ops.products import joint_linear_fn, linear_fn


def attention_step(attention, incremental_state):
    """``attention`` as a function of ``x [N, E]``, for the steps of a batch whose state is ``incremental_state``.

    It is called with padding (of this step's tokens, ``[N, 1]``, or of the source, ``[B, S]``; or None), whether
    weights are wanted, and the source ``[S, B, D]`` of cross-attention, as long as the weights, the mode and the
    options of the module stay. It returns the output ``[N, E]``, and weights ``[N, H, 1, S]`` or None.
    """
    if type(attention) is ELMultiheadAttention:
        kind = _ELSelfAttention if attention.self_attention else _ELCrossAttention
        return kind(attention, incremental_state)

    def by_module(x, padding, wanted, source=None):
        query = x.unsqueeze(0)  # [N, E] -> [1, N, E]
        key = query if source is None else source
        output, weights = attention.forward(
            query, key, key, padding, incremental_state, wanted, source is not None, need_head_weights=wanted
        )
        return output.squeeze(0), None if weights is None else weights.transpose(0, 1)

    return by_module


class _ELSelfAttention:
    """Self-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.output = linear_fn(attention.out_proj)

    def __call__(self, x, padding, wanted):
        if self.cache is None:
            self._start(x)
        attention, layout, n = self.attention, self.cache.layout, x.size(0)
        if self.joint is not None:
            joint = self.joint(x).view(n, 3, attention.num_heads, 1, -1)  # [N, 3·E] -> [N, 3, H, 1, d]
            query, new = joint[:, 0] * attention.scaling, joint[:, 1:].transpose(0, 1)  # [N, H, 1, d], [2, N, H, 1, d]
        else:
            query = attention.expand((self.query(x) * attention.scaling).unsqueeze(1), layout)
            new = self._entries_of(x)
        self.cache.append(new, padding)
        context, weights, _ = self.cache.attend(query, None, **attention.softmax(wanted))
        return self.output(attention.merge(context, None, layout).squeeze(1)), weights

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

    def _entries_of(self, x):
        """``x [N, E]`` as entries, ``[1, N, 1, 1, E]`` or ``[2, N, H, 1, d]``."""
        if self.cache.layout is Layout.HIDDEN:
            return x[None, :, None, None]
        new = torch.stack((self.key(x), self.value(x)))  # [2, N, E]
        return new.view(*new.shape[:2], self.attention.num_heads, 1, -1)


class _ELCrossAttention:
    """Cross-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.query, self.output = linear_fn(attention.q_proj), linear_fn(attention.out_proj)

    def __call__(self, x, padding, wanted, source):
        attention = self.attention
        if self.cache is None:
            self.cache = attention.source_cache(source, x.size(0) // source.size(1), self.incremental_state)
        layout = self.cache.layout
        query = attention.expand((self.query(x) * attention.scaling).unsqueeze(1), layout)  # [N, E] -> [N, H, 1, C]
        mask = merge_masks(padding, None, query.dtype)
        context, weights, _ = grouped_attention(
            query, *self.cache.keys_and_values(source), mask, **attention.softmax(wanted)
        )
        return self.output(attention.merge(context, None, layout).squeeze(1)), weights
