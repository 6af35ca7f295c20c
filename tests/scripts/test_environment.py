"""environment.sh installs once, and again where what is installed changes: not for a changed line of code."""

import shutil
import subprocess

import pytest
from helpers.commands import ROOT

FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>calls
"""
DEFINING = ("setup.py", "constraints.txt", "pyproject.toml")


@pytest.fixture
def calls(tmp_path):
    """``calls()``: source the script in a small copy of the project; what it had Python do."""
    for name in (*DEFINING, "scripts/environment.sh", "el_fairseq/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def source():
        (tmp_path / "calls").write_text("")
        subprocess.run(["bash", "-c", "source scripts/environment.sh"], cwd=tmp_path, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    return source


def test_the_package_is_installed_once_as_a_link(calls, tmp_path):
    assert "--editable .[test,quickstart,gpt2]" in "".join(calls())
    with (tmp_path / "el_fairseq/__init__.py").open("a") as file:
        file.write("# another line\n")
    assert calls() == []


@pytest.mark.parametrize("name", DEFINING)
def test_what_is_installed_has_changed(name, calls, tmp_path):
    calls()
    with (tmp_path / name).open("a") as file:
        file.write("# another line\n")
    assert "--editable" in "".join(calls())
    assert calls() == []
