"""Retention and gain per parameter, by hand."""

import pytest
import retention

TABLE = "variant,parameters,accuracy,bleu\nmha,400,80,32\nmhe-mul,200,78,24\nsha,100,75,20\n"


def test_both_are_computed_for_each_score(tmp_path, capsys):
    (tmp_path / "table.csv").write_text(TABLE)
    retention.main([str(tmp_path / "table.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| variant | parameters | accuracy | accuracy: retention | accuracy: gain | bleu |")
    assert lines[2:] == [
        "| mha | 400 | 80.00 | 100.0 % | 0.022 | 32.00 | 100.0 % | 0.200 |",  # (80/75 - 1) / 3, (32/20 - 1) / 3
        "| mhe-mul | 200 | 78.00 | 97.5 % | 0.040 | 24.00 | 75.0 % | 0.200 |",  # (78/75 - 1) / 1, (24/20 - 1) / 1
        "| sha | 100 | 75.00 | 93.8 % | - | 20.00 | 62.5 % | - |",
    ]


def test_without_a_single_head_there_is_no_gain(tmp_path, capsys):
    (tmp_path / "table.csv").write_text("".join(TABLE.splitlines(keepends=True)[:3]))
    retention.main([str(tmp_path / "table.csv")])
    assert capsys.readouterr().out.splitlines()[3] == "| mhe-mul | 200 | 78.00 | 97.5 % | - | 24.00 | 75.0 % | - |"


def test_what_has_fewer_parameters_than_a_single_head_gains_nothing(tmp_path, capsys):
    (tmp_path / "table.csv").write_text(TABLE + "small,50,60,10\n", encoding="utf-8-sig")
    retention.main([str(tmp_path / "table.csv")])
    assert capsys.readouterr().out.splitlines()[5] == "| small | 50 | 60.00 | 75.0 % | - | 10.00 | 31.2 % | - |"


@pytest.mark.parametrize(
    "text, message",
    [
        ("variant,accuracy\nmha,80\n", "the header has to be variant,parameters,SCORE"),
        ("variant,parameters,bleu,bleu\nmha,400,80,81\n", "each once"),
        ("variant,parameters,accuracy\nsha,400,80\n", "there is no mha"),
        ("variant,parameters,accuracy\nmha,400,high\n", "line 2: a value is missing, one too many, or no number"),
        ("variant,parameters,accuracy\nmha,400\n", "line 2: a value is missing, one too many, or no number"),
        ("variant,parameters,accuracy\nmha,400,80,1\n", "line 2: a value is missing, one too many, or no number"),
        ("variant,parameters,accuracy\nmha,0,80\n", "line 2: parameters and scores are more than 0"),
        ("variant,parameters,accuracy\nmha,4,nan\n", "line 2: parameters and scores are more than 0"),
        ("variant,parameters,accuracy\nmha,4,80\nmha,4,81\n", "line 3: mha stands there twice"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, capsys, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(SystemExit):
        retention.main([str(tmp_path / "table.csv")])
    assert message in capsys.readouterr().err
