#!/usr/bin/env python3
"""Paired bootstrap (sacrebleu's) of each attention variant against mha with the same seed, from what compare.sh left.

Writes OUT/significance.json: "compared" is {variant: {seed: {metric: {"mha", "score", "p", "signature"}}}}, and
"hypotheses" the SHA-256 of each file compared. The test part is drawn again --samples times, with repetition.
p is the share of draws whose difference (without its sign) is larger than the mean of all draws by more than the
difference found. That counts one side: it is about half of a two-sided p.
"""

import argparse
import hashlib
import json
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from examples.translation.table import SIGNIFICANCE, VARIANTS, by_seed


def compare(references, base, other, samples):
    """``{metric: {"mha", "score", "p", "signature"}}`` of two lists of translations."""
    metrics = {
        metric.__class__.__name__: metric for metric in (BLEU(references=[references]), CHRF(references=[references]))
    }
    systems = [("mha", base), ("other", other)]
    signatures, results = PairedTest(systems, metrics, references=None, test_type="bs", n_samples=samples)()
    return {
        "chrF" if name.startswith("chrF") else name: {  # sacrebleu's name has the order of F in it, chrF2
            "mha": first.score,
            "score": second.score,
            "p": 1.0 if base == other else second.p_value,
            "signature": str(signatures[name]),
        }
        for name, (first, second) in ((name, results[name]) for name in results if name != "System")
    }


def lines_of(raw):
    return raw.decode().removesuffix("\n").split("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the OUT of compare.sh")
    parser.add_argument("--samples", type=int, default=1000, help="how often sentences are drawn again (default: 1000)")
    args = parser.parse_args()
    references = lines_of((args.folder / "text/raw.test.de").read_bytes())
    seeds, found, hashes = sorted(by_seed(args.folder, "mha")), {}, {}
    for name in VARIANTS[1:]:
        for seed in seeds:
            paths = [args.folder / f"{run}-{seed}/hypotheses.de" for run in ("mha", name)]
            if all(path.exists() for path in paths):
                base, other = (path.read_bytes() for path in paths)
                result = compare(references, lines_of(base), lines_of(other), args.samples)
                found.setdefault(name, {})[str(seed)] = result
                hashes |= {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
                print(
                    f"{name}, seed {seed}: BLEU {result['BLEU']['score']:.2f}, p = {result['BLEU']['p']:.3f}",
                    flush=True,
                )
    (args.folder / SIGNIFICANCE).write_text(json.dumps({"compared": found, "hypotheses": hashes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
