"""What the check prints and which status it ends with."""

import check_lossless
import pytest

from el_fairseq.generation.lossless import Comparison

LOSSLESS = {"sentences": 4, "identical": 3, "hypotheses": 8, "identical_hypotheses": 7, "ties": [2]}


@pytest.mark.parametrize(
    ("found", "status", "verdict"),
    [
        (LOSSLESS, 0, "lossless in float32"),
        ({**LOSSLESS, "differences": [7]}, 1, "NOT lossless in float32: 1 sentences really differ"),
        ({**LOSSLESS, "score_drift": 0.02}, 1, "a score drifts by 2.00e-02, more than --max-drift 0.001"),
        ({**LOSSLESS, "positional_drift": 0.02}, 1, "a score drifts by 2.00e-02, more than --max-drift 0.001"),
        ({}, 1, "NOT lossless in float32: nothing was compared"),
        (
            {**LOSSLESS, "failed": [3]},
            3,
            "lossless in float32, as far as stock goes: it fails on 1 sentences by itself",
        ),
        ({"failed": [3]}, 3, "lossless in float32, as far as stock goes: it fails on 1 sentences by itself"),
        ({**LOSSLESS, "failed": [3], "differences": [7]}, 1, "NOT lossless in float32: 1 sentences really differ"),
    ],
    ids=[
        "ties only",
        "difference",
        "score drift",
        "token drift",
        "nothing",
        "stock failed",
        "always",
        "failed and more",
    ],
)
def test_exit_status(found, status, verdict, capsys):
    assert check_lossless.report(Comparison(**found), "auto", "float32", 1e-3) == status
    assert verdict in capsys.readouterr().out.splitlines()[-1]


def test_report_names_the_sentences(capsys):
    check_lossless.report(Comparison(**{**LOSSLESS, "differences": [7, 9]}), "on", "float32", 1e-3)
    printed = capsys.readouterr().out
    assert printed.startswith("stock compared with        --el-attention on\n")
    assert "ties                       1: sentence 2\n" in printed
    assert "real differences           2: sentence 7, 9\n" in printed


@pytest.mark.parametrize("options", ["--sampling", "--score-reference", ""], ids=["sampling", "scoring", "no path"])
def test_wrong_command_lines_say_what_to_do(options, tmp_path, capsys):
    path = [] if options == "" else ["--path", "model.pt"]
    with pytest.raises(SystemExit) as stop:
        check_lossless.parse_args([str(tmp_path), *path, *options.split()])
    assert stop.value.code == 2
    assert ("--path MODEL.pt is required" if options == "" else "use beam search") in capsys.readouterr().err


def test_el_tasks_are_compared_with_their_stock_twins(tmp_path):
    mine, cfg = check_lossless.parse_args([str(tmp_path), "--path", "m.pt", "--task", "el_translation", "--beam", "3"])
    assert cfg.task._name == "translation" and cfg.generation.beam == 3 and mine.el_attention == "on"
