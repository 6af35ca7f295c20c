"""Multi-head attention over stock parameters that decodes from shared hidden states."""

import torch
from fairseq.modules import MultiheadAttention
from torch import nn

from el_fairseq.cache.ancestors import LINEAGE, new_state, own_mask
from el_fairseq.cache.growing import CrossAttentionState
from el_fairseq.cache.layout import HIDDEN, PROJECTED, Attended, hidden_everywhere
from el_fairseq.cache.prefix import PromptedState
from el_fairseq.ops import el_output, el_query, hidden_attention, merge_masks, prompted_attention, shared_kv_attention
from el_fairseq.ops.products import ROWS, forget_stale, multiply
from el_fairseq.stock import changes_weights, is_plain_dropout, is_plain_linear, say_once

STATE = "el_state"  # what an attention keeps in the incremental state
SOFTMAX_DTYPE = torch.float32  # fairseq.utils.softmax, whatever the dtype of the model


def why_not(attention):
    """Why EL's identities do not cover this attention, naming the option, or None if they do.

    A ``MultiheadAttention`` whose class or projections were replaced computes something that is not known here.
    """
    if type(attention) not in (MultiheadAttention, ELMultiheadAttention):
        return f"{type(attention).__name__} is not fairseq's MultiheadAttention"
    if attention.skip_embed_dim_check:
        return "pruned heads: their width is another one"
    if attention.bias_k is not None:
        return "add_bias_kv=True: the extra key has no hidden state"
    if attention.add_zero_attn:
        return "add_zero_attn=True: the extra key has no hidden state"
    if not (attention.self_attention or attention.encoder_decoder_attention):
        return "self_attention=False and encoder_decoder_attention=False: keys and values may differ"
    if attention.kdim != attention.vdim:
        return f"kdim={attention.kdim} and vdim={attention.vdim}: keys and values have different sources"
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        if type(getattr(attention, name)) is not nn.Linear:
            return f"{name} is a {type(getattr(attention, name)).__name__}, not a Linear"
    return None


