"""scripts.bench.pieces: rows with the time of each way, and none where they differ."""

import json

import pytest
import torch
from bench import pieces
from bench.pieces import main

from el_fairseq.ops import grouped_topk
from el_fairseq.ops.packed import can_pack

pytestmark = pytest.mark.skipif(not can_pack(torch.ones(2, 2)), reason="PyTorch without oneDNN")


def test_a_row_for_each_shape(tmp_path, capsys):
    main(["--pieces", "scores,topk", "--rounds", "1", "--json", str(tmp_path / "rows.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["piece"] for row in rows] == ["scores"] * 3 + ["topk"] * 2
    assert all(len(row["milliseconds"]) == 2 and min(row["milliseconds"].values()) > 0 for row in rows)
    assert rows[0]["command"] and "| topk | 1 x 131072 |" in capsys.readouterr().out


def test_no_time_where_results_differ(monkeypatch):
    monkeypatch.setattr(pieces, "grouped_topk", lambda x, k: [part + 1 for part in grouped_topk(x, k)])
    with pytest.raises(AssertionError):
        main(["--pieces", "topk", "--rounds", "1"])


def test_an_unknown_piece_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--pieces", "soup"])
    assert "--pieces soup" in capsys.readouterr().err
