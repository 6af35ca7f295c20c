"""The table of speeds on CPUs: every shape, stock, the plugin's modes and CTranslate2, on this kind of CPU or another.

Usage: python -m scripts.bench.cpu_table run [--avx2] [--only NAME,...] [--rounds 3] [--json FILE]
                                             [--trained MODEL --trained-data DATA-BIN]
       python -m scripts.bench.cpu_table {print,summary,state} [--json FILE]

``run`` calls bench_decode.py once a shape, because CTranslate2's threads disturb what comes after them, and leaves out
what FILE has already for this kind of CPU. With --avx2 the libraries see a processor without AVX-512.
``print`` writes the table in Markdown, the newest row of each shape and kind of CPU; ``summary`` the rows and columns
that the README shows; ``state`` what the decoder keeps at its peak.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .rows import names, read_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "results" / "cpu_table.jsonl"
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CT2_FORCE_CPU_ISA": "AVX2",
}
SHORT = "--source 25 --tokens 25"
SHAPES = {
    **{f"base {b}": f"--arch base --batch {b} {SHORT}" for b in (1, 8, 16, 64)},
    "big 8": "--arch big --batch 8 --source 25 --tokens 30",
    **{f"iwslt {b}": f"--arch transformer_iwslt_de_en --batch {b} --beam 5 {SHORT}" for b in (1, 8, 16, 64)},
    **{f"tiny {b}": f"--arch transformer_tiny --batch {b} --beam 5 {SHORT}" for b in (1, 8, 64)},
    "trained 1": "--batch 1 --sentences 64 --beam 5 --source 100 --tokens 60",
    "trained 64": "--batch 64 --sentences 512 --beam 5 --source 100 --tokens 60",
    "BART base 8": "--arch bart_base --batch 8 --source 800 --tokens 30",
    "BART base 16": "--arch bart_base --batch 16 --source 800 --tokens 30",
    "BART large 4": "--arch bart_large --batch 4 --source 1024 --tokens 20",
    "GPT-2 small 1": "--arch gpt2_small --batch 1 --source 256 --shortest 256 --tokens 32",
}
LONG = ("BART",)  # one round, because they take many seconds
COLUMNS = {"auto": "`auto`", "on": "`on`", "ctranslate2": "CTranslate2"}
CPUS = {"AVX512": "AVX-512", "AVX2": "AVX2"}  # kinds, as PyTorch calls them, and as Intel does
SUMMARY = {
    "base 1": "Transformer base, 1 x 25 tokens",
    "base 64": "Transformer base, 64 x 25 tokens",
    "BART base 16": "BART base, 16 x 800 tokens",
    "BART large 4": "BART large, 4 x 1,024 tokens",
    "GPT-2 small 1": "GPT-2 small, a prompt of 256 tokens",
}


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", *TABLES))
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--only", type=names, default=list(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trained", type=Path, help="the checkpoint of examples/translation/run.sh")
    parser.add_argument("--trained-data", type=Path, help="its binarised data")
    parser.add_argument("--json", type=Path, default=ROWS)
    args = parser.parse_args(argv)
    for name in args.only:
        if name not in SHAPES:
            parser.error(f"--only {name}: choose of {', '.join(SHAPES)}")
    if (args.trained is None) != (args.trained_data is None):
        parser.error("--trained and --trained-data go together")
    return args


def command_of(name, args):
    """The arguments of bench_decode.py for a shape; None where it needs a checkpoint that is not given."""
    rounds = 1 if name.startswith(LONG) else args.rounds
    rows = os.path.relpath(args.json, ROOT)
    command = [*SHAPES[name].split(), "--rounds", str(rounds), "--label", name, "--resume", "--json", rows]
    if not name.startswith("trained"):
        return [*command, "--peer", "ctranslate2"]
    if args.trained is None:
        return None
    return [*command, "--peer", "ctranslate2", "--path", str(args.trained), "--data", str(args.trained_data)]


def run(args):
    """Exit status: 0 if all rows are there."""
    environment = os.environ | (AVX2 if args.avx2 else {})
    failed = []
    for number, name in enumerate(args.only, 1):
        command = command_of(name, args)
        print(f"{number} of {len(args.only)}: {name}", flush=True)
        if command is None:
            failed.append(f"{name} (give --trained and --trained-data)")
            continue
        script = [sys.executable, str(ROOT / "scripts" / "bench_decode.py"), *command]
        if subprocess.run(script, cwd=ROOT, env=environment).returncode != 0:
            failed.append(name)
    print(f"{len(args.only) - len(failed)} of {len(args.only)} shapes are in {args.json}", end="")
    print(f"; not {', '.join(failed)}" if failed else "")
    return bool(failed)


def newest_of(rows):
    """``{(shape, kind of CPU): row}``, the last of several."""
    return {(row["label"], row["capability"]): row for row in rows}


def table(rows):
    """Lines of Markdown: a row a shape; for each kind of CPU seconds of stock, and how much faster others are."""
    newest = newest_of(rows)
    kinds = [kind for kind in CPUS if any(found == kind for _, found in newest)]
    heads = [f"{CPUS[kind]}: stock, s | {' | '.join(COLUMNS.values())} | `auto` against CTranslate2" for kind in kinds]
    yield "| shape | " + " | ".join(heads) + " |"
    yield "|---" * (1 + len(kinds) * (2 + len(COLUMNS))) + "|"
    for name in SHAPES:
        cells = [cell for kind in kinds for cell in _cells(newest.get((name, kind)))]
        if any(cells):
            yield f"| {name} | " + " | ".join(cells) + " |"


def summary(rows):
    """Lines of Markdown: the shapes of SUMMARY, speed on each kind of CPU and decoder state, stock and both modes."""
    newest = newest_of(rows)
    missing = [f"{name} ({kind})" for name in SUMMARY for kind in CPUS if (name, kind) not in newest]
    if missing:
        raise SystemExit(f"scripts.bench.cpu_table: no row of {', '.join(missing)}; run them first")
    heads = [f"{name}: stock | `auto` | `on`" for name in (*CPUS.values(), "decoder state")]
    yield "| model and batch | " + " | ".join(heads) + " |"
    yield "|---" * (1 + 3 * len(heads)) + "|"
    for name, shown in SUMMARY.items():
        of_kinds = [newest[name, kind] for kind in CPUS]
        cells = [cell for row in of_kinds for cell in _times(row)]
        yield f"| {shown} | " + " | ".join([*cells, *_states(of_kinds[0]["state_mib"])]) + " |"


def state(rows):
    """Lines of Markdown: what the decoder keeps at its peak; it does not depend on the kind of CPU."""
    newest = {name: row for (name, _), row in newest_of(rows).items()}
    yield "| shape | stock | `auto` on a CPU | `on` | `on` against stock |"
    yield "|---|---|---|---|---|"
    for name in (name for name in SHAPES if name in newest):
        mib = newest[name]["state_mib"]
        yield f"| {name} | " + " | ".join([*_states(mib), f"{mib['stock'] / mib['on']:.1f}x less"]) + " |"


def _times(row):
    return [f"{row['seconds']['stock']:.2f} s", *(f"{row['speedup'][mode]:.2f}x" for mode in ("auto", "on"))]


def _states(mib):
    return [f"{mib[mode]:,.1f} MiB" for mode in ("stock", "auto", "on")]


def _cells(row):
    if row is None:
        return [""] * (2 + len(COLUMNS))
    seconds, faster = row["seconds"], row["speedup"]
    found = [f"{seconds['stock']:.2f}", *(f"{faster[n]:.2f}x" if n in faster else "" for n in COLUMNS)]
    return [*found, f"{seconds['ctranslate2'] / seconds['auto']:.2f}x" if "ctranslate2" in seconds else ""]


TABLES = {"print": table, "summary": summary, "state": state}


def main(argv=None):
    args = parse_args(argv)
    if args.action == "run":
        raise SystemExit(run(args))
    print("\n".join(TABLES[args.action](read_rows(args.json))))


if __name__ == "__main__":
    main()
