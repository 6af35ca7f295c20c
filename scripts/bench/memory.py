"""Memory as the benchmarks see it: a budget, the peak of one function, and what stock's decoder keeps."""

import ctypes
import gc
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from fairseq.sequence_generator import EnsembleModel

from el_fairseq.generation.memory import state_bytes

MIB = 2**20
STATUS = Path("/proc/self/status")


class MeasuredEnsemble(EnsembleModel):
    """Notes the most that stock's decoder keeps after a step."""

    peak = 0

    def forward_decoder(self, tokens, encoder_outs, incremental_states, temperature=1.0):
        result = super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)
        self.peak = max(self.peak, state_bytes(encoder_outs, incremental_states))
        return result


def release(device):
    """Give back what is free, so that what one measurement leaves is not seen by the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps freed blocks; other libraries do not


class Budget:
    """``gib`` GiB for all that PyTorch allocates on a GPU, or on Linux's CPU for private memory from now on.

    A process that is granted no more fails as one on a smaller card does. ``None`` is no limit.
    """

    def __init__(self, gib, device):
        self.device, self.bytes = device, None if gib is None else int(gib * 2**30)
        if self.bytes is None:
            return
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            if self.bytes > total:
                raise ValueError(f"--memory-budget {gib}: the GPU has {total / 2**30:.1f} GiB")
            self.fraction = self.bytes / total
        elif sys.platform == "linux":
            self.bytes += _status("VmData")
        else:
            raise ValueError(f"--memory-budget {gib}: without a GPU this needs Linux")
        self._set(True)

    def _set(self, limited):
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(self.fraction if limited else 1.0)
        else:
            import resource

            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (self.bytes if limited else hard, hard))

    @contextmanager
    def lifted(self):
        """For what is not measured, such as the hypotheses to compare with."""
        if self.bytes is not None:
            self._set(False)
        try:
            yield
        finally:
            if self.bytes is not None:
                release(self.device)
                self._set(True)


def peak_of(function, device):
    """``(result, bytes)``: what ``function()`` returns, and by how much memory rose while it ran, at most.

    On a GPU what PyTorch allocated there; on Linux's CPU resident memory of the process; elsewhere None.
    """
    release(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return function(), torch.cuda.max_memory_allocated() - before
    if not _forget_peak():
        return function(), None
    before = _status("VmRSS")
    return function(), max(0, _status("VmHWM") - before)


def _forget_peak():
    """Let Linux note the peak of resident memory anew; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name):
    return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1])
