"""The private names of PyTorch, OmegaConf and argparse that this package reads, and the PyTorch that it needs.

Each name is read here and nowhere else. Where a version lacks one, the answer is the one that costs time and never the
one that changes a result. Private methods that classes of this package inherit, and override or call, are in
``INHERITED``: they have to be there, a test looks.
"""

import sys
from argparse import Action, ArgumentParser
from typing import Any

import torch
from fairseq.distributed import utils as distributed
from torch import nn
from torch.nn.modules import module as module_file

INHERITED = {
    "torch.nn.Module": ("_load_from_state_dict",),
    "fairseq.modules.MultiheadAttention": ("_get_input_buffer",),
    "fairseq.sequence_generator.SequenceGenerator": ("_generate", "_prefix_tokens"),
    "fairseq.sequence_generator.SequenceGeneratorWithAlignment": ("_prepare_batch_for_alignment",),
}

# Hooks of a module, and those of all modules; the ones that take keyword arguments or are always called are among them.
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")

# Where a module keeps what belongs to it: a copy of it that is to be changed needs its own.
REGISTRIES = ("_parameters", "_buffers", "_modules")

# oneDNN's products over a weight that was laid out for them.
PACKED = ("_reorder_linear_weight", "_linear_pointwise")

OLDEST = (2, 6)  # of torch


def require_torch() -> None:
    """Refuse a PyTorch that runs code from checkpoints.

    Raises:
        ImportError: torch is older than 2.6.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise ImportError(
            f"el_fairseq needs torch 2.6 or newer, and this is torch {torch.__version__}. Older ones run code from a "
            "checkpoint even where they are told to load data alone (CVE-2025-32434)."
        )


def is_hooked(module: nn.Module) -> bool:
    """Whether calling ``module`` calls hooks or pre-hooks of its own besides; backward hooks do not count."""
    return any(getattr(module, name, True) for name in HOOKS)


def has_global_hooks() -> bool:
    """Whether calling any module calls hooks that were registered for all modules."""
    return any(getattr(module_file, name, True) for name in GLOBAL_HOOKS)


def name_of_caller() -> str:
    """The module that called the function that asks; CPython's own way, there in all of its versions."""
    return sys._getframe(2).f_globals.get("__name__", "")


def tensor_placeholders() -> list[type]:
    """Classes that stand for tensors in what the processes of a training send each other; none in other versions."""
    return [distributed._TensorPlaceholder] if hasattr(distributed, "_TensorPlaceholder") else []


def compiled(module: nn.Module) -> nn.Module | None:
    """The module that ``torch.compile`` made ``module`` of, or None."""
    return module._modules.get("_orig_mod")


def own_registries(attributes: dict[str, Any]) -> dict[str, Any]:
    """The registries in ``attributes``, the ``__dict__`` of a module, copied."""
    return {name: attributes[name].copy() for name in REGISTRIES}


def version_of(tensor: torch.Tensor) -> object:
    """What changes when ``tensor`` is written in place; None for a tensor of inference mode, which has no version."""
    return None if tensor.is_inference() else getattr(tensor, "_version", object())


def has_packed_products() -> bool:
    """Whether this PyTorch has oneDNN's products over packed weights, in float32."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in PACKED)


def has_packed_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, with AVX-512 BF16 or AMX; False where PyTorch cannot tell."""
    tell = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return tell is not None and tell()


def reorder_linear_weight(weight: torch.Tensor) -> torch.Tensor:
    """``weight [outputs, inputs]`` as ``linear_pointwise`` reads it fastest."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def linear_pointwise(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x [..., inputs] · Wᵀ + bias [outputs]`` -> ``[..., outputs]``, for ``packed = reorder_linear_weight(W)``."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def parent_of(config: Any) -> Any:
    """The configuration that an OmegaConf one is a part of, or None."""
    get_parent = getattr(config, "_get_parent", None)
    return None if get_parent is None else get_parent()


def options_of(parser: ArgumentParser) -> list[Action]:
    """The options that were added to an ``ArgumentParser``, each with ``dest``, ``type`` and ``default``."""
    return parser._actions
