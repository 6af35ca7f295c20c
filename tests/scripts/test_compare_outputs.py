"""The table of compare_outputs.py."""

import compare_outputs
import pytest

FIRST = """S-0\ta
T-0\tthe cat sat on the mat
H-0\t-0.5\tthe cat s@@ at on the mat
D-0\t-0.5\tthe cat sat on the mat
H-0\t-0.75\ta cat
D-0\t-0.75\ta cat
T-1\tone\u2028line
H-1\t-inf\tone\u2028line
D-1\t-inf\tone\u2028line
H-1\t-2.0\tx
D-1\t-2.0\tx
INFO | Translated 2 sentences (12 tokens) in 1.5s (1.33 sentences/s)
"""


def table(tmp_path, capsys, *texts):
    for name, text in zip("ab", texts):
        (tmp_path / name).write_text(text, encoding="utf-8")
    compare_outputs.main([f"{name}={tmp_path / name}" for name in "ab"[: len(texts)]])
    return capsys.readouterr().out


def test_counts_what_is_identical_and_how_far_scores_drift(tmp_path, capsys):
    second = (
        FIRST.replace("H-0\t-0.5", "H-0\t-0.25").replace("-0.75\ta cat", "-0.75\ta dog").replace("in 1.5s", "in 2.5s")
    )
    printed = table(tmp_path, capsys, FIRST, second)
    assert "| a | 2 of 2 | 4 of 4 | 0.0e+00, 0.0e+00 | 100.00 | 1.5 |" in printed
    assert "| b | 2 of 2 | 3 of 4 | 1.2e-01, 2.5e-01 | 100.00 | 2.5 |" in printed
    assert printed.rstrip().splitlines()[-1].startswith("nrefs:1|case:mixed")


def test_another_best_hypothesis_counts_neither_as_identical_nor_as_drift(tmp_path, capsys):
    second = FIRST.replace("the cat s@@ at on the mat", "mat").replace(
        "D-0\t-0.5\tthe cat sat on the mat", "D-0\t-0.5\tmat"
    )
    assert "| b | 1 of 2 | 3 of 4 | 0.0e+00, 0.0e+00 | " in table(tmp_path, capsys, FIRST, second)


@pytest.mark.parametrize(
    "text, said",
    [
        (FIRST.replace("H-1\t-2.0\tx\n", ""), "--nbest"),
        (FIRST.replace("-1\t", "-2\t"), "not of the same sentences"),
        ("", "no H- lines"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, capsys, text, said):
    with pytest.raises(SystemExit, match=said):
        table(tmp_path, capsys, FIRST, text)
