"""Weights that are of no use: numbers that are none, and shapes that are not the model's."""

import logging
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NAMED = 3  # parameters at most in a message
MISMATCH = re.compile(r"size mismatch for .*? torch\.Size\(\[([\d, ]*)\]\).*? torch\.Size\(\[([\d, ]*)\]\)", re.DOTALL)


def not_finite(models: Iterable[nn.Module | None]) -> str:
    """Find parameters with numbers that are NaN or infinite, in one pass.

    A sum is finite if its terms are; where it is not, they are counted.

    Args:
        models: those to look at; None is left out.

    Returns:
        ``"encoder.layers.0.fc1.weight (1 of 4096)"`` and so on, ``""`` where all are finite.
    """
    found = []
    for name, parameter in (pair for model in models if model is not None for pair in model.named_parameters()):
        if parameter.dtype in FLOATS and not bool(torch.isfinite(parameter.detach().sum())):
            wrong = int(parameter.detach().isfinite().logical_not().sum())
            if wrong > 0:  # a sum alone can overflow
                found.append(f"{name} ({wrong} of {parameter.numel()})")
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def warn_of_not_finite(models: Iterable[nn.Module | None], where: str) -> None:
    """Warn, before generation, of weights that are not finite.

    It is no error yet: a weight may be one that the data does not need, or a bias of -inf.

    Args:
        models: an ensemble.
        where: the option that names the checkpoint, and its value.
    """
    names = not_finite(models)
    if names:
        logger.warning("%s: weights are NaN or infinite: %s", where, names)


def refuse_useless(models: Iterable[nn.Module | None], hypotheses: list[list[dict]], where: str) -> None:
    """Refuse what weights that are not finite have made.

    Args:
        models: an ensemble.
        hypotheses: of each sentence, the best one first.
        where: the option that names the checkpoint, and its value.

    Raises:
        ValueError: a sentence has no hypothesis, and a weight is not finite.
    """
    if all(sentence and math.isfinite(sentence[0]["score"]) for sentence in hypotheses):
        return
    names = not_finite(models)
    if names:
        raise ValueError(
            f"{where}: a sentence gets no hypothesis, because weights are NaN or infinite: {names}. The checkpoint is "
            "damaged or its training diverged: take an earlier one (or leave out --fp16, whose numbers end at 65504)"
        )


class ShapeErrors:
    """Says, after the shapes that torch names when weights do not fit, what they mean.

    Args:
        model: whose weights will be loaded.
        sizes: of the dictionaries, in words.
        data: the data folder, for the message.
        where: the option that names the checkpoint, and its value.
    """

    def __init__(self, model: nn.Module, sizes: set[int], data: str | None, where: str):
        self.sizes, self.data, self.where = sizes, data, where
        self.errors: list[str] = []
        model.register_load_state_dict_pre_hook(self.before)
        model.register_load_state_dict_post_hook(self.after)

    def before(self, *arguments: Any) -> None:
        """Note the list that torch will put its errors into, the last one of a pre-hook's arguments."""
        self.errors = arguments[-1]

    def after(self, module: nn.Module, incompatible: Any) -> None:
        """Add what the errors mean to them."""
        matches = filter(None, map(MISMATCH.match, self.errors))
        pairs = [[_numbers(shape) for shape in match.groups()] for match in matches]
        if pairs:
            self.errors.append(self._meaning(pairs))
        self.errors = []

    def _meaning(self, pairs: list) -> str:
        for was, now in pairs:
            if was[1:] == now[1:] and now[:1] and now[0] in self.sizes:
                return (
                    f"{self.where} was trained with {was[0]} words, special ones included; the dictionaries in "
                    f"{self.data} have {now[0]}: give the data folder that was made with the checkpoint's "
                    "dictionaries (fairseq-preprocess --srcdict, --tgtdict)"
                )
        return (
            f"{self.where} has weights of another size than its options, or --model-overrides, say: leave out "
            "--model-overrides, or get the checkpoint as it was trained"
        )


def _numbers(shape: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", shape)))
