"""Scripts, examples and tests find each other by packages, and the scripts find this checkout from any folder."""

import os
import re
import subprocess
import sys

import pytest
from helpers.commands import ROOT

FILES = [path for folder in ("scripts", "tests", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = [path for path in FILES if path.name.startswith("test_")]
AROUND = re.compile(r"^\s*sys\.path\b|#\s*noqa", re.MULTILINE)
DOCS = [ROOT / "README.md", ROOT / "checkpoints.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]
NAMED = re.compile(r"\b(?:scripts|examples|tests)/[\w/]+\.(?:py|sh|yaml)\b")
CALLED = re.compile(r"-m ((?:scripts|examples)(?:\.[a-z]\w*)+)(?![.\w])")
OF_FAIRSEQ = ("examples/bart/", "examples/backtranslation/", "examples/nllb/")
IMPORTS_A_TEST = re.compile(r"^\s*(from|import) ([\w.]*\.)?test_\w+", re.MULTILINE)


def test_one_file_changes_where_python_looks():
    assert [path.name for path in FILES if AROUND.search(path.read_text())] == ["checkout.py"]


def test_no_test_imports_another_one():
    assert [path.name for path in TESTS if IMPORTS_A_TEST.search(path.read_text())] == []


def test_what_the_documents_name_is_there():
    text = "".join(path.read_text() for path in DOCS)
    called = {f"{name.replace('.', '/')}.py" for name in CALLED.findall(text)}
    named = {name for name in NAMED.findall(text) if not name.startswith(OF_FAIRSEQ)}
    assert len(called) > 5 and len(named) > 20
    assert [name for name in sorted(called | named) if not (ROOT / name).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    ["bench_decode.py", *(pytest.param(name, marks=pytest.mark.long) for name in ("count_parameters.py", "fuzz.py"))],
)
def test_a_script_works_from_any_folder(script, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, ROOT / "scripts" / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["scripts.bench.state", pytest.param("examples.summarization.table", marks=pytest.mark.long)]
)
def test_a_module_works_from_the_checkout(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
