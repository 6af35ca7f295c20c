"""When the sentences that have all their hypotheses leave a batch."""

import torch


class Departures:
    """At once; or half a batch at a time, where decoder steps are recorded for so many rows (``delayed``).

    Then Python does not wait for the device either: it learns how many have ended (``known``) a step later, when the
    device has told already. Those that stay find no room for more hypotheses: nothing comes of what they go on with.
    """

    def __init__(self, delayed):
        self.delayed = delayed
        self.known = 0  # how many of the batch have ended, as far as is known
        self.told = None  # what will be known

    def due(self, ended):
        """Whether all sentences are done, and whether those in ``ended [b]`` are to leave before the next step."""
        count, sentences = ended.sum(), ended.numel()
        if self.delayed:
            before, self.told = self.told, _told(count)
            self.known = 0 if before is None else before()
            if 2 * self.known < sentences:
                return False, False
            self.known, self.told = 0, None  # of the larger batch
        count = int(count)
        return count == sentences, count > 0


def _told(number):
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
