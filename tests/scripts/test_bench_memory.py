"""Memory budgets, peaks, and what counts as out of memory."""

import subprocess
import sys

import pytest
import torch
from bench_memory import Budget, is_out_of_memory, peak_of
from commands import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are Linux's")
UNDER_A_BUDGET = """
import sys
sys.path.insert(0, "scripts")
import torch
from bench_memory import Budget, is_out_of_memory

def fits(mib):
    try:
        return len(torch.ones(mib, 2**18)) == mib
    except RuntimeError as error:
        assert is_out_of_memory(error), error
        return False

budget = Budget(0.25, torch.device("cpu"))
print(fits(100), fits(400))
with budget.lifted():
    print(fits(400))
print(fits(100), fits(400))
"""


def test_a_budget_is_kept_and_lifted():
    """In a process of its own: the limit is the process's."""
    program = [sys.executable, "-c", UNDER_A_BUDGET]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False", "True", "True", "False"]


def test_no_budget_changes_nothing():
    with Budget(None, torch.device("cpu")).lifted():
        assert torch.ones(4).sum() == 4


def test_the_peak_is_what_was_added():
    """Memory that is there before does not count, and what was freed before the end does."""
    before = torch.ones(100, 2**18)
    total, peak = peak_of(lambda: torch.ones(60, 2**18).sum(), torch.device("cpu"))
    assert total == 60 * 2**18 and 59 <= peak / 2**20 < 80
    assert len(before) == 100


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
