"""The suite for a GPU, with a Python that only notes what it is asked to run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/gpu_suite.sh"
STAGES = ["tests", "attention", "bart", "gpt2", "base", "memory", "largest", "budget"]
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
    *SystemExit*) exit "$(cat gpu)" ;;
    "-c import fairseq") exit "$(cat fairseq)" ;;
    *get_device_name*) echo "a GPU" ;;
    -c*) ;;
    *)
        echo "$*" >>calls
        echo "rows of $*"
        [[ $* != *"$(cat hangs)"* ]] || sleep 60
        [[ $* != *"$(cat fails)"* ]]
        ;;
esac
"""


class Suite:
    """A copy of the script in a folder of its own, beside ``python``; files say what that finds and does."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "scripts/lib").mkdir(parents=True)
        (folder / "bin").mkdir()
        self.script = shutil.copy(SCRIPT, folder / "scripts")
        shutil.copy(SCRIPT.parent / "lib/options.sh", folder / "scripts/lib")
        (folder / "bin/python").write_text(FAKE_PYTHON)
        (folder / "bin/python").chmod(0o755)
        self.answer(gpu="0", fairseq="0", hangs="nothing", fails="nothing")

    def answer(self, **answers):
        for name, text in answers.items():
            (self.folder / name).write_text(text)

    def run(self, *arguments):
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", self.script, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def calls(self):
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def ended(self, out="results"):
        rows = [json.loads(line) for line in (self.folder / out / "stages.jsonl").read_text().splitlines()]
        return {row["stage"]: (row["ended"], row["status"]) for row in rows}


@pytest.fixture
def suite(tmp_path):
    return Suite(tmp_path)


def test_all_stages_in_turn(suite):
    done = suite.run()
    assert done.returncode == 0, done.stderr
    assert suite.ended() == dict.fromkeys(STAGES, ("passed", 0))
    assert list(suite.ended()) == STAGES
    assert len(suite.calls()) == len(STAGES)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("gpu_suite.sh: 8 of 8 stages passed in ")
    assert (suite.folder / "results/report.txt").read_text() == done.stdout


def test_all_stages_end_within_nine_minutes(suite):
    text = SCRIPT.read_text()
    on_gpu = text[text.index("on_gpu() {") : text.index("on_cpu() {")].splitlines()
    limits = [int(line.split()[2]) for line in on_gpu if line.split()[:1] in (["stage"], ["bench"])]
    assert len(limits) == len(STAGES)
    assert sum(limits) <= 9 * 60 - 30  # what is left is for the checks before


def test_a_failed_stage_costs_only_itself(suite):
    suite.answer(fails="bart.jsonl")
    done = suite.run()
    assert done.returncode == 1
    assert suite.ended() == {**dict.fromkeys(STAGES, ("passed", 0)), "bart": ("failed", 1)}
    assert "bart: failed" in done.stdout.splitlines()[-2]
    assert "gpu_suite.sh: 7 of 8 stages passed" in done.stdout.splitlines()[-1]


def test_a_stage_that_takes_too_long_is_stopped(suite):
    text = Path(suite.script).read_text()
    assert "bench memory 35" in text
    Path(suite.script).write_text(text.replace("bench memory 35", "bench memory 0.2"))
    suite.answer(hangs="memory.jsonl")
    done = suite.run()
    assert done.returncode == 1
    assert suite.ended()["memory"] == ("out of time", 124)
    assert suite.ended()["largest"] == ("passed", 0)
    assert "memory: out of time" in done.stdout


def test_only_some_stages_replace_only_theirs(suite):
    (suite.folder / "out").mkdir()
    for name in ("bart", "base"):
        (suite.folder / f"out/{name}.jsonl").write_text("old\n")
    done = suite.run("--only", "memory,bart", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert suite.ended("out") == {"bart": ("passed", 0), "memory": ("passed", 0)}
    assert (suite.folder / "out/base.jsonl").exists()
    assert not (suite.folder / "out/bart.jsonl").exists()  # the fake writes none


def test_without_a_gpu_it_says_so(suite):
    suite.answer(gpu="1")
    done = suite.run()
    assert done.returncode == 1
    assert "finds no GPU; --cpu tries the suite without one" in done.stderr
    assert not suite.calls() and not (suite.folder / "results").exists()
    assert suite.run("--cpu").returncode == 0
    assert len(suite.calls()) == len(STAGES)
    assert all("--cpu" in call for call in suite.calls()[1:])


@pytest.mark.parametrize("arguments", [["--only", "bert"], ["--out"], ["--fast"]], ids=" ".join)
def test_wrong_options_are_named(suite, arguments):
    done = suite.run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_suite.sh: ") and arguments[-1] in done.stderr
    assert not suite.calls()


def test_without_fairseq_it_says_so(suite):
    suite.answer(fairseq="1")
    done = suite.run()
    assert done.returncode == 1
    assert "has no fairseq" in done.stderr
