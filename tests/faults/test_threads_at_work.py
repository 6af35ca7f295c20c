"""Four threads, one model, different batches, for a while."""

import sys

import pytest
from helpers.threads_at_work import KINDS, work


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_four_threads_decode_what_each_would_alone(kind, mode):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        counts = work(kind, mode, seconds=1)
    finally:
        sys.setswitchinterval(interval)
    assert len(counts) == 4 and min(counts) >= 1
