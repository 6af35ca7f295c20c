"""The products of linear layers while a model decodes on a CPU: by oneDNN, over packed copies of their weights.

The layers stay as they are; the copies lie beside them. A copy is made at the first product, used in evaluation mode
without gradients, and made again when the weight is another one or was written to. PyTorch does not count what is
written through ``.data``, as averages of weights often are: so some numbers of each weight are compared once a batch.
"""

from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from el_fairseq.internals import version_of
from el_fairseq.ops.packed import can_pack, pack, packed_linear
from el_fairseq.stock import is_plain_linear

ROWS = 1024  # of a product: enough for it to be fast, few enough for its result to stay in a cache
FEW = 2**19  # multiplications of float32: oneDNN takes longer to begin than PyTorch to be done with them
SAMPLE = 64  # numbers of a weight that are compared: what averages, merges or loads weights writes to all of them
copies = WeakKeyDictionary()  # nn.Linear -> the _Copy of its weight
joint_copies = (
    WeakKeyDictionary()
)  # the first of several -> (the others, the _Copy of their weights, one below another)


def packed_bytes(model):
    """What the packed copies of all linear layers in ``model`` take, one each: as many as a command that generates
    makes. Self-attention also has copies of its projections one by one after a pass over whole sentences."""
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    return sum(weight.nbytes for weight in weights if can_pack(weight))


def product_of(linear):
    """What ``linear`` computes, as a function that looks nothing up: for one batch, while parameters and mode stay."""
    if not is_plain_linear(linear):
        return linear
    forget_stale([linear])
    packed = _packed_copy(linear)
    if packed is None:
        return partial(F.linear, weight=linear.weight, bias=linear.bias)
    return partial(_multiply, linear.weight, few(linear.weight), packed, linear.bias)


def joint_product(linears):
    """What several layers compute of one input, side by side, as ``product_of``; None where no packed product can."""
    biases = [linear.bias is None for linear in linears]
    if any(biases) != all(biases):
        return None
    if not all(is_plain_linear(linear) and _packs(linear) and can_pack(linear.weight) for linear in linears):
        return None
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return partial(_multiply, *_joint_copy(linears), bias)


def multiply(linear, x):
    """``linear(x)``, packed where that can be. Whoever calls this often calls ``forget_stale`` once a batch."""
    packed = _packed_copy(linear) if is_plain_linear(linear) and x.dtype is linear.weight.dtype else None
    return linear(x) if packed is None else _multiply(linear.weight, few(linear.weight), packed, linear.bias, x)


def forget_stale(linears):
    """Drop the copies of weights that were written to behind PyTorch's back."""
    for linear in linears:
        copy = copies.get(linear)
        if copy is not None and not copy.is_true():
            copies.pop(linear, None)


def few(weight):
    """Fewer inputs than this, of all rows, are multiplied sooner by ``weight [N, K]`` than by its packed copy."""
    return FEW // weight.size(0) if weight.dtype is torch.float32 else 0


def _packs(linear):
    """Whether the mode is one in which copies are made."""
    return not (linear.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))


def _multiply(weight, few_inputs, packed, bias, x):
    """``x · weightᵀ + bias``, by the faster of the two."""
    return F.linear(x, weight, bias) if x.numel() < few_inputs else packed_linear(x, packed, bias)


def _packed_copy(linear):
    """``pack(linear.weight)``; None where there is no packed product."""
    if not (_packs(linear) and can_pack(linear.weight)):
        return None
    copy = copies.get(linear)  # read once: threads may share this layer
    if copy is None or not copy.is_of([linear.weight]):
        copy = copies[linear] = _Copy([linear.weight], pack(linear.weight))
    return copy.made


def _joint_copy(linears):
    """What ``_multiply`` takes before the bias, for the weights of several layers, one below the other."""
    first, *others = linears
    weights = [linear.weight for linear in linears]
    copy = joint_copies.get(first)
    if copy is None or not (copy.is_of(weights) and copy.is_true()):
        dense = torch.cat(weights)
        inputs, packed = few(dense), pack(dense)
        # A single row is enough for large weights to be multiplied packed: they need not be kept twice.
        made = (dense, inputs, packed) if dense.size(1) < inputs else (None, 0, packed)
        copy = joint_copies[first] = _Copy(weights, made)
    return copy.made


class _Copy:
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
