"""Run the SLURM tests and write what they show, with the command, the commit, the machine and the versions.

python tests/helpers/slurm_report.py docs/results/generation_on_slurm.txt
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/scripts/test_generate_on_slurm.py"
SHOWN = re.compile(r"(generate_sharded\.sh: |\d+ sentences of |=+ .*\d+ (passed|failed)|PASSED|FAILED|ERROR)|.*%\|")


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def main(out):
    command = ["python", "-m", "pytest", TESTS, "-s", "-rA", "--slurm"]
    commit = said("git", "rev-parse", "--short", "HEAD")
    changed = " and changes" if said("git", "status", "--porcelain", "--untracked-files=no") else ""
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, cwd=ROOT)
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("submitit", "ve-fairseq", "torch"))
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    lines = [
        "python tests/helpers/slurm_report.py docs/results/generation_on_slurm.txt, which runs",
        " ".join(command),
        f"commit {commit}{changed}",
        f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores; both nodes of SLURM are on it",
        f"{said('slurmd', '-V')}, {packages}, Python {platform.python_version()}",
        "",
    ]
    folder = re.compile(r"/\S*/pytest-\d+/[^/]*/out; \$\(of\) 'it")
    lines += [folder.sub("OUT", line) for line in done.stdout.splitlines() if SHOWN.match(line)]
    Path(out).write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    return done.returncode


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
