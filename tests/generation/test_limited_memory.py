"""Out of memory where memory really is limited: another process, and no fake."""

import sys

import pytest
from helpers.commands import run_module

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the memory of a process"),
]


def test_nothing_is_lost_where_memory_is_limited():
    """64 sentences with 4 beams and a vocabulary of 100,000 take a tensor of 102 MB."""
    result = run_module("helpers.limited_memory", timeout=120)
    assert result.stdout == "64 sentences, the same\n", result.stderr
    assert result.stderr.count("out of memory in a batch of 64 sentences, width 9: split, at most ") == 1
