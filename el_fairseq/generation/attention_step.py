"""An attention of a decoder during one batch, a token a row at each step: what stays the same is looked up once."""

import torch

from el_fairseq.cache import CACHES, Layout, PrefixCaches
from el_fairseq.modules.baselines import MultiQueryAttention, SingleHeadAttention
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.mhe_attention import MHEAttention
from el_fairseq.ops import additive, el_output, el_query, grouped_attention, grouped_sdpa
from el_fairseq.ops.mhe import ADD, MUL
from el_fairseq.ops.products import joint_linear_fn, linear_fn
from el_fairseq.ops.shared_kv import scores_of, softmax

SHARED_KV = (MHEAttention, MultiQueryAttention, SingleHeadAttention)


def attention_step(attention, incremental_state):
    """``attention`` as a function of ``x [N, D]``, for the steps of a batch whose state is ``incremental_state``.

    It is called with padding (of this step's tokens, ``[N, 1]``, or of the source, ``[B, S]``; or None), whether
    weights are wanted, and the source ``[S, B, D]`` of cross-attention, as long as the weights, the mode and the
    options of the module stay. It returns the output ``[N, D]``, and the heads' mean weights ``[N, S]`` or None.
    """
    if type(attention) is ELMultiheadAttention:
        kind = _SelfAttentionStep if attention.self_attention else _CrossAttentionStep
    elif type(attention) in SHARED_KV:
        kind = _SharedSelfAttentionStep if attention.self_attention else _SharedCrossAttentionStep
    else:
        return _by_module(attention, incremental_state)
    return kind(attention, incremental_state)


def _by_module(attention, incremental_state):
    """A class that this file does not know computes by its own ``forward``."""

    def step(x, padding, wanted, source=None):
        query = x.unsqueeze(0)  # [N, D] -> [1, N, D]
        key = query if source is None else source
        output, weights = attention.forward(
            query, key, key, padding, incremental_state, wanted, source is not None, need_head_weights=wanted
        )
        return output.squeeze(0), None if weights is None else mean_of_heads(weights.squeeze(2), 0, x)

    return step


def mean_of_heads(weights, heads, like):
    """As fairseq's decoder: ``weights``, in float32 and rounded to the dtype of ``like``, on average over axis
    ``heads``."""
    return weights.float().to(like).mean(dim=heads)


def _joint_fn(projections, incremental_state):
    """``joint_linear_fn``, or None: prefixes have gone through the single projections, of which there are packed copies
    then."""
    return None if isinstance(incremental_state.get(CACHES), PrefixCaches) else joint_linear_fn(projections)


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
        joins = self.cache.layout is Layout.PROJECTED
        self.joint = _joint_fn(projections, self.incremental_state) if joins else None
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
        rows = (query * self.attention.scaling).flatten(0, 1)  # scaled first: half precision overflows otherwise
        scores = torch.bmm(rows, key.flatten(0, 1).transpose(1, 2))
        scores = scores.view(*query.shape[:3], -1)
        return softmax(scores if mask is None else scores.add_(mask))


class _HeadMaps:
    """What stands around the attention of a module with shared keys and values: queries of its heads, before, and what
    is done to their contexts. As the module's ``expand`` and ``merge``, but for the scale of the queries."""

    def __init__(self, attention):
        self.width = attention.head_dim
        self.operation = attention.operation if type(attention) is MHEAttention else None
        if self.operation == MUL:
            self.of_query = (1 + attention.q_head_embed) * (1 + attention.k_head_embed)  # [H, d]
            self.of_context = (1 + attention.v_head_embed).flatten()  # [H·d]
        elif self.operation == ADD:
            self.of_query, self.of_context = attention.q_head_embed, attention.v_head_embed.flatten()

    def queries(self, x):
        """What ``q_proj`` made, ``[N, d]`` or ``[N, H·d]``, as ``[N, H, d]``, not yet scaled."""
        if self.operation == MUL:
            return x.unsqueeze(1) * self.of_query
        if self.operation == ADD:
            return x.unsqueeze(1) + self.of_query
        return x.unflatten(1, (-1, self.width))

    def contexts(self, x):
        """What ``out_proj`` reads, of ``[N, H·d]``, which is overwritten."""
        if self.operation == MUL:
            return x.mul_(self.of_context)
        return x.add_(self.of_context) if self.operation == ADD else x


class _SharedSelfAttentionStep:
    """Self-attention of ``SharedKVAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.cache = attention, incremental_state, None
        self.maps, self.output = _HeadMaps(attention), linear_fn(attention.out_proj)

    def __call__(self, x, padding, wanted):
        if self.cache is None:
            self._start()
        qkv = torch.cat([project(x) for project in self.single], dim=1) if self.joint is None else self.joint(x)
        width = self.attention.head_dim
        query, kv = qkv.split((qkv.size(1) - 2 * width, 2 * width), dim=1)
        query, kv = self.maps.queries(query), kv.unflatten(1, (2, width))
        context = self.cache.decode_shared(query, kv, padding, width**-0.5)
        return self.output(self.maps.contexts(context)), None

    def _start(self):
        attention = self.attention
        self.cache = attention.self_cache(self.incremental_state)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        self.joint = _joint_fn(projections, self.incremental_state)
        self.single = None if self.joint else [linear_fn(projection) for projection in projections]


class _SharedCrossAttentionStep(_CrossAttentionStep):
    """Cross-attention of ``SharedKVAttention``."""

    def __init__(self, attention, incremental_state):
        super().__init__(attention, incremental_state)
        self.maps, self.scale = _HeadMaps(attention), attention.head_dim**-0.5

    def __call__(self, x, padding, wanted, source):
        if self.cache is None:
            beams = x.size(0) // source.size(1)
            self.cache = self.attention.source_cache(source, source, beams, self.incremental_state)
        key, value = self.cache.keys_and_values(source)  # [B, 1, S, d]
        query = self.maps.queries(self.query(x))
        query = query.unflatten(0, (key.size(0), -1)).transpose(1, 2)  # [N, H, d] -> [B, H, M, d]
        mask = None if padding is None else self._mask(padding, query.dtype)
        context, _ = grouped_sdpa(query, key, value, mask, scale=self.scale)
        context = context.transpose(1, 2).reshape(x.size(0), -1)  # [B, H, M, d] -> [N, H·d]
        weights = None
        if wanted:
            rows = (query * self.scale).flatten(1, 2)  # [B, H, M, d] -> [B, H·M, d]
            scores = scores_of(rows, key.squeeze(1)).view(*query.shape[:3], -1)  # [B, H, M, S]
            weights = mean_of_heads(softmax(scores if mask is None else scores.add_(mask)), 1, x).flatten(0, 1)
        return self.output(self.maps.contexts(context)), weights
