"""Multi-head attention over stock parameters that decodes from shared hidden states."""

from typing import Any, Literal, cast

import torch
from fairseq.modules import MultiheadAttention
from torch import nn

from el_fairseq.cache import Cache, CacheRequest, Layout, LayoutPlan, SourceCache, group_in, hidden_everywhere
from el_fairseq.cache.prefix import PrefixCache
from el_fairseq.cache.static import StaticBeamCache
from el_fairseq.ops import el_output, el_query, grouped_attention, merge_masks
from el_fairseq.ops.products import CHUNK_ROWS, apply_linear, drop_stale
from el_fairseq.stock import changes_weights, is_plain_dropout, is_plain_linear, log_once

CACHE = "el_cache"  # key of an attention's cache in the incremental state


def why_not(attention: nn.Module) -> str | None:
    """Say which option keeps EL's identities from covering an attention.

    A ``MultiheadAttention`` whose class or projections were replaced computes something that is not known here.

    Args:
        attention: any module that stands where a layer has an attention.

    Returns:
        The option with its value and the reason, or None where the identities hold.
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
    """fairseq's ``MultiheadAttention`` with EL-attention (arXiv 2105.04779, section 3.2) for incremental decoding.

    Parameters, initialisation, ``state_dict`` and everything without ``incremental_state`` are stock's. While decoding,
    cross-attention reads the encoder output itself, given once a sentence (``key [S, B, D]`` for a query
    ``[T, B·M, D]``), and keeps nothing; self-attention caches its own inputs, ``[B·M, t, D]``, or, with
    ``BeamCaches`` in the incremental state, those of all beams of a sentence together. Where ``plan`` says so,
    projected keys and values are kept instead, those of a source again once a sentence; the result is the same. So they
    are where ``k_proj`` or ``v_proj`` is no plain linear layer when a batch begins (a hook, an adapter): EL-attention
    reads their weights and does not call them.

    Args:
        args, kwargs: those of ``MultiheadAttention``.
        plan: called when decoding of a batch begins, for the layout of this attention's cache.

    Raises:
        ValueError: an option that the identities do not cover (see ``why_not``).
    """

    def __init__(self, *args: Any, plan: LayoutPlan = hidden_everywhere, **kwargs: Any):
        super().__init__(*args, **kwargs)
        reason = why_not(self)
        if reason is not None:
            raise ValueError(f"EL-attention does not cover {reason}")
        self.plan = plan

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: torch.Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, as ``MultiheadAttention.forward``; with ``incremental_state`` by EL-attention.

        Args:
            query: ``[T, N, D]``; N = B·M rows.
            key: ``[S, B, kdim]``, of which each entry serves M successive rows. Self-attention reads ``query`` instead.
            value: ``[S, B, vdim]``; not read while decoding.
            key_padding_mask: ``[B, S]``, True where there is no token.
            incremental_state: of the decoding of a batch, which holds this attention's cache; None in training.
            need_weights: whether to return attention weights.
            static_kv: whether key and value stay the same during a batch; cross-attention needs it while decoding.
            attn_mask: ``[T, S]``, added to the scores, or boolean (True: leave this key out).
            before_softmax: not supported while decoding.
            need_head_weights: whether to return the weights of each head.

        Returns:
            The output ``[T, N, D]``, and the attention weights: ``[N, T, S]`` averaged over heads, ``[H, N, T, S]``
            with ``need_head_weights``, None where neither is wanted.

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
        query_rows = apply_linear(self.q_proj, query).transpose(0, 1) * self.scaling  # [T, N, D] -> [N, T, D]
        softmax = self.softmax(need_weights or need_head_weights)
        if self.self_attention:
            cache = self.self_cache(query, incremental_state)
            padding = None if key_padding_mask is None else key_padding_mask.bool()
            cache.append(self.entries_of(query, cache.layout), padding)
            layout = cache.layout
            context, weights, mass = cache.attend(self.expand(query_rows, layout), attn_mask, **softmax)
        else:
            if key is None:
                raise ValueError("key=None: EL-attention reads the encoder output at every step")
            source = self._source_cache(query_rows.size(0), key, incremental_state)
            layout, (keys, values) = source.layout, source.keys_and_values(key)
            mask = merge_masks(key_padding_mask, attn_mask, query_rows.dtype)
            context, weights, mass = grouped_attention(self.expand(query_rows, layout), keys, values, mask, **softmax)
        context = self.merge(context, mass, layout).transpose(0, 1)  # [N, T, D] -> [T, N, D]
        output = apply_linear(self.out_proj, context)
        if weights is None:
            return output, None
        return output, weights.transpose(0, 1) if need_head_weights else weights.mean(dim=1)

    def expand(self, rows: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Give each head its query (in ``HIDDEN`` by ``el_query``).

        Args:
            rows: projected and scaled queries, ``[N, T, D]``.
            layout: of the entries that they attend to.

        Returns:
            Queries ``[N, H, T, C]``.
        """
        n, t, _ = rows.shape
        if layout is Layout.HIDDEN:
            heads = el_query(rows.reshape(n * t, -1), self.k_proj.weight, self.num_heads)  # [N·T, H, D]
            return heads.view(n, t, self.num_heads, -1).transpose(1, 2)
        return rows.view(n, t, self.num_heads, self.head_dim).transpose(1, 2)

    def merge(self, context: torch.Tensor, mass: torch.Tensor | None, layout: Layout) -> torch.Tensor:
        """Put the heads side by side (in ``HIDDEN`` by ``el_output``).

        Args:
            context: ``[N, H, T, C]``.
            mass: ``[N, H, T]``, what the attention weights sum to, or None where that is 1.
            layout: of the entries that were attended to.

        Returns:
            What ``out_proj`` reads, ``[N, T, D]``.
        """
        n, h, t, _ = context.shape
        context = context.transpose(1, 2).reshape(n * t, h, -1)  # [N, H, T, C] -> [N·T, H, C]
        if layout is Layout.HIDDEN:
            mass = None if mass is None else mass.transpose(1, 2).reshape(n * t, h)
            context = el_output(context, self.v_proj.weight, self.v_proj.bias, mass)
        return context.reshape(n, t, -1)

    def softmax(self, want_weights: bool) -> dict[str, Any]:
        """How attention weights are computed, and whether they are wanted: options of ``grouped_attention``."""
        dropout = self.dropout_module if changes_weights(self.dropout_module) else None
        return {"dropout": dropout, "want_weights": want_weights}

    def entries_of(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The inputs ``x [T, N, D]`` of this self-attention as cache entries in ``layout``, ``[P, N, K, T, C]``."""
        if layout is Layout.HIDDEN:
            return x.transpose(0, 1)[None, :, None]
        new = torch.stack((apply_linear(self.k_proj, x), apply_linear(self.v_proj, x)))  # [2, T, N, H·d]
        return new.view(*new.shape[:3], self.num_heads, self.head_dim).permute(0, 2, 3, 1, 4)  # -> [2, N, H, T, d]

    def reorder_incremental_state(self, incremental_state: dict, new_order: torch.Tensor) -> dict:
        """Follow the beams: row ``i`` continues row ``new_order[i]``, ``[N]`` in int64."""
        cache = self.get_incremental_state(incremental_state, CACHE)
        if cache is not None:
            cache.reorder(new_order)
        return incremental_state

    def set_beam_size(self, beam_size: int) -> None:
        """Nothing to set: the number of beams follows from the shapes."""

    def prefill(self, incremental_state: dict, hidden: torch.Tensor) -> None:
        """Begin decoding after prefixes.

        Args:
            incremental_state: of the batch, with ``PrefixCaches`` or ``StaticBeamCaches`` in it.
            hidden: ``[p, B, D]``, the inputs of this self-attention for the tokens of the prefixes.
        """
        cache = cast(PrefixCache | StaticBeamCache, self.self_cache(hidden, incremental_state, "prefix"))
        cache.prefill(self.entries_of(hidden, cache.layout))

    def self_cache(self, x: torch.Tensor, incremental_state: dict, kind: Literal["prefix", "self"] = "self") -> Cache:
        """The cache of this self-attention, made where there is none yet.

        Args:
            x: ``[T, N, D]``, the inputs that come into it next.
            incremental_state: of the batch.
            kind: of the ``CacheRequest``: whether these are prefixes that beams share.
        """
        cache = self.get_incremental_state(incremental_state, CACHE)
        if cache is None:
            group = group_in(incremental_state)
            cache = group.new_cache(self._layout(CacheRequest(kind, x, group.beams, self.num_heads)))
            self.set_incremental_state(incremental_state, CACHE, cache)
        return cache

    def source_cache(self, key: torch.Tensor, beams: int, incremental_state: dict) -> SourceCache:
        """The cache of this cross-attention, made and filled where there is none yet.

        Args:
            key: ``[S, B, D]``, the encoder output.
            beams: M, which share an entry.
            incremental_state: of the batch.
        """
        cache = self.get_incremental_state(incremental_state, CACHE)
        if cache is None:
            layout = self._layout(CacheRequest("cross", key, beams, self.num_heads))
            # Retained dropout (--retain-dropout) meets EL-attention's weights in stock's order, and so draws alike.
            if changes_weights(self.dropout_module) and self.is_absorbable:
                layout = Layout.HIDDEN
            entries = None if layout is Layout.HIDDEN else self._project_source(key)
            cache = SourceCache(layout, entries, beams)
            self.set_incremental_state(incremental_state, CACHE, cache)
        return cache

    def _source_cache(self, rows: int, key: torch.Tensor, incremental_state: dict) -> SourceCache:
        if rows % key.size(1):
            raise ValueError(f"{rows} query rows cannot share {key.size(1)} sources evenly")
        return self.source_cache(key, rows // key.size(1), incremental_state)

    def _layout(self, request: CacheRequest) -> Layout:
        """What ``plan`` says, once a batch; where the identities do not hold now, keys and values."""
        drop_stale([module for module in self.children() if type(module) is nn.Linear])
        if self.is_absorbable:
            return self.plan(request)
        log_once(f"{request.kind}-attention keeps keys and values: something is hooked or put onto it")
        return Layout.PROJECTED

    @property
    def is_absorbable(self) -> bool:
        """Whether keys and values are now nothing but products with the weights of ``k_proj`` and ``v_proj``, and
        nobody looks at attention weights, which EL-attention has in another arrangement."""
        return is_plain_linear(self.k_proj) and is_plain_linear(self.v_proj) and is_plain_dropout(self.dropout_module)

    def _project_source(self, key: torch.Tensor) -> torch.Tensor:
        """Sources ``[S, B, D]`` -> keys and values ``[2, B, H, S, d]``."""
        s, b, _ = key.shape
        entries = key.new_empty(2, b, self.num_heads, s, self.head_dim)
        size = max(1, CHUNK_ROWS // s) if key.device.type == "cpu" and self.is_absorbable else b
        for start in range(0, b, size):
            some = slice(start, start + size)
            for part, projection in enumerate((self.k_proj, self.v_proj)):
                projected = apply_linear(projection, key[:, some]).unflatten(2, (self.num_heads, -1))  # [S, b, H, d]
                entries[part, some] = projected.permute(1, 2, 0, 3)
        return entries
