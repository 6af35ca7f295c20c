"""``nn.Linear`` that multiplies by oneDNN while a model decodes on a CPU."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from el_fairseq.internals import version_of
from el_fairseq.ops.packed import can_pack, pack, packed_linear

ROWS = 1024  # of a product: enough for it to be fast, few enough for its result to stay in a cache
FEW = 2**19  # multiplications of float32: oneDNN takes longer to begin than PyTorch to be done with them
COPIES = ("_packed", "_joined")  # attributes that cannot be copied or saved, and are made again


def packed_bytes(model):
    """What the packed copies of all linear layers in ``model`` take, one each: as many as a command that generates
    makes. Self-attention also has copies of its projections one by one after a pass over whole sentences."""
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    return sum(weight.nbytes for weight in weights if can_pack(weight))


def product_of(linear):
    """What ``linear`` computes, as a function that looks nothing up: it holds while parameters and mode stay."""
    packed = linear.pack() if type(linear) is PackedLinear and linear.multiplies_packed() else None
    if packed is None:
        return linear.forward
    return partial(_multiply, linear.weight, few(linear.weight), packed, linear.bias)


def joint_product(linears):
    """What several layers compute of one input, side by side, as ``product_of``; None where no packed product can."""
    biases = [linear.bias is None for linear in linears]
    if not all(type(linear) is PackedLinear and linear.multiplies_packed() for linear in linears):
        return None
    if any(biases) != all(biases) or not all(can_pack(linear.weight) for linear in linears):
        return None
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return partial(_multiply, *_joint_copy(linears).made, bias)


def few(weight):
    """Fewer inputs than this, of all rows, are multiplied sooner by ``weight [N, K]`` than by its packed copy."""
    return FEW // weight.size(0) if weight.dtype is torch.float32 else 0


def _multiply(weight, few_inputs, packed, bias, x):
    """``x · weightᵀ + bias``, by the faster of the two."""
    return F.linear(x, weight, bias) if x.numel() < few_inputs else packed_linear(x, packed, bias)


def _joint_copy(linears):
    """The ``_Copy`` of the weights of several layers, one below the other: what ``_multiply`` takes before the bias.
    All keep it, so that each can drop it."""
    weights, copy = [linear.weight for linear in linears], linears[0]._joined  # read once: threads may share layers
    if copy is None or not copy.is_of(weights) or any(linear._joined is not copy for linear in linears):
        dense = torch.cat(weights)
        inputs, packed = few(dense), pack(dense)
        # A single row is enough for large weights to be multiplied packed: they need not be kept twice.
        copy = _Copy(weights, (dense, inputs, packed) if dense.size(1) < inputs else (None, 0, packed))
        for linear in linears:
            linear._joined = copy
    return copy


class PackedLinear(nn.Linear):
    """``nn.Linear`` that keeps a packed copy of its weight beside it, in evaluation mode without gradients.

    Same parameters, same ``state_dict``, same sums in another order. The copy is made at the first product, made again
    when the weight is another one, and dropped in training mode. A weight that is written through ``.data`` in
    evaluation mode cannot be noticed: call ``train()`` and ``eval()`` then.
    """

    _packed = None  # a ``_Copy`` of the weight
    _joined = None  # one of the weights of this layer and others

    def forward(self, x):
        """``[..., K] -> [..., N]``, as ``nn.Linear``."""
        packed = self.pack() if self.multiplies_packed() and x.dtype is self.weight.dtype else None
        return super().forward(x) if packed is None else _multiply(self.weight, few(self.weight), packed, self.bias, x)

    def multiplies_packed(self):
        """Whether the mode is one in which the copy is made."""
        return not (self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))

    def pack(self):
        """The packed copy of the weight as it is, made if it is not there; None where there is no packed product."""
        weight, copy = self.weight, self._packed  # read once: threads may share this layer
        if copy is None or not copy.is_of([weight]):
            copy = self._packed = _Copy([weight], pack(weight)) if can_pack(weight) else None
        return None if copy is None else copy.made

    def _drop_copies(self):
        for name in COPIES:
            self.__dict__.pop(name, None)

    def _apply(self, *args, **kwargs):
        self._drop_copies()  # the weight goes to another device or dtype
        return super()._apply(*args, **kwargs)

    def train(self, mode=True):
        if mode:
            self._drop_copies()
        return super().train(mode)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key not in COPIES}


class _Copy:
    """What was ``made`` of some tensors, which are kept with it: no other object can have their numbers meanwhile."""

    def __init__(self, sources, made):
        self.sources, self.which, self.made = sources, _which(sources), made

    def is_of(self, sources):
        return self.which == _which(sources)


def _which(tensors):
    return [(id(x), x.data_ptr(), version_of(x)) for x in tensors]
