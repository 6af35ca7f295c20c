"""An attention of a decoder during one batch, a token a row at each step: what stays the same is looked up once."""

import torch

from el_fairseq.cache import CACHES, Layout, PrefixCaches
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.ops import additive, el_output, el_query, grouped_attention, grouped_sdpa
from el_fairseq.ops.products import joint_linear_fn, linear_fn
from el_fairseq.ops.shared_kv import softmax


def attention_step(attention, incremental_state):
    """``attention`` as a function of ``x [N, D]``, for the steps of a batch whose state is ``incremental_state``.

    It is called with padding (of this step's tokens, ``[N, 1]``, or of the source, ``[B, S]``; or None), whether
    weights are wanted, and the source ``[S, B, D]`` of cross-attention, as long as the weights, the mode and the
    options of the module stay. It returns the output ``[N, D]``, and the heads' mean weights ``[N, S]`` or None.
    """
    if type(attention) is ELMultiheadAttention:
        kind = _SelfAttentionStep if attention.self_attention else _CrossAttentionStep
        return kind(attention, incremental_state)

    def by_module(x, padding, wanted, source=None):
        query = x.unsqueeze(0)  # [N, D] -> [1, N, D]
        key = query if source is None else source
        output, weights = attention.forward(
            query, key, key, padding, incremental_state, wanted, source is not None, need_head_weights=wanted
        )
        return output.squeeze(0), None if weights is None else mean_of_heads(weights.squeeze(2), 0, x)

    return by_module


def mean_of_heads(weights, heads, like):
    """As fairseq's decoder: ``weights``, in float32 and rounded to the dtype of ``like``, on average over axis
    ``heads``."""
    return weights.float().to(like).mean(dim=heads)


class _SelfAttentionStep:
    """Self-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.output = linear_fn(attention.out_proj)

    def __call__(self, x, padding, wanted):
        if self.cache is None:
            self._start(x)
        attention = self.attention
        if self.cache.layout is Layout.PROJECTED:
            context = self.cache.decode(self._qkv(x), attention.num_heads, padding, attention.scaling)
            return self.output(context), None
        self.cache.append(x[None, :, None, None], padding)  # [N, D] -> [1, N, 1, 1, D]
        query = el_query(self.query(x) * attention.scaling, attention.k_proj.weight, attention.num_heads)
        context, _, _ = self.cache.attend(query.unsqueeze(2), None, dropout=None, want_weights=False)
        return self.output(el_output(context.squeeze(2), attention.v_proj.weight, attention.v_proj.bias)), None

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
        """``[N, D] -> [N, 3·D]``."""
        return torch.cat((self.query(x), self.key(x), self.value(x)), dim=1) if self.joint is None else self.joint(x)


class _CrossAttentionStep:
    """Cross-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.query, self.output = linear_fn(attention.q_proj), linear_fn(attention.out_proj)
        self.padding = self.mask = None

    def __call__(self, x, padding, wanted, source):
        attention, query = self.attention, self.query(x)
        if self.cache is None:
            self.cache = attention.source_cache(source, x.size(0) // source.size(1), self.incremental_state)
        key, value = self.cache.keys_and_values(source)
        mask = None if padding is None else self._mask(padding, query.dtype)
        if self.cache.layout is Layout.HIDDEN:
            query = el_query(query * attention.scaling, attention.k_proj.weight, attention.num_heads)  # -> [N, H, D]
            context, weights, _ = grouped_attention(query.unsqueeze(2), key, None, mask, want_weights=wanted)
            context = el_output(context.squeeze(2), attention.v_proj.weight, attention.v_proj.bias)
            weights = mean_of_heads(weights.squeeze(2), 1, x) if wanted else None
        else:
            query = query.view(key.size(0), -1, *key.shape[1::2]).transpose(1, 2)  # [N, D] -> [B, H, M, d]
            context, _ = grouped_sdpa(query, key, value, mask, scale=attention.scaling)
            context = context.transpose(1, 2).reshape(x.shape[0], -1)  # [B, H, M, d] -> [B·M, H·d]
            weights = mean_of_heads(self._weights(query, key, mask), 1, x).flatten(0, 1) if wanted else None
        return self.output(context), weights

    def _mask(self, padding, dtype):
        """The mask of ``padding [B, S]``, ``[B, 1, 1, S]``; made when sentences have been pruned."""
        if padding is not self.padding:
            mask = padding[:, None, None]
            boolean = self.cache.layout is Layout.HIDDEN  # as grouped_attention takes it
            self.padding, self.mask = padding, mask if boolean else additive(mask, dtype)
        return self.mask

    def _weights(self, query, key, mask):
        """Attention weights ``[B, H, M, S]``, which fused attention does not give."""
        scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)).mul_(self.attention.scaling)
        scores = scores.view(*query.shape[:3], -1)
        return softmax(scores if mask is None else scores.add_(mask))
