"""Other versions of PyTorch: a part of the tests, among them those that decode every task once, with each.

An environment a version is made in .venvs, once: 6 GB and about 2 minutes each. The tests take one minute each.
"""

import argparse
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST_AND_NEWEST = ("2.6.0", "2.14.1")
FOLLOW_TORCH = ("torch", "torchaudio", "triton", "sympy")  # torch says which of these it needs
TOOLS = ("pytest", "pytest-xdist", "setuptools")
TESTS = (
    "tests/commands/test_task_commands.py",  # every task
    "tests/commands/test_commands.py::test_generate_prints_what_stock_prints",  # what most people run
    "tests/commands/test_commands.py::test_hub_interfaces_generate_the_same_with_el_attention",
    "tests/test_compat.py",
    "tests/test_internals.py",
    "tests/ops",
    "tests/models",
    "tests/convert",
    "tests/ops/test_products.py",
    "tests/generation/test_changed_models.py",
    "tests/generation/test_decoder_step.py",
    "tests/generation/test_encode.py",
    "tests/generation/test_out_of_memory.py",
    "tests/generation/test_wrapped_models.py",
)
REPORT = """
from importlib.metadata import version
names = ("torch", "torchaudio", "triton", "ve-fairseq", "numpy")
print(", ".join(f"{name} {version(name)}" for name in names))
"""


def constraints(torch):
    """Those of constraints.txt, with another torch and what it requires."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return "\n".join([*(line for line in lines if line.split("==")[0] not in FOLLOW_TORCH), f"torch=={torch}", ""])


def version_of(python):
    command = [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment(torch, python):
    """The Python of the environment with this torch, which is made if it is not there or not as it should be."""
    folder = ROOT / f".venvs/python{version_of(python)}-torch{torch}"
    made_by, own = folder / "made-by.txt", folder / "bin/python"
    wanted = f"{python}\n{constraints(torch)}{(ROOT / 'setup.py').read_text()}"
    if made_by.exists() and made_by.read_text() == wanted:
        return own
    print(f"making {folder.relative_to(ROOT)}", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    (folder / "constraints.txt").write_text(constraints(torch))
    options = "-qq --no-compile --disable-pip-version-check --constraint"
    pip = [own, "-m", "pip", "install", *options.split(), folder / "constraints.txt"]
    subprocess.run([*pip, *TOOLS], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--editable", ROOT], check=True)
    made_by.write_text(wanted)
    return own


def run_tests(python, arguments):
    """What pytest says at the end, and whether that is good."""
    began = time.monotonic()
    command = [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(done.stdout, flush=True)
    return done.returncode == 0, f"{counts(done.stdout)} in {time.monotonic() - began:.0f} s"


def counts(output):
    """``12 passed, 3 skipped`` from pytest's output."""
    ends = re.findall(r"^=* ?(\d+ \w+(?:, \d+ \w+)*) in [\d.]+s", output, re.MULTILINE)
    return ends[-1] if ends else "pytest did not come to its end"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/versions/check_versions.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("torch", nargs="*", default=OLDEST_AND_NEWEST, help="default: 2.6.0 and 2.14.1")
    parser.add_argument("--python", default=sys.executable, help="another Python, for environments of other versions")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result there, too")
    options = parser.parse_args()
    report, good = [" ".join(["scripts/versions/check_versions.py", *sys.argv[1:]])], True
    for torch in options.torch:
        python = environment(torch, options.python)
        version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
        installed = subprocess.run([python, "-c", REPORT], capture_output=True, text=True, check=True).stdout.strip()
        passed, result = run_tests(python, TESTS)
        good = good and passed
        report.append(f"{version}, {installed}: {result}")
        print(report[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join([*report, f"{platform.system()}, {platform.machine()}", ""]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
