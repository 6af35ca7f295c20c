"""Figures from the benchmarks' rows: throughput against batch size, memory against source length.

Usage: python -m scripts.bench.plot throughput OUT.png ROWS.jsonl [--label LABEL]    rows of bench_decode.py
       python -m scripts.bench.plot memory OUT.png ROWS.jsonl                        rows of bench.state

Where memory ran out a cross on the axis says so.
"""

import argparse
import logging
from pathlib import Path

from .rows import read_rows

# One colour for one thing in all figures. On a CPU, auto is shared; on a GPU it is on.
COLOURS = {"stock": "C0", "shared": "C1", "auto": "C2", "on": "C3", "ctranslate2": "C4", "transformers": "C5"}
NAMES = {"shared": "keys and values shared by the beams", "on": "EL-attention", "per-beam": "keys and values per beam"}


def throughput(rows, path):
    """Sentences per second against the batch size, a panel for each shape, search and source length."""
    panels = {}
    for row in rows:
        budget = row.get("memory_budget_gib")
        title = f"{row['arch']}, {row['search']} {row['beam']}, {row['source']} + {row['tokens']} tokens"
        panels.setdefault(title + (f", {budget:g} GiB" if budget else ""), []).append(row)
    figure, axes = _panels(len(panels))
    for axis, (title, panel) in zip(axes, panels.items()):
        for mode in dict.fromkeys(mode for row in panel for mode in [*row["seconds"], *row["out_of_memory"]]):
            points = sorted((r["batch"], r["sentences_per_second"][mode]) for r in panel if mode in r["seconds"])
            _line(axis, mode, points, [row["batch"] for row in panel if mode in row["out_of_memory"]])
        _finish(axis, title, "sentences in a batch", "sentences per second")
        axis.set_ylim(bottom=0)
    _save(figure, path)


def memory(rows, path):
    """MiB that the decoder keeps of the source against its length, a panel for each shape and batch size."""
    panels = {}
    for row in rows:
        title = f"{row['arch']}, {row['batch']} sentences, beam {row['beam']}, {row['dtype']}"
        panels.setdefault(title, []).append(row)
    figure, axes = _panels(len(panels))
    for axis, (title, panel) in zip(axes, panels.items()):
        for layout in dict.fromkeys(layout for row in panel for layout in [*row["state_mib"], *row["out_of_memory"]]):
            points = sorted((r["source"], r["state_mib"][layout]) for r in panel if layout in r["state_mib"])
            _line(axis, layout, points, [row["source"] for row in panel if layout in row["out_of_memory"]])
        _finish(axis, title, "tokens of a source", "MiB kept of the source")
        axis.set_yscale("log")
    _save(figure, path)


def _panels(count):
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = max(1, min(3, count))
    rows = max(1, -(-count // columns))
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat)


def _line(axis, name, points, out_of_memory):
    style = {"color": COLOURS.get(name, "C7"), "label": NAMES.get(name, name)}
    axis.plot(*zip(*points) if points else ([], []), marker="o", **style)
    for x in out_of_memory:
        axis.plot(x, 0, marker="x", color=style["color"], transform=axis.get_xaxis_transform(), clip_on=False)


def _finish(axis, title, x, y):
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _save(figure, path):
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["throughput", "memory"])
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("rows", type=Path, metavar="ROWS.jsonl")
    parser.add_argument("--label", help="only rows with this label")
    args = parser.parse_args(argv)
    rows = [row for row in read_rows(args.rows) if args.label is None or row["label"] == args.label]
    if not rows:
        parser.error(f"{args.rows} has no rows" + (f" with the label {args.label}" if args.label else ""))
    {"throughput": throughput, "memory": memory}[args.kind](rows, args.out)
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
