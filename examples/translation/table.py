#!/usr/bin/env python3
"""The tables of attention variants, from what compare.sh left in a folder.

1. Scores: means over the seeds that a variant has in common with mha, ± the largest distance of a seed from the mean.
2. Each seed against mha with the same seed: differences, and p of significance.py in parentheses.
3. What a parameter buys (scripts/retention.py), of the seeds that all have.
4. The signatures of the metrics.
"""

import argparse
import json
import re
import statistics
from pathlib import Path

from scripts.retention import BASE, retention
from scripts.retention import rows as gains

VARIANTS = ["mha", "mhe-mul", "mhe-add", "mqa", "sha"]
SIGNIFICANCE = "significance.json"  # of significance.py
RETAINED = ["BLEU", "chrF", "validation BLEU"]  # of the last the best of all --lenpen


def only(pattern, text, where):
    """The one thing that ``pattern`` finds in ``text``."""
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"{where}: nothing like {pattern!r} in it; remove it and run train.sh again")
    return found.group(1)


def number(pattern, text, where):
    return float(only(pattern, text, where).replace(",", ""))


def largest(pattern, text, where):
    only(pattern, text, where)
    return max(map(float, re.findall(pattern, text)))


def read_run(path):
    """What one summary.log says."""
    text = path.read_text()
    scores = {each["name"]: each for each in json.loads(only(r"(?m)^scores: (.*)$", text, path))}
    bleu, chrf = scores["BLEU"], next(each for name, each in scores.items() if name.startswith("chrF"))
    return {
        "attention": number(r"attention variant .*: ([\d,]+) parameters in", text, path),
        "all": number(r"num\. shared model params: [\d,]+ \(num\. trained: ([\d,]+)\)", text, path),
        "valid nll": number(r"valid on 'valid' subset \|.* nll_loss ([\d.]+) ", text, path),
        "test nll": number(r"valid on 'test' subset \|.* nll_loss ([\d.]+) ", text, path),
        "validation BLEU": largest(r"(?m)^lenpen \S+: validation BLEU = ([\d.]+)$", text, path),
        "lenpen": only(r"(?m)^lenpen: (\S+)$", text, path),
        "BLEU": bleu["score"],
        "brevity penalty": number(r"BP = ([\d.]+)", bleu["verbose_score"], path),
        "chrF": chrf["score"],
        "signatures": {name: each["signature"].replace("|", r"\|") for name, each in scores.items()},  # for Markdown
    }


def by_seed(folder, name):
    """The runs of a variant: a dictionary from seed to what its summary says."""
    paths = [path for path in folder.glob(f"{name}-*/summary.log") if path.parent.name[len(name) + 1 :].isdigit()]
    return {int(path.parent.name[len(name) + 1 :]): read_run(path) for path in paths}


class Results:
    """``runs[name][seed]``, for seeds that a variant shares with mha, and how sure differences are."""

    def __init__(self, folder, names):
        found = {name: by_seed(folder, name) for name in names}
        self.base = found[BASE]
        if not self.base:
            raise SystemExit(f"{folder}: no mha-*/summary.log, which the others are compared with; run train.sh first")
        self.runs = {name: {s: runs[s] for s in sorted(runs) if s in self.base} for name, runs in found.items()}
        self.runs = {name: runs for name, runs in self.runs.items() if runs}
        path = folder / SIGNIFICANCE
        self.significance = json.loads(path.read_text())["compared"] if path.exists() else {}

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
        first = next(iter(runs.values()))
        yield [
            name,
            f"{first['attention']:,.0f} / {first['all']:,.0f}",
            str(len(runs)),
            *(spread(results.values(name, column), 3) for column in ("valid nll", "test nll")),
            spread(results.values(name, "BLEU"), 1),
            spread(results.values(name, "brevity penalty"), 2),
            spread(results.values(name, "chrF"), 1),
            spread(results.values(name, "validation BLEU"), 1),
            *(percent(results.retention(name, column)) for column in RETAINED),
        ]


COMPARED = {"validation nll": ("valid nll", 3), "test nll": ("test nll", 3), "BLEU": ("BLEU", 2), "chrF": ("chrF", 2)}


def difference(results, name, seed, column, digits):
    """Of one run from that of mha with the same seed, with its sign, and p where it was computed."""
    shown = f"{results.runs[name][seed][column] - results.base[seed][column]:+.{digits}f}"
    sure = results.significance.get(name, {}).get(str(seed), {}).get(column)
    return f"{shown} ({sure['p']:.3f})" if sure else shown


def differences_of(results):
    """The rows of the second table."""
    for name, runs in results.runs.items():
        found = [", ".join(difference(results, name, seed, *about) for seed in runs) for about in COMPARED.values()]
        yield [name, *(found if name != BASE else "-" * len(found)), ", ".join(run["lenpen"] for run in runs.values())]


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
    parts = ["validation nll", "test nll", "BLEU", "brevity penalty", "chrF", "validation BLEU"]
    parts += [f"retention: {column}" for column in RETAINED]
    print_table(["variant", "parameters: attention / all", "seeds", *parts], scores_of(results))
    print("\nAgainst mha with the same seed: differences (p of the paired bootstrap)\n")
    print_table(["variant", *COMPARED, "`--lenpen`"], differences_of(results))
    scores = shared_scores(results)
    if scores:
        header, *lines = gains(scores)
        print(
            "\nOf the seeds that all have; parameters of the attentions. Gain: per parameter (scripts/retention.py)\n"
        )
        print_table(header, lines)
    print()
    signatures = {each for runs in results.runs.values() for run in runs.values() for each in run["signatures"].items()}
    print_table(["metric", "signature"], ([name, f"`{text}`"] for name, text in sorted(signatures)))


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
