"""What some stock tasks need in order to generate, or to use EL-attention wherever they do."""

from fairseq.data.legacy.masked_lm_dictionary import MaskedLMDictionary

from el_fairseq.generation.generator import twin_of


class TranslationFromPretrainedBART:
    """Stock's task reads ``args``, which nothing sets since tasks have a ``cfg``."""

    @property
    def args(self):
        return self.cfg


class TranslationFromPretrainedXLM:
    """Stock's task loads its dictionary by a call that its dictionary does not understand."""

    @classmethod
    def load_dictionary(cls, filename):
        words = MaskedLMDictionary()
        words.add_from_file(filename)
        return words


class OnlineBackTranslation:
    """Stock's task makes the generators of back-translation beside its model."""

    def build_model(self, args, from_checkpoint=False):
        model = super().build_model(args, from_checkpoint)
        self.convert([model])
        self.sequence_generators = {name: twin_of(each) for name, each in self.sequence_generators.items()}
        return model


STOCK_FIXES = {  # bases of a twin, between ELTaskMixin and the stock task
    "online_backtranslation": (OnlineBackTranslation,),
    "translation_from_pretrained_bart": (TranslationFromPretrainedBART,),
    "translation_from_pretrained_xlm": (TranslationFromPretrainedXLM,),
}
