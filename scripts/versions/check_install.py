"""Whether the versions in constraints.txt can be installed together, for each Python and with all extras, where torch
is PyPI's own build, which requires more than the CPU build does. Nothing is installed; it takes a minute.

Exit status 1 if they cannot, with what pip says; 0 with a line that says so where pip reaches no index.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12")
EXTRAS = "test,quickstart,gpt2,rouge,plot,peers"
SOURCES = ("antlr4-python3-runtime", "rouge-score")  # not on PyPI as wheels: pip builds none for another Python


def pip(*arguments, **kwargs):
    return subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, **kwargs)


def reaches_index(folder):
    """Whether pip can get a package, whatever the constraints say."""
    return pip("download", "-q", "--no-cache-dir", "--retries", 1, "--no-deps", "-d", folder, "wheel").returncode == 0


def with_pypis_torch(constraints):
    """``torch==X`` also takes a build ``X+cpu`` where an index has one, ``torch===X`` takes X alone."""
    return re.sub(r"^torch==(?!=)", "torch===", constraints, flags=re.MULTILINE)


def build(constraints, folder):
    """The package, and what else is there as source only, as wheels in ``folder``; returns the package's."""
    for what in (SOURCES, [ROOT]):
        done = pip(
            "wheel", "-q", "--no-deps", "--no-build-isolation", "-c", constraints, "-w", folder, *what, cwd=folder
        )
        if done.returncode != 0:
            sys.exit(f"{done.stdout}{done.stderr}")
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    return next(folder.glob("el_fairseq-*.whl"))


def resolve(package, python, constraints, folder):
    """What pip says to installing ``package`` with all extras for this Python; it installs nothing."""
    dry = ("install", "--dry-run", "--ignore-installed", "--target", folder / "nowhere")
    wheels = ("--only-binary", ":all:", "--python-version", python, "--find-links", folder)
    return pip(*dry, *wheels, "-c", constraints, f"{package}[{EXTRAS}]")


def main():
    parser = argparse.ArgumentParser(prog="scripts/versions/check_install.py", description=__doc__)
    parser.add_argument("--constraints", type=Path, metavar="FILE", default=ROOT / "constraints.txt")
    given = parser.parse_args().constraints.read_text()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if not reaches_index(folder):
            print("skipped: pip reaches no index, so nobody knows what can be installed")
            return 0
        constraints = folder / "constraints.txt"
        constraints.write_text(with_pypis_torch(given))
        package = build(constraints, folder)
        with ThreadPoolExecutor() as pool:  # pip's resolver keeps one core busy
            found = list(pool.map(lambda python: resolve(package, python, constraints, folder), PYTHONS))
    for python, done in zip(PYTHONS, found):
        if done.returncode != 0:
            print(done.stdout[-1500:], done.stderr[-1500:], sep="\n", file=sys.stderr)
            print(f"Python {python}: cannot be installed", file=sys.stderr)
            return 1
        print(f"Python {python}: can be installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
