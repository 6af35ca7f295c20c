"""The Triton kernels compile for GPUs that are not here, and fit them."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", minversion="3.3")  # whose compiler is called as compile_kernels.py calls it

COMPILE = Path(__file__).parents[1] / "helpers/compile_kernels.py"
SPILLED = 256  # bytes of stack: what a thread puts aside before its loop, and takes up again behind it


@pytest.mark.skipif(platform.machine() != "x86_64", reason="triton brings NVIDIA's assembler for x86-64")
@pytest.mark.slow
def test_kernels_compile_and_fit(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, COMPILE, "90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout):
        assert row["fits"], row
        assert row["registers"] <= 255, row
        assert row["stack"] <= SPILLED, row