class ELMultiheadAttention(MultiheadAttention):
    """fairseq's ``MultiheadAttention`` with EL-attention (arXiv 2105.04779) for incremental decoding.

    Parameters, initialisation, ``state_dict`` and everything without ``incremental_state`` are stock's. While decoding,
    cross-attention reads the encoder output itself, given once a sentence (``key [S, B, K]`` for a query
    ``[T, B·M, E]``), and keeps nothing; self-attention caches its own inputs, ``[B·M, t, E]``, or with a ``Lineage`` in
    the incremental state those of all beams of a sentence together. Where ``plan`` says so,
    projected keys and values are kept instead, those of a source again once a sentence; the result is the same. So they
    are where ``k_proj`` or ``v_proj`` is no plain linear layer when a batch begins (a hook, an adapter): EL-attention
    reads their weights and does not call them.

    Args: those of ``MultiheadAttention``, and ``plan``, which is called with an ``Attended`` when decoding of a batch
    begins, and returns ``HIDDEN`` or ``PROJECTED``.

    Raises:
        ValueError: an option that the identities do not cover (see ``why_not``).
    """

    by_kernel = True  # EL-attention in one pass where a kernel serves; False: in two products everywhere

    def __init__(self, *args, plan=hidden_everywhere, **kwargs):
        super().__init__(*args, **kwargs)
        reason = why_not(self)
        if reason is not None:
            raise ValueError(f"EL-attention does not cover {reason}")
        self.plan = plan

    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        incremental_state=None,
        need_weights=True,
        static_kv=False,
        attn_mask=None,
        before_softmax=False,
        need_head_weights=False,
    ):
        """As ``MultiheadAttention.forward``: query ``[T, N, E]`` -> output ``[T, N, E]`` and the attention weights,
        ``[N, T, S]`` averaged over heads, ``[H, N, T, S]`` with ``need_head_weights``, None without ``need_weights``.

        While decoding, ``key [S, B, K]`` may hold fewer entries than the query: then ``N = B·M``, each serves M rows.

        Raises:
            ValueError: with ``incremental_state``: ``before_softmax=True``; cross-attention with ``static_kv=False``,
                with ``key=None``, or with a number of sources that does not divide the number of query rows.
        """
        if incremental_state is None:
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                static_kv=static_kv,
                attn_mask=attn_mask,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
            )
        if before_softmax:
            raise ValueError("EL-attention has no keys of its own to return: before_softmax=True needs stock attention")
        if self.encoder_decoder_attention and not static_kv:
            raise ValueError("static_kv=False: while decoding, cross-attention reads one unchanging source")
        rows = multiply(self.q_proj, query).transpose(0, 1) * self.scaling  # [T, N, E] -> [N, T, E]
        want_weights = need_weights or need_head_weights
        if self.self_attention:
            state = self._append(query, key_padding_mask, incremental_state)
            context, weights = self.attend_past(rows, state, attn_mask, want_weights)
        else:
            source = self._cross_source(rows.size(0), key, incremental_state)
            mask = merge_masks(key_padding_mask, attn_mask, rows.dtype)
            context, weights = self.attend(rows, source, mask, want_weights)
        output = multiply(self.out_proj, context.transpose(0, 1))  # [N, T, E] -> [T, N, E]
        if not want_weights:
            return output, None
        return output, weights if need_head_weights else weights.mean(dim=0)

    def attend_past(self, rows, state, attn_mask, want_weights):
        """``attend`` to what this self-attention keeps, in any kind of state.

        Raises:
            ValueError: an ``attn_mask`` behind a prompt, or where the beams of a sentence share their past.
        """
        if not isinstance(state, PromptedState):
            mask = own_mask(state, attn_mask, rows.dtype)
            return self.attend(rows, _parts(state.cache.filled, state.cache.row_dim), mask, want_weights)
        if attn_mask is not None:
            raise ValueError("attn_mask: after a prompt every token attends to all before it")
        return self._attend_prompted(rows, state)

    def attend(self, rows, source, mask, want_weights):
        """Scaled queries ``[N, T, E]`` attend to ``(hidden [B, S, K],)``, or to ``(key, value [B, H, S, d])``.

        Returns the context ``[N, T, E]``, and weights ``[H, N, T, S]``, which may be None unless they are wanted.
        """
        if len(source) == 1:
            return self._attend_hidden(rows, *source, mask, want_weights)
        return self._attend_projected(rows, *source, mask, want_weights)

    def reorder_incremental_state(self, incremental_state, new_order):
        """Follow the beams: row ``i`` continues row ``new_order[i]``."""
        state = self.get_incremental_state(incremental_state, STATE)
        if state is not None:
            state.reorder(new_order)
        return incremental_state

    def set_beam_size(self, beam_size):
        """Nothing to set: the number of beams follows from the shapes."""

    def start_with_prompt(self, incremental_state, hidden, layout):
        """Begin decoding behind prompts: their tokens' inputs to this self-attention, ``hidden [P, B, E]``.

        What is kept of them is kept once a sentence; ``layout`` is their ``PromptLayout``.
        """
        row_dim = self._row_dim(Attended("prompt", hidden, layout.beams, self.num_heads))
        kept = self._to_keep(hidden, row_dim)
        # Hidden states may be a view of something larger, which would be kept with them.
        kept = kept.clone(memory_format=torch.contiguous_format) if row_dim == 0 else kept.contiguous()
        state = PromptedState(row_dim, kept, layout)
        self.set_incremental_state(incremental_state, STATE, state)

    def _row_dim(self, attended):
        """Which axis of what self-attention keeps numbers the rows; that tells its layouts apart."""
        return 0 if self._layout(attended) == HIDDEN else 1

    def _layout(self, attended):
        """What ``plan`` says, once a batch; where the identities do not hold now, keys and values."""
        forget_stale([module for module in self.children() if type(module) is nn.Linear])
        if self.is_absorbable:
            return self.plan(attended)
        say_once(f"{attended.kind}-attention keeps keys and values: something is hooked or put onto it")
        return PROJECTED

    @property
    def is_absorbable(self):
        """Whether keys and values are now nothing but products with the weights of ``k_proj`` and ``v_proj``, and
        nobody looks at attention weights, which EL-attention has in another arrangement."""
        return is_plain_linear(self.k_proj) and is_plain_linear(self.v_proj) and is_plain_dropout(self.dropout_module)

    def _to_keep(self, query, row_dim):
        """Inputs ``[T, N, E]`` -> what is kept of them: ``[N, T, E]``, or keys and values ``[2, N, H, T, d]``."""
        if row_dim == 0:
            return query.transpose(0, 1)
        new = torch.stack((multiply(self.k_proj, query), multiply(self.v_proj, query)))  # [2, T, N, H·d]
        return new.view(*new.shape[:3], self.num_heads, self.head_dim).permute(0, 2, 3, 1, 4)  # -> [2, N, H, T, d]

    def _append(self, query, key_padding_mask, incremental_state):
        """The state of this self-attention, with this step in it."""
        state = self.own_state(query, incremental_state)
        new = self._to_keep(query, state.cache.row_dim)
        state.append(new, None if key_padding_mask is None else key_padding_mask.bool())
        return state

    def own_state(self, query, incremental_state):
        """What this self-attention keeps; nothing before its first inputs, ``query [T, N, E]``."""
        state = self.get_incremental_state(incremental_state, STATE)
        if state is None:
            beams = incremental_state[LINEAGE].beams if LINEAGE in incremental_state else 1
            row_dim = self._row_dim(Attended("self", query, beams, self.num_heads))
            state = new_state(incremental_state, row_dim)
            self.set_incremental_state(incremental_state, STATE, state)
        return state

    def source_state(self, key, beams, incremental_state):
        """What this cross-attention keeps of the source ``[S, B, K]``, computed once, for all ``beams``."""
        state = self.get_incremental_state(incremental_state, STATE)
        if state is None:
            state = CrossAttentionState((), beams)
            # Retained dropout (--retain-dropout) meets EL-attention's weights in stock's order, and so draws alike.
            drops = self._softmax()["dropout"] is not None
            layout = self._layout(Attended("cross", key, beams, self.num_heads))
            if layout == PROJECTED and (not drops or not self.is_absorbable):
                state.kept = self._project_source(key)
            self.set_incremental_state(incremental_state, STATE, state)
        return state

    def _cross_source(self, rows, key, incremental_state):
        """The source of cross-attention, as ``attend`` takes it."""
        if key is None:
            raise ValueError("key=None: EL-attention reads the encoder output at every step")
        if rows % key.size(1):
            raise ValueError(f"{rows} query rows cannot share {key.size(1)} sources evenly")
        return self.source_state(key, rows // key.size(1), incremental_state).kept or (key.transpose(0, 1),)

    def _project_source(self, key):
        """Sources ``[S, B, K]`` -> keys and values ``[B, H, S, d]``."""
        s, b, _ = key.shape
        keys, values = (key.new_empty(b, self.num_heads, s, self.head_dim) for _ in range(2))
        size = max(1, ROWS // s) if key.device.type == "cpu" and self.is_absorbable else b
        for start in range(0, b, size):
            some = slice(start, start + size)
            for projection, out in ((self.k_proj, keys), (self.v_proj, values)):
                projected = multiply(projection, key[:, some]).view(
                    s, -1, self.num_heads, self.head_dim
                )  # [S, b, H, d]
                out[some] = projected.permute(1, 2, 0, 3)
        return keys, values

    def _attend_hidden(self, rows, hidden, mask, want_weights):
        """EL-attention: ``attend`` to hidden states."""
        n, t, _ = rows.shape
        b, s, k = hidden.shape
        query = el_query(rows.reshape(n * t, -1), self.k_proj.weight, self.num_heads)  # [N·T, H, K]
        query = query.reshape(b, -1, k)  # -> [B, M·T·H, K]
        if mask is not None and mask.dim() == 4:
            mask = mask.expand(b, n // b, t, s).repeat_interleave(self.num_heads, dim=2).reshape(b, -1, s)
        elif mask is not None and mask.dim() == 3:
            mask = mask.repeat_interleave(self.num_heads, dim=1)  # [B, M, S] -> [B, M·H, S]
        options, weights, mass = self._softmax(), None, None
        if want_weights or options["dropout"] is not None or not self.by_kernel:
            context, weights, mass = shared_kv_attention(query, hidden, hidden, mask, **options)
            weights = weights.view(n, t, self.num_heads, s).permute(2, 0, 1, 3)
        else:
            context = hidden_attention(query, hidden, mask, softmax_dtype=SOFTMAX_DTYPE)
        mass = None if mass is None else mass.view(n * t, self.num_heads)
        context = context.view(n * t, self.num_heads, k)
        context = el_output(context, self.v_proj.weight, self.v_proj.bias, mass).view(n, t, -1)
        return context, weights

    def _attend_projected(self, rows, key, value, mask, want_weights):
        """The stock product: ``attend`` to keys and values, which the beams share."""
        n, t, _ = rows.shape
        b, h, s, d = key.shape
        m = n // b
        query = rows.reshape(b, m * t, h, d).transpose(1, 2).reshape(b * h, m * t, d)  # [N, T, E] -> [B·H, M·T, d]
        if mask is not None and mask.dim() == 4:
            mask = mask.expand(b, m, t, s).reshape(b, m * t, s)
        key, value = key.flatten(0, 1), value.flatten(0, 1)  # [B, H, S, d] -> [B·H, S, d]
        context, weights, _ = shared_kv_attention(query, key, value, mask, **self._softmax())
        context = context.view(b, h, m * t, d).transpose(1, 2).reshape(n, t, -1)  # [B·H, M·T, d] -> [N, T, E]
        return context, weights.view(b, h, m * t, s).transpose(0, 1).reshape(h, n, t, s) if want_weights else None

    def _attend_prompted(self, rows, state):
        """``attend`` to a prompt that rows share, and to what they keep."""
        n, t, _ = rows.shape
        prompt, own = (_parts(x, state.cache.row_dim) for x in (state.shared, state.cache.filled))
        if len(own) == 1:
            query = el_query(rows.reshape(n * t, -1), self.k_proj.weight, self.num_heads)  # [N·T, H, K]
            query = query.view(n, t, self.num_heads, -1).transpose(1, 2)  # -> [N, H, T, K]
            prompt, own = ([x.unsqueeze(1)] * 2 for (x,) in (prompt, own))  # keys and values are one: [N, 1, t, K]
        else:
            query = rows.view(n, t, self.num_heads, self.head_dim).transpose(1, 2)  # [N, T, E] -> [N, H, T, d]
        context, weights, mass = prompted_attention(
            query, prompt, own, state.layout.paddings(state.cache.length), **self._softmax()
        )
        if state.cache.row_dim == 0:
            context = context.transpose(1, 2).reshape(n * t, self.num_heads, -1)  # [N, H, T, K] -> [N·T, H, K]
            mass = None if mass is None else mass.transpose(1, 2).reshape(n * t, self.num_heads)
            context = el_output(context, self.v_proj.weight, self.v_proj.bias, mass).view(n, t, -1)
        else:
            context = context.transpose(1, 2).reshape(n, t, -1)
        return context, weights.transpose(0, 1)

    def _softmax(self):
        dropout = self.dropout_module
        return {"softmax_dtype": SOFTMAX_DTYPE, "dropout": dropout if changes_weights(dropout) else None}


def _parts(kept, row_dim):
    """``(hidden [N, t, E],)`` or ``(key, value [N, H, t, d])`` of what a self-attention keeps."""
    return (kept,) if row_dim == 0 else kept.unbind(0)
