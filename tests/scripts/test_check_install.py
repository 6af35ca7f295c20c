"""The check of constraints.txt: finds versions that exclude each other, and tells that from an index out of reach."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
NOWHERE = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": ""}


def check(*options, **environment):
    command = [sys.executable, "scripts/versions/check_install.py", *map(str, options)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.long
def test_versions_that_exclude_each_other_fail_with_their_names(tmp_path):
    wrong = re.sub(r"^triton==.*", "triton==3.6.0", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    (tmp_path / "wrong.txt").write_text(wrong)
    done = check("--constraints", tmp_path / "wrong.txt")
    if done.stdout.startswith("skipped"):
        pytest.skip("pip reaches no index")
    assert done.returncode == 1
    assert "ResolutionImpossible" in done.stderr and "Python 3.11: cannot be installed" in done.stderr
    assert re.search(r"torch 2\S+ depends on triton==", done.stderr)
    assert not (ROOT / "build").exists()


def test_without_an_index_it_says_that_nothing_was_checked():
    done = check(**NOWHERE)
    assert done.returncode == 0
    assert done.stdout == "skipped: pip reaches no index, so nobody knows what can be installed\n"
