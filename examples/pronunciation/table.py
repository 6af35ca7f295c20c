#!/usr/bin/env python3
"""Compare outputs of fairseq-generate: error rate, identical hypotheses, seconds, decoder state, as a table.

The first output is the one that the others are compared with. Decoder state is measured where the run logged it; for a
run without the plugin's generator it is what the others say that stock would keep for the same batch.
"""

import argparse
import re
import sys
from pathlib import Path

SECONDS = re.compile(r"Translated .* in ([\d.]+)s")
STATE = re.compile(r"decoder state: peak ([\d.]+) MiB; stock would keep ([\d.]+) MiB")


class Output:
    """What one run of fairseq-generate printed."""

    def __init__(self, path):
        text = path.read_text()
        self.hypotheses, self.targets = {}, {}
        for line in text.splitlines():
            kind, _, rest = line.partition("-")
            sentence, *fields = rest.split("\t")
            if kind == "H":
                self.hypotheses.setdefault(int(sentence), []).append(fields[1].split())
            elif kind == "T":
                self.targets[int(sentence)] = fields[0].split()
        self.seconds = float(SECONDS.search(text)[1])
        state = STATE.search(text)
        self.state, self.stock_state = (float(x) for x in state.groups()) if state else (None, None)

    def error_rate(self):
        """Edits to the best hypotheses, over the length of the references."""
        edits = sum(edit_distance(self.hypotheses[i][0], target) for i, target in self.targets.items())
        return edits / sum(len(target) for target in self.targets.values())


def edit_distance(a, b):
    """Levenshtein distance of two sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", metavar="NAME=FILE", help="what to call a run, and its output")
    parser.add_argument("--max-error-rate", type=float, default=1.0, metavar="X", help="above it, exit status 1")
    args = parser.parse_args()
    named = [argument.split("=", 1) for argument in args.outputs]
    outputs = [(name, Output(Path(path))) for name, path in named]
    _, reference = outputs[0]
    stock_state = next((output.stock_state for _, output in outputs if output.stock_state), None)
    print("| generation | phoneme error rate | identical hypotheses | seconds | decoder state |")
    print("|---|---|---|---|---|")
    for name, output in outputs:
        same = sum(
            ours == theirs
            for i in reference.hypotheses
            for ours, theirs in zip(output.hypotheses[i], reference.hypotheses[i])
        )
        total = sum(map(len, reference.hypotheses.values()))
        state = stock_state if output.state is None else output.state
        shown = "not logged" if state is None else f"{state:.1f} MiB"
        print(
            f"| {name} | {100 * output.error_rate():.1f} % | {same:,} of {total:,} | {output.seconds:.1f} | {shown} |"
        )
    worst = max(output.error_rate() for _, output in outputs)
    if worst > args.max_error_rate:
        sys.exit(
            f"phoneme error rate {100 * worst:.1f} %: more than {100 * args.max_error_rate:.0f} %, training went wrong"
        )


if __name__ == "__main__":
    main()
