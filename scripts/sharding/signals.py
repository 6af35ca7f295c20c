"""Signals that stop the command: raised as Interrupted, but not in the middle of what would lose track of a worker."""

import signal
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal, which is ``args[0]``, asked the command to stop."""


class Interruptions:
    """While entered, one of ``NUMBERS`` raises Interrupted, once; further ones are ignored."""

    def __init__(self):
        self._is_held, self._came = False, None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._interrupt) for number in NUMBERS}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self):
        """What comes meanwhile is raised at the end."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._came is not None:
                raise Interrupted(self._came)

    def _interrupt(self, number, frame):
        for each in NUMBERS:
            signal.signal(each, signal.SIG_IGN)
        self._came = number
        if not self._is_held:
            raise Interrupted(number)
