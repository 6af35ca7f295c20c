"""Linear layers on a CPU: PyTorch's own product against oneDNN's over packed weights, in GFLOP a second.

Usage: python -m scripts.bench.linear [--rows 1,4,64,256] [--shapes 512x512,512x2048,512x32768] [--rounds 15] [--bf16]
                                      [--json FILE]

A row is printed only if both agree. Rounds take turns; the medians are those of a machine as busy as it is.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch

from el_fairseq.ops.packed import can_pack, pack, packed_linear

from .rows import append_row, integers, machine, names, seconds

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=integers, default=[1, 4, 64, 256], help="rows of the input")
    parser.add_argument("--shapes", type=names, default=["512x512", "512x2048", "512x32768"], help="inputs x outputs")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    return parser.parse_args(argv)


@torch.no_grad()
def bench(rows, inputs, outputs, dtype, rounds):
    """Billions of operations a second: of PyTorch and of oneDNN over a packed weight."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(inputs, outputs).to(dtype), torch.randn(rows, inputs).to(dtype)
    if not can_pack(layer.weight):
        raise SystemExit(f"this machine or PyTorch has no packed product in {dtype}")
    packed = pack(layer.weight)
    products = {"linear": lambda: layer(x), "packed": lambda: packed_linear(x, packed, layer.bias)}
    torch.testing.assert_close(*(run() for run in products.values()), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    times = {name: [] for name in products}
    for _ in range(rounds):
        for name, run in products.items():
            times[name].append(seconds(run, torch.device("cpu")))
    return {name: 2e-9 * rows * inputs * outputs / statistics.median(taken) for name, taken in times.items()}


def main(argv=None):
    args = parse_args(argv)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    about = machine(torch.device("cpu"))
    print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, {dtype}, medians of {args.rounds}")
    print("| rows x inputs x outputs | linear | packed | ratio |\n|---|---|---|---|")
    for shape, rows in itertools.product(args.shapes, args.rows):
        inputs, outputs = (int(size) for size in shape.split("x"))
        speed = bench(rows, inputs, outputs, dtype, args.rounds)
        ratio = speed["packed"] / speed["linear"]
        print(f"| {rows} x {shape} | {speed['linear']:.0f} | {speed['packed']:.0f} | {ratio:.2f}x |", flush=True)
        if args.json:
            append_row(args.json, {"rows": rows, "shape": shape, "dtype": str(dtype), "gflops": speed, **about})


if __name__ == "__main__":
    main()
