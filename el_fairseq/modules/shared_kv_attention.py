"""Attention whose heads share one key and one value: what MHE attention and its baselines have in common."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from fairseq.incremental_decoding_utils import FairseqIncrementalState
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.quant_noise import quant_noise
from torch import nn

from el_fairseq.cache import Cache, Layout, SourceCache, group_in
from el_fairseq.cache.contract import Attended
from el_fairseq.cache.prefix import PrefixCache
from el_fairseq.cache.static import StaticBeamCache
from el_fairseq.ops import grouped_attention, grouped_sdpa, merge_masks
from el_fairseq.stock import changes_weights

CACHE = "shared_kv_cache"  # key of an attention's cache in the incremental state


class SharedKVAttention(FairseqIncrementalState, nn.Module):
    """One key and one value of width ``head_dim`` a token for all heads; called like fairseq's ``MultiheadAttention``.

    A subclass says how many query heads there are and what its projections are (``variant``, ``query_dim``,
    ``context_dim``), and overrides ``expand`` and ``merge`` where the maps around the attention are not plain.

    While decoding, self-attention caches ``[2, N, t, head_dim]`` (with ``BeamCaches`` in the incremental state
    ``[2, B, tokens, head_dim]``), and cross-attention ``[B, S, head_dim]`` twice: once a sentence where the source is
    given so (``key [S, B, D]`` for a query ``[T, B·M, D]``).

    Args:
        embed_dim: D, the width of queries and output.
        num_heads: H, which divides D; ``head_dim = D / H``.
        kdim: width of what keys are made of, by default D.
        vdim: width of what values are made of, by default D.
        dropout: probability with which an attention weight is dropped.
        bias: whether the four projections have biases.
        add_bias_kv, add_zero_attn, xformers_att_config: not supported.
        self_attention, encoder_decoder_attention: what the attention is used for, as in fairseq.
        dictionary: not used.
        q_noise, qn_block_size: quantization noise on the projections, as in fairseq.

    Raises:
        ValueError: ``num_heads`` does not divide ``embed_dim``; self-attention with another ``kdim`` or ``vdim``; an
            option that is not supported.
    """

    get_incremental_state: Callable[..., Any]  # of FairseqIncrementalState, whose types are not known
    set_incremental_state: Callable[..., Any]
    variant: str | None = None  # its name under --attention-variant
    needs_mass = False  # whether ``merge`` reads the mass

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        self_attention: bool = False,
        encoder_decoder_attention: bool = False,
        dictionary: Any = None,
        q_noise: float = 0.0,
        qn_block_size: int = 8,
        xformers_att_config: str | None = None,
    ):
        super().__init__()
        unsupported = {
            "add_bias_kv": add_bias_kv,
            "add_zero_attn": add_zero_attn,
            "xformers_att_config": xformers_att_config,
        }
        for name, value in unsupported.items():
            if value:
                raise ValueError(f"{name}={value}: {type(self).__name__} has no such option")
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        if self_attention and not self.kdim == self.vdim == embed_dim:
            raise ValueError(f"self_attention=True: kdim={kdim} and vdim={vdim} are not embed_dim={embed_dim}")
        self.self_attention, self.encoder_decoder_attention = self_attention, encoder_decoder_attention
        self.dropout_module = FairseqDropout(dropout, module_name=self.__class__.__name__)

        def linear(inputs: int, outputs: int) -> Any:
            return quant_noise(nn.Linear(inputs, outputs, bias=bias), q_noise, qn_block_size)

        self.q_proj = linear(embed_dim, self.query_dim)
        self.k_proj = linear(self.kdim, self.head_dim)
        self.v_proj = linear(self.vdim, self.head_dim)
        self.out_proj = linear(self.context_dim, embed_dim)
        self.reset_parameters()

    @property
    def query_dim(self) -> int:
        """Width of what ``q_proj`` makes."""
        return self.head_dim

    @property
    def context_dim(self) -> int:
        """Width of what ``out_proj`` reads."""
        return self.embed_dim

    def reset_parameters(self) -> None:
        """Each head starts as a head of fairseq's ``MultiheadAttention`` does: Xavier for D outputs, not for D / H."""
        gain = 2**-0.5 if self.kdim == self.vdim == self.embed_dim else 1.0
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            bound = gain * math.sqrt(6 / (projection.in_features + self.embed_dim))
            nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.xavier_uniform_(self.out_proj.weight)
        if self.out_proj.bias is not None:
            nn.init.zeros_(self.out_proj.bias)

    def expand(self, query: torch.Tensor) -> torch.Tensor:
        """What ``q_proj`` made, ``[N, T, query_dim]``, as scaled queries, ``[N, heads, T, d]``."""
        heads = query.view(*query.shape[:2], -1, self.head_dim).transpose(1, 2)  # [N, T, heads·d] -> [N, heads, T, d]
        return heads * self.head_dim**-0.5

    def merge(self, context: torch.Tensor, mass: torch.Tensor | None) -> torch.Tensor:
        """Put the heads side by side.

        Args:
            context: ``[N, heads, T, d]``.
            mass: ``[N, heads, T]``, what the attention weights sum to, or None where that is 1.

        Returns:
            What ``out_proj`` reads, ``[N, T, context_dim]``.
        """
        return context.transpose(1, 2).flatten(2)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: torch.Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, called like ``MultiheadAttention.forward``.

        Args:
            query: ``[T, N, D]``; N = B·M rows.
            key: ``[S, B, kdim]``, of which each entry serves M successive rows. Self-attention reads ``query`` instead.
            value: ``[S, B, vdim]``.
            key_padding_mask: ``[B, S]``, True where there is no token.
            incremental_state: of the decoding of a batch, which holds this attention's cache; None in training.
            need_weights: whether to return attention weights.
            static_kv: whether key and value stay the same during a batch; cross-attention needs it while decoding.
            attn_mask: ``[T, S]``, added to the scores, or boolean (True: leave this key out).
            before_softmax: not supported.
            need_head_weights: whether to return the weights of each head.

        Returns:
            The output ``[T, N, D]``, and the attention weights: ``[N, T, S]`` averaged over heads, ``[H, N, T, S]``
            with ``need_head_weights``, None where neither is wanted.

        Raises:
            ValueError: ``before_softmax=True``; ``attn_mask`` not ``[T, S]``; sources that do not divide the query
                rows; with ``incremental_state``, cross-attention with ``static_kv=False``.
        """
        if before_softmax:
            raise ValueError(f"before_softmax=True: {type(self).__name__} does not return its values")
        queries = self.expand(self.q_proj(query).transpose(0, 1))  # [T, N, D] -> [N, heads, T, d]
        if self.self_attention:
            key = value = query
        want_weights = need_weights or need_head_weights
        if incremental_state is not None and self.encoder_decoder_attention and not static_kv:
            raise ValueError("static_kv=False: while decoding, cross-attention reads one unchanging source")
        if incremental_state is not None and not self.encoder_decoder_attention:
            cache = self.self_cache(incremental_state)
            cache.append(
                torch.stack(self.project(key, value)), None if key_padding_mask is None else key_padding_mask.bool()
            )
            context, weights, mass = cache.attend(queries, attn_mask, **self.softmax(want_weights))
        else:
            if incremental_state is not None:
                source = self.source_cache(key, value, queries.size(0) // key.size(1), incremental_state)
                keys, values = cast(tuple[torch.Tensor, torch.Tensor], source.keys_and_values(key))
            else:
                keys, values = self.project(key, value)
            if queries.size(0) % keys.size(0):
                raise ValueError(f"{queries.size(0)} query rows cannot share {keys.size(0)} sources evenly")
            mask = merge_masks(key_padding_mask, attn_mask, queries.dtype)
            context, weights, mass = self._attend(queries, keys, values, mask, want_weights)
        output = self.out_proj(self.merge(context, mass).transpose(0, 1))  # [N, T, context_dim] -> [T, N, D]
        if weights is None:
            return output, None
        return output, weights.transpose(0, 1) if need_head_weights else weights.mean(dim=1)

    def project(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, ``[B, 1, S, d]`` each, of ``key [S, B, kdim]`` and ``value [S, B, vdim]``."""
        return self.k_proj(key).transpose(0, 1).unsqueeze(1), self.v_proj(value).transpose(0, 1).unsqueeze(1)

    def softmax(self, want_weights: bool) -> dict[str, Any]:
        """How attention weights are computed, and whether they are wanted: options of ``grouped_attention``."""
        return {"dropout": self.dropout_module if self._drops() else None, "want_weights": want_weights}

    def self_cache(self, incremental_state: dict) -> Cache:
        """The cache of this self-attention, made where there is none yet."""
        cache = self.get_incremental_state(incremental_state, CACHE)
        if cache is None:
            cache = group_in(incremental_state).new_cache(Layout.SHARED_KV)
            self.set_incremental_state(incremental_state, CACHE, cache)
        return cache

    def prefill(self, incremental_state: dict, hidden: torch.Tensor) -> None:
        """Begin decoding after prefixes.

        Args:
            incremental_state: of the batch, with ``PrefixCaches`` or ``StaticBeamCaches`` in it.
            hidden: ``[p, B, D]``, the inputs of this self-attention for the tokens of the prefixes.
        """
        cache = cast(PrefixCache | StaticBeamCache, self.self_cache(incremental_state))
        cache.prefill(torch.stack(self.project(hidden, hidden)))

    def source_cache(self, key: torch.Tensor, value: torch.Tensor, beams: int, incremental_state: dict) -> SourceCache:
        """The cache of this cross-attention: keys and values of the source ``[S, B, D]``, computed once."""
        cache = self.get_incremental_state(incremental_state, CACHE)
        if cache is None:
            entries = torch.stack(self.project(key, value))  # [2, B, 1, S, d]
            cache = SourceCache(Layout.SHARED_KV, entries, beams=beams)
            self.set_incremental_state(incremental_state, CACHE, cache)
        return cache

    def _attend(
        self,
        queries: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        want_weights: bool,
    ) -> Attended:
        """``grouped_attention``; with dropout in training on CUDA in PyTorch's fused attention, which returns no
        weights (on a CPU it would copy keys and values for each head then)."""
        softmax = self.softmax(want_weights)
        if softmax["dropout"] is None or not queries.is_cuda or want_weights or key.size(0) != queries.size(0):
            return grouped_attention(queries, key, value, mask, **softmax)
        context, mass = grouped_sdpa(
            queries, key, value, mask, dropout=self.dropout_module.p, want_mass=self.needs_mass
        )
        return context, None, mass

    def _drops(self) -> bool:
        """Whether attention dropout is at work."""
        return changes_weights(self.dropout_module)

    def reorder_incremental_state(self, incremental_state: dict, new_order: torch.Tensor) -> dict:
        """Follow the beams: row ``i`` continues row ``new_order[i]``, ``[N]`` in int64."""
        cache = self.get_incremental_state(incremental_state, CACHE)
        if cache is not None:
            cache.reorder(new_order)
        return incremental_state

    def set_beam_size(self, beam_size: int) -> None:
        """Nothing to set: the number of beams follows from the shapes."""

    def _get_input_buffer(self, incremental_state: dict) -> dict:
        """Nothing in stock's layout, for the stock layer that asks."""
        return {}
