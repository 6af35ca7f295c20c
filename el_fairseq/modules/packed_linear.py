"""``nn.Linear`` that multiplies by oneDNN while a model decodes on a CPU."""

import torch
from torch import nn

from el_fairseq.ops.packed import can_pack, pack, packed_linear

ROWS = 1024  # of a product: enough for it to be fast, few enough for its result to stay in a cache


def packed_bytes(model):
    """What the packed copies of all linear layers in ``model`` take at most."""
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    return sum(weight.nbytes for weight in weights if can_pack(weight))


class PackedLinear(nn.Linear):
    """``nn.Linear`` that keeps a packed copy of its weight beside it, in evaluation mode without gradients.

    Same parameters, same ``state_dict``, same sums in another order. The copy is made at the first product, made again
    when the weight is another one, and dropped in training mode. A weight that is written through ``.data`` in
    evaluation mode cannot be noticed: call ``train()`` and ``eval()`` then.
    """

    _packed = None  # (which weight, its packed copy, the weight)

    def forward(self, x):
        """``[..., K] -> [..., N]``, as ``nn.Linear``."""
        weight = self.weight
        as_stock = self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        if as_stock or x.dtype is not weight.dtype:
            return super().forward(x)
        packed = self.pack()
        return super().forward(x) if packed is None else packed_linear(x, packed, self.bias)

    def pack(self):
        """The packed copy of the weight as it is, made if it is not there; None where there is no packed product."""
        weight = self.weight
        which = (id(weight), weight.data_ptr(), None if weight.is_inference() else weight._version)
        packed = self._packed  # read once: threads may share this layer
        if packed is None or packed[0] != which:
            # The weight is kept with its copy: no other object can have its number meanwhile.
            packed = self._packed = (which, pack(weight), weight) if can_pack(weight) else None
        return None if packed is None else packed[1]

    def _apply(self, *args, **kwargs):
        self._packed = None  # the weight goes to another device or dtype
        return super()._apply(*args, **kwargs)

    def train(self, mode=True):
        if mode:
            self._packed = None
        return super().train(mode)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}  # it cannot be copied or saved
