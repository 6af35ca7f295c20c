"""Modules with parameters and incremental state."""

from el_fairseq.modules.el_attention import ELMultiheadAttention

__all__ = ["ELMultiheadAttention"]
