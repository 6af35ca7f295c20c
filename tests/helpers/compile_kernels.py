"""Compile the kernels for a GPU that need not be there; prints what each needs as JSON.

Usage: compile_kernels.py CAPABILITY, as in 90. A process of its own: in the tests' one the kernels are interpreted.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def load(name):
    """A file of kernels without the package around it, which imports fairseq."""
    path = Path(__file__).resolve().parents[2] / f"el_fairseq/ops/kernels/{name}.py"
    module = module_from_spec(spec_from_file_location(name, path))
    module.__spec__.loader.exec_module(module)
    return module


fused = load("fused")

TOOL = Path(triton.__path__[0]) / "backends/nvidia/bin/cuobjdump"
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have
PADDED = {"PADDED": True, "DIVIDED": False}
DIVIDED = {"PADDED": False, "DIVIDED": True}
CASES = [(64, 1024, PADDED), (64, 768, DIVIDED), (20, 192, DIVIDED)]  # R, D and what the kernel does


def compiled(kernel, capability, types, constants, **options):
    """Registers and stack (bytes) of a thread, shared memory (bytes) of a block; ``types`` are those of pointers."""
    names = list(kernel.arg_names)
    strides = {name for name in names if "_" in name and name not in constants}
    signature = {name: types.get(name, "constexpr" if name in constants else "i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in types or name in strides}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    return {"registers": int(registers), "stack": int(stack), "shared": binary.metadata.shared}


def attend(capability, rows, dim, variant):
    launch = fused.launch_for(rows, dim, 2, SHARED[capability])
    constants = {"WARPS": launch.warps, "CHUNKS": launch.chunks, "WIDTH": launch.width, "TILE": fused.PADDING_TILE}
    constants.update(variant, BLOCK_R=launch.block_r, BLOCK_S=launch.block_s)
    types = dict.fromkeys(("query", "hidden"), "*fp16") | dict.fromkeys(("tops", "totals"), "*fp32")
    types["output"] = "*fp32" if variant["DIVIDED"] else "*fp16"
    types["padding"] = "*u8" if variant["PADDED"] else "*fp16"
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    used = compiled(fused._attend, capability, types, constants, **options)
    return {"kernel": f"fused {rows} x {dim} {variant}", "fits": used["shared"] <= SHARED[capability], **used}


def join(capability):
    types = dict.fromkeys(("parts", "tops", "totals"), "*fp32") | {"output": "*bf16"}
    used = compiled(fused._join, capability, types, {"DIM": 1024, "COLUMNS": 1024, "MOST": 16}, num_warps=4)
    return {"kernel": "join", "fits": True, **used}


def main(capability):
    rows = [attend(capability, *case) for case in CASES]
    print(json.dumps([*rows, join(capability)], indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]))
