"""scripts/ and examples/ never unpickle, unpack or build shell lines from data, and write where they are told.

Archives that would leave their folder: tests/examples/test_hostile_archives.py. Unquoted data in shell scripts:
shellcheck, in tests/scripts/test_shell.py.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sorted([*ROOT.glob("scripts/**/*.py"), *ROOT.glob("examples/**/*.py")])
SHELL = sorted([*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("examples/**/*.sh")])
RUNS_DATA = {
    *("eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load"),
    *("dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle", "torch.hub.load"),
    *(
        "yaml.load",
        "yaml.load_all",
        "yaml.unsafe_load",
        "yaml.full_load",
        "torch.jit.load",
        "torch.package.PackageImporter",
    ),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("shutil.unpack_archive", "shutil.rmtree"),
}
SUBPROCESS = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
METHODS = {"extract", "extractall"}  # of archives: members are read instead
ALLOWED = {  # file: what, and why
    "scripts/versions/check_install.py": {"shutil.rmtree"},  # pip's leavings, <repository>/build: a fixed name
    "scripts/tables.py": {
        "importlib.import_module"
    },  # scripts.* and examples.* alone, as the pages of this project name them
}


def full_names(tree):
    """``{name in the file: what was imported under it}``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({each.asname or each.name.partition(".")[0]: each.asname and each.name for each in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
    return {name: full or name for name, full in names.items()}


def called(node, names):
    """The full name of what a call calls; "" for what is no name."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    return ".".join([names.get(function.id, function.id), *reversed(parts)])


def is_text(node):
    """Whether an argument is a string put together: a command line."""
    return isinstance(node, ast.JoinedStr | ast.BinOp) or isinstance(node, ast.Constant) and isinstance(node.value, str)


def faults_of(source):
    """Names of what the source of a program calls and should not."""
    tree = ast.parse(source)
    names = full_names(tree)
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node, names)
        options = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        wrong = name in RUNS_DATA or isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        wrong |= options.get("shell", False) is not False
        wrong |= name in SUBPROCESS and is_text(node.args[0])
        wrong |= name in NEEDED and options.get(NEEDED[name][0]) is not NEEDED[name][1]
        if wrong:
            found.add(name or node.func.attr)
    return found


BAD = {
    "import pickle\npickle.load(f)": "pickle.load",
    "from pickle import loads as read\nread(f)": "pickle.loads",
    "import torch\ntorch.load(f)": "torch.load",
    "import torch\ntorch.load(f, weights_only=False)": "torch.load",
    "import torch as t\nt.load(f, weights_only=given)": "torch.load",
    "import numpy as np\nnp.load(f, allow_pickle=True)": "numpy.load",
    "import os\nos.system(f'ls {folder}')": "os.system",
    "import subprocess\nsubprocess.run(command, shell=True)": "subprocess.run",
    "import subprocess\nsubprocess.run(command, shell=given)": "subprocess.run",
    "from subprocess import Popen\nPopen(f'ls {folder}')": "subprocess.Popen",
    "import yaml\nyaml.load(f)": "yaml.load",
    "eval(line)": "eval",
    "tar.extractall(out)": "tar.extractall",
    "open_archive(path).extract(member)": "extract",
}
GOOD = [
    "model.eval()\nre.compile(pattern)\nself.load(f)",
    "import subprocess\nsubprocess.run(['ls', folder], shell=False)",
    "import torch, yaml, numpy\ntorch.load(f, weights_only=True)\nyaml.safe_load(f)\nnumpy.load(f, allow_pickle=False)",
]


@pytest.mark.parametrize("source", BAD)
def test_what_should_not_be_is_found(source):
    assert faults_of(source) == {BAD[source]}


@pytest.mark.parametrize("source", GOOD)
def test_what_may_be_is_not(source):
    assert faults_of(source) == set()


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_runs_no_data(path):
    assert faults_of(path.read_text()) == ALLOWED.get(str(path.relative_to(ROOT)), set())


CODE = re.compile(
    r"(^|[;&|({]\s*|\b(?:then|do|else|time|command)\s+)(eval|source|\.|(?:ba|da|z)?sh\s+-\w*c)\s", re.MULTILINE
)
SOURCED = re.compile(r'source "\$(\(dirname "\$\{BASH_SOURCE\[0\]\}"\)|HERE|PROJECT|ROOT)/[\w./]+\.sh"')  # fixed places
WRITES = re.compile(
    r"(?<![<>=&$(])(?<!\()>>?(?![&(=])\s*([^\s;|)]+)|\b(?:rm -r?f|mkdir(?: -p)?|tee(?: -a)?)\s+([^\s;|)]+)"
)
FIXED = {"/dev/null", "build", '"$stamp"'}  # pip's leavings in the repository, and what was installed in .venv


def commands_of(path):
    """The lines of a shell script without comments, strings of other languages and here-documents."""
    text = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"(^|\s)#.*", "", text)
    text = re.sub(r"'[^']*'", "''", text)
    return re.sub(r"\(\([^()]*(\([^()]*\)[^()]*)*\)\)", "", text)  # arithmetic


def below_out(text):
    """Names of variables that hold a path below the folder that a script is given."""
    names, before = {"OUT"}, None
    while names != before:
        before = set(names)
        names |= {name for name, value in re.findall(r'\b(\w+)="\$\{?(\w+)(?=[/}"])', text) if value in names}
    return names


@pytest.mark.parametrize("path", SHELL, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_runs_no_data_and_writes_below_its_folder(path):
    text = commands_of(path)
    for line in text.splitlines():
        assert not CODE.search(SOURCED.sub("", line.strip())), line
    names = below_out(text)
    for match in WRITES.finditer(text):
        target = match[1] or match[2]
        variable = re.match(r'"?\$\{?(\w+)', target)
        assert target in FIXED or variable and variable[1] in names, f"{match[0]!r} in {path}"


def test_the_shell_check_finds_what_it_should():
    assert all(
        map(CODE.search, ['eval "$x"', "x; eval $y", "source data/x", ". data/x", 'bash -c "$x"', "if x; then eval y"])
    )
    assert not any(map(CODE.search, ["--valid.x eval", "measure . ", "fairseq-eval-lm x", "./prepare.sh x"]))
    assert [
        match[1] or match[2] for match in WRITES.finditer('a >"$OUT/b" 2>/dev/null 2>&1 x >>y; rm -rf "$z" | tee w')
    ] == [
        '"$OUT/b"',
        "/dev/null",
        "y",
        '"$z"',
        "w",
    ]
