"""``el_`` twins of stock tasks: the same task, whose generator decodes with EL-attention."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.tasks import register_task
from fairseq.tasks.denoising import DenoisingConfig, DenoisingTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from el_fairseq.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment, enable_el_attention
from el_fairseq.generation.plan import MODES

TWINS = {
    SequenceGenerator: ELSequenceGenerator,
    SequenceGeneratorWithAlignment: ELSequenceGeneratorWithAlignment,
}


@dataclass
class ELAttentionConfig:
    """What every ``el_`` task adds to its stock twin."""

    el_attention: ChoiceEnum(MODES) = field(
        default="auto",
        metadata={
            "help": "on: EL-attention wherever its identities hold; auto: that, but on a CPU keys and values, those of "
            "the source shared by the beams; off: stock attention. The output is the same"
        },
    )


class ELTaskMixin:
    """Put before a stock task: its generator becomes the EL twin, over the same models and options."""

    def build_generator(self, models, args, **kwargs):
        """As stock, with ``models`` converted in place according to ``--el-attention``.

        A generator of another class than stock's own (given as ``seq_gen_cls``, or the scorer of
        ``--score-reference``) stays what it is.
        """
        enable_el_attention(models, mode=str(self.cfg.el_attention))
        generator = super().build_generator(models, args, **kwargs)
        twin = TWINS.get(type(generator))
        return generator if twin is None else twin.adopt(generator)


@dataclass
class ELTranslationConfig(ELAttentionConfig, TranslationConfig):
    pass


@register_task("el_translation", dataclass=ELTranslationConfig)
class ELTranslationTask(ELTaskMixin, TranslationTask):
    """``translation`` with EL-attention."""


@dataclass
class ELDenoisingConfig(ELAttentionConfig, DenoisingConfig):
    pass


@register_task("el_denoising", dataclass=ELDenoisingConfig)
class ELDenoisingTask(ELTaskMixin, DenoisingTask):
    """``denoising`` with EL-attention."""
