"""Environments with other versions of PyTorch: what is asked of pip, and what pytest's output says."""

import re

import pytest
from versions import check_versions as script


def test_torch_and_what_it_requires_is_another_and_the_rest_is_as_pinned():
    pinned = (script.ROOT / "constraints.txt").read_text().splitlines()
    given = script.constraints("2.6.0").splitlines()
    assert [line for line in given if line.startswith("torch==")] == ["torch==2.6.0"]
    names = {line.split("==")[0] for line in pinned if line not in given}
    assert names == set(script.FOLLOW_TORCH)


def test_the_oldest_is_the_one_that_setup_admits():
    (least,) = re.findall(r'"torch>=(.+)"', (script.ROOT / "setup.py").read_text())
    assert script.OLDEST_AND_NEWEST[0] == f"{least}.0"


@pytest.mark.parametrize("path", script.TESTS)
def test_what_it_runs_is_there(path):
    path, _, name = path.partition("::")
    assert (script.ROOT / path).exists()
    assert not name or f"def {name}(" in (script.ROOT / path).read_text()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("575 passed, 119 skipped in 273.10s", "575 passed, 119 skipped"),
        ("7 passed in 1s\n==== 1 failed, 2 passed, 3 errors in 94.00s (0:01:34) ====", "1 failed, 2 passed, 3 errors"),
        ("....F", "pytest did not come to its end"),
    ],
    ids=["good", "bad", "none"],
)
def test_what_pytest_says(output, expected):
    assert script.counts(output) == expected
