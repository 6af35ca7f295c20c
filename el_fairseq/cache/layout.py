"""In which of the lossless layouts an attention keeps what it attends to, and what a plan is asked."""

from collections.abc import Callable
from enum import Enum
from typing import Literal, NamedTuple

import torch


class Layout(Enum):
    """What is kept of a token, as entries ``[P, N, K, T, C]``: P = 2 keys and values, or P = 1 for both, of K heads."""

    HIDDEN = "hidden"  # [1, N, 1, T, D]: EL-attention, keys and values of all heads are the hidden states themselves
    PROJECTED = "projected"  # [2, N, H, T, d]: a key and a value a head
    SHARED_KV = "shared_kv"  # [2, N, 1, T, d]: one for all heads, which MHE attention and its baselines have


class CacheRequest(NamedTuple):
    """What an attention begins to attend to, at the start of a batch."""

    kind: Literal["cross", "prefix", "self"]  # an encoder output, a prefix that beams share, what rows have written
    hidden: torch.Tensor  # [S, B, D], hidden states; of "self", which grows, the first
    beams: int  # M, rows that share each of them
    heads: int  # H


def keys_and_values(entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Entries ``[P, N, K, T, C]`` -> keys ``[N, K, T, C]`` and values, None where the keys are the values, too."""
    return entries[0], entries[1] if entries.size(0) == 2 else None


LayoutPlan = Callable[[CacheRequest], Layout]


def hidden_everywhere(request: CacheRequest) -> Layout:
    """The plan that always uses EL-attention (``--el-attention on``)."""
    return Layout.HIDDEN
