"""docs/faults.md names tests that exist, and all of this folder."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/faults.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
HELPERS = {"test_table", "test_scripts_are_careful"}  # files with tests that are no fault of a generation


def names_in(path):
    return re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)


def test_every_test_in_the_table_exists():
    missing = [f"{file}::{name}" for file, name in NAMED if name not in names_in(ROOT / file)]
    assert not missing and len(NAMED) > 30


def test_every_test_of_this_folder_is_in_the_table():
    ours = {
        (str(path.relative_to(ROOT)), name)
        for path in Path(__file__).parent.glob("test_*.py")
        for name in names_in(path)
        if path.stem not in HELPERS
    }
    assert ours <= set(NAMED)


def test_every_row_has_a_test_and_five_cells():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| **")][1:]
    assert len(rows) > 25
    for row in rows:
        cells = row.strip("|").split(" | ")
        assert len(cells) == 5 and "::" in cells[-1], row
