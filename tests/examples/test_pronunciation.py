"""The quickstart's data and table."""

import re

import pytest


def test_words_are_lower_case_and_without_stress(load):
    pairs = load("pronunciation/prepare").pairs()
    assert len(pairs) > 110_000 and len({letters for letters, _ in pairs}) == len(pairs)
    assert all(re.fullmatch("[a-z]( [a-z])*", letters) for letters, _ in pairs)
    assert len({sound for _, sounds in pairs for sound in sounds.split()}) == 39
    assert dict(pairs)["a p p l e"] == "AE P AH L"


@pytest.mark.parametrize(("a", "b", "edits"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)])
def test_edit_distance(load, a, b, edits):
    assert load("pronunciation/table").edit_distance(a, b) == load("pronunciation/table").edit_distance(b, a) == edits


def test_table_compares_with_the_first_output(load, tmp_path, monkeypatch, capsys):
    stock = "S-0\ta b\nT-0\tA B\nH-0\t-0.1\tA B\nH-0\t-0.5\tA\nT-1\tC\nH-1\t-0.2\tB\nH-1\t-0.3\tC\n"
    timing = "INFO: Translated 2 sentences (5 tokens) in {}s (1.00 sentences/s)\n"
    state = "decoder state: peak 2.50 MiB; stock would keep 7.50 MiB for the same batch, 3.0x\n"
    (tmp_path / "stock").write_text(stock + timing.format("1.5"))
    (tmp_path / "ours").write_text(stock.replace("-0.5\tA\n", "-0.5\tB\n") + timing.format("0.9") + state)
    monkeypatch.setattr("sys.argv", ["table.py", f"stock={tmp_path}/stock", f"ours={tmp_path}/ours"])
    load("pronunciation/table").main()
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "| stock | 33.3 % | 4 of 4 | 1.5 | 7.5 MiB |"
    assert second == "| ours | 33.3 % | 3 of 4 | 0.9 | 2.5 MiB |"
