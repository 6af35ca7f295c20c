"""Decode the same batches as stock and with EL-attention, and account for every difference."""

import copy
from dataclasses import dataclass, field

from fairseq import utils

from el_fairseq.generation.enable import disable_el_attention, enable_el_attention
from el_fairseq.generation.generator import ELSequenceGenerator
from el_fairseq.modules.ngram_block import NGramBlock


@dataclass
class Comparison:
    """What was found so far. Scores are log-probabilities (base e), compared where the tokens are identical."""

    sentences: int = 0
    identical: int = 0  # sentences whose best hypothesis is the same, token by token
    hypotheses: int = 0
    identical_hypotheses: int = 0
    score_drift: float = 0.0  # largest difference of a sentence-level score
    positional_drift: float = 0.0  # largest difference of one token's score
    ties: list = field(default_factory=list)  # sentence ids: float64 agrees, the difference was rounding
    differences: list = field(default_factory=list)  # sentence ids: float64 differs too

    def add(self, stock, ours):
        """Compare the hypotheses of one sentence; returns whether the best one is identical."""
        self.sentences += 1
        self.hypotheses += max(len(stock), len(ours))
        same = [tokens_of(a) == tokens_of(b) for a, b in zip(stock, ours)]
        self.identical_hypotheses += sum(same)
        for a, b, identical in zip(stock, ours, same):
            if identical:
                drift = (a["positional_scores"].cpu() - b["positional_scores"].cpu()).abs().max().item()
                self.positional_drift = max(self.positional_drift, drift)
                self.score_drift = max(self.score_drift, abs(float(a["score"]) - float(b["score"])))
        best = bool(same and same[0]) or not (stock or ours)
        self.identical += best
        return best


class LosslessCheck:
    """Compares stock's generator of a task with ELSequenceGenerator over the same models.

    Args:
        task: a stock task, set up. models: its models, ready for inference. generation: the ``generation`` part of
            fairseq's configuration. mode: of ``enable_el_attention``.

    ``--no-repeat-ngram-size`` works in both generators, also where stock's own would block nothing.
    """

    def __init__(self, task, models, generation, mode):
        self.task, self.models, self.generation, self.mode = task, models, generation, mode
        self.generators = self._build(models)
        self.double = None
        self.result = Comparison()

    def _build(self, models):
        stock = self.task.build_generator(models, self.generation)
        if stock.repeat_ngram_blocker is not None:
            stock.repeat_ngram_blocker = NGramBlock(stock.repeat_ngram_blocker.no_repeat_ngram_size)
        return stock, ELSequenceGenerator.adopt(stock)

    def _generate(self, models, generators, sample, **kwargs):
        stock, ours = generators
        disable_el_attention(models)
        expected = self.task.inference_step(stock, models, sample, **kwargs)
        enable_el_attention(models, self.mode)
        return expected, self.task.inference_step(ours, models, sample, **kwargs)

    def add(self, sample, alone, **kwargs):
        """Compare one batch.

        Args:
            sample: the batch. alone: called with a sentence id, gives the batch of that sentence alone and its own
                keyword arguments. kwargs: passed to ``task.inference_step``.
        """
        expected, actual = self._generate(self.models, self.generators, sample, **kwargs)
        for sentence, stock, ours in zip(sample["id"].tolist(), expected, actual):
            if not self.result.add(stock, ours):
                kind = self.result.ties if self._agree_in_float64(*alone(sentence)) else self.result.differences
                kind.append(sentence)

    def _agree_in_float64(self, sample, kwargs):
        if self.double is None:
            models = copy.deepcopy(self.models)
            models = [model.double() for model in models]
            self.double = models, self._build(models)
        sample = utils.apply_to_sample(lambda x: x.double() if x.is_floating_point() else x, sample)
        (stock,), (ours,) = self._generate(*self.double, sample, **kwargs)
        return [tokens_of(hypo) for hypo in stock[:1]] == [tokens_of(hypo) for hypo in ours[:1]]


def tokens_of(hypothesis):
    return hypothesis["tokens"].tolist()
