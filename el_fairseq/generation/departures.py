"""When the sentences that have all their hypotheses leave a batch."""

import torch


class Departures:
    """At once; or half a batch at a time, where decoder steps are recorded for so many rows (``ahead``).

    Then Python does not wait for the device either: it learns how many have ended a step later, when the device has
    told already. Those that stay find no room for more hypotheses, so nothing comes of what they go on with.
    """

    def __init__(self, ahead):
        self.ahead = ahead
        self.told = None  # how many had ended a step before, and when that is known

    def due(self, ended):
        """Whether all sentences are done, and whether those in ``ended [b]`` are to leave before the next step."""
        count, sentences = ended.sum(), ended.numel()
        if self.ahead:
            before, self.told = self.told, _told(count)
            if before is None or 2 * before() < sentences:
                return False, False
            self.told = None  # it was of a larger batch
        count = int(count)
        return count == sentences, count > 0


def _told(number):
    """``number``, a tensor, on its way to the CPU: a function that returns it."""
    copy = number.to("cpu", non_blocking=True)
    if not number.is_cuda:
        return lambda: int(copy)
    arrived = torch.cuda.Event()
    arrived.record()

    def read():
        arrived.synchronize()
        return int(copy)

    return read
