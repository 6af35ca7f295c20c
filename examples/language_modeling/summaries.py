#!/usr/bin/env python3
"""Outputs of fairseq-generate for the prompts of prompts.py: the summaries, and a table that compares the runs.

Writes the summaries of the first run to --summaries, a line an article. Exit status 1 if any hypothesis of another run
is not that of the first, token by token.
"""

import argparse
import re
import sys
from pathlib import Path

from scripts.compare_outputs import Output, compare

from .prompts import bpe_of

STATE = re.compile(r"decoder state: peak ([\d.]+) MiB; stock would keep ([\d.]+) MiB")
PROMPT = re.compile(r"^S-(\d+)\t(.*)$", re.MULTILINE)


class Run(Output):
    """An ``Output`` with ``prompts``, ``{sentence: tokens}``, and decoder ``state`` and ``stock_state``, in MiB."""

    def __init__(self, path):
        super().__init__(path)
        whole = Path(path).read_text(encoding="utf-8")
        self.prompts = {int(number): tokens.split() for number, tokens in PROMPT.findall(whole)}
        state = STATE.search(whole)
        self.state, self.stock_state = map(float, state.groups()) if state else (None, None)

    def summary(self, sentence, bpe):
        """What the best hypothesis has after the prompt, as one line of text."""
        tokens = self.best(sentence)[0].split()[len(self.prompts[sentence]) :]
        return " ".join(bpe.decode(" ".join(token for token in tokens if token.isdigit())).split())


def table(runs):
    """The lines of a table, and whether all hypotheses are those of the first run. ``runs``: ``[(name, Run)]``."""
    _, first = runs[0]
    total = sum(map(len, first.hypotheses.values()))
    stock_state = next((run.stock_state for _, run in runs if run.stock_state), None)
    lines = ["| generation | identical hypotheses | seconds | decoder state |", "|---|---|---|---|"]
    same = True
    for name, run in runs:
        _, identical, _ = compare(first, run)
        same = same and identical == total
        state = stock_state if run.state is None else run.state
        shown = "not logged" if state is None else f"{state:,.1f} MiB"
        lines.append(f"| {name} | {identical:,} of {total:,} | {run.seconds:,.1f} | {shown} |")
    return lines, same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gpt2", metavar="GPT2-FOLDER", type=Path, help="what convert_hf_gpt2.py wrote")
    parser.add_argument("outputs", nargs="+", metavar="NAME=FILE", help="what to call a run, and its output")
    parser.add_argument("--summaries", type=Path, required=True, metavar="FILE", help="file to write")
    args = parser.parse_args()
    runs = [(name, Run(path)) for name, path in (argument.split("=", 1) for argument in args.outputs)]
    lines, same = table(runs)
    print("\n".join(lines))
    _, first = runs[0]
    bpe = bpe_of(args.gpt2)
    args.summaries.write_text("".join(first.summary(i, bpe) + "\n" for i in sorted(first.prompts)), encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
