"""Out of memory where memory really is limited: another process, and no fake."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS"),
]


def translate(sentences, mib):
    command = [sys.executable, Path(__file__).with_name("limited_memory.py"), str(sentences), str(mib)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_nothing_is_lost_where_memory_is_limited():
    """64 sentences with 4 beams and a vocabulary of 20,000 take three tensors of 20 MB at a time."""
    whole, parts = translate(64, -1), translate(64, 40)
    assert whole.returncode == parts.returncode == 0, parts.stderr
    assert parts.stdout == whole.stdout and len(whole.stdout.splitlines()) == 128
    assert parts.stderr.count("out of memory in a batch of 64 sentences, width 9: split, at most ") == 1
    assert "out of memory" not in whole.stderr


def test_no_memory_for_one_sentence_says_what_to_do():
    result = translate(8, 0)
    assert result.returncode == 1
    assert "OutOfMemoryError: a single sentence does not fit into memory" in result.stderr
