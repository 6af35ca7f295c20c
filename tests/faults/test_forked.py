"""A worker that is forked after decoding answers as its parent does; stock's waits for threads that are not there."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks")]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_decodes(threads):
    command = [sys.executable, Path(__file__).with_name("forking.py"), str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "the same\n", result.stderr
    assert ("had decoded with 2 threads, which are lost: it decodes with one thread" in result.stderr) == (threads > 1)
