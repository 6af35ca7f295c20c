"""The memory of a served model does not grow with the number of calls."""

from pathlib import Path

import pytest
from helpers.commands import run_module

CALLS, GROWTH = 600, 24  # MiB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("mode", ["auto", pytest.param("on", marks=pytest.mark.long)])
def test_memory_holds_over_many_calls(mode):
    done = run_module("helpers.serve", mode, CALLS, check=True)
    early, late = (float(line) for line in done.stdout.splitlines())
    assert late - early < GROWTH, (early, late)
