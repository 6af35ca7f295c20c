"""An attention of a decoder during one batch, a token a row at each step: what stays the same is looked up once."""

import torch

from el_fairseq.cache.prefix import PromptedState
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.ops.products import joint_product, product_of


def attention_step(attention, incremental_state):
    """``attention`` as a function of ``x [N, E]``, for the steps of a batch whose state is ``incremental_state``.

    It is called with padding (of this step's tokens, ``[N, 1]``, or of the source, ``[B, S]``; or None), whether
    weights are wanted, and the source ``[S, B, K]`` of cross-attention, as long as the weights, the mode and the
    options of the module stay. It returns the output ``[N, E]``, and weights ``[H, N, 1, S]`` or None.
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
        return output.squeeze(0), weights

    return by_module


class _ELSelfAttention:
    """Self-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.state = attention, incremental_state, None
        self.output = product_of(attention.out_proj)

    def __call__(self, x, padding, wanted):
        if self.state is None:
            self._start(x)
        attention, n = self.attention, x.size(0)
        if self.joint is not None:
            joint = self.joint(x).view(n, 3, attention.num_heads, 1, -1)  # [N, 3·E] -> [N, 3, H, 1, d]
            rows, new = joint[:, 0].reshape(n, 1, -1), joint[:, 1:].transpose(0, 1)  # [N, 1, E], [2, N, H, 1, d]
        else:
            rows, new = self.query(x).unsqueeze(1), self._to_keep(x)
        self.state.append(new, padding)
        context, weights = attention.attend_past(rows * attention.scaling, self.state, None, wanted)
        return self.output(context.squeeze(1)), weights

    def _start(self, x):
        attention = self.attention
        self.state = attention.own_state(x.unsqueeze(0), self.incremental_state)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        # Prompts have gone through the single projections, of which there are packed copies then.
        joins = self.state.cache.row_dim == 1 and not isinstance(self.state, PromptedState)
        self.joint = joint_product(projections) if joins else None
        if self.joint is None:
            self.query, self.key, self.value = map(product_of, projections)

    def _to_keep(self, x):
        """What is kept of ``x [N, E]``: that, ``[N, 1, E]``, or its keys and values, ``[2, N, H, 1, d]``."""
        if self.state.cache.row_dim == 0:
            return x.unsqueeze(1)
        new = torch.stack((self.key(x), self.value(x)))  # [2, N, E]
        return new.view(*new.shape[:2], self.attention.num_heads, 1, -1)


class _ELCrossAttention:
    """Cross-attention of ``ELMultiheadAttention``."""

    def __init__(self, attention, incremental_state):
        self.attention, self.incremental_state, self.state = attention, incremental_state, None
        self.query, self.output = product_of(attention.q_proj), product_of(attention.out_proj)

    def __call__(self, x, padding, wanted, source):
        attention = self.attention
        if self.state is None:
            self.state = attention.source_state(source, x.size(0) // source.size(1), self.incremental_state)
        kept = self.state.kept or (source.transpose(0, 1),)
        rows = self.query(x).unsqueeze(1) * attention.scaling  # [N, E] -> [N, 1, E]
        context, weights = attention.attend(rows, kept, padding, wanted)
        return self.output(context.squeeze(1)), weights
