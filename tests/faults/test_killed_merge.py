"""SIGKILL in the middle of the merge: units and the merged file of before are there, and the next merge is whole."""

import signal

import pytest
from helpers.commands import run_module
from helpers.sharded_work import MERGED, new_work, printed_of


@pytest.mark.parametrize("where", ["kill-in-the-lines", "kill-before-the-rename"])
@pytest.mark.parametrize("before", [None, "of an earlier run\n"])
def test_a_killed_merge_loses_nothing(where, before, tmp_path):
    work, merged = new_work(tmp_path), tmp_path / "generate-test.txt"
    for unit in range(4):
        work.finish(unit, printed_of(work, unit))
    units = {path: path.read_bytes() for path in tmp_path.glob("unit-*.txt")}
    if before:
        merged.write_text(before)
    merging = "helpers.merging", tmp_path, merged
    assert run_module(*merging, where, timeout=60).returncode == -signal.SIGKILL
    assert (merged.read_text() if merged.exists() else None) == before
    assert {path: path.read_bytes() for path in tmp_path.glob("unit-*.txt")} == units
    again = run_module(*merging, timeout=60)
    assert (again.returncode, again.stdout) == (0, "7\n"), again.stderr
    assert merged.read_text() == MERGED
    assert not list(tmp_path.glob("generate-test.txt.*"))  # the file of the killed one was written anew
