"""The benchmark of one attention: a row a layout, and none where a layout is wrong."""

import json

import pytest
from bench import attention

from el_fairseq.modules import el_attention

TINY = "--cpu --batch 1,3 --beam 2 --source 5 --dim 32 --heads 4 --rounds 2"


@pytest.fixture(autouse=True)
def any_bandwidth(monkeypatch):
    monkeypatch.setattr(attention, "copy_bandwidth", lambda device: 1e9)


def test_a_row_for_each_layout_and_shape(tmp_path, capsys):
    attention.main([*TINY.split(), "--dtype", "float32,bfloat16", "--json", str(tmp_path / "rows")])
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3 == capsys.readouterr().out.count("\n") - 3
    by_layout = {row["layout"]: row for row in rows if row["batch"] == 3 and row["dtype"] == "float32"}
    assert by_layout["stock"]["mebibytes"] == 2 * 2 * 3 * 5 * 32 * 4 / 2**20  # K and V, beams, sentences, tokens, width
    assert by_layout["el"]["mebibytes"] == by_layout["shared"]["mebibytes"] == by_layout["stock"]["mebibytes"] / 2
    for row in rows:
        assert row["of_floor"] == pytest.approx(row["mebibytes"] * 2**20 / 1e9 / (row["milliseconds"] / 1e3))


def test_no_time_for_a_wrong_output(monkeypatch):
    right = el_attention.el_output
    monkeypatch.setattr(el_attention, "el_output", lambda *args: right(*args) * 1.01)
    with pytest.raises(SystemExit, match="no time to report: el is off by"):
        attention.main(TINY.split())
