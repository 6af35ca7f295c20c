#!/usr/bin/env python3
"""The tables of attention variants, from what compare.sh left in a folder: scores, and what a parameter buys.

Each number of scores is the mean over the seeds that a variant has in common with mha, ± the largest distance of a seed
from it.
"""

import argparse
import json
import re
import statistics
from pathlib import Path

from scripts.retention import SINGLE_HEAD, retention
from scripts.retention import rows as gains

VARIANTS = ["mha", "mhe-mul", "mhe-add", "mqa", "sha"]
SIGNIFICANCE = "significance.json"  # of significance.py


def number(pattern, text, where):
    """The one number that ``pattern`` finds in ``text``."""
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"{where}: nothing like {pattern!r} in it; run it again")
    return float(found.group(1).replace(",", ""))


def read_run(path):
    """What one summary.log says."""
    text = path.read_text()
    scores = {each["name"]: each for each in json.loads(re.search(r"^scores: (.*)$", text, re.MULTILINE)[1])}
    bleu, chrf = scores["BLEU"], next(each for name, each in scores.items() if name.startswith("chrF"))
    return {
        "attention": number(r"attention variant .*: ([\d,]+) parameters in", text, path),
        "all": number(r"num\. shared model params: [\d,]+ \(num\. trained: ([\d,]+)\)", text, path),
        "valid nll": number(r"valid on 'valid' subset \|.* nll_loss ([\d.]+) ", text, path),
        "test nll": number(r"valid on 'test' subset \|.* nll_loss ([\d.]+) ", text, path),
        "BLEU": bleu["score"],
        "brevity penalty": number(r"BP = ([\d.]+)", bleu["verbose_score"], path),
        "chrF": chrf["score"],
        "signatures": {f"{name}|{each['signature']}" for name, each in scores.items()},
    }


def by_seed(folder, name):
    """The runs of a variant: a dictionary from seed to what its summary says."""
    paths = [path for path in folder.glob(f"{name}-*/summary.log") if path.parent.name[len(name) + 1 :].isdigit()]
    return {int(path.parent.name[len(name) + 1 :]): read_run(path) for path in paths}


class Results:
    """``runs[name][seed]``, for seeds that a variant shares with mha, and how sure differences are."""

    def __init__(self, folder, names):
        found = {name: by_seed(folder, name) for name in names}
        self.base = found["mha"]
        if not self.base:
            raise SystemExit(f"{folder}: no mha-*/summary.log, which the others are compared with; run train.sh first")
        self.runs = {name: {s: runs[s] for s in sorted(runs) if s in self.base} for name, runs in found.items()}
        self.runs = {name: runs for name, runs in self.runs.items() if runs}
        path = folder / SIGNIFICANCE
        self.significance = json.loads(path.read_text()) if path.exists() else {}

    def values(self, name, column):
        """Of each seed."""
        return [run[column] for run in self.runs[name].values()]

    def mean(self, name, column):
        return statistics.mean(self.values(name, column))

    def retention(self, name, column):
        """Of the mean, against mha with the same seeds."""
        return retention(self.mean(name, column), statistics.mean(self.base[seed][column] for seed in self.runs[name]))


def spread(values, digits):
    """``mean ± the largest distance from it``."""
    mean = statistics.mean(values)
    return f"{mean:.{digits}f}" + (f" ± {max(abs(x - mean) for x in values):.{digits}f}" if len(values) > 1 else "")


def percent(part):
    return f"{100 * part:.1f} %"


def print_table(header, rows):
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def scores_of(results):
    """The rows of the first table."""
    for name, runs in results.runs.items():
        first, sure = next(iter(runs.values())), results.significance.get(name, {})
        yield [
            name,
            f"{first['attention']:,.0f} / {first['all']:,.0f}",
            str(len(runs)),
            *(spread(results.values(name, column), 3) for column in ("valid nll", "test nll")),
            spread(results.values(name, "BLEU"), 1),
            spread(results.values(name, "brevity penalty"), 2),
            spread(results.values(name, "chrF"), 1),
            f"{percent(results.retention(name, 'BLEU'))}, {percent(results.retention(name, 'chrF'))}",
            ", ".join(f"{sure[seed]['BLEU']['p']:.3f}" for seed in sorted(sure)) or "-",
        ]


def shared_scores(results):
    """What scripts/retention.py reads: of each variant the means over the seeds that all have; empty without any."""
    common = set.intersection(*(set(runs) for runs in results.runs.values()))
    if not common:
        return {}
    return {
        name: {
            "parameters": next(iter(runs.values()))["attention"],
            **{column: statistics.mean(runs[seed][column] for seed in common) for column in ("BLEU", "chrF")},
        }
        for name, runs in results.runs.items()
    }


def markdown(results):
    parts = ["validation nll", "test nll", "BLEU", "brevity penalty", "chrF", "retention: BLEU, chrF", "p by seed"]
    print_table(["variant", "parameters: attention / all", "seeds", *parts], scores_of(results))
    signatures = sorted(set().union(*(run["signatures"] for run in results.base.values())))
    print("\nRetention: against mha with the same seeds. p: paired bootstrap of BLEU against mha.")
    print(", ".join(signatures))
    scores = shared_scores(results)
    if SINGLE_HEAD in scores:
        header, *lines = gains(scores)
        print()
        print_table(header, lines)
        print("\nOf the seeds that all have; parameters of the attentions. Gain: per parameter (scripts/retention.py)")


def as_csv(results):
    scores = shared_scores(results)
    if not scores:
        raise SystemExit(f"no seed that each of {', '.join(results.runs)} has")
    print(",".join(["variant", *next(iter(scores.values()))]))
    for name, found in scores.items():
        print(f"{name},{found['parameters']:.0f},{found['BLEU']:.4f},{found['chrF']:.4f}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the OUT of compare.sh")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME", help="further runs, by the NAME of train.sh")
    parser.add_argument("--csv", action="store_true", help="what scripts/retention.py reads")
    args = parser.parse_args(argv)
    results = Results(args.folder, [*VARIANTS, *args.also])
    if args.csv:
        as_csv(results)
    else:
        markdown(results)


if __name__ == "__main__":
    main()
