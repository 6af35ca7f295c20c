"""Matrix products of oneDNN on a CPU, over a weight that was laid out for it once: float32, and bfloat16.

PyTorch multiplies dense float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's, and
reads a weight badly for a handful of rows; measurements in ``docs/performance-notes.md``.
"""

import torch
import torch.nn.functional as F

from el_fairseq.internals import has_packed_bfloat16, has_packed_products, linear_pointwise, reorder_linear_weight

GRAINS = ((8, 1), (64, 8), (256, 16), (1024, 32))  # up to so many rows, a multiple of this
LARGEST_GRAIN = 64


def can_pack(weight: torch.Tensor) -> bool:
    """Whether there is a packed product for this weight, on this machine and with this PyTorch."""
    return (
        weight.device.type == "cpu"
        and weight.layout is torch.strided
        and has_packed_products()
        and (weight.dtype is torch.float32 or weight.dtype is torch.bfloat16 and has_packed_bfloat16())
    )


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A copy of ``weight [outputs, inputs]`` in the layout that ``packed_linear`` reads fastest."""
    return reorder_linear_weight(weight.detach())


def packed_linear(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x [..., inputs] · Wᵀ + bias [outputs]`` -> ``[..., outputs]``, for ``packed = pack(W)``.

    Of one dtype, no gradients.

    oneDNN compiles a product for every number of rows, in milliseconds, and does not give its memory back (about 1 MiB
    each): so some rows of zeros are added where that makes for few numbers (``round_up``).
    """
    rows = x.numel() // x.size(-1)
    missing = round_up(rows) - rows
    if missing == 0:
        return linear_pointwise(x, packed, bias)
    padded = F.pad(x.reshape(rows, -1), (0, 0, 0, missing))
    return linear_pointwise(padded, packed, bias)[:rows].view(*x.shape[:-1], -1)


def round_up(rows: int) -> int:
    """The next number of rows that products are made for."""
    grain = next((grain for limit, grain in GRAINS if rows <= limit), LARGEST_GRAIN)
    return -(-rows // grain) * grain
