"""Decoder steps recorded as CUDA graphs: launched at once instead of kernel by kernel.

A step of a large model is some five hundred kernels, which a GPU finishes before Python has asked for the next ones. A
recording holds for the tensors that it was made with. So it is made anew where sentences leave the batch, which they do
half a batch at a time, and where the shared past needs room, every ``ROOM`` steps.
"""

import logging
import math
import threading
import weakref
from contextlib import suppress
from functools import partial

import torch

from el_fairseq.generation.retry import is_out_of_memory

logger = logging.getLogger(__name__)
TOLERANCE = 0.02  # of the largest feature: the kernels are the same ones, a recording that fails gives anything
verdicts = weakref.WeakKeyDictionary()  # decoder -> (where it is and its dtype, whether its steps are recorded)
one_at_a_time = threading.Lock()  # captures, in a process


def recorder(device):
    """What records steps on a device, see ``record``; None where nothing can."""
    return partial(record, device=device) if device.type == "cuda" and torch.version.cuda is not None else None


def record(run, device):
    """``run()`` as a CUDA graph: a function that does the same on the same tensors again, and what ``run`` returned,
    which holds nothing before that function was called."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with one_at_a_time, torch.cuda.device(device):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                result = run()
            except BaseException:
                with suppress(RuntimeError):  # the first error says more
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, result


def whereabouts(decoder):
    """What a verdict holds for."""
    parameter = next(decoder.parameters())
    return parameter.device, parameter.dtype


class RecordedStep:
    """A ``DecoderStep`` over a ``FixedLineage``. The first recording of a decoder has to agree with the step itself.

    Args: step: the ``DecoderStep``. lineage: the ``FixedLineage`` in its state. record: what ``recorder`` gave.
    """

    def __init__(self, step, lineage, record):
        self.step, self.lineage, self.record = step, lineage, record
        self.state, self.where = step.state, whereabouts(step.decoder)
        self.seen = self.replay = None  # the tensors that the last step had; the recording for these

    def __call__(self, tokens, encoder_out):
        """As of ``DecoderStep``; the features hold until the next step."""
        x, padding = self.step.inputs(tokens)
        self.step.look_at(encoder_out)
        tensors = (self.step.source, self.lineage.foreign)
        if self.seen is None or any(a is not b for a, b in zip(self.seen, tensors)):
            # What a recording must not do, such as to try a kernel, is done once without it.
            self.seen, self.replay = tensors, None
            return self._run(x, padding)
        if self.replay is None and self._verdict() is not False:
            self._record(x, padding)
        if self.replay is None:
            return self._run(x, padding)
        self.x.copy_(x)
        self.padding.copy_(padding)
        self.replay()
        features, attention = self.result
        return features, None if attention is None else attention.clone()

    def _run(self, x, padding):
        self.lineage.begin_step(padding)
        return self.step.layers(x, None)

    def _verdict(self):
        """Whether recordings of this decoder work; None if that is not known."""
        where, works = verdicts.get(self.step.decoder, (None, None))
        return works if where == self.where else None

    def _record(self, x, padding):
        """Set ``replay``, unless that fails: then it is never tried again for this decoder."""
        decoder, before = self.step.decoder, self.lineage.foreign.clone()
        self.x, self.padding, problem = x.clone(), padding.clone(), None
        try:
            expected = self._run(x, padding)[0] if self._verdict() is None else None
            replay, self.result = self.record(lambda: self._run(self.x, self.padding))
            if expected is not None:
                self.lineage.foreign.copy_(before)  # it forgets the beams that are lost in this step
                self.result[0].fill_(math.nan)
                replay()
                problem = _difference(self.result[0], expected)
        except (RuntimeError, MemoryError) as error:  # whatever the driver or a library does not let be recorded
            if is_out_of_memory(error):
                raise
            problem = f"{type(error).__name__}: {error}"
        self.lineage.foreign.copy_(before)
        verdicts[decoder] = self.where, problem is None
        if problem is None:
            self.replay = replay
        else:
            logger.warning("decoder steps of %s are not recorded as a CUDA graph: %s", type(decoder).__name__, problem)


def _difference(actual, expected):
    """What is wrong with ``actual``, or None; elements that are infinite or NaN in both agree."""
    agree = (actual == expected) | (actual.isnan() & expected.isnan())
    error = float((actual - expected).abs().masked_fill(agree, 0.0).max())
    largest = float(expected.abs().nan_to_num(0.0, posinf=0.0).max())
    if error <= TOLERANCE * largest:
        return None
    return f"its features are off by {error:.1e} where the largest is {largest:.1e}"
