"""How generation goes: a line at its end and, in TensorBoard, a point for every batch."""

import logging
import resource
import sys
import time
from typing import Any

import torch

from el_fairseq.generation.memory import MIB, StateMeter

logger = logging.getLogger(__name__)
FLUSH_SECONDS = 5  # after which what was logged is in the file


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors on a GPU took since its statistics were reset; on a CPU, that this process had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class GenerationStatistics:
    """Follows one generator batch by batch.

    A sentence counts the tokens of its best hypothesis, end-of-sentence included, as in fairseq's own report. Several
    threads may share a generator; two that end at the same moment may be counted as one.

    Args:
        meter: the generator's ``StateMeter``.
    """

    def __init__(self, meter: StateMeter):
        self.meter = meter
        self.folder: str | None = None
        self._writer: Any = None
        self.sentences = self.tokens = self.peak = 0
        self.seconds = 0.0
        self.device = torch.device("cpu")  # of the last batch

    def log_to(self, folder: str) -> None:
        """Write event files for TensorBoard into ``folder``, from the next batch on."""
        self.folder = folder

    def start(self, sample: dict) -> "_RunningBatch":
        """Begin the batch ``sample``; ``finish`` of what is returned is called when it has ended."""
        self.device = _device_of(sample["net_input"])
        if self.folder is not None:
            self.meter.recent = (0, 0)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
        return _RunningBatch(self)

    def count(self, sentences: int, tokens: int, seconds: float) -> None:
        """Take note of a batch that has ended.

        Args:
            sentences: how many it had.
            tokens: of their best hypotheses.
            seconds: that it took.
        """
        peak = peak_memory(self.device)
        self.sentences += sentences
        self.tokens += tokens
        self.seconds += seconds
        self.peak = max(self.peak, peak)
        if self.folder is None:
            return
        measured, stock = self.meter.recent
        points = {
            "sentences": sentences,
            "sentences_per_second": sentences / seconds,
            "tokens_per_second": tokens / seconds,
            "decoder_state_MiB": measured / MIB,
            "stock_decoder_state_MiB": stock / MIB,
            "peak_memory_MiB": peak / MIB,
        }
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely needed

            self._writer = SummaryWriter(self.folder, flush_secs=FLUSH_SECONDS)
        for name, value in points.items():
            self._writer.add_scalar(f"generation/{name}", value, global_step=self.sentences)

    def report(self) -> None:
        """Log what it all came to, and close TensorBoard's file; nothing if nothing was generated."""
        self.meter.report()
        if self._writer is not None:
            self._writer.close()
        if self.sentences == 0:
            return
        logger.info(
            "generated %.2f sentences/s, %.2f tokens/s; peak memory %.1f MiB (%s)",
            self.sentences / self.seconds,
            self.tokens / self.seconds,
            self.peak / MIB,
            "tensors on the GPU" if self.device.type == "cuda" else "the whole process",
        )


class _RunningBatch:
    def __init__(self, statistics: GenerationStatistics):
        self.statistics, self.start = statistics, time.perf_counter()

    def finish(self, hypotheses: list[list[dict]]) -> list[list[dict]]:
        """Take note of the ``hypotheses``, and return them."""
        tokens = sum(len(best["tokens"]) for best, *_ in hypotheses)
        self.statistics.count(len(hypotheses), tokens, time.perf_counter() - self.start)
        return hypotheses


def _device_of(net_input: dict) -> torch.device:
    return next(value.device for value in net_input.values() if torch.is_tensor(value))
