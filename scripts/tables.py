"""Write the tables of README.md, checkpoints.md, docs and examples from the results that are committed.

Usage: python -m scripts.tables [--check] [PAGE ...]

A page says in a comment what stands between it and the next ``<!-- end -->``:

    <!-- table 1 of python -m examples.translation.table docs/results/multi30k -->
    <!-- table 1 of docs/results/gpu_rehearsal.txt, columns 1-4 -->
    <!-- output of docs/results/quickstart.txt -->

A table is the N-th one of what a command of this project prints, or of a file; an output is all of it, as a block of
code, without lines that begin with "# ". With --check nothing is written; the exit status is 1 where a page differs.
"""

import argparse
import contextlib
import functools
import importlib
import io
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "checkpoints.md", "docs/*.md", "examples/*/README.md")
BLOCK = re.compile(
    r"^(?P<indent> *)<!-- (?:table (?P<number>\d+)|output) of (?P<source>[^>]+?)(?:, columns 1-(?P<columns>\d+))? -->\n"
    r".*?^(?P=indent)<!-- end -->$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"python -m ((?:scripts|examples)\.[\w.]+)(.*)")
TABLE = re.compile(r"(?:^ *\|.*\n)+", re.MULTILINE)
BAR = re.compile(r"(?<!\\)\|")
ABOUT = "# "  # lines of a file that say where an output is from


@functools.cache
def text_of(source):
    """What a command prints, or what a file holds; paths count from the checkout."""
    command = COMMAND.fullmatch(source)
    if command is None:
        path = ROOT / source
        if not path.is_file():
            raise SystemExit(f"{source}: a page shows it, and there is no such file")
        return path.read_text()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.chdir(ROOT):
        importlib.import_module(command[1]).main(shlex.split(command[2]))
    return printed.getvalue()


def output(source):
    """All lines of ``source`` as a block of code, but for those that say where it is from."""
    lines = [line for line in text_of(source).rstrip("\n").split("\n") if not line.startswith(ABOUT)]
    return "".join(f"    {line}\n" if line else "\n" for line in lines)


def table(number, source, columns=None):
    """The table with this number, from 1, in ``source``; ``columns``: only so many, from the left."""
    tables = TABLE.findall(text_of(source))
    if not 1 <= number <= len(tables):
        raise SystemExit(f"{source} has {len(tables)} tables, and a page asks for table {number}")
    lines = [line.strip() for line in tables[number - 1].splitlines()]
    if columns is not None:
        lines = ["|".join(BAR.split(line)[: columns + 1]) + "|" for line in lines]
    return "".join(f"{line}\n" for line in lines)


def filled(text):
    """``text`` with every block as the results have it."""

    def replace(found):
        number, columns = (found[name] and int(found[name]) for name in ("number", "columns"))
        body = output(found["source"]) if number is None else table(number, found["source"], columns)
        lines = "".join(found["indent"] + line if line.strip() else line for line in body.splitlines(keepends=True))
        marker = found[0].split("\n", 1)[0]
        return f"{marker}\n\n{lines}\n{found['indent']}<!-- end -->"

    return BLOCK.sub(replace, text)


def pages():
    """The pages of this checkout."""
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def main(argv=None):
    """Write the pages that differ, or name them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page differs")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="default: all")
    args = parser.parse_args(argv)
    texts = {path: path.read_text() for path in args.pages or pages()}
    found = {path: filled(text) for path, text in texts.items()}
    differing = [path for path in texts if found[path] != texts[path]]
    named = ", ".join(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path) for path in differing)
    if args.check and differing:
        sys.exit(f"{named}: not what the results say; python -m scripts.tables writes them again")
    for path in differing:
        path.write_text(found[path])
    print(f"written: {named}" if differing else "every page has what the results say")


if __name__ == "__main__":
    main()
