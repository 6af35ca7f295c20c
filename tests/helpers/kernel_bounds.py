"""What Triton's interpreter reads and writes, held against the tensors that a kernel was given."""

import importlib

import numpy
import torch


class OutOfBoundsError(AssertionError):
    """An access outside of all tensors of the launch."""


def watch_bounds(patch):
    """From now on every load and store of an interpreted kernel has to lie in a tensor that it was given, and no launch
    writes one place twice, which programs of a GPU would do in any order.

    patch: a ``pytest.MonkeyPatch``.

    Returns a list that grows with each access.
    """
    interpreter = importlib.import_module("triton.runtime.interpreter")
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, launch = builder.create_masked_load, builder.create_masked_store, executor.__call__
    watch = _Watch()

    def watched_load(self, ptrs, mask, *others):
        watch.note("load", ptrs, mask)
        return load(self, ptrs, mask, *others)

    def watched_store(self, ptrs, value, mask, *others):
        watch.note("store", ptrs, mask)
        return store(self, ptrs, value, mask, *others)

    def watched_launch(self, *given, **named):
        watch.begin([x for x in (*given, *named.values()) if torch.is_tensor(x)])
        return launch(self, *given, **named)

    patch.setattr(builder, "create_masked_load", watched_load)
    patch.setattr(builder, "create_masked_store", watched_store)
    patch.setattr(executor, "__call__", watched_launch)
    return watch.accesses


class _Watch:
    def __init__(self):
        self.accesses, self.extents, self.written = [], numpy.empty((0, 2)), set()

    def begin(self, tensors):
        self.extents = numpy.array([(x.data_ptr(), _end(x)) for x in tensors if x.numel()], dtype=numpy.uint64)
        self.written = set()

    def note(self, what, ptrs, mask):
        places = ptrs.data[mask.data.astype(bool)].astype(numpy.uint64).reshape(-1, 1)
        size = numpy.uint64(ptrs.get_element_ty().primitive_bitwidth // 8)
        inside = (places >= self.extents[:, 0]) & (places + size <= self.extents[:, 1])
        if not inside.any(axis=1).all():
            raise OutOfBoundsError(f"{what} outside of every tensor")
        if what == "store":
            new = set(places.flatten().tolist())
            if len(new) < places.size or new & self.written:
                raise OutOfBoundsError("two stores to one place")
            self.written |= new
        self.accesses.append((what, places.size))


def _end(x):
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    return x.data_ptr() + (last + 1) * x.element_size()
