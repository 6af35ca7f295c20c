"""Attention while decoding, by a Triton kernel where one serves, by PyTorch everywhere else.

``triton`` comes with PyTorch for CUDA. PyTorch computes without it, on a CPU, in float32 (the kernel's tiles are small
then; what they would gain is not known), for a width or a GPU that a kernel does not fit, and wherever gradients are
wanted. A kernel has to prove itself before it is used, see ``trial``.
"""

from importlib.util import find_spec
from typing import Any

import torch

from el_fairseq.ops.kernels.trial import tried
from el_fairseq.ops.shared_kv import shared_kv_attention

DTYPES = (torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)  # compute capability: the first with asynchronous copies and bfloat16


def hidden_attention(query: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """``softmax(query · hiddenᵀ + mask) · hidden``: ``shared_kv_attention`` where only the output is wanted.

    Args:
        query: ``[B, R, D]``, already scaled.
        hidden: ``[B, S, D]``.
        mask: as of ``shared_kv_attention``.

    Returns:
        ``[B, R, D]``.
    """
    if not (_served(query, hidden) and _is_padding(mask, query) and _side_by_side(mask)):
        return shared_kv_attention(query, hidden, hidden, mask)[0]
    from el_fairseq.ops.kernels import fused

    b, rows, dim = query.shape
    device: Any = torch.cuda.get_device_properties(query.device)  # PyTorch's types lack what it has
    launch = fused.launch_for(rows, dim, query.element_size(), device.shared_memory_per_block_optin)
    if launch is None:
        return shared_kv_attention(query, hidden, hidden, mask)[0]

    def by_pytorch(part=slice(None), dtype=query.dtype):
        states, left_out = hidden[part].to(dtype), None if mask is None else mask[part]
        return shared_kv_attention(query[part].to(dtype), states, states, left_out)[0]

    splits = fused.splits_for(b, rows, hidden.size(1), launch, device.multi_processor_count)
    variant = (
        "fused attention",
        query.device,
        query.dtype,
        launch,
        mask is not None,
        splits > 1,
    )
    return tried(variant, lambda: fused.fused_attention(query, hidden, launch, splits, mask), by_pytorch)


def _served(*tensors):
    """Whether these may go to a kernel at all."""
    first = tensors[0]
    return (
        first.is_cuda
        and first.numel() > 0
        and torch.version.cuda is not None
        and first.device.index == torch.cuda.current_device()  # where Triton launches
        and all(x.dtype == first.dtype for x in tensors)
        and _side_by_side(*tensors)
        and first.dtype in DTYPES
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(first.device) >= CAPABILITY
    )


def _is_padding(mask, query):
    return mask is None or (mask.dtype == torch.bool and mask.dim() == 2 and mask.size(0) == query.size(0))


def _side_by_side(*tensors):
    """Whether columns of these, of those that are not None, follow each other in memory."""
    return all(x is None or x.stride(-1) == 1 for x in tensors)
