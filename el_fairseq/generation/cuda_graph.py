"""Decoder steps recorded as CUDA graphs: launched at once instead of kernel by kernel.

A step of a large model is some five hundred kernels, which a GPU finishes before Python has asked for the next ones. A
recording holds for the tensors that it was made with. So it is made anew where sentences leave the batch, which they do
half a batch at a time, and where the shared past needs room, every ``ROOM`` steps.
"""

import functools
import logging
import math
import threading
import weakref
from contextlib import suppress

import torch

from el_fairseq.generation.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)
TOLERANCE = 0.02  # of the largest feature: the kernels are the same ones, a recording that fails gives anything
verdicts = weakref.WeakKeyDictionary()  # decoder -> (where it is and its dtype, whether its steps are recorded)
one_at_a_time = threading.Lock()  # captures, in a process


def recorder(device):
    """What records steps on a device, see ``record``; None where nothing can."""
    return (
        functools.partial(record, device=device) if device.type == "cuda" and torch.version.cuda is not None else None
    )


@functools.cache
def _stream(device):
    """Where captures run: one for all, because libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def record(run, device):
    """``run()`` as a CUDA graph: a function that does the same on the same tensors again, and what ``run`` returned,
    which holds nothing before that function was called."""
    graph, stream = torch.cuda.CUDAGraph(), _stream(device)
    with one_at_a_time, torch.cuda.device(device):
        torch.cuda.empty_cache()  # a capture has memory of its own, and cannot take what is kept for others
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
    """A ``DecoderStep`` over a ``FixedLineage``. A decoder's first recording, on a device and in a dtype, has to agree
    with the step itself; if it does not, or fails, there are no more. Where memory does not suffice for one, that
    part of the batch goes without.

    Args: step: the ``DecoderStep``. lineage: the ``FixedLineage`` in its state. record: what ``recorder`` gave.
    """

    def __init__(self, step, lineage, record):
        self.step, self.lineage, self.record = step, lineage, record
        self.state, self.where = step.state, whereabouts(step.decoder)
        self.seen = None  # the tensors that the last step had
        self.tried = False  # whether there was a recording of these, or no memory for it
        self.x = self.padding = self.replay = self.result = None

    def __call__(self, tokens, encoder_out):
        """As of ``DecoderStep``; the features hold until the next step."""
        x, padding = self.step.inputs(tokens)
        self.step.look_at(encoder_out)
        tensors = (self.step.source, self.lineage.foreign)
        if self.seen is None or any(a is not b for a, b in zip(self.seen, tensors)):
            # What a recording must not do, such as to try a kernel, is done once without it.
            self.seen, self.tried, self.replay, self.result = tensors, False, None, None
            return self._run(x, padding)
        if not self.tried and self._verdict() is not False:
            self.tried = True
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
        """Set ``replay``, unless that fails."""
        before = self.lineage.foreign.clone()
        expected = self._run(x, padding)[0] if self._verdict() is None else None
        self.x, self.padding = x.clone(), padding.clone()
        try:
            replay, self.result = self.record(lambda: self._run(self.x, self.padding))
            self.lineage.foreign.copy_(before)  # it forgets the beams that are lost in this step
            problem = None if expected is None else self._problem(replay, expected)
        except (RuntimeError, MemoryError) as error:  # whatever the driver or a library does not let be recorded
            if is_out_of_memory(error):
                return
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.lineage.foreign.copy_(before)
        verdicts[self.step.decoder] = self.where, problem is None
        if problem is None:
            self.replay = replay
        else:
            name = type(self.step.decoder).__name__
            logger.warning("decoder steps of %s are not recorded as a CUDA graph: %s", name, problem)

    def _problem(self, replay, expected):
        """What is wrong with the features that ``replay`` computes, or None."""
        features = self.result[0].fill_(math.nan)
        replay()
        return _difference(features, expected)


def _difference(actual, expected):
    """What is wrong with ``actual``, or None; elements that are infinite or NaN in both agree."""
    agree = (actual == expected) | (actual.isnan() & expected.isnan())
    error = float((actual - expected).abs().masked_fill(agree, 0.0).max())
    largest = float(expected.abs().nan_to_num(0.0, posinf=0.0).max())
    if error <= TOLERANCE * largest:
        return None
    return f"its features are off by {error:.1e} where the largest is {largest:.1e}"
