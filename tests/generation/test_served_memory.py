"""The memory of a served model does not grow with the number of calls."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVE = Path(__file__).parent / "serve.py"
CALLS, GROWTH = 600, 24  # MiB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_memory_holds_over_many_calls(mode):
    done = subprocess.run([sys.executable, SERVE, mode, str(CALLS)], capture_output=True, text=True, check=True)
    early, late = (float(line) for line in done.stdout.splitlines())
    assert late - early < GROWTH, (early, late)
