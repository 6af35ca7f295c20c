#!/usr/bin/env python3
"""Write the tables of README.md, checkpoints.md, docs and examples from the results that are committed.

Usage: python -m scripts.tables [--check] [PAGE ...]

A page says in a comment what stands between it and the next ``<!-- end -->``:

    <!-- table 1 of python -m examples.translation.table docs/results/multi30k -->
    <!-- table 1 of docs/results/gpu_rehearsal.txt, columns 1-4 -->
    <!-- output of docs/results/quickstart.txt -->

A table is the N-th one of what a command of this project prints, or of a file; an output is all of it, as a block of
code. With --check nothing is written; the exit status is 1 where a page differs from the results.
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
    r"^(?P<indent> *)<!-- (?:table (?P<number>\d+)|output) of (?P<source>[^>,]+)(?:, columns 1-(?P<columns>\d+))? -->\n"
    r".*?^(?P=indent)<!-- end -->$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"python -m ((?:scripts|examples)\.[\w.]+)(.*)")
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


@functools.cache
def text_of(source):
    """What a command prints, or what a file holds; paths count from the checkout."""
    command = COMMAND.fullmatch(source)
    if command is None:
        return (ROOT / source).read_text()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.chdir(ROOT):
        importlib.import_module(command[1]).main(shlex.split(command[2]))
    return printed.getvalue()


def block(number, source, columns=None):
    """The lines that belong on a page: table ``number`` of ``source``, or all of it where ``number`` is None.

    ``columns``: only so many, from the left.
    """
    text = text_of(source)
    if number is None:
        return "".join(f"    {line}\n" if line else "\n" for line in text.rstrip("\n").split("\n"))
    tables = TABLE.findall(text)
    if not 1 <= int(number) <= len(tables):
        raise SystemExit(f"{source} has {len(tables)} tables, and a page asks for table {number}")
    table = tables[int(number) - 1]
    return table if columns is None else "".join(_narrowed(line, int(columns)) for line in table.splitlines())


def _narrowed(line, columns):
    return "|".join(line.split("|")[: columns + 1]) + "|\n"


def filled(text):
    """``text`` with every block as the results have it."""

    def replace(found):
        indent, head = found["indent"], found[0].split("\n", 1)[0]
        body = block(found["number"], found["source"], found["columns"])
        lines = "".join(indent + line if line.strip() else line for line in body.splitlines(keepends=True))
        return f"{head}\n\n{lines}\n{indent}<!-- end -->"

    return BLOCK.sub(replace, text)


def pages():
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page differs")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="default: all")
    args = parser.parse_args(argv)
    differing = []
    for path in [path.resolve() for path in args.pages] or pages():
        text = path.read_text()
        if filled(text) == text:
            continue
        differing.append(str(path.relative_to(ROOT)))
        if not args.check:
            path.write_text(filled(text))
    if args.check and differing:
        sys.exit(f"{', '.join(differing)}: not what the results say; python -m scripts.tables writes them again")
    print(f"written: {', '.join(differing)}" if differing else "every page has what the results say")


if __name__ == "__main__":
    main()
