"""Matrix products of oneDNN on a CPU, over a weight that was laid out for it once: float32, and bfloat16.

PyTorch multiplies dense float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's, and
reads a weight badly for a handful of rows; measurements in ``docs/performance.md``.
"""

import torch

from el_fairseq.internals import has_packed_bfloat16, has_packed_products, linear_pointwise, reorder_linear_weight


def can_pack(weight):
    """Whether there is a packed product for this weight, on this machine and with this PyTorch."""
    return (
        weight.device.type == "cpu"
        and weight.layout is torch.strided
        and has_packed_products()
        and (weight.dtype is torch.float32 or weight.dtype is torch.bfloat16 and has_packed_bfloat16())
    )


def pack(weight):
    """A copy of ``weight [N, K]`` in the layout that ``packed_linear`` reads fastest."""
    return reorder_linear_weight(weight.detach())


def packed_linear(x, packed, bias=None):
    """``x [..., K] · Wᵀ + bias [N]`` -> ``[..., N]``, for ``packed = pack(W)``; of one dtype, no gradients."""
    return linear_pointwise(x, packed, bias)
