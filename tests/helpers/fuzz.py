"""Decode random models with random searches as stock fairseq does and in every way there is here, and compare.

Usage: fuzz.py [--seed S] [--count N]    the cases 0 to N - 1 of a seed
       fuzz.py --seed S --case K         one of them alone, with all that it consists of

A case is a Transformer, BART, a language model, one with MHE attention or a baseline, or two unlike ones as an
ensemble, of awkward shapes; a batch of sentences; and a search with prefixes, n-gram blocking, constraints, sampling,
fusion with a language model, and more, together. Stock's tokens and scores, in float64 on a CPU, have to come from
--el-attention on, off and auto, and from decoder steps recorded as for CUDA graphs, while memory that nobody has
written to holds NaN. Each failure says how to repeat it alone. Exit status 0 if there is none, 1 otherwise, 130 after
Ctrl-C. What is left out because stock gives another output than it documents: tests/helpers/random_searches.py and
mixed_cases.py.
"""

import argparse
import logging
import sys
import traceback
from collections import Counter

import torch
from bench.rows import machine
from tqdm import tqdm

import el_fairseq

from .every_way import WAYS, compare_every_way
from .mixed_cases import mixed_case


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all cases (default: 0)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--count", type=int, default=100, metavar="N", help="how many cases (default: 100)")
    which.add_argument("--case", type=int, metavar="K", help="only this one")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count {args.count}: at least one case")
    if args.case is not None and args.case < 0:
        parser.error(f"--case {args.case}: cases are numbered from 0")
    return args


class Fuzz:
    """Cases of a seed, what they consisted of and what was found."""

    def __init__(self, seed):
        self.seed, self.done, self.failures = seed, 0, 0
        self.kinds, self.searches, self.options, self.found = Counter(), Counter(), Counter(), Counter()

    def add(self, number):
        """Decode the case ``number``; returns what is wrong with it, an exception, or None."""
        problem = None
        try:
            mixed = mixed_case(self.seed, number)
            self.kinds[mixed.kind] += 1
            self.searches[mixed.search.kind] += 1
            self.options.update(mixed.occurring())
            self.found.update(compare_every_way(mixed))
        except Exception as error:  # whatever it is, the other cases are decoded, too
            problem = error
        self.done += 1
        self.failures += problem is not None
        return problem

    def summary(self):
        """Lines: what occurred in how many cases, and the verdict."""
        hypotheses = self.found.pop("hypotheses", 0)
        for name, counts in (
            ("models", self.kinds),
            ("searches", self.searches),
            ("with", self.options),
            ("so that", self.found),
        ):
            yield f"{name + ':':<10}" + ", ".join(f"{what} {count}" for what, count in counts.most_common())
        yield (
            f"{self.done} cases of seed {self.seed}: {hypotheses:,} hypotheses compared with stock's "
            f"({'; '.join(WAYS)}), {self.failures} failures"
        )


def describe(error):
    """The kind of an exception and its first line, and the same of what caused it."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if error.__cause__ is None else f"{text} ({describe(error.__cause__)})"


def run_all(fuzz, count):
    """Decode ``count`` cases, with progress; returns the exit status."""
    stopped = False
    with tqdm(total=count, unit="case", mininterval=1, dynamic_ncols=True) as progress:
        try:
            for number in range(count):
                problem = fuzz.add(number)
                if problem is not None:
                    repeat = f"scripts/fuzz.py --seed {fuzz.seed} --case {number}"
                    tqdm.write(f"case {number} FAILED: {describe(problem)}\n  repeat it alone: {repeat}")
                progress.update()
        except KeyboardInterrupt:
            stopped = True
    print("\n".join(fuzz.summary()))
    if stopped:
        print(f"stopped by Ctrl-C after {fuzz.done} of {count} cases")
    return 130 if stopped else int(fuzz.failures > 0)


def run_one(fuzz, number):
    """Decode one case and print what it consists of; returns the exit status."""
    print(mixed_case(fuzz.seed, number))
    problem = fuzz.add(number)
    if problem is not None:
        traceback.print_exception(problem, file=sys.stdout)
    print(list(fuzz.summary())[-1])
    return int(problem is not None)


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(1)  # the models are tiny: threads would wait for each other
    logging.getLogger("el_fairseq").setLevel(logging.ERROR)
    versions = machine(torch.device("cpu"))
    print(f"{versions.pop('command')}\n{', '.join(f'{name} {value}' for name, value in versions.items())}", flush=True)
    fuzz = Fuzz(args.seed)
    return run_all(fuzz, args.count) if args.case is None else run_one(fuzz, args.case)
