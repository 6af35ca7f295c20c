"""``el_`` twins of stock tasks: the same task, whose generator decodes with EL-attention."""

import logging
from argparse import ArgumentParser
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Optional
from weakref import WeakSet

import torch
from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY, register_task
from omegaconf import OmegaConf
from torch import nn

from el_fairseq.generation import ELSequenceGenerator, enable_el_attention
from el_fairseq.generation.batch_size import automatic_limits
from el_fairseq.generation.generator import twin_of
from el_fairseq.generation.plan import MODES
from el_fairseq.internals import parent_of
from el_fairseq.ops.tuner import TUNER
from el_fairseq.tasks.eval_rouge import EvalRouge
from el_fairseq.tasks.from_checkpoint import no_such_file, warn_of_another_architecture, warn_of_another_folder
from el_fairseq.tasks.stock_fixes import STOCK_FIXES
from el_fairseq.tasks.text_input import naming_empty_data, prepare_to_read, readable, refuse_unknown_numbers
from el_fairseq.tasks.weights import ShapeErrors, refuse_useless, warn_of_not_finite

if TYPE_CHECKING:
    from fairseq.tasks import FairseqTask as StockTask  # which stands after it among the bases of a twin
else:
    StockTask = object

logger = logging.getLogger(__name__)
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
EVALUATION = {"translation": (EvalRouge,)}  # what a twin can do while training validates


@dataclass
class ELAttentionConfig(FairseqDataclass):
    """What every ``el_`` task adds to its stock twin."""

    el_attention: ChoiceEnum(MODES) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "on: EL-attention wherever its identities hold; auto: for each batch that, or keys and values "
            "shared by the beams, whichever is faster and fits in memory; off: stock attention. The output is the same"
        },
    )
    el_products: ChoiceEnum(("tuned", "fixed")) = field(  # type: ignore[valid-type]
        default="tuned",
        metadata={
            "help": "tuned: matrix products on a CPU by whichever library is fastest here, which is timed at the first "
            "products of each kind (about half a second); fixed: by rule, so that each run rounds alike"
        },
    )
    el_max_tokens: ChoiceEnum(("given", "auto")) = field(  # type: ignore[valid-type]
        default="given",
        metadata={
            "help": "auto: in generation commands, instead of --max-tokens, batches as large as free memory allows; "
            "--batch-size still limits them. given: as --max-tokens and --batch-size say"
        },
    )
    el_tensorboard: Optional[str] = field(
        default=None,
        metadata={
            "help": "in generation commands, a folder for TensorBoard: speed, decoder state and peak memory of every "
            "batch",
        },
    )


