"""The Triton kernels compile for GPUs that are not here, fit them, and spill nothing."""

import json
import platform

import pytest
from helpers.commands import run_module

pytest.importorskip("triton", minversion="3.3")  # whose compiler is called as bench.kernels calls it
kernels = pytest.importorskip(
    "bench.kernels", exc_type=ImportError
)  # no triton, or one whose compiler is called otherwise
ON_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="triton brings NVIDIA's assembler for x86-64")


@ON_X86
@pytest.mark.slow
@pytest.mark.parametrize(
    "capability", ["90", pytest.param("80", marks=pytest.mark.long), pytest.param("100", marks=pytest.mark.long)]
)
def test_kernels_compile_and_fit(capability, tmp_path, monkeypatch):
    """In a process of its own: in this one they are interpreted."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = run_module("scripts.bench.kernels", "--capability", capability, "--json", tmp_path / "rows.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 17 and f"| {int(capability) / 10:.1f} | 320 | 1 | 640 |" in done.stdout
    for row in rows:
        assert row["shared"] <= kernels.SHARED[int(capability)] * 1024, row
        assert row["registers"] <= 255 and row["stack"] == 0, row
        assert row["occupancy"] > 0, row


def test_occupancy_is_what_is_scarcest():
    """By hand, of 65,536 registers, 64 warps, 228 KiB and 32 blocks."""
    assert kernels.occupancy(254, 8, 1024, 90) == 8 / 64  # 256 registers x 256 threads are all there are
    assert kernels.occupancy(64, 4, 0, 90) == 32 / 64  # 8,192 registers a block: 8 blocks
    assert kernels.occupancy(32, 4, 113 * 1024, 90) == 8 / 64  # two blocks of 114 KiB
    assert kernels.occupancy(32, 1, 0, 90) == 32 / 64  # 32 blocks
    assert kernels.occupancy(16, 32, 0, 90) == 1


def test_the_prediction_is_bytes_or_operations():
    splits, read, operations, seconds = kernels.predicted(320, 90, bandwidth=4.0, tflops=1e9)
    assert (splits, read, operations) == (1, 320 * 1024 * 1024 * 2, 4 * 320 * 64 * 1024 * 1024)
    assert seconds == read / 4e12
    assert kernels.predicted(1, 90, bandwidth=1e9, tflops=2.0)[3] == 4 * 64 * 1024 * 1024 / 2e12


def test_an_unknown_capability_is_named(capsys):
    with pytest.raises(SystemExit):
        kernels.parse_args(["--capability", "75"])
    assert "--capability 75: choose of 80, 90, 100" in capsys.readouterr().err
