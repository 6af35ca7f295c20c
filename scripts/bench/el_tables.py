"""The EL paper's tables in Markdown: what reproduce_el_tables.sh has measured, and the published numbers beside it.

Usage: python -m scripts.bench.el_tables SPEED.jsonl STATE.jsonl
"""

import sys
from pathlib import Path

from .rows import read_rows

# Samples per second, half precision, (multi-head attention, EL-attention), at the largest batch that fits.
PUBLISHED_SPEED = {
    "squad": {"beam": (170.9, 458.1), "diverse": (162.3, 454.1), "greedy": (436.4, 699.7)},
    "xsum": {"beam": (14.7, 69.4), "diverse": (15.8, 71.9), "greedy": (42.6, 107.8)},
    "cnndm": {"beam": (5.7, 28.6), "diverse": (5.4, 28.5), "greedy": (13.0, 40.0)},
    "gpt2_small": {"beam": (2.1, 3.8), "greedy": (14.7, 26.2)},
    "gpt2_medium": {"beam": (0.9, 2.0), "greedy": (5.9, 10.4)},
}
TASKS = {
    "squad": "SQuAD 1.1, Transformer",
    "xsum": "XSum, BART",
    "cnndm": "CNN/DailyMail, BART",
    "gpt2_small": "CNN/DailyMail, GPT-2 small",
    "gpt2_medium": "CNN/DailyMail, GPT-2 medium",
}
# BART on CNN/DailyMail, samples per second by batch size.
PUBLISHED_BATCH = {32: ("5.7", "8.0"), 64: ("OOM", "12.6"), 128: ("OOM", "21.3"), 320: ("OOM", "28.6")}
# GB kept of the source, BART large, beam 4, half precision, by batch size and length.
PUBLISHED_STATE = {
    (32, 256): (1.5, 0.02),
    (32, 1024): (6, 0.06),
    (64, 256): (3, 0.03),
    (64, 1024): (12, 0.13),
    (320, 256): (15, 0.15),
    (320, 1024): (60, 0.63),
}
SOURCE = "V100 16 GB, fairseq 0.9 (GPT-2: transformers 3.0.2), arXiv 2105.04779; not measured here"


MODES = ("stock", "shared", "on")


def shown(row, kind, mode):
    """One measured number, OOM, or nothing where the paper has a row that was not measured here."""
    if row is None:
        return ""
    return "OOM" if mode in row["out_of_memory"] else f"{row[kind][mode]:,.2f}" if mode in row[kind] else ""


def fastest(rows, mode):
    """``(sentences per second, batch)`` of the batch size at which this mode is fastest, or None if none fits."""
    speeds = [(r["sentences_per_second"][mode], r["batch"]) for r in rows if mode in r["seconds"]]
    return max(speeds, default=None)


def speed_table(rows):
    """Speed by model and task for each search, each mode at its fastest batch size."""
    yield f"Sentences per second, each at its fastest batch size (in brackets). Published: {SOURCE}."
    yield ""
    yield "| task, model | shape here | search | stock | shared K/V | EL | EL against stock | published: MHA | EL | |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    groups = {}
    for row in rows:
        groups.setdefault((row["label"], row["arch"], row["search"], row["beam"]), []).append(row)
    for (task, arch, search, beam), group in groups.items():
        best = {mode: fastest(group, mode) for mode in MODES}
        ratio = f"{best['on'][0] / best['stock'][0]:.2f}x" if best["stock"] and best["on"] else ""
        here = " | ".join(f"{best[mode][0]:.2f} ({best[mode][1]})" if best[mode] else "OOM" for mode in best)
        published = PUBLISHED_SPEED.get(task, {}).get(search)
        there = f"{published[0]} | {published[1]} | {published[1] / published[0]:.1f}x" if published else "| |"
        yield f"| {TASKS.get(task, task)} | {arch} | {search} {beam} | {here} | {ratio} | {there} |"


def batch_table(rows):
    """Speed by batch size; the budget, where there is one, is in the title."""
    budget = rows[0]["memory_budget_gib"]
    yield "Sentences per second by batch size, " + (
        f"within {budget:g} GiB." if budget else "all memory of the device."
    )
    yield f"{rows[0]['arch']}, {rows[0]['source']} + {rows[0]['tokens']} tokens. Published (BART large): {SOURCE}."
    yield ""
    yield "| batch | stock | shared K/V | EL | peak, MiB: stock | shared | EL | published: MHA | EL |"
    yield "|---|---|---|---|---|---|---|---|---|"
    measured = {row["batch"]: row for row in rows}
    for batch in sorted({*measured, *PUBLISHED_BATCH}):
        row = measured.get(batch)
        cells = [shown(row, kind, mode) for kind in ("sentences_per_second", "peak_mib") for mode in MODES]
        yield f"| {batch} | {' | '.join([*cells, *PUBLISHED_BATCH.get(batch, ('', ''))])} |"


def state_table(rows):
    """Memory kept of the source by batch size and length."""
    layouts = ("per-beam", "stock", "shared", "on")
    yield f"MiB kept of the source, {rows[0]['arch']}, beam {rows[0]['beam']}, {rows[0]['dtype']}, measured."
    yield f"Published (BART large, half precision, in GB): {SOURCE}."
    yield ""
    yield "| batch | length | K/V per beam | stock 0.12 | shared K/V | EL | times less | published: MHA | EL |"
    yield "|---|---|---|---|---|---|---|---|---|"
    measured = {(row["batch"], row["source"]): row for row in rows}
    for batch, source in sorted({*measured, *PUBLISHED_STATE}):
        row = measured.get((batch, source))
        mib = row["state_mib"] if row else {}
        ratio = f"{mib['per-beam'] / mib['on']:.0f}x" if {"per-beam", "on"} <= mib.keys() else ""
        cells = [*(shown(row, "state_mib", layout) for layout in layouts), ratio]
        there = [f"{gb} GB" if gb else "" for gb in PUBLISHED_STATE.get((batch, source), ("", ""))]
        yield f"| {batch} | {source} | {' | '.join([*cells, *there])} |"


def tables(speed, state):
    """All tables for which there are rows, as lines."""
    row = (speed or state)[0]
    yield f"Measured on {row['device']}, {row['threads']} CPU threads, torch {row['torch']}, commit {row['commit']}."
    yield "Where no checkpoint is named, weights are random and every hypothesis runs to its full length."
    parts = [
        (speed_table, [row for row in speed if not row["label"].startswith("batch")]),
        (batch_table, [row for row in speed if row["label"] == "batch"]),
        (batch_table, [row for row in speed if row["label"] == "batch-budget"]),
        (state_table, state),
    ]
    for table, rows in parts:
        if rows:
            yield ""
            yield from table(rows)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 2 or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    speed, state = (read_rows(Path(path)) for path in argv)
    if not speed and not state:
        raise SystemExit(f"scripts.bench.el_tables: {argv[0]} and {argv[1]} have no rows")
    print("\n".join(tables(speed, state)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
