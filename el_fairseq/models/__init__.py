"""The ``el_*`` and ``mhe_*`` architectures."""

from el_fairseq.models.el_architectures import ELBARTModel, ELTransformerLanguageModel, ELTransformerModel
from el_fairseq.models.mhe_architectures import MHERobertaModel, MHETransformerLanguageModel, MHETransformerModel

__all__ = [
    "ELBARTModel",
    "ELTransformerLanguageModel",
    "ELTransformerModel",
    "MHERobertaModel",
    "MHETransformerLanguageModel",
    "MHETransformerModel",
]
