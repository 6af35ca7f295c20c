"""MHE attention: one projection each for queries, keys and values, and an embedding per head."""

from typing import Any

import torch
from torch import nn

from el_fairseq.modules.shared_kv_attention import SharedKVAttention
from el_fairseq.ops import mhe_output, mhe_query
from el_fairseq.ops.mhe import ADD, MUL

OPERATIONS = (MUL, ADD)
HEAD_EMBED_STD = 0.02  # as BERT starts its embeddings; examples/translation compares others


class MHEAttention(SharedKVAttention):
    """Multi-head attention with head embeddings (arXiv 2310.07911, section 4), called like ``MultiheadAttention``.

    Head h attends with ``q ∘ e^Q_h``, ``k ∘ e^K_h`` and ``v ∘ e^V_h``, where ``x ∘ e`` is ``x (1 + e)`` with
    ``variant="mul"`` and ``x + e`` with ``variant="add"``; q, k and v are one head wide. The embeddings of keys and
    values are applied to queries and outputs instead, which is the same (``el_fairseq.ops.mhe``), also with attention
    dropout.

    In ``add`` ``k_head_embed`` has no effect: it adds the same number to every score of a row, which softmax cancels.
    It is a parameter all the same, as in the paper, its gradient is zero, and DistributedDataParallel trains the model
    without ``find_unused_parameters``.

    Args:
        args, kwargs: those of ``SharedKVAttention``.
        variant: ``"mul"`` or ``"add"``.
        head_embed_std: standard deviation of the embeddings at the start.

    Raises:
        ValueError: another ``variant``; what ``SharedKVAttention`` refuses; when a ``state_dict`` of the other variant
            is loaded.
    """

    q_head_embed: nn.Parameter
    k_head_embed: nn.Parameter
    v_head_embed: nn.Parameter

    def __init__(self, *args: Any, variant: str = MUL, head_embed_std: float = HEAD_EMBED_STD, **kwargs: Any):
        if variant not in OPERATIONS:
            raise ValueError(f"variant={variant!r}: choose one of {', '.join(OPERATIONS)}")
        super().__init__(*args, **kwargs)
        self.variant = f"mhe-{variant}"
        self.operation = variant
        self.needs_mass = variant == ADD
        for name in ("q_head_embed", "k_head_embed", "v_head_embed"):
            setattr(self, name, nn.Parameter(torch.randn(self.num_heads, self.head_dim) * head_embed_std))
        # Both variants have the same parameters: a checkpoint has to say which it is. Of a buffer with "version" in its
        # name fairseq's EMA makes no moving average.
        self.register_buffer("variant_version", torch.tensor(OPERATIONS.index(variant), dtype=torch.uint8))

    def expand(self, query: torch.Tensor) -> torch.Tensor:
        return mhe_query(query, self.operation, self.q_head_embed, self.k_head_embed)

    def merge(self, context: torch.Tensor, mass: torch.Tensor | None) -> torch.Tensor:
        return super().merge(mhe_output(context, self.operation, self.v_head_embed, mass), mass)

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}variant_version")
        if found is not None and int(found) != OPERATIONS.index(self.operation):
            where = prefix[:-1] or "this module"
            raise ValueError(f"variant={self.operation!r}: the state of {where} is {OPERATIONS[int(found)]!r}")
        super()._load_from_state_dict(state_dict, prefix, *args)
