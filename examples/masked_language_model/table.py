#!/usr/bin/env python3
"""The attention variants of masked language models, from the logs that run.sh left in a folder, in Markdown or CSV.

Accuracy is that of the test part after the epoch that was best on the validation part (the last of equals): the mean
over the seeds of fine-tuning, and the largest distance of a seed from it. Retention is the mean accuracy over tasks, by
that of mha. Only seeds count that all models have for all tasks.
"""

import argparse
import re
import statistics
from pathlib import Path

from scripts.retention import retention

VARIANTS = ["mha", "mhe-mul", "mhe-add", "mqa", "sha"]
SCRATCH = "mha-scratch"
EVALUATION = re.compile(r"valid on '(valid|test)' subset \|.* accuracy ([\d.]+) .*num_updates (\d+)")


def number(pattern, text, where):
    """The last number that ``pattern`` finds in ``text``."""
    found = re.findall(pattern, text)
    if not found:
        raise SystemExit(f"{where}: nothing like {pattern!r} in it; remove it and run it again")
    return float(found[-1].replace(",", ""))


def accuracy(path):
    """Of the test part, after the epoch that was best on the validation part: of equals the last, as fairseq keeps."""
    found = {"valid": {}, "test": {}}
    for part, value, updates in EVALUATION.findall(path.read_text()):
        found[part][int(updates)] = float(value)  # an epoch that was interrupted is evaluated again
    both = sorted(found["valid"].keys() & found["test"].keys())
    if not both:
        raise SystemExit(f"{path}: no epoch with both the validation and the test part; remove it and run it again")
    return found["test"][max(both, key=lambda updates: (found["valid"][updates], updates))]


def accuracies(folder):
    """``{(task, seed): accuracy}`` of one model."""
    paths = {path: path.parent.name.rpartition("-") for path in sorted(folder.glob("*/summary.log"))}
    return {(task, int(seed)): accuracy(path) for path, (task, _, seed) in paths.items()}


def size_and_perplexity(folder):
    """What pretraining says of a model: parameters of its attentions, all parameters, held-out perplexity."""
    path = folder / "summary.log"
    if not path.is_file():
        raise SystemExit(f"{path}: there is none; run pretrain.sh to its end first")
    text = path.read_text()
    patterns = (
        r"attention variant .*: ([\d,]+) parameters in",
        r"\(num\. trained: ([\d,]+)\)",
        r"valid on 'valid' subset \|.* ppl ([\d.e+]+) ",
    )
    return [number(pattern, text, path) for pattern in patterns]


class Results:
    """What run.sh found: ``scores[model][task]``, the accuracies of all ``seeds``, and ``bodies[model]``."""

    def __init__(self, folder):
        folders = {**{name: folder / f"{name}-1" for name in VARIANTS}, SCRATCH: folder / SCRATCH}
        found = {name: accuracies(path) for name, path in folders.items()}
        found = {name: each for name, each in found.items() if each}
        if "mha" not in found:
            raise SystemExit(
                f"{folder}: no mha-1 that is fine-tuned, which the others are compared with; run run.sh first"
            )
        tasks, seeds = (sorted(set(keys)) for keys in zip(*found["mha"]))
        self.seeds = [seed for seed in seeds if all((task, seed) in each for each in found.values() for task in tasks)]
        if not self.seeds:
            raise SystemExit(f"{folder}: no seed with which every model is fine-tuned on {', '.join(tasks)}")
        self.tasks = tasks
        self.scores = {
            name: {task: [each[task, seed] for seed in self.seeds] for task in tasks} for name, each in found.items()
        }
        self.bodies = {name: size_and_perplexity(folders["mha" if name == SCRATCH else name]) for name in found}

    def mean(self, name):
        """The accuracy of a model, over tasks and seeds."""
        return statistics.mean(value for values in self.scores[name].values() for value in values)


def spread(values):
    """``mean ± the largest distance from it``; of one value itself."""
    mean = statistics.mean(values)
    return f"{mean:.1f}" + (f" ± {max(abs(value - mean) for value in values):.1f}" if len(values) > 1 else "")


def markdown(results):
    header = ["variant", "parameters: attention / all", "masked perplexity", *results.tasks, "mean", "retention"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    base = results.mean("mha")
    for name, scores in results.scores.items():
        attention, whole, perplexity = results.bodies[name]
        about = [f"{attention:,.0f} / {whole:,.0f}", "not pretrained" if name == SCRATCH else f"{perplexity:.2f}"]
        mean = results.mean(name)
        shown = [*map(spread, scores.values()), f"{mean:.1f}", f"{100 * retention(mean, base):.1f} %"]
        print("| " + " | ".join([name, *about, *shown]) + " |")
    seeds = f"fine-tuning seeds {', '.join(map(str, results.seeds))}"
    print(f"\nTest accuracy in %: mean and largest distance from it over {seeds}; one pretraining a variant.")


def as_csv(results):
    print(",".join(["variant", "parameters", *results.tasks, "mean"]))
    for name in (name for name in VARIANTS if name in results.scores):
        means = [statistics.mean(values) for values in results.scores[name].values()]
        shown = ",".join(f"{value:.4f}" for value in [*means, results.mean(name)])
        print(f"{name},{results.bodies[name][0]:.0f},{shown}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the OUT of run.sh")
    parser.add_argument(
        "--csv", action="store_true", help="what scripts/retention.py reads: attention parameters, means"
    )
    args = parser.parse_args(argv)
    (as_csv if args.csv else markdown)(Results(args.folder))


if __name__ == "__main__":
    main()
