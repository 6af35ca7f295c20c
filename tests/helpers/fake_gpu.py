"""A GPU that is not there: fake tensors on ``cuda:0``, with shapes, dtypes and devices, but without values.

An operator that mixes devices raises, as on a GPU. Where Python needs a value, or a shape that depends on values, it
would wait for a GPU: that is noted with its place in the code, and an answer is made up. So this shows where code goes
and what it asks for, never whether what it computes is right.
"""

import ctypes
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import el_fairseq
from el_fairseq import stock
from el_fairseq.cache import static
from el_fairseq.generation import plan

DEVICE = torch.device("cuda:0")
VALUES = {"_local_scalar_dense", "is_nonzero", "item", "equal"}
COPIES = {"_to_copy", "copy_", "_copy_from"}
NO_KERNELS = {"device", "lift_fresh", "detach", "alias", "_unsafe_view", "_reshape_alias", "resize_"}
NO_KERNELS |= {"empty", "new_empty", "empty_like", "empty_strided"}
PACKAGES = {"el_fairseq": Path(el_fairseq.__file__).parent, "fairseq": Path(sys.modules["fairseq"].__file__).parent}


class MayNotWaitError(RuntimeError):
    """A wait while steps are captured."""


class Watch(TorchDispatchMode):
    """Notes each wait for the GPU as ``(what, place)``, and counts the operators that start a kernel.

    answers: ``{part of a place: value}``, what Python is told there; at the end of a batch 1, elsewhere 0 or False.
    """

    def __init__(self, answers=None):
        super().__init__()
        self.waits, self.launches = Counter(), 0
        self.captures, self.capturing = 0, False
        self.answers = {"hypotheses.py: to_lists": 1, "history.py: follow": 1, **(answers or {})}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        on_gpu = any(x.device.type == "cuda" for x in tree_leaves((args, kwargs)) if torch.is_tensor(x))
        if name in VALUES:
            return self._value(name, args, on_gpu)
        if name in ("nonzero", "nonzero_numpy"):
            self._note("nonzero", on_gpu)
            found = args[0].size(0) - on_gpu  # one fewer, so that something leaves
            columns = args[0].new_zeros((args[0].dim(), max(1, found)), dtype=torch.long)
            return columns.t() if name == "nonzero" else list(columns)
        if name == "masked_select":
            self._note(name, on_gpu)
            return args[0].new_zeros(torch.broadcast_shapes(args[0].shape, args[1].shape).numel())
        if name in ("index", "index_put_", "index_put") and any(map(_is_mask, args[1])):
            self._note("index by booleans", on_gpu)
            return func(args[0], list(_places(args[1])), *args[2:], **kwargs)
        result = func(*args, **kwargs)
        devices = {x.device.type for x in tree_leaves((args, kwargs, result)) if torch.is_tensor(x)}
        if name in COPIES and devices == {"cpu", "cuda"}:
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))
            self._note("copy", waits)
        self.launches += "cuda" in devices and not func.is_view and name not in NO_KERNELS
        return result

    def _value(self, name, args, on_gpu):
        place = self._note("value", on_gpu)
        for part, value in self.answers.items():
            if part in place:
                return value
        return name == "equal" or (0.0 if args[0].is_floating_point() else 0)

    def _note(self, what, waits=True):
        place = _place()
        if waits:
            if self.capturing:
                raise MayNotWaitError(f"{what} at {place} while a step is captured")
            self.waits[what, place] += 1
        return place


def _is_mask(x):
    return torch.is_tensor(x) and x.dtype == torch.bool


def _places(indices):
    """Numbers instead of masks, one for each place along the first axis of a mask."""
    for x in indices:
        if _is_mask(x):
            yield from [x.new_zeros((x.size(0),), dtype=torch.long)] * x.dim()
        else:
            yield x


def _place():
    """``package/file.py: function`` of the innermost frame in one of ``PACKAGES``, this one first."""
    found, frame = {}, sys._getframe(2)
    while frame is not None:
        for package, folder in PACKAGES.items():
            if frame.f_code.co_filename.startswith(f"{folder}/"):
                path = Path(frame.f_code.co_filename).relative_to(folder)
                found.setdefault(package, f"{package}/{path}: {frame.f_code.co_name}")
        frame = frame.f_back
    return next(iter(found.values()), "elsewhere")


class _Event:
    """``torch.cuda.Event``: whoever waits for one is told at once, which is not noted: it is an earlier step's."""

    def record(self, stream=None):
        pass

    def synchronize(self):
        pass


def _capture(watch):
    """A ``capturer``: the step runs once, and may not wait; its replay is one launch."""

    def capture(run):
        watch.captures += 1
        before, watch.capturing = watch.launches, True
        try:
            result = run()
        finally:
            watch.capturing, watch.launches = False, before

        def replay():
            watch.launches += 1

        return replay, result

    return lambda device: capture


@contextmanager
def fake_gpu(answers=None, captures=True):
    """Within, ``cuda:0`` is there. Yields the ``Watch``.

    captures: whether steps are captured as graphs, where the plan allows it.
    """
    watch = Watch(answers)
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True), watch:
        _let_devices_be_chosen(patch)
        for name, value in {
            "Event": _Event,
            "current_stream": lambda device=None: None,
            "current_device": lambda: 0,
            "get_rng_state": lambda device=None: None,
            "set_rng_state": lambda state, device=None: None,
            "mem_get_info": lambda device=None: (2**36, 2**37),
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "get_device_capability": lambda device=None: (9, 0),
            "empty_cache": lambda: None,
        }.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.version, "cuda", None)  # no kernel of Triton's can be launched
        # fake tensors cannot be copied to a device in inference mode
        patch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext())
        patch.setattr(plan, "capturer", _capture(watch) if captures else lambda device: None)
        patch.setattr(static, "ROOM", 1024)
        patch.setattr(stock, "PLAIN_WEIGHTS", {*stock.PLAIN_WEIGHTS, FakeTensor})
        yield watch


def _let_devices_be_chosen(patch):
    """PyTorch without CUDA cannot choose a CUDA device, which indexing and copying do first. The guard of the device
    ``meta``, which does nothing, takes that place in the table of guards."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # c10::DeviceType
    assert guards[meta], "PyTorch numbers its devices anew"
    patch.setitem(_Slots(guards), cuda, guards[meta])


class _Slots:
    """A ctypes array, as ``MonkeyPatch.setitem`` wants it."""

    def __init__(self, array):
        self.array = array

    def get(self, key, default=None):
        return self.array[key]

    def __setitem__(self, key, value):
        self.array[key] = value


def on_gpu(value):
    """A sample, or a module in place, on the fake GPU; parameters get no values."""
    if isinstance(value, torch.nn.Module):
        for module in value.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update({name: _empty(x) for name, x in tensors.items() if x is not None})
        return value
    return tree_map(lambda x: _empty(x) if torch.is_tensor(x) else x, value)


def _empty(x):
    empty = torch.empty(tuple(x.shape), dtype=x.dtype, device=DEVICE)
    return torch.nn.Parameter(empty, requires_grad=False) if isinstance(x, torch.nn.Parameter) else empty
