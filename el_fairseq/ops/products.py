"""The products of linear layers while a model decodes on a CPU: by oneDNN, over packed weights.

The layers stay as they are; packed copies of their weights lie beside them. One is made at the first product, used in
evaluation mode without gradients, and made again when the weight is another one or was written to. PyTorch does not
count what is written through ``.data``, as averages of weights often are: so some numbers of each weight are compared
once a batch.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from el_fairseq.internals import version_of
from el_fairseq.ops.packed import can_pack, pack, packed_linear
from el_fairseq.stock import is_plain_linear

CHUNK_ROWS = 1024  # of a product: enough for it to be fast, few enough for its result to stay in a cache
SMALL_PRODUCT = 2**19  # float32 multiplications: oneDNN takes longer to begin than PyTorch to be done with them
SAMPLE = 64  # numbers of a weight that are compared: what averages, merges or loads weights writes to all of them
LinearFn = Callable[[torch.Tensor], torch.Tensor]

packed_weights: WeakKeyDictionary = WeakKeyDictionary()  # nn.Linear -> _PackedWeight
joint_packed_weights: WeakKeyDictionary = WeakKeyDictionary()  # first of several nn.Linear -> theirs, one below another


def packed_bytes(model: nn.Module) -> int:
    """What the packed weights of all linear layers in ``model`` take, one each: as many as a command that generates
    makes. Self-attention also has packed weights of its projections one by one after a pass over whole sentences."""
    weights = (module.weight.data for module in model.modules() if isinstance(module, nn.Linear))
    return sum(weight.nbytes for weight in weights if can_pack(weight))


def linear_fn(linear: Any) -> LinearFn:
    """What ``linear`` computes, as a function that looks nothing up: for one batch, while parameters and mode stay."""
    if not is_plain_linear(linear):
        return linear
    drop_stale([linear])
    packed = _packed_weight(linear)
    if packed is None:
        return partial(F.linear, weight=linear.weight, bias=linear.bias)
    return partial(_linear, linear.weight, small_inputs(linear.weight), packed, linear.bias)


def joint_linear_fn(linears: Sequence[Any]) -> LinearFn | None:
    """What several layers compute of one input, side by side, as ``linear_fn``; None where no packed product can."""
    biases = [linear.bias is None for linear in linears]
    if any(biases) != all(biases):
        return None
    if not all(is_plain_linear(linear) and _packs(linear) and can_pack(linear.weight) for linear in linears):
        return None
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    dense, small, packed = _joint_packed_weight(linears)
    return partial(_linear, dense, small, packed, bias)


def apply_linear(linear: Any, x: torch.Tensor) -> torch.Tensor:
    """``linear(x)``, packed where that can be. Whoever calls this often calls ``drop_stale`` once a batch."""
    packed = _packed_weight(linear) if is_plain_linear(linear) and x.dtype is linear.weight.dtype else None
    return linear(x) if packed is None else _linear(linear.weight, small_inputs(linear.weight), packed, linear.bias, x)


def drop_stale(linears: Iterable[nn.Module]) -> None:
    """Drop the packed copies of weights that were written to behind PyTorch's back."""
    for linear in linears:
        copy = packed_weights.get(linear)
        if copy is not None and not copy.is_true():
            packed_weights.pop(linear, None)


def small_inputs(weight: torch.Tensor) -> int:
    """Fewer inputs than this, of all rows, ``weight [outputs, inputs]`` multiplies sooner than its packed copy does."""
    return SMALL_PRODUCT // weight.size(0) if weight.dtype is torch.float32 else 0


def _packs(linear):
    """Whether the mode is one in which weights are packed."""
    return not (linear.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))


def _linear(weight, small, packed, bias, x):
    """``x · weightᵀ + bias``, by the faster of the two."""
    return F.linear(x, weight, bias) if x.numel() < small else packed_linear(x, packed, bias)


def _packed_weight(linear):
    """``pack(linear.weight)``; None where there is no packed product."""
    if not (_packs(linear) and can_pack(linear.weight)):
        return None
    copy = packed_weights.get(linear)  # read once: threads may share this layer
    if copy is None or not copy.is_of([linear.weight]):
        copy = packed_weights[linear] = _PackedWeight([linear.weight], pack(linear.weight))
    return copy.made


def _joint_packed_weight(linears):
    """What ``_linear`` takes before the bias, for the weights of several layers, one below the other."""
    first, *others = linears
    weights = [linear.weight for linear in linears]
    copy = joint_packed_weights.get(first)
    if copy is None or not (copy.is_of(weights) and copy.is_true()):
        dense = torch.cat(weights)
        small, packed = small_inputs(dense), pack(dense)
        # A single row is enough for large weights to be multiplied packed: they need not be kept twice.
        made = (dense, small, packed) if dense.size(1) < small else (None, 0, packed)
        copy = joint_packed_weights[first] = _PackedWeight(weights, made)
    return copy.made


class _PackedWeight:
    """What was ``made`` of some tensors, which are kept with it: no other object can have their numbers meanwhile."""

    def __init__(self, sources, made):
        self.sources, self.which, self.made = sources, _which(sources), made
        self.views = [_some(source) for source in sources]
        self.seen = torch.cat(self.views)

    def is_of(self, sources):
        """Whether these are the same tensors, unchanged as far as PyTorch knows."""
        return self.which == _which(sources)

    def is_true(self):
        """Whether the tensors hold what they held, in the numbers that are compared."""
        return torch.equal(torch.cat(self.views), self.seen)


def _which(tensors):
    return [(id(x), x.data_ptr(), version_of(x)) for x in tensors]


def _some(tensor):
    """``SAMPLE`` numbers of a dense tensor, spread over its rows and columns; a view."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE) | 1][:SAMPLE]
