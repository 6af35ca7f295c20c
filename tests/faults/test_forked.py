"""A worker that is forked after decoding answers as its parent does; stock's waits for threads that are not there."""

import sys

import pytest
from helpers.commands import run_module

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks")]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_decodes(threads):
    result = run_module("helpers.forking", str(threads), timeout=60)
    assert result.stdout == "the same\n", result.stderr
    assert ("had decoded with 2 threads, which are lost: it decodes with one thread" in result.stderr) == (threads > 1)
