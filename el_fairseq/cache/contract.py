"""The contract between attentions, which fill and read caches, and the search, which moves beams.

An attention keeps entries ``[P, N, K, T, C]`` (``Layout``) of N rows, one a beam. Whether each row has entries of its
own, whether the beams of a sentence share them, and in which tensors they lie is the cache's own affair. The caches of
a model's self-attentions form a group, which has what all of them need: a table of ancestors, masks of prefixes.

To add a cache: one file with both classes, and a line in ``generation.plan``. Classes inherit from ``Cache`` for what
they need not write themselves.
"""

from typing import Any, Protocol

import torch

from el_fairseq.cache.layout import Layout

CACHES = "el_caches"  # key of the group in the incremental state

Attended = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]


class Cache(Protocol):
    """What one self-attention keeps during a batch."""

    layout: Layout
    moves_with_beams: bool  # False: beams of a sentence have it in common, only pruned sentences call for ``reorder``

    def append(self, new: torch.Tensor, padding: torch.Tensor | None) -> None:
        """Add the entries ``new [P, N, K, T, C]``; ``padding [N, T]``, True where there is no token, or None."""

    def attend(self, query: torch.Tensor, attn_mask: torch.Tensor | None, **softmax: Any) -> Attended:
        """Attend to all that is kept.

        Args:
            query: ``[N, H, T, C]``, already scaled; H is a multiple of K.
            attn_mask: ``[T, S]`` as fairseq's, or None.
            softmax: ``dropout`` and ``want_weights`` of ``ops.grouped_attention``.

        Returns:
            What ``ops.grouped_attention`` does: the context ``[N, H, T, C]``, weights ``[N, H, T, S]``, the mass.

        Raises:
            ValueError: an ``attn_mask`` where entries have no order that it could refer to.
        """

    def decode(self, qkv: torch.Tensor, heads: int, padding: torch.Tensor | None, scale: float) -> torch.Tensor:
        """One step of one token a row: append, and attend. A cache may know a way of fewer operators.

        Args:
            qkv: ``[N, 3·H·d]``: queries of all heads, keys, values.
            heads: H.
            padding: as of ``append``.
            scale: of the queries.

        Returns:
            The context ``[N, H·d]``.
        """
        query, key, value = qkv.view(qkv.size(0), 3, heads, 1, -1).unbind(1)  # [N, H, 1, d] each
        self.append(torch.stack((key, value)), padding)
        return self.attend(query * scale, None, want_weights=False)[0].flatten(1)

    def decode_shared(
        self, query: torch.Tensor, kv: torch.Tensor, padding: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """As ``decode``, where all heads share one key and one value.

        Args:
            query: ``[N, H, d]``.
            kv: ``[N, 2, d]``, the key and the value.
            padding: as of ``append``.
            scale: of the queries.

        Returns:
            The context ``[N, H·d]``.
        """
        self.append(kv.transpose(0, 1)[:, :, None, None], padding)  # [N, 2, d] -> [2, N, 1, 1, d]
        return self.attend((query * scale).unsqueeze(2), None, want_weights=False)[0].flatten(1)

    def reorder(self, order: torch.Tensor) -> None:
        """Follow the beams: row ``i`` continues row ``order[i]``. Fewer rows than before prune sentences."""

    def tensors(self) -> list[torch.Tensor]:
        """All that is in memory, for the meter."""


class CacheGroup(Protocol):
    """The caches of a model's self-attentions during a batch, and what they have in common."""

    beams: int  # M, rows whose entries are attended to at once
    moves_with_beams: bool  # as of ``Cache``

    def new_cache(self, layout: Layout) -> Cache:
        """The cache of one more self-attention."""

    def reorder(self, order: torch.Tensor) -> None:
        """As ``Cache.reorder``, for what the caches have in common."""

    def tensors(self) -> list[torch.Tensor]:
        """As ``Cache.tensors``, of what the caches have in common."""
