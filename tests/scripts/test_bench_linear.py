"""scripts.bench.linear: rows with the speed of both products, and none that differ."""

import json

import pytest
import torch
from bench import linear
from bench.linear import main

from el_fairseq.ops.packed import can_pack, packed_linear

pytestmark = pytest.mark.skipif(not can_pack(torch.ones(2, 2)), reason="PyTorch without oneDNN")


def test_a_row_for_each_combination(tmp_path, capsys):
    main(["--rows", "1,3", "--shapes", "8x16,8x24", "--rounds", "1", "--json", str(tmp_path / "rows.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["shape"], row["rows"]) for row in rows] == [("8x16", 1), ("8x16", 3), ("8x24", 1), ("8x24", 3)]
    assert all(min(row["gflops"].values()) > 0 and row["command"] for row in rows)
    assert "| 3 x 8x24 |" in capsys.readouterr().out


def test_no_speed_where_outputs_differ(monkeypatch):
    monkeypatch.setattr(linear, "packed_linear", lambda x, weight, bias: 1.1 * packed_linear(x, weight, bias))
    with pytest.raises(AssertionError):
        main(["--rows", "3", "--shapes", "8x16", "--rounds", "1"])
