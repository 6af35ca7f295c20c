"""Turn EL-attention on and off, for a model or for whatever holds models."""

import types
from typing import Any, TypeVar

from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import FairseqMultiModel
from fairseq.sequence_generator import EnsembleModel
from torch import nn

from el_fairseq.convert.el_attention import unwrapped, use_el_attention, use_stock_attention
from el_fairseq.generation.announce import announce
from el_fairseq.generation.generator import twin_of
from el_fairseq.generation.plan import MODES, PLANS

Model = TypeVar("Model")  # whatever ``models_of`` takes


def enable_el_attention(model: Model, mode: str = "auto") -> Model:
    """Decode with EL-attention from now on. Weights, ``state_dict`` and training are untouched, results the same.

    Args:
        model: a fairseq model, a list of them (an ensemble), or a hub interface (``BARTHubInterface``,
            ``GeneratorHubInterface``, whose task then also generates with ``ELSequenceGenerator``). Converted in
            place; a model that cannot take part decodes as stock. One log line says what became of each, or why not.
        mode: ``"on"``, EL-attention wherever its identities hold; ``"auto"``, for each batch that, or keys and values
            shared by the beams (see ``plan``); ``"off"``, as ``disable_el_attention``.

    Returns:
        ``model``.

    Raises:
        ValueError: an unknown ``mode``.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
    if isinstance(model, GeneratorHubInterface):
        _tell_task(model.task, mode)
    for single in models_of(model):
        if mode == "off":
            use_stock_attention(single)
            announce(single, mode)
        else:
            announce(single, mode, use_el_attention(single, PLANS[mode]))
    return model


def disable_el_attention(model: Model) -> Model:
    """Decode as stock again: the inverse of ``enable_el_attention``, also for models built as ``el_*``.

    Args:
        model: as of ``enable_el_attention``.

    Returns:
        ``model``.
    """
    return enable_el_attention(model, mode="off")


def _tell_task(task: Any, mode: str) -> None:
    """Let a hub's task, which makes a generator for every call, make what ``mode`` asks for."""
    options = task.args if task.cfg is None else task.cfg  # a LegacyFairseqTask has no cfg
    if hasattr(options, "el_attention"):
        options.el_attention = mode  # an el_ task converts the models by itself
    elif mode == "off":
        task.__dict__.pop("build_generator", None)
    else:
        task.build_generator = types.MethodType(_build_generator, task)


def _build_generator(task: Any, *args: Any, **kwargs: Any) -> Any:
    return twin_of(type(task).build_generator(task, *args, **kwargs))


def models_of(holder: Any) -> list[Any]:
    """List the fairseq models in whatever holds some.

    Args:
        holder: a model, or what wraps one (``unwrapped``); a list of them; a hub interface; an ensemble; a
            multilingual model, for those in it.
    """
    if isinstance(holder, (GeneratorHubInterface, EnsembleModel)):
        return models_of(list(holder.models))
    if isinstance(holder, nn.Module):
        holder = unwrapped(holder)
    if isinstance(holder, FairseqMultiModel):
        return list(holder.models.values())
    if isinstance(holder, (list, tuple, nn.ModuleList)):
        return [single for each in holder for single in models_of(each)]
    return [holder]
