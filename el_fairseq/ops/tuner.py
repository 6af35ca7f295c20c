"""Which of several equal computations this machine does fastest: timed where it is first asked, and remembered.

What is fastest depends on the processor, on PyTorch's libraries, on shapes and on the number of rows. So nothing is
known in advance: the candidates take turns over the tensors at hand, and the process keeps to the fastest. Another
process may choose another one, whose sums are rounded in another order; ``TUNER.fixed`` keeps to the default.
"""

import time
from collections.abc import Callable, Hashable
from typing import Any

from el_fairseq.details import details_logger

logger = details_logger(__name__)
ROUNDS = 5  # at most, of all candidates in turn
PATIENCE = 0.02  # seconds after which no further round begins
GAIN = 0.9  # of the default's time is what another candidate may take at most: machines are noisy


class Tuner:
    """Choices of one process. Threads may share it: at worst two of them time the same candidates."""

    def __init__(self) -> None:
        self.fixed = False  # True: always the default, so that each run rounds alike
        self.chosen: dict[Hashable, str] = {}
        self.seconds = 0.0  # spent so far

    def choose(self, key: Hashable, candidates: dict[str, Callable[[], Any]], default: str) -> str:
        """The name of the fastest candidate.

        Args:
            key: what the choice holds for; the first call with it decides.
            candidates: what each runs; all of them give the same result, but for rounding.
            default: what is taken where none is faster by a tenth.
        """
        if self.fixed or len(candidates) == 1:
            return default
        if key not in self.chosen:
            self.chosen[key] = self._fastest(key, candidates, default)
        return self.chosen[key]

    def _fastest(self, key, candidates, default):
        began = time.perf_counter()
        for run in candidates.values():
            run()  # libraries set up what they need at the first call
        times = dict.fromkeys(candidates, float("inf"))
        for _ in range(ROUNDS):
            for name, run in candidates.items():
                start = time.perf_counter()
                run()
                times[name] = min(times[name], time.perf_counter() - start)
            if time.perf_counter() - began > PATIENCE:
                break
        best = min(times, key=times.__getitem__)
        best = best if times[best] < GAIN * times[default] else default
        took = time.perf_counter() - began
        self.seconds += took
        found = ", ".join(f"{name} {1e6 * seconds:.0f}" for name, seconds in times.items())
        message = "%s: %s (microseconds: %s; found in %.1f ms, %.0f ms for all so far)"
        logger.debug(message, key, best, found, 1e3 * took, 1e3 * self.seconds)
        return best


TUNER = Tuner()
