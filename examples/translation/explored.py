#!/usr/bin/env python3
"""What was tried, one training run a row, judged on the validation part, in Markdown: the lowest nll first.

Usage: python -m examples.translation.explored FOLDER

FOLDER has what train.sh left for each run: NAME-SEED/summary.log. The columns are the options in which the runs differ;
--average is train.sh's own, the others are those of fairseq-train.
"""

import re
import shlex
import sys
from pathlib import Path

from examples.translation.table import print_table

NOT_OPTIONS = {"--save-dir", "--tensorboard-logdir", "--no-epoch-checkpoints", "--keep-last-epochs"}  # of fairseq-train
NOT_OPTIONS |= {"--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"}
DEFAULT = "default"


def options_of(command):
    """``{option: value}``; of one that is given twice the last value counts, as for fairseq."""
    words = shlex.split(command)
    pairs = zip(words, [*words[1:], "--"])
    found = {word: "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")}
    if "--restore-file" in found:
        found["--restore-file"] = Path(found["--restore-file"]).name
    return {option: value for option, value in found.items() if option not in NOT_OPTIONS}


def read_run(path):
    """Options, validation nll, and the best ``(BLEU, --lenpen)`` of one run."""
    text = path.read_text()
    command = re.search(r"^command: (.*)$", text, re.MULTILINE)
    nll = re.search(r"valid on 'valid' subset \|.* nll_loss ([\d.]+) ", text)
    bleu = [
        (float(score), lenpen) for lenpen, score in re.findall(r"^lenpen (\S+): .* = ([\d.]+)$", text, re.MULTILINE)
    ]
    if not (command and nll and bleu):
        raise SystemExit(f"{path}: no command, validation nll or BLEU in it; train.sh has not finished this run")
    averaged = re.search(r"^averaged: (\d+)$", text, re.MULTILINE)
    return (
        {**options_of(command[1]), "--average": averaged[1] if averaged else "1"},
        float(nll[1]),
        max(bleu, key=lambda each: each[0]),
    )  # of equals the first, as train.sh


def rows_of(folder):
    """The header and the rows."""
    runs = sorted((read_run(path) for path in folder.glob("*/summary.log")), key=lambda run: run[1])
    if not runs:
        raise SystemExit(f"{folder}: no NAME-SEED/summary.log")
    names = dict.fromkeys(name for options, *_ in runs for name in options)
    differing = [name for name in names if len({options.get(name) for options, *_ in runs}) > 1]
    header = [*(f"`{name}`" for name in differing), "validation nll", "BLEU", "`--lenpen`"]
    rows = [
        [*(options.get(name, DEFAULT) for name in differing), f"{nll:.3f}", f"{bleu:.2f}", lenpen]
        for options, nll, (bleu, lenpen) in runs
    ]
    return header, rows


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 1:
        raise SystemExit(__doc__)
    print_table(*rows_of(Path(argv[0])))


if __name__ == "__main__":
    main()
