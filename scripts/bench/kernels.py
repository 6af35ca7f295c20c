"""What the Triton kernels need of GPUs that need not be here, and what time a GPU is expected to take.

Usage: python -m scripts.bench.kernels [--capability 80,90,100] [--bandwidth 4.3] [--tflops 790] [--json FILE]

The kernels are compiled for each compute capability, as Triton would there: registers and stack of a thread (a stack
means that registers are spilled), shared memory of a block, and how many of the warps that a multiprocessor can hold
are there at once (occupancy). Then the configuration that is launched for cross-attention of BART large, and the time
that reading its bytes or multiplying takes, whichever is more, at --bandwidth TB/s and --tflops of a GPU
of capability 9.0 (by default what was found on an H200 elsewhere). No kernel runs.
"""

import argparse
import json
import re
import subprocess
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOL = Path(triton.__path__[0]) / "backends/nvidia/bin/cuobjdump"
KIB = 1024
SHARED = {80: 163, 90: 227, 100: 227}  # KiB a block may have; a multiprocessor has one more
REGISTERS, WARPS, BLOCKS = 2**16, 64, 32  # of a multiprocessor
PROCESSORS = {80: 108, 90: 132, 100: 148}  # multiprocessors of an A100, an H100 or H200, a B200
SHAPES = [(64, 1024), (64, 768), (20, 512), (20, 192)]  # R and D
VARIANTS = {"padded": {"PADDED": True, "DIVIDED": False}, "divided": {"PADDED": False, "DIVIDED": True}}
ITEM = {"fp16": 2, "bf16": 2}  # bytes; float32 is not launched on a GPU
PREDICTED = 90  # the capability that --bandwidth and --tflops are of
BART_LARGE = (64, 1024, 1024)  # R = M · H, S, D


def _load(name):
    """A file of kernels without the package around it, which imports fairseq."""
    path = Path(__file__).resolve().parents[2] / f"el_fairseq/ops/kernels/{name}.py"
    module = module_from_spec(spec_from_file_location(name, path))
    module.__spec__.loader.exec_module(module)
    return module


fused = _load("fused")


