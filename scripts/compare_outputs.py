#!/usr/bin/env python3
"""Compare outputs of fairseq-generate with the first of them: identical hypotheses, score drift, BLEU, seconds.

Usage: compare_outputs.py NAME=FILE NAME=FILE ...

A drift is the difference of the scores (base 2, as printed) of a best hypothesis that is identical in both. BLEU is
sacrebleu's of the D- lines against the T- lines; its signature is printed below the table.
"""

import argparse
import re
import statistics
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU

SECONDS = re.compile(r"Translated .* in ([\d.]+)s")


class Output:
    """What one run printed: by sentence, ``hypotheses`` as ``(tokens, score)``, detokenized ``texts``, ``targets``."""

    def __init__(self, path):
        self.hypotheses, self.texts, self.targets = {}, {}, {}
        whole = Path(path).read_text(encoding="utf-8")
        for line in whole.split("\n"):  # text may hold other separators of lines
            kind, _, rest = line.partition("-")
            if kind not in ("H", "D", "T"):
                continue
            number, *fields = rest.split("\t")
            if kind == "H":
                self.hypotheses.setdefault(int(number), []).append((fields[1], float(fields[0])))
            elif kind == "D":
                self.texts.setdefault(int(number), fields[1])
            else:
                self.targets[int(number)] = fields[0]
        seconds = SECONDS.search(whole)
        self.seconds = float(seconds[1]) if seconds else None
        if not self.hypotheses:
            sys.exit(f"{path}: no H- lines; is it the output of fairseq-generate?")

    def best(self, sentence):
        return self.hypotheses[sentence][0]

    def bleu(self, metric):
        ids = sorted(self.targets)
        return metric.corpus_score([self.texts[i] for i in ids], [[self.targets[i] for i in ids]]).score


def compare(reference, other):
    """``(identical best hypotheses, identical hypotheses, drifts)`` of two outputs for the same sentences."""
    counts = [{i: len(hypotheses) for i, hypotheses in each.hypotheses.items()} for each in (reference, other)]
    if counts[0] != counts[1]:
        sys.exit("the outputs are not of the same sentences, or have not as many hypotheses (--nbest)")
    best = identical = 0
    drifts = []
    for i, hypotheses in reference.hypotheses.items():
        identical += sum(a[0] == b[0] for a, b in zip(hypotheses, other.hypotheses[i]))
        (tokens, score), (others_tokens, others_score) = reference.best(i), other.best(i)
        if tokens == others_tokens:
            best += 1
            drifts.append(0.0 if score == others_score else abs(score - others_score))  # both may be -inf
    return best, identical, drifts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", metavar="NAME=FILE", help="what to call a run, and its output")
    args = parser.parse_args(argv)
    named = [argument.partition("=")[::2] for argument in args.outputs]
    outputs = [(name, Output(path)) for name, path in named]
    _, reference = outputs[0]
    metric = BLEU()
    print("| generation | identical best | identical hypotheses | score drift: median, largest | BLEU | seconds |")
    print("|---|---|---|---|---|---|")
    total = sum(map(len, reference.hypotheses.values()))
    for name, output in outputs:
        best, identical, drifts = compare(reference, output)
        drift = f"{statistics.median(drifts):.1e}, {max(drifts):.1e}" if drifts else "-"
        bleu = f"{output.bleu(metric):.2f}" if output.targets else "-"
        seconds = "-" if output.seconds is None else f"{output.seconds:.1f}"
        of = f"{best:,} of {len(reference.hypotheses):,} | {identical:,} of {total:,}"
        print(f"| {name} | {of} | {drift} | {bleu} | {seconds} |")
    if reference.targets:
        print(f"\n{metric.get_signature()}")


if __name__ == "__main__":
    main()
