#!/usr/bin/env python3
"""Score texts with any of fairseq's scorers, as fairseq-score does with BLEU.

Usage: score.py --sys FILE --ref FILE [--ref FILE ...] [--scoring rouge] [options of the scorer]
       score.py --generated OUTPUT [--ref FILE ...] [--scoring rouge] [options of the scorer]

--sys and --ref have a text a line. OUTPUT is what fairseq-generate printed: its D- lines are scored, against --ref in
the order of the data set, or against its T- lines. Several --ref are several references for each text (rouge only).
"""

import argparse
import sys

import checkout
from compare_outputs import Output
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.registry import REGISTRIES
from fairseq.scoring import SCORER_REGISTRY, build_scorer

import el_fairseq

SCORERS = sorted(set(SCORER_REGISTRY) - {"bleu"})  # which scores numbers of a dictionary, not text


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--sys", metavar="FILE", help="hypotheses, one a line (- for standard input)")
    texts.add_argument("--generated", metavar="OUTPUT", help="an output of fairseq-generate")
    parser.add_argument("--ref", metavar="FILE", action="append", default=[], help="references, one a line; repeatable")
    parser.add_argument("--scoring", choices=SCORERS, default="rouge", help="default: rouge")
    scorer = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scorer.add_argument("--scoring", choices=SCORERS, default="rouge")
    chosen = scorer.parse_known_args(argv)[0].scoring
    gen_parser_from_dataclass(
        parser.add_argument_group(f"options of {chosen}"), REGISTRIES["scoring"]["dataclass_registry"][chosen]()
    )
    args = parser.parse_args(argv)
    if args.sys and not args.ref:
        parser.error("--sys needs --ref FILE")
    if len(args.ref) > 1 and args.scoring != "rouge":
        parser.error(f"--scoring {args.scoring} takes one --ref")
    return args


def lines_of(path):
    """The lines of a file; text may hold other separators of lines than newlines."""
    with open(0 if path == "-" else path, encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n") for line in file]


def pairs_of(args):
    """``(references, hypothesis)`` for each text."""
    if args.sys:
        texts = dict(enumerate(lines_of(args.sys)))
    else:
        output = Output(args.generated)
        texts = output.texts
    references = [lines_of(path) for path in args.ref]
    for path, lines in zip(args.ref, references):
        if len(lines) != len(texts):
            sys.exit(f"--ref {path}: {len(lines):,} lines, but there are {len(texts):,} hypotheses")
    if not args.ref:
        if texts.keys() != output.targets.keys():
            sys.exit(f"--generated {args.generated}: no T- lines for its D- lines; give --ref FILE")
        return [([output.targets[i]], texts[i]) for i in sorted(texts)]
    return [([lines[i] for lines in references], texts[i]) for i in sorted(texts)]


def main(argv=None):
    args = parse_args(argv)
    scorer = build_scorer(args, None)
    for references, text in pairs_of(args):
        scorer.add_string(references if len(references) > 1 else references[0], text)
    print(scorer.result_string())


if __name__ == "__main__":
    main()
