"""SIGKILL in the middle of the merge: units and the merged file of before are there, and the next merge is whole."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sharded_work import MERGED, new_work, printed_of


@pytest.mark.parametrize("where", ["kill-in-the-lines", "kill-before-the-rename"])
@pytest.mark.parametrize("before", [None, "of an earlier run\n"])
def test_a_killed_merge_loses_nothing(where, before, tmp_path):
    work, merged = new_work(tmp_path), tmp_path / "generate-test.txt"
    for unit in range(4):
        work.finish(unit, printed_of(work, unit))
    units = {path: path.read_bytes() for path in tmp_path.glob("unit-*.txt")}
    if before:
        merged.write_text(before)
    command = [sys.executable, Path(__file__).with_name("merging.py"), tmp_path, merged]
    assert subprocess.run([*command, where], timeout=60).returncode == -signal.SIGKILL
    assert (merged.read_text() if merged.exists() else None) == before
    assert {path: path.read_bytes() for path in tmp_path.glob("unit-*.txt")} == units
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stdout) == (0, "7\n"), again.stderr
    assert merged.read_text() == MERGED
    assert not list(tmp_path.glob("generate-test.txt.*"))  # the file of the killed one was written anew
