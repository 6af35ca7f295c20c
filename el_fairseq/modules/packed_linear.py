"""``nn.Linear`` that multiplies by oneDNN while a model decodes on a CPU."""

import torch
from torch import nn

from el_fairseq.ops.packed import can_pack, pack, packed_linear

SMALL = 2**20  # elements of a weight that a single row is multiplied with faster as it is (docs/performance.md)


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

    _packed = None  # (which weight, its packed copy)

    def forward(self, x):
        """``[..., K] -> [..., N]``, as ``nn.Linear``."""
        weight = self.weight
        single = x.numel() == self.in_features and weight.numel() < SMALL
        if self.training or torch.is_grad_enabled() or x.dtype is not weight.dtype or single:
            return super().forward(x)
        packed = self.pack()
        return super().forward(x) if packed is None else packed_linear(x, packed, self.bias)

    def pack(self):
        """The packed copy of the weight as it is, made if it is not there; None where there is no packed product."""
        weight = self.weight
        which = (weight.data_ptr(), None if weight.is_inference() else weight._version)
        packed = self._packed
        if packed is None or packed[0] != which:
            if not can_pack(weight):
                return None
            packed = self._packed = which, pack(weight)
        return packed[1]

    def train(self, mode=True):
        if mode:
            self._packed = None
        return super().train(mode)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}  # it cannot be copied or saved
