"""Results that cannot be written, for lack of room or of permission: what is done is kept, and the option is named."""

import ctypes
import os
import re
import subprocess
import sys

import pytest
from helpers.commands import BIN, PYTHON_PATH, ROOT, generate, lines_of
from helpers.sharded_runs import SCRIPT, Sharded, in_source_order
from helpers.sharded_work import new_work, printed_of

pytestmark = pytest.mark.slow
SEARCH = "--task el_translation --beam 4 --nbest 4 --batch-size 15 --min-len 1 --match-source-len"
CURE = "what is done is kept: make room or allow writing there, and run the same command again"


def run(command, **options):
    """Exit status, and what it printed."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "timeout": 120}
    done = subprocess.run(command, **both, **options)
    return done.returncode, done.stdout


def run_limited(kib, command, **options):
    """The same where each file that ``command``, and what it starts, writes may have ``kib`` KiB."""
    return run(["bash", "-c", f'ulimit -f {kib}; exec "$0" "$@"', *map(str, command)], **options)


def without_privileges():
    """Of a child: permissions count for root too (PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1)


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.long
def test_sharded_generation_goes_on_when_there_is_room_again(data, checkpoint, tmp_path):
    """Units grow with their sentences, and the first ones have room."""
    sharded = Sharded(data, checkpoint, tmp_path, shards=1, options=f"{SEARCH} --units 4")
    status, printed = run_limited(8, [SCRIPT, *sharded.arguments], env=sharded.environment)
    before = sharded.done()
    assert status == 1 and 0 < len(before) < 4, printed
    assert re.search(rf"--results-path {tmp_path}: worker \S+ could not write its results; {CURE}; the end of", printed)
    assert "queued again" not in printed  # no other worker could write either
    assert not sharded.merged.exists() and not sharded.pids()
    sharded.run()
    assert sharded.done().items() > before.items()
    assert sharded.merged.read_text() == in_source_order(
        lines_of(generate(data, checkpoint, SEARCH, "--el-products fixed"))
    )


def test_a_merged_file_without_room_is_none_at_all(tmp_path):
    work, merged = new_work(tmp_path), tmp_path / "generate-test.txt"
    for unit in range(4):
        work.finish(unit, printed_of(work, unit).replace("y - x", "y" * 300))
    merge = [sys.executable, ROOT / "tests/helpers/merging.py", tmp_path, merged]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    status, printed = run_limited(1, merge, env=environment)
    assert status == 1 and "OSError: [Errno 27] File too large" in printed
    assert not list(tmp_path.glob("generate-test*"))
    assert run_limited(4, merge, env=environment) == (0, "7\n") and merged.read_text().count("H-") == 7


def test_fairseq_generate_keeps_what_it_has_written(data, checkpoint, tmp_path):
    """The exit status is 1, under stock tasks too; nothing of the file is lost but its last line, which may be cut."""
    command = [BIN / "fairseq-generate", data, "--user-dir", "el_fairseq", "--task", "el_translation"]
    command += ["--path", checkpoint, "--results-path", tmp_path, "--batch-size", "4", "--num-workers", "0"]
    status, printed = run_limited(4, command)
    assert status == 1 and "OSError: [Errno 27] File too large" in printed
    kept = lines_of((tmp_path / "generate-test.txt").read_text(), "H")
    assert 0 < len(kept) < 60


def test_a_read_only_folder_is_named_by_sharded_generation(data, checkpoint, read_only):
    sharded = Sharded(data, checkpoint, read_only, shards=1)
    status, printed = run([SCRIPT, *sharded.arguments], env=sharded.environment, preexec_fn=without_privileges)
    last = printed.strip().splitlines()[-1]
    assert status == 1 and f"--results-path {read_only}: [Errno 13] Permission denied" in last and CURE in last


def test_a_read_only_folder_is_named_by_fairseq(data, checkpoint, read_only):
    """Before the model is loaded."""
    command = [BIN / "fairseq-generate", data, "--path", checkpoint, "--results-path", read_only]
    status, printed = run(command, preexec_fn=without_privileges)
    assert status == 1 and f"Permission denied: '{read_only}/generate-test.txt'" in printed
    assert "loading model" not in printed
