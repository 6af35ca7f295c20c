"""CUDA graphs, imitated on a CPU: what was computed once is computed again, on the same tensors, without Python.

A graph holds the operators that PyTorch carried out, with the very tensors that they read and wrote. It knows
nothing of what Python did meanwhile, and no operator in it may wait for a value.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from el_fairseq.cache import static
from el_fairseq.generation import plan

WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select", "_unique2"}


class WaitsForAValueError(RuntimeError):
    """What the driver says of an operator that a graph cannot hold."""


class _Capture(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _waits(func, args):
            raise WaitsForAValueError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.calls:
            given = [x for x in tree_leaves((args, kwargs)) if torch.is_tensor(x) and not x.is_mkldnn]
            owned = {x.untyped_storage().data_ptr() for x in given}
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again)):
                # Views and what is written in place are there already; anything else goes to where it was captured.
                if torch.is_tensor(old) and old.untyped_storage().data_ptr() not in owned:
                    old.copy_(new)


def _waits(func, args):
    """Whether an operator needs a value, or a shape that depends on values, before Python goes on."""
    name = func.overloadpacket.__name__
    indices = tree_leaves(args[1]) if name in ("index", "index_put_", "index_put") else []
    return name in WAITS or any(torch.is_tensor(x) and x.dtype == torch.bool for x in indices)


def capture(run):
    """As ``el_fairseq.generation.cuda_graph.capture``, where a capture computes nothing: here its result is spoilt
    afterwards. What it wrote to tensors there were before stays, and no tensor that it reads can be freed too early.
    """
    captured = _Capture()
    with captured:
        result = run()
    for out in tree_leaves(result):
        if torch.is_tensor(out):
            out.fill_(float("nan"))
    return captured.replay, result


def imitate_graphs(patch):
    """Capture every step that can be, with little room, so that it has to be done again.

    patch: a ``pytest.MonkeyPatch``.

    Returns a list that grows by one with each capture.
    """
    made = []

    def counted(run):
        made.append(run)
        return capture(run)

    patch.setattr(plan, "capturer", lambda device: counted)
    patch.setattr(static, "ROOM", 5)
    return made


class Waits(TorchDispatchMode):
    """Counts the operators that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += _waits(func, args)
        return func(*args, **(kwargs or {}))