def compiled(kernel, capability, types, constants, warps, **options):
    """Registers and stack (bytes) of a thread, shared memory (bytes) of a block; ``types`` are those of pointers."""
    names = list(kernel.arg_names)
    strides = {name for name in names if "_" in name and name not in constants}
    signature = {name: types.get(name, "constexpr" if name in constants else "i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in types or name in strides}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"num_warps": warps, **options})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    found = {"registers": registers, "stack": stack, "shared": binary.metadata.shared}
    return {**found, "warps": warps, "occupancy": occupancy(registers, warps, found["shared"], capability)}


def occupancy(registers, warps, shared, capability):
    """Of the warps that a multiprocessor can hold, the share that is there with blocks of ``warps``.

    Args:
        registers: of a thread; they are handed out in eights.
        warps: of a block.
        shared: bytes of a block, of which the driver takes 1 KiB more.
        capability: as 90.
    """
    blocks = min(
        REGISTERS // (-(-registers // 8) * 8 * 32 * warps),
        (SHARED[capability] + 1) * KIB // (shared + KIB),
        WARPS // warps,
        BLOCKS,
    )
    return blocks * warps / WARPS


def attend(capability, rows, dim, dtype, variant):
    """What ``fused._attend`` needs for R rows of width D, as it is launched there; None where PyTorch computes."""
    launch = fused.launch_for(rows, dim, ITEM[dtype], SHARED[capability] * KIB)
    if launch is None:
        return None
    constants = {"WARPS": launch.warps, "CHUNKS": launch.chunks, "WIDTH": launch.width, "TILE": fused.PADDING_TILE}
    constants.update(VARIANTS[variant], BLOCK_R=launch.block_r, BLOCK_S=launch.block_s)
    divided, padded = constants["DIVIDED"], constants["PADDED"]
    types = dict.fromkeys(("query", "hidden"), f"*{dtype}") | dict.fromkeys(("tops", "totals"), "*fp32")
    types |= {"output": "*fp32" if divided else f"*{dtype}", "padding": "*u8" if padded else f"*{dtype}"}
    used = compiled(fused._attend, capability, types, constants, launch.warps, num_stages=launch.stages)
    return {"launch": [launch.block_r, launch.block_s, launch.stages], **used}


def join(capability, dim=1024):
    types = dict.fromkeys(("parts", "tops", "totals"), "*fp32") | {"output": "*bf16"}
    return {"launch": [], **compiled(fused._join, capability, types, {"DIM": dim, "COLUMNS": dim, "MOST": 16}, 4)}


def kernels(capability):
    """A row for each kernel and configuration that compute capability ``capability`` has."""
    for rows, dim in SHAPES:
        for dtype in ITEM:
            for variant in VARIANTS:
                used = attend(capability, rows, dim, dtype, variant)
                if used is not None:
                    yield {"kernel": "attend", "rows": rows, "dim": dim, "dtype": dtype, "variant": variant, **used}
    yield {"kernel": "join", "rows": 1, "dim": 1024, "dtype": "bf16", "variant": "", **join(capability)}


def predicted(batch, capability, bandwidth, tflops):
    """``(splits, bytes, operations, seconds)`` of cross-attention of BART large in half precision."""
    rows, length, dim = BART_LARGE
    launch = fused.launch_for(rows, dim, 2, SHARED[capability] * KIB)
    splits = fused.splits_for(batch, rows, length, launch, PROCESSORS[capability])
    read, operations = 2 * batch * length * dim, 4 * batch * rows * length * dim
    return splits, read, operations, max(read / (bandwidth * 1e12), operations / (tflops * 1e12))


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", default="80,90,100", help="comma-separated (default: 80,90,100)")
    parser.add_argument("--bandwidth", type=float, default=4.3, help="TB/s")
    parser.add_argument("--tflops", type=float, default=790.0, help="in half precision")
    parser.add_argument("--json", type=Path, help="write the rows of the first table to this file")
    args = parser.parse_args(argv)
    args.capability = [int(number) for number in args.capability.split(",")]
    for capability in args.capability:
        if capability not in SHARED:
            parser.error(f"--capability {capability}: choose of {', '.join(map(str, SHARED))}")
    return args


def main(argv=None):
    args = parse_args(argv)
    found = []
    print(f"triton {triton.__version__}")
    print(
        "| capability | kernel | R x D | dtype | rows, tokens, stages | registers | stack | shared, KiB | occupancy |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for capability in args.capability:
        for row in kernels(capability):
            found.append({"capability": capability, **row})
            name = f"{row['kernel']} {row['variant']}".strip()
            cells = [f"{capability / 10:.1f}", name, f"{row['rows']} x {row['dim']}", row["dtype"]]
            cells += [", ".join(map(str, row["launch"])) or "-", str(row["registers"]), str(row["stack"])]
            cells += [f"{row['shared'] / KIB:.0f}", f"{100 * row['occupancy']:.0f} %"]
            print("| " + " | ".join(cells) + " |", flush=True)
    print("\nCross-attention of BART large (4 beams, 16 heads, 1,024 tokens of width 1,024) in half precision:")
    print("| capability | batch | splits | MiB read | GFLOP | predicted, µs |\n|---|---|---|---|---|---|")
    for capability in args.capability:
        for batch in (1, 8, 32, 320):
            splits, read, operations, seconds = predicted(batch, capability, args.bandwidth, args.tflops)
            sizes = [str(splits), f"{read / 2**20:,.0f}", f"{operations / 1e9:,.1f}"]
            time = f"{1e6 * seconds:,.1f}" if capability == PREDICTED else "-"
            print("| " + " | ".join([f"{capability / 10:.1f}", str(batch), *sizes, time]) + " |")
    figures = f"bytes at {args.bandwidth:g} TB/s and operations at {args.tflops:g} TFLOP/s"
    print(f"\nPredicted for {PREDICTED / 10:.1f}: the larger of {figures}.")
    if args.json:
        args.json.write_text("".join(json.dumps(row) + "\n" for row in found))


if __name__ == "__main__":
    main()
