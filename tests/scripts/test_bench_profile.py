"""scripts.bench.profile: operators by their time, of one mode."""

import pytest
from bench import models
from bench.profile import main

TINY = "--arch transformer_tiny --batch 2 --source 8 --tokens 4 --rounds 1 --cpu --rows 9"


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    monkeypatch.setattr(models, "VOCABULARY", {"transformer": 50})


@pytest.mark.parametrize("mode", ["auto", "stock"])
def test_the_table_adds_up(mode, tmp_path, capsys):
    main([*TINY.split(), "--mode", mode, "--out", str(tmp_path / "new/profile.txt")])
    text = (tmp_path / "new/profile.txt").read_text()
    assert capsys.readouterr().out == text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    counts = [int(row[1].replace(",", "")) for row in rows]
    assert len(rows) == 11 and sum(counts[:-1]) == counts[-1]
    times = [float(row[2]) for row in rows]
    assert times[:9] == sorted(times[:9], reverse=True)
