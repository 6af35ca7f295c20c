"""What some stock tasks need in order to generate, or to use EL-attention wherever they do."""

from typing import TYPE_CHECKING, Any

from fairseq.data.legacy.masked_lm_dictionary import MaskedLMDictionary
from torch import nn

from el_fairseq.generation.generator import twin_of

if TYPE_CHECKING:
    from fairseq.tasks import FairseqTask as StockTask  # which stands after it among the bases of a twin
else:
    StockTask = object


class TranslationFromPretrainedBART(StockTask):
    """Stock's task reads ``args``, which nothing sets since tasks have a ``cfg``."""

    @property
    def args(self) -> Any:
        """The configuration, under the name that stock reads."""
        return self.cfg


class TranslationFromPretrainedXLM(StockTask):
    """Stock's task loads its dictionary by a call that its dictionary does not understand."""

    @classmethod
    def load_dictionary(cls, filename: str) -> MaskedLMDictionary:
        """The dictionary in the file ``filename``, with the special symbols of masked language models."""
        words = MaskedLMDictionary()
        words.add_from_file(filename)
        return words


class OnlineBackTranslation(StockTask):
    """Stock's task makes the generators of back-translation beside its model."""

    sequence_generators: dict[str, Any]  # by language

    def build_model(self, args: Any, from_checkpoint: bool = False) -> nn.Module:
        """As stock; the model is converted, and its generators are the EL twins."""
        model = super().build_model(args, from_checkpoint)
        self.convert([model])
        self.sequence_generators = {name: twin_of(each) for name, each in self.sequence_generators.items()}
        return model


STOCK_FIXES = {  # bases of a twin, between ELTaskMixin and the stock task
    "online_backtranslation": (OnlineBackTranslation,),
    "translation_from_pretrained_bart": (TranslationFromPretrainedBART,),
    "translation_from_pretrained_xlm": (TranslationFromPretrainedXLM,),
}
