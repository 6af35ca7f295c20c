"""The output layer of a decoder while few rows are decoded on a CPU."""

import torch
from torch import nn

ROWS = range(2, 9)  # so few, and yet not a vector (docs/performance.md has the measurements)
CACHED = 2**25  # bytes; a smaller weight may stay in a cache, and nothing is gained


class FewRowsLinear(nn.Linear):
    """``nn.Linear`` that reads a large weight at the speed of memory also for a handful of rows.

    ``x [n, K] · Wᵀ`` takes a kernel that is made for many rows; ``W · xᵀ`` is the same sums and, for 2 to 8 rows in
    float32 on a CPU, 1.3 to 4 times faster.
    """

    def forward(self, x):
        """``[..., K] -> [..., V]``, as ``nn.Linear``."""
        rows = x.numel() // self.in_features
        pays = rows in ROWS and x.device.type == "cpu" and x.dtype is torch.float32 and self.weight.nbytes >= CACHED
        if self.training or not pays:
            return super().forward(x)
        y = torch.mm(self.weight, x.reshape(rows, -1).t()).t().contiguous()  # [V, n] -> [n, V]
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)
