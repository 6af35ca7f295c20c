"""Decoding of the attention variants: stock's generator and el_translation with each, all in turn in one process.

Usage: python -m scripts.bench.variants [--shape small] [--variant mha,mhe-mul,...] [--rounds 15] [--cpu] [--json FILE]

A round decodes 16 sentences of 13 to 25 tokens, beam 5, with every variant, and every hypothesis runs to 25 tokens.
Weights are random. The quotients are within a round: how many times as fast a variant is as the first one, and
el_translation as stock. Speeds are printed only when the output is lossless, as in bench_decode.py.
"""

import argparse
import logging
import statistics
from functools import partial
from pathlib import Path

import torch

from el_fairseq.convert.attention_variant import MHA, VARIANTS

from . import decode
from .contest import Contest
from .memory import MIB
from .models import Subject, shape_of
from .rows import append_row, machine, names

MODES = ("stock", "auto")
SIZES = ["--batch", "16", "--beam", "5", "--source", "25", "--tokens", "25"]  # of bench_decode.py


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", help="small, base, or another one of bench_decode.py's --arch")
    parser.add_argument("--variant", type=names, default=[MHA, *(name for name in VARIANTS if name != MHA)])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, at least 2; one more warms up")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: at least 2, for the quartiles")
    try:
        for variant in args.variant:
            shape_of(f"{args.shape}/{variant}")
    except ValueError as error:
        parser.error(str(error))
    return args


def contests_of(args, device):
    """``{variant: Contest}``, of the same sentences."""
    shapes = ",".join(f"{args.shape}/{variant}" for variant in args.variant)
    options = decode.parse_args(["--arch", shapes, *SIZES])
    contests = {}
    for variant, cell in zip(args.variant, decode.cells(options)):
        subject = Subject(cell["arch"], options, device)
        generation = decode.generation_of(cell, subject)
        contests[variant] = Contest(subject.task, subject.model, generation, subject.samples(cell), device)
    return contests


def bench(contests, rounds, device):
    """``{variant: row}``: seconds of each round, what was compared, and the decoder state."""
    turns = {(v, mode): partial(contest.decode, mode) for v, contest in contests.items() for mode in MODES}
    times, outputs, _ = decode.measure(turns, rounds, device)
    missing = [variant for variant, mode in turns if (variant, mode) not in times]
    if missing:
        raise SystemExit(f"scripts.bench.variants: not enough memory for {', '.join(dict.fromkeys(missing))}")
    rows = {}
    for variant, contest in contests.items():
        stock, ours = (outputs[variant, mode] for mode in MODES)
        own, of_stock = contest.states["auto"]
        rows[variant] = {
            "lossless": decode.check(contest, "auto", stock, ours),
            "seconds": {mode: times[variant, mode] for mode in MODES},
            "state_mib": {"stock": of_stock / MIB, "auto": own / MIB},
        }
    return rows


def quotients(slower, faster):
    """How many times as fast, in each round."""
    return [a / b for a, b in zip(slower, faster, strict=True)]


def main(argv=None):
    args = parse_args(argv)
    logging.disable(logging.INFO)  # what each generator says of itself, in each round
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    about = machine(device)
    print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, medians of {args.rounds} rounds")
    print("| shape | variant | stock, s | auto, s | against stock | against the first | output |\n" + "|---" * 7 + "|")
    rows = bench(contests_of(args, device), args.rounds, device)
    first = next(iter(rows.values()))["seconds"]["auto"]
    for variant, row in rows.items():
        took = row["seconds"]
        faster = (quotients(took["stock"], took["auto"]), quotients(first, took["auto"]))
        cells = [*(f"{statistics.median(took[mode]):.3f}" for mode in MODES)]
        cells += [f"{statistics.median(each):.2f}x" for each in faster]
        print("| " + " | ".join([args.shape, variant, *cells, row["lossless"]]) + " |", flush=True)
        if args.json:
            append_row(args.json, {"shape": args.shape, "variant": variant, **row, **about})


if __name__ == "__main__":
    main()
