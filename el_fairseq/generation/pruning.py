"""When the sentences that have all their hypotheses are pruned from a batch."""

from collections.abc import Callable

import torch


class Pruning:
    """At once; or ``late``, half a batch at a time, where decoder steps are captured for so many rows.

    Then Python does not wait for the device either: it learns how many have ended (``known``) a step later, when the
    device has told already. Those that stay find no room for more hypotheses: nothing comes of what they go on with.
    """

    def __init__(self, late: bool):
        self.late = late
        self.known = 0  # how many of the batch have ended, as far as is known
        self._told: Callable[[], int] | None = None  # what will be known

    def due(self, ended: torch.Tensor) -> tuple[bool, bool]:
        """Whether all sentences are done, and whether those in ``ended [b]`` are pruned before the next step."""
        count, sentences = ended.sum(), ended.numel()
        if self.late:
            before, self._told = self._told, _on_its_way(count)
            self.known = 0 if before is None else before()
            if 2 * self.known < sentences:
                return False, False
            self.known, self._told = 0, None  # of the larger batch
        count = int(count)
        return count == sentences, count > 0


def _on_its_way(number):
    """``number``, a tensor, on its way to the CPU: a function that returns it."""
    copy = number.to("cpu", non_blocking=True)
    if not number.is_cuda:
        return lambda: int(copy)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(number.device))

    def read():
        arrived.synchronize()
        return int(copy)

    return read
