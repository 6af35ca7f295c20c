"""``el_`` twins of stock tasks: the same task, whose generator decodes with EL-attention."""

import logging
from dataclasses import dataclass, field, make_dataclass

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY, register_task
from omegaconf import II
from omegaconf.errors import InterpolationKeyError

from el_fairseq.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment, enable_el_attention
from el_fairseq.generation.plan import MODES
from el_fairseq.tasks.repairs import REPAIRS

logger = logging.getLogger(__name__)
TWINS = {
    SequenceGenerator: ELSequenceGenerator,
    SequenceGeneratorWithAlignment: ELSequenceGeneratorWithAlignment,
}
STOCK_TASKS = (  # those that generate with a SequenceGenerator
    "audio_finetuning",
    "denoising",
    "language_modeling",
    "multilingual_denoising",
    "multilingual_language_modeling",
    "multilingual_translation",
    "nlu_finetuning",
    "online_backtranslation",
    "semisupervised_translation",
    "span_masked_lm",
    "speech_to_text",
    "translation",
    "translation_from_pretrained_bart",
    "translation_from_pretrained_xlm",
    "translation_multi_simple_epoch",
)


@dataclass
class ELAttentionConfig(FairseqDataclass):
    """What every ``el_`` task adds to its stock twin."""

    el_attention: ChoiceEnum(MODES) = field(
        default="auto",
        metadata={
            "help": "on: EL-attention wherever its identities hold; auto: that, but on a CPU keys and values, those of "
            "the source shared by the beams; off: stock attention. The output is the same"
        },
    )
    bf16: bool = II("common.bf16")
    num_shards: int = II("dataset.num_shards")


class ELTaskMixin:
    """Put before a stock task: its generator becomes the EL twin, over the same models and options."""

    @classmethod
    def add_args(cls, parser):
        """Stock's options and ours, also for tasks that stock configures by argparse."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, ELAttentionConfig())

    def build_generator(self, models, args, **kwargs):
        """As stock, with ``models`` converted in place according to ``--el-attention``, and to bfloat16 by ``--bf16``.

        A generator of another class than stock's own (given as ``seq_gen_cls``, or the scorer of
        ``--score-reference``) stays what it is.

        Raises:
            ValueError: ``--num-shards``, which fairseq-generate would ignore.
        """
        if not any(model.training for model in models):  # a trainer, which validates, has its own ways
            self._refuse_shards()
            language_model = (kwargs.get("extra_gen_cls_kwargs") or {}).get("lm_model")
            for model in [*models, language_model] if self._in_bf16 else []:
                if model is not None:
                    logger.info("%s generates in bfloat16", type(model).__name__)
                    model.bfloat16()
        self.convert(models)
        return self.twin_of(super().build_generator(models, args, **kwargs))

    def convert(self, models):
        """Let ``models`` decode as ``--el-attention`` says, in place."""
        enable_el_attention(models, mode=str(self._options.el_attention))

    def twin_of(self, generator):
        """The EL twin of a stock generator, or a generator of another class as it is."""
        twin = TWINS.get(type(generator))
        return generator if twin is None else twin.adopt(generator)

    def inference_step(self, generator, models, sample, *args, **kwargs):
        """As stock; with ``--bf16`` speech features go in as bfloat16."""
        if self._in_bf16:
            sample = utils.apply_to_sample(lambda x: x.bfloat16() if x.is_floating_point() else x, sample)
        return super().inference_step(generator, models, sample, *args, **kwargs)

    @property
    def _options(self):
        return self.args if self.cfg is None else self.cfg  # a LegacyFairseqTask has no cfg

    @property
    def _in_bf16(self):
        return self._elsewhere("bf16", False)

    def _refuse_shards(self):
        shards = self._elsewhere("num_shards", 1)
        if shards > 1:
            raise ValueError(
                f"--num-shards {shards}: fairseq-generate ignores it and would generate everything. Use "
                f"scripts/generate_sharded.sh, or --distributed-world-size {shards} --distributed-rank SHARD-ID"
            )

    def _elsewhere(self, name, default):
        """An option of another part of fairseq's configuration, or ``default`` where the task stands alone."""
        try:
            value = getattr(self._options, name, default)
        except InterpolationKeyError:
            return default
        return default if isinstance(value, str) else value


def _register_twin(name):
    stock, config = TASK_REGISTRY[name], TASK_DATACLASS_REGISTRY.get(name)
    if config is not None:
        own = {"__module__": __name__}
        config = make_dataclass(f"EL{config.__name__}", [], bases=(ELAttentionConfig, config), namespace=own)
    body = {"__doc__": f"``{name}`` with EL-attention.", "__module__": __name__}
    bases = (ELTaskMixin, *REPAIRS.get(name, ()), stock)
    twin = register_task(f"el_{name}", dataclass=config)(type(f"EL{stock.__name__}", bases, body))
    globals()[twin.__name__] = twin


for _name in STOCK_TASKS:
    if f"el_{_name}" not in TASK_REGISTRY:  # this package can be imported again: a worker, a second path
        _register_twin(_name)
