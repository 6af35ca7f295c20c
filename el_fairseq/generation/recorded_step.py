"""Decoder steps recorded as CUDA graphs: launched at once instead of kernel by kernel.

A step of a large model is some five hundred kernels, which a GPU finishes before Python has asked for the next ones. A
recording holds for the tensors that it was made with. So it is made anew where sentences leave the batch, which they do
half a batch at a time, and where the shared past needs room, every ``ROOM`` steps.
"""

import logging
import weakref

import torch

logger = logging.getLogger(__name__)
TOLERANCE = 0.02  # of the largest feature: the kernels are the same ones, a recording that fails gives anything
verdicts = weakref.WeakKeyDictionary()  # decoder -> whether its steps are recorded from now on


def recorder(device):
    """What records steps on a device, see ``record``; None where nothing can."""
    return record if device.type == "cuda" and torch.version.cuda is not None else None


def record(run):
    """``run()`` as a CUDA graph: a function that does the same on the same tensors again, and what ``run`` returned."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, result


class RecordedStep:
    """A ``DecoderStep`` over a ``FixedLineage``. The first recording of a decoder has to agree with the step itself.

    Args: step: the ``DecoderStep``. lineage: the ``FixedLineage`` in its state. record: what ``recorder`` gave.
    """

    def __init__(self, step, lineage, record):
        self.step, self.lineage, self.record = step, lineage, record
        self.state = step.state
        self.seen = self.replay = None  # the tensors that the last step had; the recording for these

    def __call__(self, tokens, encoder_out):
        """As of ``DecoderStep``; what is returned holds until the next step."""
        x, padding = self.step.inputs(tokens)
        self.step.look_at(encoder_out)
        tensors = (self.step.source, self.lineage.foreign)
        if self.seen is None or any(a is not b for a, b in zip(self.seen, tensors)):
            # What a recording must not do, such as to try a kernel, is done once without it.
            self.seen, self.replay = tensors, None
            return self._run(x, padding)
        if self.replay is None and verdicts.get(self.step.decoder, True):
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

    def _record(self, x, padding):
        """Set ``replay``, unless that fails: then it is never tried again for this decoder."""
        decoder = self.step.decoder
        self.x, self.padding = x.clone(), padding.clone()
        try:
            expected = None if decoder in verdicts else self._run(x, padding)[0]
            replay, self.result = self.record(lambda: self._run(self.x, self.padding))
            problem = None
            if expected is not None:
                replay()  # a step may be taken twice: it writes the same
                problem = _difference(self.result[0], expected)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the driver or a library does not let be recorded
            problem = f"{type(error).__name__}: {error}"
        verdicts[decoder] = problem is None
        if problem is None:
            self.replay = replay
        else:
            logger.warning("decoder steps of %s are not recorded as a CUDA graph: %s", type(decoder).__name__, problem)


def _difference(actual, expected):
    """What is wrong with ``actual``, or None; elements that are NaN in both agree."""
    error = float((actual - expected).abs().masked_fill(actual.isnan() & expected.isnan(), 0).max())
    largest = float(expected.abs().nan_to_num(0.0).max())
    if error <= TOLERANCE * largest:
        return None
    return f"its features are off by {error:.1e} where the largest is {largest:.1e}"
