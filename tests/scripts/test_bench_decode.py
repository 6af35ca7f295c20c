"""The benchmark reports a speed only with identical outputs."""

import json

import bench_decode
import pytest

from el_fairseq.modules import el_attention

TINY = "--arch transformer_tiny --batch 2 --source 20 --tokens 15 --rounds 1 --cpu"


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    monkeypatch.setattr(bench_decode, "VOCABULARY", {"transformer": 50, "bart": 50, "lm": 50})


def test_prints_and_writes_one_row(tmp_path, capsys):
    bench_decode.main([*TINY.split(), "--json", str(tmp_path / "out.json")])
    printed = capsys.readouterr().out
    assert printed.startswith("transformer_tiny, batch 2, source 20, 15 tokens, beam 4, float32 on ")
    assert printed.count("2 of 2 identical, 0 ties") == 2
    (row,) = map(json.loads, (tmp_path / "out.json").read_text().splitlines())
    assert set(row["seconds"]) == {"stock", "auto", "on"} and set(row["speedup"]) == {"auto", "on"}
    assert row["state_mib"]["on"] < row["state_mib"]["auto"] < row["state_mib"]["stock"]


def test_language_models_continue_prompts(tmp_path):
    options = "--arch transformer_lm_gpt2_tiny --batch 3 --source 20 --shortest 9 --tokens 5 --rounds 1 --cpu"
    bench_decode.main([*options.split(), "--json", str(tmp_path / "out.json")])
    row = json.loads((tmp_path / "out.json").read_text())
    assert set(row["lossless"].values()) == {"3 of 3 identical, 0 ties"} and row["shortest"] == 9
    assert row["state_mib"]["on"] < row["state_mib"]["stock"]


def test_refuses_a_speed_when_outputs_differ(monkeypatch, capsys):
    right = el_attention.el_output
    monkeypatch.setattr(el_attention, "el_output", lambda *args: right(*args).flip(-1) * 50)
    with pytest.raises(SystemExit, match="no speed to report: --el-attention on differs for sentences"):
        bench_decode.main([*TINY.split(), "--modes", "on"])
    assert "stock" not in capsys.readouterr().out
