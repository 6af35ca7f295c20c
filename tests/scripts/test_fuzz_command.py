"""What the command prints and which status it ends with."""

import re
import subprocess
import sys

import pytest
from helpers import fuzz
from helpers.commands import ROOT

COMMAND = ROOT / "scripts/fuzz.py"


def broken(mixed):
    raise AssertionError("sentence 0, hypothesis 1\nand a difference of many lines")


def test_the_last_line_says_what_was_compared():
    done = subprocess.run([sys.executable, COMMAND, "--seed", "2", "--count", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, versions, *_, last = done.stdout.splitlines()
    assert first == "scripts/fuzz.py --seed 2 --count 3" and "torch" in versions and "commit" in versions
    assert re.fullmatch(r"3 cases of seed 2: [\d,]+ hypotheses compared with stock's \(on; off; .*\), 0 failures", last)
    assert "3/3" in done.stderr and "case/s" in done.stderr


def test_every_failure_says_how_to_repeat_it(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "compare_every_way", broken)
    assert fuzz.main(["--seed", "5", "--count", "2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == [
        "case 0 FAILED: AssertionError: sentence 0, hypothesis 1",
        "  repeat it alone: scripts/fuzz.py --seed 5 --case 0",
        "case 1 FAILED: AssertionError: sentence 0, hypothesis 1",
        "  repeat it alone: scripts/fuzz.py --seed 5 --case 1",
    ]
    assert lines[-1].startswith("2 cases of seed 5: 0 hypotheses") and lines[-1].endswith("2 failures")


def test_one_case_is_shown_whole_with_the_error(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "compare_every_way", broken)
    assert fuzz.main(["--seed", "5", "--case", "1"]) == 1
    printed = capsys.readouterr().out
    assert str(fuzz.mixed_case(5, 1)) in printed and "and a difference of many lines" in printed
    assert printed.splitlines()[-1].endswith("1 failures")


def test_ctrl_c_says_how_far_it_came(monkeypatch, capsys):
    compared = []

    def interrupted(mixed):
        if len(compared) == 2:
            raise KeyboardInterrupt
        compared.append(mixed)
        return {"hypotheses": 7}

    monkeypatch.setattr(fuzz, "compare_every_way", interrupted)
    assert fuzz.main(["--count", "9"]) == 130
    *_, verdict, last = capsys.readouterr().out.splitlines()
    assert "14 hypotheses" in verdict and last == "stopped by Ctrl-C after 2 of 9 cases"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--count 0", "--count 0: at least one case"),
        ("--case -1", "--case -1: cases are numbered from 0"),
        ("--case 3 --count 4", "not allowed with"),
    ],
)
def test_wrong_command_lines_say_what_to_do(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        fuzz.parse_args(options.split())
    assert stop.value.code == 2 and message in capsys.readouterr().err
