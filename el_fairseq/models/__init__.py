"""The ``el_*`` architectures."""

from el_fairseq.models.el_architectures import ELBARTModel, ELTransformerModel

__all__ = ["ELBARTModel", "ELTransformerModel"]