class ELTaskMixin(StockTask):
    """Put before a stock task: its generator becomes the EL twin, over the same models and options."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Stock's options and ours, also for tasks that stock configures by argparse."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, ELAttentionConfig())

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> Any:
        """As stock.

        Raises:
            FileNotFoundError: a dictionary is missing; where a hub made the task, it says what to write instead.
        """
        in_hub = kwargs.get("from_checkpoint", False)  # a command makes its task from its own options
        try:
            task = super().setup_task(cfg, **kwargs)
        except FileNotFoundError as error:
            if not in_hub:
                raise
            raise no_such_file(error) from error
        task._in_hub = in_hub
        return task

    def build_generator(self, models: list[nn.Module], args: Any, *rest: Any, **kwargs: Any) -> Any:
        """As stock, with ``models`` converted in place according to ``--el-attention``, and to bfloat16 by ``--bf16``.

        A generator of another class than stock's own (given as ``seq_gen_cls``, or the scorer of
        ``--score-reference``) stays what it is.

        Args:
            models: an ensemble, converted in place.
            args: the ``generation`` part of a configuration, or all arguments in a namespace.
            rest, kwargs: as of stock.

        Returns:
            An ``ELSequenceGenerator``, or what stock builds where there is no twin of it.

        Raises:
            ValueError: ``--num-shards``, which fairseq-generate would ignore; ``--input`` that is not UTF-8.
        """
        command = _command_with(args)
        if command is not None:
            _refuse_shards(command.dataset.num_shards)
            language_model = (kwargs.get("extra_gen_cls_kwargs") or {}).get("lm_model")
            for model in [*models, language_model] if command.common.bf16 else []:
                if model is not None:
                    logger.info("%s generates in bfloat16", type(model).__name__)
                    model.bfloat16()
            warn_of_not_finite(models, _path_of(command))
            prepare_to_read(_input_of(command))
        self.convert(models)
        if str(getattr(self._options, "el_products", "tuned")) == "fixed":
            TUNER.fixed = True  # of the process, from now on
        generator = twin_of(super().build_generator(models, args, *rest, **kwargs))
        if command is not None and self._options.el_tensorboard and isinstance(generator, ELSequenceGenerator):
            generator.statistics.log_to(_folder_of_shard(self._options.el_tensorboard, command.distributed_training))
        return generator

    def build_model(self, cfg: Any, *args: Any, **kwargs: Any) -> nn.Module:
        """As stock; the task remembers its models while they live, for ``--el-max-tokens auto``.

        Raises:
            ValueError: ``--replace-unk``, with which fairseq's commands stop at the first unknown word, or before.
        """
        command = _command_of(self._options)
        if command is not None:
            _refuse_replace_unk(command.generation.replace_unk)
        model = super().build_model(cfg, *args, **kwargs)
        warn_of_another_architecture(model, cfg)
        if getattr(self, "_in_hub", False):
            warn_of_another_folder(self._options, cfg)
        self._built = getattr(self, "_built", None) or WeakSet()
        self._built.add(model)
        ShapeErrors(model, self._dictionary_sizes(), getattr(self._options, "data", None), _path_of(command))
        return model

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> Any:
        """As stock.

        Raises:
            ValueError: data without a sentence.
        """
        with naming_empty_data(split, getattr(self._options, "data", None)):
            return super().load_dataset(split, *args, **kwargs)

    def get_interactive_tokens_and_lengths(self, lines: list[str], *args: Any, **kwargs: Any) -> Any:
        """As stock; bytes that are no UTF-8 are unknown words, with a warning."""
        first, self._lines_read = getattr(self, "_lines_read", 0), getattr(self, "_lines_read", 0) + len(lines)
        lines = [readable(line, first + i) for i, line in enumerate(lines)]
        return super().get_interactive_tokens_and_lengths(lines, *args, **kwargs)

    def get_batch_iterator(
        self,
        dataset: Any,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        *rest: Any,
        **kwargs: Any,
    ) -> Any:
        """As stock; with ``--el-max-tokens auto`` a command that generates limits its batches by the free memory."""
        command = _command_of(self._options)
        if command is not None and str(self._options.el_max_tokens) == "auto":
            limits = automatic_limits(
                list(getattr(self, "_built", ())), str(self._options.el_attention), command, dataset
            )
            if limits is not None:
                max_tokens, max_sentences = limits[0], min(limits[1], max_sentences or limits[1])
        return super().get_batch_iterator(dataset, max_tokens, max_sentences, *rest, **kwargs)

    def convert(self, models: list[nn.Module]) -> None:
        """Let ``models`` decode as ``--el-attention`` says, in place."""
        enable_el_attention(models, mode=str(self._options.el_attention))

    def inference_step(self, generator: Any, models: list[nn.Module], sample: Any, *args: Any, **kwargs: Any) -> Any:
        """As stock; into a model in bfloat16 speech features go in bfloat16.

        Raises:
            ValueError: words that the dictionary does not have; weights that leave a sentence without a hypothesis.
        """
        if next(models[0].parameters(), torch.empty(0)).dtype is torch.bfloat16:
            sample = utils.apply_to_sample(lambda x: x.bfloat16() if x.is_floating_point() else x, sample)
        try:
            hypotheses = super().inference_step(generator, models, sample, *args, **kwargs)
        except IndexError:
            refuse_unknown_numbers(sample, self.source_dictionary, getattr(self._options, "data", None))
            raise
        if isinstance(generator, ELSequenceGenerator):
            refuse_useless(models, hypotheses, _path_of(_command_of(self._options)))
        return hypotheses

    def _dictionary_sizes(self) -> set[int]:
        try:
            return {len(words) for words in (self.source_dictionary, self.target_dictionary) if words is not None}
        except NotImplementedError:  # a task without
            return set()

    @property
    def _options(self) -> Any:
        return self.args if self.cfg is None else self.cfg  # a LegacyFairseqTask has no cfg


def _command_with(generation: Any) -> Any:
    """The configuration of the command whose ``generation`` part this is, or None.

    None too in a hub: its configuration is that of the command that trained the model.
    """
    whole = parent_of(generation) if OmegaConf.is_config(generation) else None
    return whole if whole is not None and OmegaConf.select(whole, "common_eval.path") else None


def _command_of(task: Any) -> Any:
    """The same from the options of a task: as a part of the configuration, or as all arguments in one namespace."""
    if OmegaConf.is_config(task):
        return _command_with(task)
    if not (getattr(task, "path", None) and hasattr(task, "beam")):
        return None
    return SimpleNamespace(generation=task, common=task, distributed_training=task)


def _path_of(command: Any) -> str:
    """For a message: ``--path`` with its value, where there is a command that generates."""
    return "the checkpoint" if command is None else f"--path {getattr(command, 'common_eval', command.common).path}"


def _input_of(command: Any) -> str | None:
    """``--input`` of fairseq-interactive; other commands have its default too, or none."""
    return getattr(getattr(command, "interactive", command.common), "input", None)


def _folder_of_shard(folder: str, distributed: Any) -> str:
    shards = distributed.distributed_world_size
    return folder if shards == 1 else str(Path(folder) / f"shard{distributed.distributed_rank}")


def _refuse_replace_unk(dictionary: str | None) -> None:
    if dictionary is not None:
        raise ValueError(
            f"--replace-unk {dictionary.strip()}: fairseq's commands cannot replace unknown words any more: they want "
            "alignments in another form than generators give. Leave it out; --print-alignment hard prints lines A-... "
            "with the source word of each word"
        )


def _refuse_shards(shards: int) -> None:
    if shards > 1:
        raise ValueError(
            f"--num-shards {shards}: fairseq-generate ignores it and would generate everything. Use "
            f"scripts/generate_sharded.sh, or --distributed-world-size {shards} --distributed-rank SHARD-ID"
        )


def _register_twin(name: str) -> None:
    stock, config = TASK_REGISTRY[name], TASK_DATACLASS_REGISTRY.get(name)
    evaluation = EVALUATION.get(name, ())
    if config is not None:
        own, configs = {"__module__": __name__}, (ELAttentionConfig, *(each.config for each in evaluation), config)
        config = make_dataclass(f"EL{config.__name__}", [], bases=configs, namespace=own)
    body = {"__doc__": f"``{name}`` with EL-attention.", "__module__": __name__}
    bases = (ELTaskMixin, *evaluation, *STOCK_FIXES.get(name, ()), stock)
    twin = register_task(f"el_{name}", dataclass=config)(type(f"EL{stock.__name__}", bases, body))
    globals()[twin.__name__] = twin


for _name in STOCK_TASKS:
    # fairseq 0.12.2 has fewer tasks; this package can be imported again: a worker, a second path
    if _name in TASK_REGISTRY and f"el_{_name}" not in TASK_REGISTRY:
        _register_twin(_name)
