"""Tables from rows of the benchmarks, in Markdown.

Usage: python -m scripts.bench.show {decode,peers,variants,training,linear,attention} ROWS.jsonl

decode     rows of bench_decode.py: seconds of stock, and how many times faster each mode is
peers      the same rows, those with another engine
variants   rows of bench.variants: decoding of each attention variant against mha, with the quartiles of the rounds
training   rows of bench.training: a step of each variant, against mha
linear     rows of bench.linear: GFLOP/s of each product
attention  rows of bench_attention.py: time and bytes of each layout

Of rows that measure the same thing the last one counts.
"""

import argparse
import statistics
from pathlib import Path

from el_fairseq.convert.attention_variant import MHA

from .cpu_table import CPUS
from .rows import read_rows
from .variants import quotients

MEASURED = ("arch", "batch", "source", "shortest", "tokens", "search", "beam", "dtype", "device", "capability")
SEARCHES = {"beam": "", "greedy": ", greedy", "diverse": ", diverse groups"}


def newest(rows, *keys):
    """The rows in their order, without those that are measured again later; ``keys`` say what a row measures."""
    last = {tuple(row.get(key) for key in keys): row for row in rows}
    return [row for row in rows if last[tuple(row.get(key) for key in keys)] is row]


def decode(rows):
    rows = [row for row in rows if not row.get("peers") and "search" in row]
    rows = newest(rows, *MEASURED)
    modes = [mode for mode in ("auto", "on", "mixed") if any(mode in row["speedup"] for row in rows)]
    yield ["model", "batch x source, generated", "stock", *(f"`{mode}`" for mode in modes), "commit"]
    for row in rows:
        faster = [f"{row['speedup'][mode]:.2f}x" if mode in row["speedup"] else "" for mode in modes]
        yield [_shape(row), _sizes(row), f"{row['seconds']['stock']:.3f} s", *faster, row["commit"]]


def peers(rows):
    rows = newest([row for row in rows if row.get("peers")], *MEASURED)
    yield ["model", "batch x source, generated", "stock", "`auto`", "CTranslate2", "`auto` against it", "commit"]
    for row in rows:
        times = [row["seconds"][name] for name in ("stock", "auto", "ctranslate2")]
        shown = [*(f"{seconds:.3f} s" for seconds in times), f"{times[2] / times[1]:.2f}x"]
        yield [_shape(row), _sizes(row), *shown, row["commit"]]


def variants(rows):
    """Medians; how many times as fast within a round, with the first and third quartile of the rounds."""
    rows = newest(rows, "capability", "shape", "variant")
    times = ["stock, s", "`auto`, s", "against stock", "against `mha`"]
    yield ["CPU", "shape", "variant", *times, "state: stock with `mha`", "`auto`"]
    for row in sorted(rows, key=lambda row: (CPUS[row["capability"]], row["shape"] != "small")):
        base = next((each for each in rows if _alike(each, row) and each["variant"] == MHA), None)
        if base is None:
            raise SystemExit(
                f"{row['shape']}, {row['capability']}: no row of {MHA}, which the others are compared with"
            )
        took = row["seconds"]
        cells = [f"{statistics.median(took[mode]):.3f}" for mode in ("stock", "auto")]
        cells.append(f"{statistics.median(quotients(took['stock'], took['auto'])):.2f}x")
        low, middle, high = statistics.quantiles(quotients(base["seconds"]["auto"], took["auto"]), n=4)
        cells.append("1.00x" if row is base else f"{middle:.2f}x ({low:.2f} to {high:.2f})")
        states = [f"{row['state_mib'][mode]:.1f} MiB" for mode in ("stock", "auto")]
        yield [CPUS[row["capability"]], row["shape"], row["variant"], *cells, *states]


def _alike(first, second):
    return all(first[key] == second[key] for key in ("capability", "shape"))


def training(rows):
    """A row a model, a column a variant; mha is the first of each."""
    rows = newest(rows, "arch", "layers", "width", "heads", "sentences", "variant", "attention_dropout", "capability")
    models, names = {}, dict.fromkeys(row["variant"] for row in rows)
    for row in rows:
        towers = row["layers"] if row["arch"] == "mhe_roberta" else f"{row['layers']}+{row['layers']}"
        name = f"`{row['arch']}`, {towers} layers, width {row['width']}, {row['heads']} heads"
        name += f", {row['sentences']} sentences"
        name += f", attention dropout {row['attention_dropout']}" if row["attention_dropout"] else ""
        models.setdefault((CPUS[row["capability"]], name), {})[row["variant"]] = row
    yield ["CPU", "model", *names]
    for (cpu, name), found in sorted(models.items(), key=lambda each: each[0][0]):
        if MHA not in found:
            raise SystemExit(f"{cpu}, {name}: no row of {MHA}, which the others are compared with")
        base = found[MHA]["ms"]
        times = {v: f"{row['ms']:,.0f} ms" if v == "mha" else f"{base / row['ms']:.2f}x" for v, row in found.items()}
        yield [cpu, name, *(f"{times[v]}, {found[v]['mib']:.0f} MiB" if v in found else "" for v in names)]


def linear(rows):
    products = [(dtype, name) for dtype in ("float32", "bfloat16") for name in ("linear", "packed")]
    yield ["rows x inputs x outputs", *(f"{dtype}: {name}" for dtype, name in products)]
    found = {}
    for row in rows:
        for name, gflops in row["gflops"].items():
            shape = f"{row['rows']} x {row['shape'].replace('x', ' x ')}"
            found.setdefault(shape, {})[row["dtype"].removeprefix("torch."), name] = gflops
    for shape, gflops in found.items():
        yield [shape, *(f"{gflops[product]:.0f}" for product in products)]


def attention(rows):
    yield ["batch x beam x source", "width, heads", "dtype", "layout", "ms", "MiB read", "of the floor"]
    for row in newest(rows, "batch", "beam", "source", "dim", "heads", "dtype", "layout"):
        sizes = [f"{row['batch']} x {row['beam']} x {row['source']}", f"{row['dim']}, {row['heads']}"]
        measured = [f"{row['milliseconds']:.2f}", f"{row['mebibytes']:.1f}", f"{100 * row['of_floor']:.0f} %"]
        yield [*sizes, row["dtype"], row["layout"], *measured]


def _shape(row):
    trained = "trained, beam 5" if row.get("weights", "random") != "random" else row["arch"]
    return trained + SEARCHES[row["search"]] + ("" if row["dtype"] == "float32" else f", {row['dtype']}")


def _sizes(row):
    shortest, source = row["shortest"], row["source"]
    lengths = source if shortest == source else f"{shortest}-{source}"
    return f"{row['batch']} x {lengths}, {row['tokens']}"


TABLES = {f.__name__: f for f in (decode, peers, variants, training, linear, attention)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(TABLES))
    parser.add_argument("rows", type=Path, metavar="ROWS.jsonl")
    args = parser.parse_args(argv)
    rows = read_rows(args.rows)
    if not rows:
        parser.error(f"{args.rows} has no rows")
    header, *lines = TABLES[args.kind](rows)
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for cells in lines:
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
