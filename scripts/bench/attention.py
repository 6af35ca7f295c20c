"""One cross-attention, one decoding step: time, bytes and distance from the floor of each lossless layout.

Usage: bench_attention.py [--batch 1,8,64] [--beam 4] [--source 1024] [--dim 1024] [--heads 16] [--dtype float32]
                          [--layout stock,shared,el,fused,kernel] [--rounds 20] [--cpu] [--json FILE] [--plot FILE]

Layouts: stock, keys and values for every beam; shared, keys and values once a sentence; el, the hidden states, in two
products; fused, the hidden states, by a kernel that reads them once (on a GPU, in half precision); kernel, this kernel
alone, without the projections around it, from a CUDA graph. Bytes are what of the source a step has to read, the floor
is the time in which this machine copies as many (measured first: a copy reads and writes, both count); what stays in a
cache from round to round can pass it. A time is printed only if the output agrees with stock's in float64.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from fairseq.modules import MultiheadAttention

from el_fairseq.cache import Layout
from el_fairseq.modules.el_attention import ELMultiheadAttention
from el_fairseq.ops import hidden_attention, shared_kv_attention
from el_fairseq.ops.kernels import DTYPES, trial

from .rows import append_row, integers, machine, seconds

LAYOUTS = {
    "stock": None,
    "shared": Layout.PROJECTED,
    "el": Layout.HIDDEN,
    "fused": Layout.HIDDEN,
    "kernel": Layout.HIDDEN,
}
KERNEL = ("fused", "kernel")  # layouts on a GPU, in half precision, alone
COPIES = {"stock": 2, "shared": 2, "el": 2, "fused": 1, "kernel": 1}  # keys and values; two products read twice
LAUNCHES = 20  # of the kernel alone, in one CUDA graph
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest output


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=integers, default=[1, 8, 64], help="sentences (comma-separated; so below)")
    parser.add_argument("--beam", type=integers, default=[4])
    parser.add_argument("--source", type=integers, default=[1024], help="tokens of a source")
    parser.add_argument("--dim", type=integers, default=[1024], help="width of the model")
    parser.add_argument("--heads", type=integers, default=[16])
    parser.add_argument("--dtype", default="float32", help="float32, float16, bfloat16")
    parser.add_argument("--layout", default=",".join(LAYOUTS))
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds, in which the layouts take turns")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path, help="add the rows to this file, one JSON object a line")
    parser.add_argument("--plot", type=Path, help="draw time against batch to this PNG (needs matplotlib)")
    args = parser.parse_args(argv)
    args.layout, args.dtype = args.layout.split(","), [getattr(torch, name) for name in args.dtype.split(",")]
    return args


def build_step(layout, weights, query, source, beams):
    """A function that does the step: ``query [1, B·M, D]`` over ``source [S, B, D]``, whose state it already has."""
    dim, heads = query.size(2), weights.num_heads
    options = {"encoder_decoder_attention": True}
    if layout == "stock":
        attention, key = MultiheadAttention(dim, heads, **options), source.repeat_interleave(beams, dim=1)
    else:
        attention = ELMultiheadAttention(dim, heads, plan=lambda request: LAYOUTS[layout], **options)
        key = source
    attention.load_state_dict(weights.state_dict())
    attention.to(query).eval()
    state, two_products = {}, layout == "el"  # of which weights come for nothing, and the kernel has none

    def step():
        return attention(
            query,
            key,
            key,
            incremental_state=state,
            static_kv=True,
            need_weights=two_products,
            need_head_weights=two_products,
        )[0]

    step()
    if layout == "fused":
        assert_trusted()
    return step


def build_kernel(query, source, heads):
    """The kernel alone, ``LAUNCHES`` times: a function that returns its output and what that is in float64."""
    rows, hidden = (
        torch.randn(source.size(1), query.size(1) // source.size(1) * heads, query.size(2)),
        source.transpose(0, 1),
    )
    rows = rows.to(query) * query.size(2) ** -0.5
    hidden_attention(rows, hidden)  # in comparison with PyTorch
    assert_trusted()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            output = hidden_attention(rows, hidden)
    exact = shared_kv_attention(*(x.double() for x in (rows, hidden, hidden)))[0]

    def step():
        graph.replay()
        return output

    return step, exact


def assert_trusted():
    if not (trial.verified and all(trial.verified.values())):
        raise SystemExit("no time to report: PyTorch computed, not the kernel (if it was refused, a warning says why)")


def available(layouts, dtype, device):
    """Those of ``layouts`` that there are in this dtype, on this device."""
    return [layout for layout in layouts if layout not in KERNEL or (device.type == "cuda" and dtype in DTYPES)]


def copy_bandwidth(device):
    """Bytes a second that a copy of 256 MiB reads and writes: the best of ten."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(10))


