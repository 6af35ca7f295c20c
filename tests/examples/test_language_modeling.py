"""The language modelling example's data and table."""

import sys

import pytest


def test_a_small_run_trains_on_the_validation_part(load, tmp_path, monkeypatch, capsys):
    prepare = load("language_modeling/prepare")
    monkeypatch.setattr(prepare, "SHA256", {})
    (tmp_path / "valid.txt").write_text("".join(f"line {i}\n" for i in range(20)))
    (tmp_path / "test.txt").write_text("test\n\n")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(out), "--data-dir", str(tmp_path), "--train", "valid"])
    prepare.main()
    assert (out / "train").read_text().splitlines() == [f"line {i}" for i in range(18)]
    assert (out / "valid").read_text().splitlines() == ["line 18", "line 19"]
    assert (out / "test").read_text() == "test\n\n"
    assert "train: 18 lines, 36 words" in capsys.readouterr().out


def test_damaged_and_missing_files_are_named(load, tmp_path):
    prepare = load("language_modeling/prepare")
    with pytest.raises(SystemExit, match="there is no test.txt"):
        prepare.lines_of("ptb", "test", tmp_path, download=False)
    (tmp_path / "test.txt").write_text("other")
    with pytest.raises(SystemExit, match=r"test.txt: SHA-256 is \w+, not dd65dff3"):
        prepare.lines_of("ptb", "test", tmp_path, download=False)


def test_the_table(load, tmp_path, monkeypatch, capsys):
    for name, perplexity in (("mha", 100.0), ("mqa", 105.0)):
        (tmp_path / f"{name}-1").mkdir()
        (tmp_path / f"{name}-1" / "summary.log").write_text(
            f"attention variant {name} (encoder,decoder,cross): 1,000 parameters in 3 attentions\n"
            "num. shared model params: 2,000 (num. trained: 2,000)\n"
            "train | epoch 001 | loss 9 | ppl 500.5 | wps\ntrain | epoch 002 | loss 8 | ppl 250.25 | wps\n"
            f"Loss (base 2): 6.0, Perplexity: {perplexity}\n"
        )
    monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path)])
    load("language_modeling/table").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| mha | 1,000 / 2,000 | 250.2 | 100.0 | +0.0 % |",
        "| mqa | 1,000 / 2,000 | 250.2 | 105.0 | +5.0 % |",
    ]
