"""The shell scripts: clean, and helpful when asked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("examples/*/*.sh")])
COMMANDS = [script for script in SCRIPTS if script.name not in ("environment.sh", "options.sh", "log.sh")]


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([shellcheck, "-x", *SCRIPTS, ROOT / ".ci/run"], check=True, cwd=ROOT)


@pytest.mark.parametrize("script", COMMANDS, ids=lambda script: f"{script.parent.name}/{script.name}")
def test_help_says_how_to_use_it_and_does_nothing(script, tmp_path):
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith(f"usage: {script.relative_to(ROOT)}")
    assert not list(tmp_path.iterdir())
