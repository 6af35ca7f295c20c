#!/usr/bin/env python3
"""The table of attention variants, from the logs that train.sh and speed.sh left in a folder (Markdown)."""

import argparse
import json
import re
import statistics
from pathlib import Path

VARIANTS = ["mha", "mhe-mul", "mhe-add", "mqa", "sha"]
BATCH = 64  # sentences; the decoder state in the logs is that of the largest batch


def number(pattern, text, where):
    """The one number that ``pattern`` finds in ``text``."""
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"{where}: nothing like {pattern!r} in it; run it again")
    return float(found.group(1).replace(",", ""))


def read_run(path):
    """What one summary.log says."""
    text = path.read_text()
    bleu = json.loads(re.search(r"^bleu: (.*)$", text, re.MULTILINE).group(1))
    return {
        "attention": number(r"attention variant .*: ([\d,]+) parameters in", text, path),
        "all": number(r"num\. shared model params: [\d,]+ \(num\. trained: ([\d,]+)\)", text, path),
        "updates": max(int(n) for n in re.findall(r"num_updates (\d+)", text)),
        "state": number(r"decoder state: peak ([\d.]+) MiB", text, path),
        "stock_state": number(r"stock would keep ([\d.]+) MiB", text, path),
        "bleu": bleu["score"],
        "signature": f"BLEU|{bleu['signature']}",
    }


def read_speed(folder, variant):
    """Median tokens per second and peak MiB over the rounds, None without any; each round's first half warms up."""
    speeds, peaks = [], []
    for path in sorted(folder.glob(f"{variant}-*.log")):
        text = path.read_text()
        rates = [float(rate) for rate in re.findall(r"wps=([\d.]+)", text)]
        speeds.append(statistics.median(rates[len(rates) // 2 :]))
        peaks.append(number(r"peak memory ([\d,]+) MiB", text, path))
    return (statistics.median(speeds), statistics.median(peaks)) if speeds else (None, None)


def by_seed(folder, name):
    """The runs of a variant: a dictionary from seed to what its summary says."""
    paths = [path for path in folder.glob(f"{name}-*/summary.log") if path.parent.name[len(name) + 1 :].isdigit()]
    return {int(path.parent.name[len(name) + 1 :]): read_run(path) for path in paths}


def rows(folder, names):
    """A list of cells for each variant that has runs."""
    runs = {name: by_seed(folder, name) for name in names}
    for name, found in runs.items():
        seeds = sorted(set(found) & set(runs["mha"]))
        if not seeds:
            continue
        first, scores = found[seeds[0]], [found[seed]["bleu"] for seed in seeds]
        base = statistics.mean(runs["mha"][seed]["bleu"] for seed in seeds)
        speed, peak = read_speed(folder / "speed", name)
        yield [
            name,
            f"{first['attention']:,.0f} / {first['all']:,.0f}",
            ", ".join(f"{score:.1f}" for score in scores),
            f"{100 * statistics.mean(scores) / base:.1f} %",
            "-" if speed is None else f"{speed:,.0f}",
            "-" if peak is None else f"{peak:,.0f} MiB",
            f"{1024 * first['state'] / BATCH:,.0f} KiB",
        ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the OUT of compare.sh")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME", help="further runs, by the NAME of train.sh")
    args = parser.parse_args()
    baseline = by_seed(args.folder, "mha")
    if not baseline:
        raise SystemExit(f"{args.folder}: no mha-*/summary.log, which the others are compared with; run train.sh first")
    header = ["variant", "parameters: attention / all", "BLEU", "retention", "tokens/s", "peak RAM", "decoder state"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows(args.folder, [*VARIANTS, *args.also]):
        print("| " + " | ".join(row) + " |")
    signatures = sorted({run["signature"] for run in baseline.values()})
    print(f"\nBLEU, one score a seed; retention against mha with the same seeds. {', '.join(signatures)}")
    stock = min(run["stock_state"] for run in baseline.values())
    print(f"Decoder state a sentence (beam 5); stock's own generator keeps {1024 * stock / BATCH:,.0f} KiB for mha.")


if __name__ == "__main__":
    main()
