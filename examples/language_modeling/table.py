#!/usr/bin/env python3
"""The perplexities of the attention variants, from the logs that compare.sh left in a folder (Markdown)."""

import argparse
import re
from pathlib import Path

VARIANTS = ["mha", "mhe-mul", "mhe-add", "mqa", "sha"]
PATTERNS = {
    "attention": r"attention variant .*: ([\d,]+) parameters in",
    "all": r"\(num\. trained: ([\d,]+)\)",
    "training": r"(?s).*train \| epoch .*? ppl ([\d.e+]+)",  # the last epoch
    "perplexity": r"Perplexity: ([\d.]+)",
}


def read_run(path):
    """What one summary.log says, by the names of PATTERNS."""
    text, found = path.read_text(), {}
    for name, pattern in PATTERNS.items():
        match = re.search(pattern, text)
        if match is None:
            raise SystemExit(f"{path}: nothing like {pattern!r} in it; remove it and run compare.sh again")
        found[name] = float(match.group(1).replace(",", ""))
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the OUT of compare.sh")
    folder = parser.parse_args(argv).folder
    runs = {name: folder / f"{name}-1" / "summary.log" for name in VARIANTS}
    runs = {name: read_run(path) for name, path in runs.items() if path.exists()}
    if "mha" not in runs:
        raise SystemExit(f"{folder}: no mha-1/summary.log, which the others are compared with; run compare.sh first")
    print("| variant | parameters: attention / all | perplexity: training | test | against mha |")
    print("|---|---|---|---|---|")
    for name, run in runs.items():
        ratio = run["perplexity"] / runs["mha"]["perplexity"]
        print(
            f"| {name} | {run['attention']:,.0f} / {run['all']:,.0f} | {run['training']:.1f} | {run['perplexity']:.1f} "
            f"| {100 * (ratio - 1):+.1f} % |"
        )


if __name__ == "__main__":
    main()
