"""Decoder steps as CUDA graphs: captured once and replayed, instead of launched kernel by kernel.

A step of a large model is some five hundred kernels, which a GPU finishes before Python has asked for the next ones. A
graph holds for the tensors that it was captured with. So a step is captured anew where sentences are pruned, which they
are half a batch at a time, and where the static caches need room, every ``ROOM`` steps.
"""

import functools
import logging
import math
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

import torch

from el_fairseq.generation.out_of_memory import is_out_of_memory
from el_fairseq.generation.static_rows import StaticRows
from el_fairseq.ops.kernels.trial import difference

logger = logging.getLogger(__name__)
TOLERANCE = 0.02  # of the largest feature: the kernels are the same ones, a graph that fails gives anything
verified = weakref.WeakKeyDictionary()  # decoder -> (its device and dtype, whether its first graph agreed)
one_at_a_time = threading.Lock()  # captures, in a process

Capture = Callable[[Callable], tuple[Callable, tuple]]


def capturer(device: torch.device) -> Capture | None:
    """What captures steps on a device, see ``capture``; None where there are no CUDA graphs."""
    return (
        functools.partial(capture, device=device) if device.type == "cuda" and torch.version.cuda is not None else None
    )


@functools.cache
def _stream(device):
    """Where captures run: one for all, because libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def capture(run, device):
    """``run()`` as a CUDA graph: a function that replays it on the same tensors, and what ``run`` returned, which holds
    nothing before that function was called."""
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


def device_and_dtype(decoder):
    """What a verification holds for."""
    parameter = next(decoder.parameters())
    return parameter.device, parameter.dtype


class GraphedStep:
    """A ``DecoderStep`` over ``StaticBeamCaches``, captured and replayed.

    A decoder's first graph, on a device and in a dtype, has to agree with the step itself; if it does not, or fails,
    there are no more. Where memory does not suffice for one, that part of the batch goes without.

    Args:
        step: the ``DecoderStep``.
        caches: the ``StaticBeamCaches`` in its incremental state.
        capture: what ``capturer`` gave.
        rows: the ``StaticRows`` of the step; None: its rows are those of the tokens.
    """

    def __init__(self, step, caches, capture: Capture, rows: StaticRows | None = None):
        self.step, self.caches, self.capture, self.rows = step, caches, capture, rows
        self.state, self.where = step.state, device_and_dtype(step.decoder)
        self.seen = None  # the tensors that the last step had
        self.tried = False  # whether there was a graph of these, or no memory for it
        self.x = self.padding = self.replay = self.result = None

    def __call__(self, tokens, encoder_out):
        """As of ``DecoderStep``; the features hold until the next step."""
        x, padding, rows = self.step.inputs(tokens), self.step.padding(tokens), self.rows
        self.step.set_source(encoder_out)
        if rows is None:
            return self._of_all_rows(x, padding)
        features, attention = self._of_all_rows(rows.spread(x), rows.spread(padding))
        return rows.gather(features), None if attention is None else rows.gather(attention)

    def _of_all_rows(self, x, padding):
        tensors = (self.step.source, self.caches.mask)
        if self.seen is None or any(a is not b for a, b in zip(self.seen, tensors)):
            # What a capture must not do, such as to try a kernel, is done once without it.
            self.seen, self.tried, self.replay, self.result = tensors, False, None, None
            return self._run(x, padding)
        if not self.tried and self._is_verified() is not False:
            self.tried = True
            self._capture(x, padding)
        if self.replay is None:
            return self._run(x, padding)
        self.x.copy_(x)
        self.padding.copy_(padding)
        self.replay()
        features, attention = self.result
        return features, None if attention is None else attention.clone()

    def _run(self, x, padding):
        self.caches.begin_step(padding)
        return self.step.layers(x, None)

    def _is_verified(self):
        """Whether graphs of this decoder work; None if that is not known."""
        where, works = verified.get(self.step.decoder, (None, None))
        return works if where == self.where else None

    def _capture(self, x, padding):
        """Set ``replay``, unless that fails."""
        before = self.caches.mask.clone()
        expected = self._run(x, padding)[0] if self._is_verified() is None else None
        self.x, self.padding = x.clone(), padding.clone()
        try:
            replay, self.result = self.capture(lambda: self._run(self.x, self.padding))
            self.caches.mask.copy_(before)  # it forgets the beams that are lost in this step
            problem = None if expected is None else self._problem(replay, expected)
        except (RuntimeError, MemoryError) as error:  # whatever the driver or a library does not let be captured
            if is_out_of_memory(error):
                logger.info("no memory for a CUDA graph: the steps of this part of the batch are taken without")
                return
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.caches.mask.copy_(before)
        verified[self.step.decoder] = self.where, problem is None
        if problem is None:
            self.replay = replay
        else:
            name = type(self.step.decoder).__name__
            logger.warning("decoder steps of %s are not captured as CUDA graphs: %s", name, problem)

    def _problem(self, replay, expected):
        """What is wrong with the features that ``replay`` computes, or None."""
        features = self.result[0].fill_(math.nan)
        replay()
        found = difference(features, expected, TOLERANCE)
        return None if found is None else f"its features are {found}"
