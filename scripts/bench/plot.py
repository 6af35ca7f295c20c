"""Figures of the benchmarks: speed by batch size, memory by source length, variants by heads, and an overview.

Usage: python -m scripts.bench.plot throughput OUT.png ROWS.jsonl [--label LABEL]    rows of bench_decode.py
       python -m scripts.bench.plot memory OUT.png ROWS.jsonl                        rows of bench.state
       python -m scripts.bench.plot training OUT.png ROWS.jsonl                      rows of bench.training
       python -m scripts.bench.plot overview OUT.png ROWS.jsonl                      rows of bench.cpu_table
       python -m scripts.bench.plot parameters OUT.png                               from the formulas

Where memory ran out a cross on the axis says so.
"""

import argparse
import json
import logging
from pathlib import Path

from .cpu_table import CPUS, SUMMARY, newest_of
from .parameters import FORMULAS
from .rows import read_rows

# One colour for one thing in all figures. On a CPU, auto is shared; on a GPU it is on.
COLOURS = {"stock": "C0", "shared": "C1", "auto": "C2", "on": "C3", "ctranslate2": "C4", "transformers": "C5"}
COLOURS |= {"mha": "C0", "mhe": "C3", "mhe-mul": "C3", "mhe-add": "C6", "mqa": "C1", "sha": "C2"}
HEADS = (1, 2, 4, 8, 16, 32)
NAMES = {"shared": "keys and values shared by the beams", "on": "EL-attention", "per-beam": "keys and values per beam"}
STEP = {"ms": "ms a step", "mib": "MiB kept for the backward pass"}  # of training
LABELS = {"auto": "--el-attention auto", "on": "--el-attention on"}


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


def parameters(rows, path):
    """Parameters of Q, K and V against the heads: with heads of one width, and with a model of one width."""
    figure, axes = _panels(2)
    shapes = {
        "heads of width d = 64, D = n · d": lambda n: 64,
        "a model of width D = 1024, d = D / n": lambda n: 1024 // n,
    }
    for axis, (title, width) in zip(axes, shapes.items()):
        for variant, (_, formula) in FORMULAS.items():
            if variant != "mhe-add":  # as mhe-mul
                _line(axis, variant.replace("-mul", ""), [(n, formula(n, width(n))) for n in HEADS], [])
        _finish(axis, title, "heads n", "parameters of Q, K and V")
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:,.0f}")
    _save(figure, path)


def by_heads(rows):
    """``{"ms" or "mib": {variant: [[heads, number], ...]}}`` of a training step; of several rows the last counts."""
    variants = dict.fromkeys(row["variant"] for row in rows)
    numbers = {key: {v: {r["heads"]: r[key] for r in rows if r["variant"] == v} for v in variants} for key in STEP}
    return {key: {v: sorted(map(list, each.items())) for v, each in found.items()} for key, found in numbers.items()}


def training(rows, path):
    """Time of a training step, and MiB kept for the backward pass, against the heads."""
    if len({(row["arch"], row["layers"], row["capability"]) for row in rows}) > 1:
        raise SystemExit("training: the rows are of several models or processors, and one figure shows one")
    figure, axes = _panels(2)
    found = by_heads(rows)
    for axis, (key, unit) in zip(axes, STEP.items()):
        for variant, points in found[key].items():
            _line(axis, variant, points, [])
        _finish(axis, f"{rows[0]['arch']}, {rows[0]['layers']} layers", "heads n", unit)
        axis.set_ylim(bottom=0)
    _save(figure, path, about=json.dumps(found))


def percentages(rows):
    """``{panel: {shape: {mode: percent of stock's}}}`` for the shapes of the README's table."""
    newest = newest_of(rows)
    states = {name: newest[name, next(iter(CPUS))]["state_mib"] for name in SUMMARY}
    found = {"decoder state": {name: {m: each[m] / each["stock"] for m in LABELS} for name, each in states.items()}}
    for kind, cpu in CPUS.items():
        faster = {name: newest[name, kind]["speedup"] for name in SUMMARY}
        found[f"time, {cpu}"] = {name: {m: 1 / each[m] for m in LABELS} for name, each in faster.items()}
    return {
        panel: {name: {mode: round(100 * part, 3) for mode, part in parts.items()} for name, parts in shapes.items()}
        for panel, shapes in found.items()
    }


def overview(rows, path):
    """The shapes of the README's table: decoder state, and time on each kind of CPU, in percent of stock's."""
    found = percentages(rows)
    figure, axes = _panels(len(found))
    for axis, (panel, shapes) in zip(axes, found.items()):
        _percent_bars(axis, panel, shapes)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.08))
    _save(figure, path, about=json.dumps(found))


def _percent_bars(axis, title, shapes):
    """A group of bars for each shape; stock is the line at 100 %."""
    height = 0.4
    for i, (mode, label) in enumerate(LABELS.items()):
        found = [each[mode] for each in shapes.values()]
        colour = COLOURS["shared" if mode == "auto" else mode]  # on a CPU auto is shared
        bars = axis.barh([g + i * height for g in range(len(shapes))], found, height, color=colour, label=label)
        for bar, value in zip(bars, found):  # within the bar where it is long, so that no number crosses the line
            inside = value > 50
            place = value - 1.5 if inside else value + 1.5
            style = {"ha": "right", "color": "white"} if inside else {"ha": "left"}
            axis.text(place, bar.get_y() + height / 2, f"{value:.0f} %", va="center", fontsize=8, **style)
    axis.axvline(100, color=COLOURS["stock"], label="stock fairseq")
    axis.set_yticks(
        [group + height / 2 for group in range(len(shapes))], [SUMMARY[name] for name in shapes], fontsize=9
    )
    axis.invert_yaxis()
    axis.set_xlim(0, 115)
    axis.set_title(f"{title}, % of stock's", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


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
    style["linestyle"] = "--" if name == "sha" else "-"  # MHE has hardly more parameters
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


def _save(figure, path, about=None):
    """``about``: what the figure shows, kept in the file, so that a test can hold it to the results."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Description": about} if about else None)
    pyplot.close(figure)


KINDS = {"throughput": throughput, "memory": memory, "training": training}
KINDS |= {"overview": overview, "parameters": parameters}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("rows", type=Path, nargs="?", metavar="ROWS.jsonl")
    parser.add_argument("--label", help="only rows with this label")
    args = parser.parse_args(argv)
    if (args.rows is None) != (args.kind == "parameters"):
        parser.error(f"{args.kind} reads {'no' if args.rows else 'a file of'} rows")
    rows = (
        [row for row in read_rows(args.rows) if args.label is None or row.get("label") == args.label]
        if args.rows
        else []
    )
    if args.rows and not rows:
        parser.error(f"{args.rows} has no rows" + (f" with the label {args.label}" if args.label else ""))
    KINDS[args.kind](rows, args.out)
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
