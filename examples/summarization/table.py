#!/usr/bin/env python3
"""Compare outputs of fairseq-generate: ROUGE, identical hypotheses, seconds, decoder state, as a table.

The first output is the one that the others are compared with. --ref is a file of references, a line for each text of
the data set, in its order; several are several references for each text. Decoder state is measured where the run logged
it; for a run without the plugin's generator it is what the others say that stock would keep for the same batch.
"""

import argparse
import re
from pathlib import Path

from el_fairseq.scoring.rouge import MEASURES, RougeConfig, RougeScorer
from scripts.compare_outputs import Output, compare

STATE = re.compile(r"decoder state: peak ([\d.]+) MiB; stock would keep ([\d.]+) MiB")


def score(output, references):
    """A scorer that holds the texts of an output."""
    scorer = RougeScorer(RougeConfig())
    for sentence, text in sorted(output.texts.items()):
        scorer.add_string([lines[sentence] for lines in references], text)
    return scorer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", metavar="NAME=FILE", help="what to call a run, and its output")
    parser.add_argument(
        "--ref", metavar="FILE", action="append", required=True, help="references, one a line; repeatable"
    )
    args = parser.parse_args()
    references = [Path(path).read_text(encoding="utf-8").split("\n") for path in args.ref]
    named = [argument.partition("=")[::2] for argument in args.outputs]
    outputs = [(name, Output(path), STATE.search(Path(path).read_text(encoding="utf-8"))) for name, path in named]
    stock_state = next((float(state[2]) for _, _, state in outputs if state), None)
    reference = outputs[0][1]
    print(f"| generation | {' | '.join(MEASURES.values())} | identical hypotheses | seconds | decoder state |")
    print("|---|---|---|---|---|---|---|---|")
    for name, output, state in outputs:
        scorer = score(output, references)
        scores = " | ".join(f"{value:.2f}" for value in scorer.scores().values())
        identical, total = compare(reference, output)[1], sum(map(len, reference.hypotheses.values()))
        kept = float(state[1]) if state else stock_state
        shown = "not logged" if kept is None else f"{kept:.1f} MiB"
        print(f"| {name} | {scores} | {identical:,} of {total:,} | {output.seconds:.1f} | {shown} |")
    print(f"\n{scorer.signature()}")


if __name__ == "__main__":
    main()
