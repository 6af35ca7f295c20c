"""Attention while decoding, by a Triton kernel where one serves, by PyTorch everywhere else.

``triton`` comes with PyTorch for CUDA. PyTorch computes without it, on a CPU, in float32 (the kernel's tiles are small
then; what they would gain is not known), for a width or a GPU that a kernel does not fit, and wherever gradients are
wanted. A kernel has to prove itself before it is used, see ``trial``.
"""

from importlib.util import find_spec

import torch

from el_fairseq.ops.kernels.trial import tried
from el_fairseq.ops.shared_kv import shared_kv_attention

DTYPES = (torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)  # compute capability: the first with asynchronous copies and bfloat16
WIDEST_HEAD = 256  # columns of a key: more than that a program of the ancestral kernel would not keep in registers


def hidden_attention(query, hidden, mask=None, *, ancestors=None, softmax_dtype=torch.float32):
    """``softmax(query · hiddenᵀ + mask) · hidden``: ``shared_kv_attention`` where only the output is wanted.

    Args:
        query: ``[B, R, D]``, already scaled.
        hidden: ``[B, S, D]``; with ``ancestors``, ``[B', S', D]`` of at least S tokens.
        mask: as of ``shared_kv_attention``.
        ancestors: ``[B, S]`` integers: token j of what i attends to is ``hidden[ancestors[i, j], j]``; or None.
        softmax_dtype: dtype of the softmax, where PyTorch computes.

    Returns:
        ``[B, R, D]``.
    """

    def by_pytorch(part=slice(None), dtype=query.dtype):
        kept = hidden[part] if ancestors is None else _gather(hidden.unsqueeze(1), ancestors[part]).squeeze(1)
        kept, left_out = kept.to(dtype), None if mask is None else mask[part]
        return shared_kv_attention(query[part].to(dtype), kept, kept, left_out, softmax_dtype=softmax_dtype)[0]

    if not (_served(query, hidden) and _is_padding(mask, query) and _side_by_side(mask, ancestors)):
        return by_pytorch()
    from el_fairseq.ops.kernels import fused

    b, rows, dim = query.shape
    device = torch.cuda.get_device_properties(query.device)
    launch = fused.launch_for(rows, dim, query.element_size(), device.shared_memory_per_block_optin)
    if launch is None:
        return by_pytorch()
    length = hidden.size(1) if ancestors is None else ancestors.size(1)
    stretches = fused.stretches_for(b, rows, length, launch, device.multi_processor_count)
    variant = (
        "fused attention",
        query.device,
        query.dtype,
        launch,
        mask is not None,
        ancestors is not None,
        stretches > 1,
    )
    return tried(variant, lambda: fused.fused_attention(query, hidden, launch, stretches, mask, ancestors), by_pytorch)


def ancestral_attention(query, key, value, ancestors, padding=None, *, softmax_dtype=torch.float32):
    """One step of self-attention for N hypotheses whose keys and values stay where they were written.

    When beams reorder, only ``ancestors`` follows: ``ancestors[i, j]`` is the row that wrote position j of what is now
    hypothesis i.

    Args:
        query: ``[N, H, C]``, already scaled.
        key, value: ``[N', K, S, C]`` and ``[N', K, S, C']`` of K heads, each shared by ``H / K`` query heads; S may be
            more than there are positions.
        ancestors: ``[N, t]`` integers, rows of ``key`` and ``value``.
        padding: ``[N, t]`` boolean, True where a position is left out, or None.
        softmax_dtype: dtype of the softmax, where PyTorch computes.

    Returns:
        ``[N, H, C']``.
    """

    def by_pytorch(part=slice(None), dtype=query.dtype):
        n, heads, c = query[part].shape
        kept = (_gather(x, ancestors[part]).flatten(0, 1).to(dtype) for x in (key, value))  # [N·K, t, C]
        mask = None if padding is None else padding[part].repeat_interleave(key.size(1), dim=0)
        grouped = query[part].reshape(n * key.size(1), -1, c).to(dtype)  # [N, H, C] -> [N·K, H/K, C]
        return shared_kv_attention(grouped, *kept, mask, softmax_dtype=softmax_dtype)[0].view(n, heads, -1)

    dim = query.size(-1)
    fits = key.size(-1) == value.size(-1) == dim <= WIDEST_HEAD and _side_by_side(ancestors, padding)
    if not (fits and _served(query, key, value)):
        return by_pytorch()
    from el_fairseq.ops.kernels import ancestral

    variant = "ancestral attention", query.device, query.dtype, dim, query.size(1) // key.size(1), padding is not None
    return tried(variant, lambda: ancestral.ancestral_attention(query, key, value, ancestors, padding), by_pytorch)


def _gather(kept, ancestors):
    """``[N', K, S, C]`` and ``[N, t]`` -> ``[N, K, t, C]``, copied."""
    places = torch.arange(ancestors.size(1), device=ancestors.device)
    return kept.transpose(1, 2)[ancestors.long(), places].transpose(1, 2)


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