@torch.no_grad()
def bench(shape, layouts, rounds, device, bandwidth):
    """A row for each layout of one shape ``(batch, beam, source, dim, heads, dtype)``."""
    batch, beam, length, dim, heads, dtype = shape
    torch.manual_seed(0)
    weights = MultiheadAttention(dim, heads, encoder_decoder_attention=True)
    query, source = (torch.randn(*size).to(device) for size in ((1, batch * beam, dim), (length, batch, dim)))
    exact = dict.fromkeys(layouts, build_step("stock", weights, query.double(), source.double(), beam)())
    query, source = query.to(dtype), source.to(dtype)
    steps = {layout: build_step(layout, weights, query, source, beam) for layout in layouts if layout != "kernel"}
    if "kernel" in layouts:
        steps["kernel"], exact["kernel"] = build_kernel(query, source, heads)
    times = {layout: [] for layout in layouts}
    for _ in range(rounds):
        for layout, step in steps.items():
            times[layout].append(seconds(step, device))
    for layout, step in steps.items():
        error = (step().double() - exact[layout]).abs().max() / exact[layout].abs().max()
        if error > TOLERANCE[dtype]:
            raise SystemExit(f"no time to report: {layout} is off by {error:.1e} of the largest output at {shape}")
        copies = COPIES[layout] * (beam if layout == "stock" else 1)
        read = copies * batch * length * dim * query.element_size()
        took = statistics.median(times[layout]) / (LAUNCHES if layout == "kernel" else 1)
        yield {
            **dict(zip(("batch", "beam", "source", "dim", "heads"), shape)),
            "dtype": str(dtype).removeprefix("torch."),
            "layout": layout,
            "milliseconds": took * 1e3,
            "mebibytes": read / 2**20,
            "of_floor": read / bandwidth / took,
        }


def plot(rows, path):
    from matplotlib import pyplot

    for layout in dict.fromkeys(row["layout"] for row in rows):
        points = [(row["batch"], row["milliseconds"]) for row in rows if row["layout"] == layout]
        pyplot.loglog(*zip(*points), marker="o", label=layout)
    pyplot.xlabel("sentences"), pyplot.ylabel("milliseconds a step"), pyplot.legend()
    pyplot.savefig(path)


def main(argv=None):
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    bandwidth = copy_bandwidth(device)
    about = {"gigabytes_per_second": bandwidth / 1e9, **machine(device)}
    print(f"{about['device']}: {bandwidth / 1e9:.1f} GB/s in a copy")
    print("| batch x beam x source | dim, heads | dtype | layout | ms | MiB read | of the floor |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for shape in itertools.product(args.batch, args.beam, args.source, args.dim, args.heads, args.dtype):
        for row in bench(shape, available(args.layout, shape[-1], device), args.rounds, device, bandwidth):
            rows.append({**row, **about})
            print(
                f"| {row['batch']} x {row['beam']} x {row['source']} | {row['dim']}, {row['heads']} | {row['dtype']} "
                f"| {row['layout']} | {row['milliseconds']:.2f} | {row['mebibytes']:.1f} | {row['of_floor']:.0%} |",
                flush=True,
            )
            if args.json:
                append_row(args.json, rows[-1])
    if args.plot:
        plot(rows, args.plot)
