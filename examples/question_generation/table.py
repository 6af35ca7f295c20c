#!/usr/bin/env python3
"""Compare outputs of fairseq-generate: identical hypotheses, BLEU-4, ROUGE-L, seconds, decoder state, as a table.

The first output is the one that the others are compared with. BLEU-4 is sacrebleu's on words as they are (the text is
tokenised), ROUGE-L that of --scoring rouge; their signatures are printed below. Decoder state is measured where the run
logged it; for a run without the plugin's generator it is what the others say that stock would keep for the same batch.
"""

import argparse
import re
import sys
from pathlib import Path

from fairseq.scoring import build_scorer
from sacrebleu.metrics import BLEU

import el_fairseq
from scripts.compare_outputs import Output, compare

STATE = re.compile(r"decoder state: peak ([\d.]+) MiB; stock would keep ([\d.]+) MiB")


def scores(output, references):
    """BLEU-4 and ROUGE-L of the best hypotheses as ``(score, signature)`` each; ``references`` in the data's order."""
    if sorted(output.texts) != list(range(len(references))):
        sys.exit(f"{len(references):,} references, but hypotheses for {len(output.texts):,} sentences")
    texts = [output.texts[i] for i in range(len(references))]
    bleu, rouge = BLEU(tokenize="none"), build_scorer("rouge", None)
    for reference, text in zip(references, texts):
        rouge.add_string(reference, text)
    score = bleu.corpus_score(texts, [references]).score
    return (score, f"BLEU|{bleu.get_signature()}"), (rouge.score(), f"ROUGE|{rouge.signature()}")


def states(path):
    """``(kept, stock would keep)`` in MiB, or None where the run did not log it."""
    found = STATE.search(Path(path).read_text(encoding="utf-8"))
    return found and tuple(float(number) for number in found.groups())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", metavar="NAME=FILE", help="what to call a run, and its output")
    parser.add_argument("--references", type=Path, required=True, metavar="FILE", help="questions, one a line")
    args = parser.parse_args()
    references = args.references.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    runs = [(name, Output(path), states(path)) for name, _, path in (each.partition("=") for each in args.outputs)]
    stock = next((measured[1] for _, _, measured in runs if measured), None)
    total = sum(map(len, runs[0][1].hypotheses.values()))
    print("| generation | identical hypotheses | BLEU-4 | ROUGE-L | seconds | decoder state |\n|" + "---|" * 6)
    for name, output, measured in runs:
        _, identical, _ = compare(runs[0][1], output)
        (bleu, bleu_signature), (rouge, rouge_signature) = scores(output, references)
        kept = measured[0] if measured else stock
        state = "not logged" if kept is None else f"{kept:.1f} MiB"
        seconds = "-" if output.seconds is None else f"{output.seconds:.1f}"
        print(f"| {name} | {identical:,} of {total:,} | {bleu:.2f} | {rouge:.2f} | {seconds} | {state} |")
    print(f"\n{bleu_signature}\n{rouge_signature}")


if __name__ == "__main__":
    main()
