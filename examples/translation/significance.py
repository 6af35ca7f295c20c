#!/usr/bin/env python3
"""Paired bootstrap (sacrebleu's) of each attention variant against mha with the same seed, from what compare.sh left.

Writes OUT/significance.json: {variant: {seed: {metric: {"mha", "score", "p"}}}}. p is how often a difference at least
as large comes about by drawing sentences again, if both were equally good.
"""

import argparse
import json
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from examples.translation.table import SIGNIFICANCE, VARIANTS, by_seed


def compare(references, base, other, samples):
    """``{metric: {"mha", "score", "p"}}`` of two lists of translations."""
    metrics = {
        metric.__class__.__name__: metric for metric in (BLEU(references=[references]), CHRF(references=[references]))
    }
    systems = [("mha", base), ("other", other)]
    _, results = PairedTest(systems, metrics, references=None, test_type="bs", n_samples=samples)()
    return {
        name.replace("CHRF", "chrF"): {
            "mha": first.score,
            "score": second.score,
            "p": 1.0 if base == other else second.p_value,
        }
        for name, (first, second) in ((name, results[name]) for name in results if name != "System")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the OUT of compare.sh")
    parser.add_argument("--samples", type=int, default=1000, help="how often sentences are drawn again (default: 1000)")
    args = parser.parse_args()
    references = (args.folder / "text/raw.test.de").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    seeds, found = sorted(by_seed(args.folder, "mha")), {}
    for name in VARIANTS[1:]:
        for seed in seeds:
            paths = [args.folder / f"{run}-{seed}/hypotheses.de" for run in ("mha", name)]
            if all(path.exists() for path in paths):
                base, other = (path.read_text(encoding="utf-8").removesuffix("\n").split("\n") for path in paths)
                found.setdefault(name, {})[str(seed)] = result = compare(references, base, other, args.samples)
                print(
                    f"{name}, seed {seed}: BLEU {result['BLEU']['score']:.2f}, p = {result['BLEU']['p']:.3f}",
                    flush=True,
                )
    (args.folder / SIGNIFICANCE).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
