"""``--eval-rouge``: ROUGE of generated texts while training validates, as ``--eval-bleu`` is for BLEU."""

import json
import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import torch
from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.scoring import build_scorer
from omegaconf import OmegaConf
from torch import nn

from el_fairseq.internals import parent_of
from el_fairseq.scoring.rouge import MEASURES

if TYPE_CHECKING:
    from fairseq.tasks import FairseqTask as StockTask  # which stands after it among the bases of a twin
else:
    StockTask = object

logger = logging.getLogger(__name__)


@dataclass
class EvalRougeConfig(FairseqDataclass):
    """What translation tasks add to their stock twins."""

    eval_rouge: bool = field(
        default=False,
        metadata={
            "help": "generate while validating, and log rouge1, rouge2, rougeL and rougeLsum; with the options of "
            "--scoring rouge, if that is given, and of --bpe and --tokenizer, as fairseq-generate"
        },
    )
    eval_rouge_args: str = field(
        default="{}",
        metadata={"help": 'options of generation for --eval-rouge, as JSON: \'{"beam": 4, "max_len_b": 60}\''},
    )
    eval_rouge_remove_bpe: Optional[str] = field(
        default=None,
        metadata={"help": "remove BPE before --eval-rouge (--remove-bpe of fairseq-generate)", "argparse_const": "@@ "},
    )


class EvalRouge(StockTask):
    """A base of the ``el_`` twin of ``TranslationTask``, whose configuration has ``config`` as a base."""

    config = EvalRougeConfig
    _rouge_decoders: list | None  # BPE and tokenizer, once they are built
    _rouge_signature: str | None  # what was logged

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """As stock; with ``--eval-rouge`` a generator for the model, too."""
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.eval_rouge:
            self._rouge_generator = self.build_generator([model], Namespace(**json.loads(self.cfg.eval_rouge_args)))
            self._rouge_decoders = None
            self._rouge_signature = None
        return model

    def valid_step(self, sample: dict, model: nn.Module, criterion: nn.Module) -> tuple[Any, Any, dict]:
        """As stock; with ``--eval-rouge`` the log also has the sums of ROUGE over the batch, and its texts' number."""
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        if self.cfg.eval_rouge:
            scorer = self._rouge_scorer(self._rouge_generator, sample, model)
            log["_rouge_texts"] = scorer.texts
            log.update({f"_{measure}": total for measure, total in scorer.sums.items()})
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: list[dict], criterion: nn.Module) -> None:
        """As stock, and the means of ROUGE."""
        super().reduce_metrics(logging_outputs, criterion)
        texts = sum(log.get("_rouge_texts", 0) for log in logging_outputs)
        if texts > 0:
            for measure in MEASURES:
                total = sum(log[f"_{measure}"] for log in logging_outputs)
                metrics.log_scalar(measure, total / texts, texts, round=2)

    def _rouge_scorer(self, generator: Any, sample: dict, model: nn.Module) -> Any:
        """A scorer that holds the texts of ``sample``."""
        command = parent_of(self.cfg) if OmegaConf.is_config(self.cfg) else None
        chosen = OmegaConf.select(command, "scoring._name") if command is not None else None
        options = command.scoring if command is not None and chosen == "rouge" else "rouge"
        scorer = build_scorer(options, self.target_dictionary)
        if self._rouge_decoders is None and command is not None:
            self._rouge_decoders = [self.build_bpe(command.bpe), self.build_tokenizer(command.tokenizer)]
        hypotheses = self.inference_step(generator, [model], sample)
        for target, (best, *_) in zip(sample["target"], hypotheses):
            reference = utils.strip_pad(target, self.target_dictionary.pad())
            scorer.add_string(self._text(reference, escape_unk=True), self._text(best["tokens"]))
        if scorer.signature() != self._rouge_signature:  # once
            self._rouge_signature = scorer.signature()
            logger.info("--eval-rouge: %s", self._rouge_signature)
        return scorer

    def _text(self, tokens: torch.Tensor, escape_unk: bool = False) -> str:
        remove = self.cfg.eval_rouge_remove_bpe
        text = self.target_dictionary.string(tokens.int().cpu(), remove, escape_unk=escape_unk)
        for decoder in self._rouge_decoders or ():
            text = text if decoder is None else decoder.decode(text)
        return text
