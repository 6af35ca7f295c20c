"""Matrix products of oneDNN, over a weight that was laid out for it once: float32 on a CPU.

PyTorch multiplies dense float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's, and
reads a weight badly for a handful of rows; measurements in ``docs/performance.md``.
"""

import torch


def can_pack(weight):
    """Whether there is a packed product for this weight, on this machine and with this PyTorch."""
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and weight.layout is torch.strided
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack(weight):
    """A copy of ``weight [N, K]`` in the layout that ``packed_linear`` reads fastest."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def packed_linear(x, packed, bias=None):
    """``x [..., K] · Wᵀ + bias [N]`` -> ``[..., N]``, for ``packed = pack(W)``; float32, no gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
