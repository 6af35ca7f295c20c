"""No kernel is trusted before it has agreed with PyTorch, on the GPU and in the variant at hand."""

import logging

import torch

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of the largest output
COMPARED = slice(0, 4)  # sentences
verified: dict[tuple, bool] = {}  # variant -> whether its kernel is used from now on


def tried(variant, kernel, reference):
    """``kernel()``; but ``reference()`` where the kernel of this ``variant`` (hashable) has failed, or differed.

    The first call of a variant does both and returns ``reference()``; the kernel's first sentences are compared with
    ``reference(sentences, torch.float32)``. A kernel that does not compile, or asks for more than the GPU has, costs
    one warning and nothing else. Running out of memory is no such failure.
    """
    if variant in verified:
        return kernel() if verified[variant] else reference()
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return reference()  # a comparison would end the capture: this graph keeps to PyTorch
    try:
        output = kernel()[COMPARED]
        problem = difference(output, reference(COMPARED, torch.float32), TOLERANCE[output.dtype])
        problem = None if problem is None else f"its output is {problem}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a driver or a missing C compiler may raise
        problem = f"{type(error).__name__}: {error}"
    verified[variant] = problem is None
    if problem is not None:
        logger.warning("PyTorch instead of the Triton kernel for %s: %s", variant[0], problem)
    return reference()


def difference(actual, expected, tolerance):
    """How far ``actual`` is off, by more than ``tolerance`` of the largest of ``expected``, or None.

    Elements that are NaN in both, or the same infinity, agree.
    """
    agree = (actual == expected) | (actual.isnan() & expected.isnan())
    error = float((actual - expected).abs().masked_fill(agree, 0.0).max())
    largest = float(expected.abs().nan_to_num(0.0, posinf=0.0).max())
    if error <= tolerance * largest:
        return None
    return f"off by {error:.1e} where the largest is {largest:.1e}"
