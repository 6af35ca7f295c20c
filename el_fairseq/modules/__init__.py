"""Modules with parameters and incremental state."""

from el_fairseq.modules.baselines import MultiQueryAttention, SingleHeadAttention
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.modules.mhe_attention import MHEAttention

__all__ = ["ELMultiheadAttention", "MHEAttention", "MultiQueryAttention", "SingleHeadAttention"]
