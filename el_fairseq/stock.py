"""What was done to modules since stock code built them: hooks, wrappers, other classes, other kinds of weights.

Whatever computes past a module's own call asks here first, at every batch, and calls the module where the answer is not
"nothing": a hook that is not called gives other results, silently.
"""

import functools
import logging
from collections.abc import Iterable
from typing import Any

import torch
from fairseq.modules import (
    FairseqDropout,
    LayerDropModuleList,
    LearnedPositionalEmbedding,
    SinusoidalPositionalEmbedding,
)
from fairseq.modules.layer_norm import has_fused_layernorm
from torch import nn

from el_fairseq.internals import has_global_hooks, is_hooked

logger = logging.getLogger(__name__)
PLAIN = {  # the classes that a stock Transformer is built of, beside its layers and attentions
    nn.Embedding,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
    FairseqDropout,
    LayerDropModuleList,
    LearnedPositionalEmbedding,
    SinusoidalPositionalEmbedding,
}
PLAIN_WEIGHTS = {nn.Parameter, torch.Tensor}  # other classes of tensors may be quantized, or compute by themselves
if has_fused_layernorm:
    from fairseq.modules.layer_norm import FusedLayerNorm

    PLAIN.add(FusedLayerNorm)


def has_stock_method(module: Any, method: str, *owners: type) -> bool:
    """Whether a method of ``module`` is that of one of the classes ``owners``, overridden by no class and no object."""
    known = [getattr(owner, method) for owner in owners]
    return method not in vars(module) and getattr(type(module), method, None) in known


def is_unhooked(module: nn.Module) -> bool:
    """Whether calling ``module`` does what its class's ``forward`` does, and nothing else."""
    return not (is_hooked(module) or "forward" in vars(module))


def is_plain_linear(module: Any) -> bool:
    """Whether calling ``module`` is one product with a dense weight, which may be read past it."""
    if type(module) is not nn.Linear or not is_unhooked(module):
        return False
    return type(module.weight) in PLAIN_WEIGHTS


def is_plain_dropout(module: Any) -> bool:
    """Whether ``module`` is fairseq's dropout as stock built it."""
    return type(module) is FairseqDropout and is_unhooked(module)


def changes_weights(dropout: Any) -> bool:
    """Whether the dropout of an attention does something to its weights: it drops some, or is not as stock built it."""
    if not is_plain_dropout(dropout):
        return True
    return dropout.p > 0 and (dropout.training or dropout.apply_during_inference)


def changed_module(part: nn.Module, known: Iterable[type]) -> str | None:
    """Find what keeps an encoder or a decoder from being computed past its modules.

    Args:
        part: the encoder or decoder.
        known: base classes of its layers and attentions, whose own methods the caller looks at; others are ``PLAIN``.

    Returns:
        A phrase that names it, or None.
    """
    if has_global_hooks():
        return "a hook on all modules"
    known = (type(part), *known)
    for name, module in part.named_modules():
        if not is_unhooked(module):
            return f"a hook on {name or type(part).__name__}, or another forward"
        if type(module) not in PLAIN and not isinstance(module, known):
            return f"{name} is a {type(module).__name__}"
    return None


@functools.lru_cache(maxsize=1000)
def log_once(message: str) -> None:
    """Log at INFO what holds for many batches, once."""
    logger.info("%s", message)
