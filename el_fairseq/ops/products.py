"""The products of linear layers while a model decodes on a CPU: by PyTorch, or by oneDNN over packed weights.

Which of them is faster depends on the processor, the shape and the number of rows: it is timed at the first product of
a kind (``tuner``).

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
from el_fairseq.ops.tuner import TUNER
from el_fairseq.stock import is_plain_linear

CHUNK_ROWS = 1024  # of a product: enough for it to be fast, few enough for its result to stay in a cache
SMALL_PRODUCT = 2**19  # float32 multiplications: oneDNN takes longer to begin than PyTorch to be done with them
TIMED_ROWS = 256  # of a product that is timed, at most: with more rows its speed does not change
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
    return _product_of(linear)


def joint_linear_fn(linears: Sequence[Any]) -> LinearFn | None:
    """What several layers compute of one input, side by side, as ``linear_fn``; None where no packed product can."""
    biases = [linear.bias is None for linear in linears]
    if any(biases) != all(biases):
        return None
    if not all(is_plain_linear(linear) and _packs(linear) and can_pack(linear.weight) for linear in linears):
        return None
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    dense, packed = _joint_packed_weight(linears)
    outputs = sum(linear.weight.size(0) for linear in linears)
    return _Product(dense, packed, bias, outputs, linears[0].weight.size(1), linears[0].weight.dtype)


def apply_linear(linear: Any, x: torch.Tensor) -> torch.Tensor:
    """``linear(x)``, packed where that can be. Whoever calls this often calls ``drop_stale`` once a batch."""
    if is_plain_linear(linear) and x.dtype is linear.weight.dtype:
        return _product_of(linear)(x)
    return linear(x)


def drop_stale(linears: Iterable[nn.Module]) -> None:
    """Drop the packed copies of weights that were written to behind PyTorch's back."""
    for linear in linears:
        copy = packed_weights.get(linear)
        if copy is not None and not copy.is_true():
            packed_weights.pop(linear, None)


def _packs(linear):
    """Whether the mode is one in which weights are packed."""
    return not (linear.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))


def _product_of(linear):
    """``linear`` as a function of its input."""
    packed = _packed_weight(linear)
    if packed is None:
        return partial(F.linear, weight=linear.weight, bias=linear.bias)
    return _Product(linear.weight, packed, linear.bias, *linear.weight.shape, linear.weight.dtype)


class _Product:
    """``x · weightᵀ + bias``, by the fastest of ``_WAYS``.

    Args:
        weight: ``[outputs, inputs]``, or None: only its packed copy is kept.
        packed: that copy.
        bias: ``[outputs]`` or None.
        outputs, inputs, dtype: of the weight.
    """

    def __init__(self, weight, packed, bias, outputs, inputs, dtype):
        self.weight, self.packed, self.bias = weight, packed, bias
        self.inputs, self.small = inputs, _small_inputs(outputs, dtype)
        self.kind = dtype, outputs, inputs, weight is None, bias is None, torch.get_num_threads()
        self.ways = {}  # by the number of binary digits of the number of rows

    def __call__(self, x):
        rows = x.numel() // self.inputs
        way = self.ways.get(rows.bit_length())
        return (self._choose(x, rows) if way is None else way)(self, x)

    def _choose(self, x, rows):
        default = _dense if self.weight is not None and x.numel() < self.small else _packed
        names = [_packed.__name__] if self.weight is None else _WAYS
        timed = x.reshape(rows, self.inputs)[:TIMED_ROWS]
        candidates = {name: partial(_WAYS[name], self, timed) for name in names}
        bucket = min(rows.bit_length(), TIMED_ROWS.bit_length())
        name = TUNER.choose((*self.kind, bucket), candidates, default.__name__) if rows else default.__name__
        self.ways[rows.bit_length()] = _WAYS[name]
        return _WAYS[name]


def _small_inputs(outputs, dtype):
    """Of fewer inputs than this, of all rows, PyTorch's product is the default."""
    return SMALL_PRODUCT // outputs if dtype is torch.float32 else 0


def _dense(product, x):
    return F.linear(x, product.weight, product.bias)


def _packed(product, x):
    return packed_linear(x, product.packed, product.bias)


def _features_first(product, x):
    """``(weight · xᵀ)ᵀ``: another order of the same matrices, which libraries multiply by other code."""
    rows, columns = x.reshape(-1, product.inputs).t(), None if product.bias is None else product.bias.unsqueeze(1)
    y = product.weight @ rows if columns is None else torch.addmm(columns, product.weight, rows)
    return y.t().contiguous().view(*x.shape[:-1], -1)


_WAYS = {way.__name__: way for way in (_dense, _packed, _features_first)}


def _packed_weight(linear):
    """``pack(linear.weight)``; None where there is no packed product."""
    if not (_packs(linear) and can_pack(linear.weight)):
        return None
    copy = packed_weights.get(linear)  # read once: threads may share this layer
    if copy is None or not copy.is_of([linear.weight]):
        copy = packed_weights[linear] = _PackedWeight([linear.weight], pack(linear.weight))
    return copy.made


def _joint_packed_weight(linears):
    """The weights of several layers, one below the other, or None where they are large; and their packed copy."""
    first, *others = linears
    weights = [linear.weight for linear in linears]
    copy = joint_packed_weights.get(first)
    if copy is None or not (copy.is_of(weights) and copy.is_true()):
        dense = torch.cat(weights)
        # Large weights, of which even a single row is multiplied packed, need not be kept twice.
        small = dense.size(1) < _small_inputs(dense.size(0), dense.dtype)
        made = (dense if small else None, pack(dense))
        copy = joint_packed_weights[first] = _PackedWeight(weights, made)
    return copy.made


class _PackedWeight:
    """What was ``made`` of some tensors, which are kept with it: no other object can have their numbers meanwhile."""

    def __init__(self, weights, made):
        self.weights, self.which, self.made = weights, _which(weights), made
        self.views = [_some(weight) for weight in weights]
        self.seen = torch.cat(self.views)

    def is_of(self, weights):
        """Whether these are the same tensors, unchanged as far as PyTorch knows."""
        return self.which == _which(weights)

    def is_true(self):
        """Whether the tensors hold what they held, in the numbers that are compared."""
        return torch.equal(torch.cat(self.views), self.seen)


def _which(tensors):
    return [(id(x), x.data_ptr(), version_of(x)) for x in tensors]


def _some(tensor):
    """``SAMPLE`` numbers of a dense tensor, spread over its rows and columns; a view."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE) | 1][:SAMPLE]
