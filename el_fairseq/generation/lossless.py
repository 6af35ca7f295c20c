"""Decode the same batches as stock and with EL-attention, and account for every difference."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq import utils
from fairseq.models.fairseq_decoder import FairseqDecoder
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.transformer import TransformerModelBase
from torch import nn

from el_fairseq.generation.enable import disable_el_attention, enable_el_attention
from el_fairseq.generation.generator import ELSequenceGenerator
from el_fairseq.generation.ngram_block import let_ngrams_block
from el_fairseq.generation.out_of_memory import slice_batch
from el_fairseq.stock import has_stock_method

NORMALIZED = ("get_normalized_probs", "get_normalized_probs_scriptable")


@dataclass
class Comparison:
    """What was found so far. Scores are log-probabilities (base e), compared where the tokens are identical."""

    sentences: int = 0
    identical: int = 0  # sentences whose best hypothesis is the same, token by token
    hypotheses: int = 0
    identical_hypotheses: int = 0
    score_drift: float = 0.0  # largest difference of a sentence-level score
    positional_drift: float = 0.0  # largest difference of one token's score
    ties: list[int] = field(default_factory=list)  # sentence ids: float64 agrees, the difference was rounding
    differences: list[int] = field(default_factory=list)  # sentence ids: float64 differs too
    failed: list[int] = field(
        default_factory=list
    )  # sentence ids: stock stopped with an error of its own, nothing compared

    def add(self, stock: list[dict], ours: list[dict]) -> bool:
        """Compare the hypotheses of one sentence.

        Args:
            stock: its hypotheses as stock, the best one first.
            ours: those with EL-attention.

        Returns:
            Whether all of them are identical, token by token.
        """
        self.sentences += 1
        total = max(len(stock), len(ours))
        same = [tokens_of(a) == tokens_of(b) for a, b in zip(stock, ours)]
        for a, b, identical in zip(stock, ours, same):
            if identical:
                self.positional_drift = max(
                    self.positional_drift, _drift(a["positional_scores"], b["positional_scores"])
                )
                self.score_drift = max(self.score_drift, _drift(a["score"], b["score"]))
        self.hypotheses += total
        self.identical_hypotheses += sum(same)
        self.identical += all(same[:1]) and bool(stock) == bool(ours)
        return sum(same) == total

    def resolve(self, sentence: int, stock: list[dict], ours: list[dict]) -> None:
        """Note a sentence that differed: a tie that rounding broke, or a difference.

        Args:
            sentence: its id.
            stock: its hypotheses as stock in float64.
            ours: those with EL-attention in float64.
        """
        agree = [tokens_of(hypothesis) for hypothesis in stock] == [tokens_of(hypothesis) for hypothesis in ours]
        (self.ties if agree else self.differences).append(sentence)


class StockFailedError(RuntimeError):
    """Stock's generator stopped with an assertion of its own."""


class LosslessCheck:
    """Compares stock's generator of a task with ELSequenceGenerator over the same models.

    Args:
        task: a stock task, set up.
        models: its models, ready for inference.
        generation: the ``generation`` part of fairseq's configuration.
        mode: of ``enable_el_attention``.

    ``--no-repeat-ngram-size`` works in both generators, also where stock's own would block nothing.
    """

    def __init__(self, task: Any, models: list[nn.Module], generation: Any, mode: str):
        self.task, self.models, self.generation, self.mode = task, models, generation, mode
        self.generators = self._build(models)
        self.double: tuple[list[nn.Module], Any] | None = None
        self.result = Comparison()

    def _build(self, models: list[nn.Module]) -> tuple[Any, Any]:
        stock = self.task.build_generator(models, self.generation)
        let_ngrams_block(stock)
        return stock, ELSequenceGenerator.adopt(stock)

    def _generate(self, models: list[nn.Module], generators: tuple[Any, Any], sample: dict, **kwargs: Any) -> Any:
        stock, ours = generators
        disable_el_attention(models)
        try:
            expected = self.task.inference_step(stock, models, sample, **kwargs)
        except AssertionError as error:  # no hypothesis of a sentence can end within the limits
            raise StockFailedError(str(error)) from error
        enable_el_attention(models, self.mode)
        return expected, self.task.inference_step(ours, models, sample, **kwargs)

    def add(self, sample: dict, **kwargs: Any) -> None:
        """Compare one batch; where a hypothesis differs, decode it again in float64.

        Where stock fails, each sentence is compared by itself, and those for which it fails are counted apart.

        Args:
            sample: the batch.
            kwargs: of the task's ``inference_step``.
        """
        sentences = len(sample["id"])
        try:
            self._compare(sample, **kwargs)
        except StockFailedError:
            if sentences == 1:
                enable_el_attention(self.models, self.mode)
                self.task.inference_step(self.generators[1], self.models, sample, **kwargs)  # has to work
                self.result.failed += sample["id"].tolist()
                return
            for i in range(sentences):
                one = slice(i, i + 1)
                self.add(slice_batch(sample, sentences, one), **slice_batch(kwargs, sentences, one))

    def _compare(self, sample: dict, **kwargs: Any) -> None:
        expected, actual = self._generate(self.models, self.generators, sample, **kwargs)
        ids = sample["id"].tolist()
        differing = [i for i in range(len(ids)) if not self.result.add(expected[i], actual[i])]
        if differing:
            expected, actual = self._generate_in_float64(sample, **kwargs)
        for i in differing:
            self.result.resolve(ids[i], expected[i], actual[i])

    def _generate_in_float64(self, sample: dict, **kwargs: Any) -> Any:
        """The whole batch again: an error that needs its company would not show in a sentence alone."""
        if self.double is None:
            twins = [in_float64(model) for model in self.models]
            self.double = twins, self._build(twins)
        models, generators = self.double
        sample = utils.apply_to_sample(lambda x: x.double() if x.is_floating_point() else x, sample)
        return self._generate(models, generators, sample, **kwargs)


def in_float64(model: Any) -> Any:
    """A copy of ``model`` in float64, also in the log-softmax, which fairseq computes in float32 whatever the dtype.

    Between hypotheses that are closer than float32 can tell, scores rounded so would still choose at random.
    """
    twin = copy.deepcopy(model).double()
    decoder = getattr(twin, "decoder", None)
    if (
        isinstance(decoder, FairseqDecoder)
        and getattr(decoder, "adaptive_softmax", None) is None
        and has_stock_method(twin, "get_normalized_probs", BaseFairseqModel, TransformerModelBase)
        and all(has_stock_method(decoder, name, FairseqDecoder) for name in NORMALIZED)
    ):
        twin.get_normalized_probs = _normalized_in_float64  # an attribute of this copy alone
    return twin


def _normalized_in_float64(net_output: tuple, log_probs: bool, sample: dict | None = None) -> torch.Tensor:
    logits = net_output[0].double()
    return torch.log_softmax(logits, dim=-1) if log_probs else torch.softmax(logits, dim=-1)


def tokens_of(hypothesis: dict) -> list[int]:
    """The numbers of a hypothesis's tokens."""
    return hypothesis["tokens"].tolist()


def _drift(stock: torch.Tensor, ours: torch.Tensor) -> float:
    """Largest difference of two tensors of scores; infinite where only one of them is a number."""
    stock, ours = stock.cpu().double(), ours.cpu().double()
    drift = (stock - ours).abs().masked_fill(stock == ours, 0.0)  # equal infinities do not differ
    return drift.nan_to_num(nan=float("inf"), posinf=float("inf")).max().item()
