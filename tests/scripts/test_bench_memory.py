"""Memory budgets and peaks."""

import os
import subprocess
import sys

import pytest
import torch
from bench.memory import Budget, peak_of
from helpers.commands import PYTHON_PATH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are Linux's")
UNDER_A_BUDGET = """
import torch
from bench.memory import Budget
from el_fairseq.generation.out_of_memory import is_out_of_memory

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
    program, environment = [sys.executable, "-c", UNDER_A_BUDGET], {**os.environ, "PYTHONPATH": PYTHON_PATH}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
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
