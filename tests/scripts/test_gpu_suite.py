"""The suite for a GPU, with a Python that only notes what it is asked to run."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from helpers.models import batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator, plan
from el_fairseq.ops.kernels import trial

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/gpu_suite.sh"
STAGES = ["kernels", "searches", "attention", "bart", "gpt2", "base", "memory", "largest", "budget"]
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
    *SystemExit*) exit "$(cat gpu)" ;;
    "-c import fairseq") exit "$(cat fairseq)" ;;
    *get_device_name*) echo "a GPU, torch 2.13.0, CUDA 12.9, Python 3.11" ;;
    *gpu_summary*) PYTHONPATH=@ROOT@ exec @PYTHON@ "$@" ;;
    -c*) ;;
    *)
        echo "$*" >>calls
        echo "rows of $*"
        [[ $* != *pytest* ]] || cat passes
        words="$*"
        file="${words##*--json }"
        [[ $* != *--json* || ! -f rows/${file##*/} ]] || cp "rows/${file##*/}" "$file"
        [[ $* != *"$(cat hangs)"* ]] || sleep 60
        if [[ $* == *"$(cat fails)"* ]]; then
            cat says
            exit 1
        fi
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
        fake = FAKE_PYTHON.replace("@ROOT@", str(SCRIPT.parents[1])).replace("@PYTHON@", sys.executable)
        (folder / "bin/python").write_text(fake)
        (folder / "bin/python").chmod(0o755)
        (folder / "rows").mkdir()
        self.commit("first")
        self.answer(gpu="0", fairseq="0", hangs="nothing", fails="nothing", says="an error\n", passes="")

    def answer(self, **answers):
        for name, text in answers.items():
            (self.folder / name).write_text(text)

    def run(self, *arguments):
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", self.script, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def commit(self, text):
        """A repository, so that there is a commit to tell."""
        (self.folder / "text").write_text(text)
        git = ["git", "-C", self.folder, "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], ["add", "text"], ["commit", "-qm", text]):
            subprocess.run([*git, *words], check=True, capture_output=True)

    def calls(self):
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def ended(self, out="results"):
        rows = [json.loads(line) for line in (self.folder / out / "stages.jsonl").read_text().splitlines()]
        return {row["stage"]: (row["ended"], row["status"]) for row in rows}

    def summary(self, out="results"):
        lines = (self.folder / out / "summary.txt").read_text().splitlines()
        assert len(lines) == 9  # and one that says what to send
        return dict(line.split(": ", 1) for line in lines)


@pytest.fixture
def suite(tmp_path):
    return Suite(tmp_path)


def test_all_stages_in_turn(suite):
    done = suite.run()
    assert done.returncode == 0, done.stderr
    assert suite.ended() == dict.fromkeys(STAGES, ("passed", 0))
    assert list(suite.ended()) == STAGES
    assert len(suite.calls()) == len(STAGES)
    report = (suite.folder / "results/report.txt").read_text()
    assert done.stdout.startswith(report)
    assert done.stdout.splitlines()[-1].startswith("to send: results/gpu_suite.tar.gz (after ")
    assert suite.summary()["machine"] == "a GPU, torch 2.13.0, CUDA 12.9, Python 3.11"
    assert suite.summary()["Triton kernel"] == "no fallback reported by attention"
    assert suite.summary()["CUDA graphs"] == "no fallback reported by bart, gpt2, base"
    with tarfile.open(suite.folder / "results/gpu_suite.tar.gz") as sent:
        assert set(sent.getnames()) == {"report.txt", "stages.jsonl", "summary.txt"}


def test_all_stages_end_within_nine_minutes(suite):
    text = SCRIPT.read_text()
    on_gpu = text[text.index("on_gpu() {") : text.index("on_cpu() {")].splitlines()
    limits = [int(line.split()[2]) for line in on_gpu if line.split()[:1] in (["stage"], ["bench"])]
    assert len(limits) == len(STAGES)
    assert sum(limits) <= 9 * 60 - 30  # what is left is for the checks before


def test_a_failed_stage_costs_only_itself(suite):
    suite.answer(fails="bart.jsonl", passes="51 passed, 3 skipped in 12.72s")
    done = suite.run()
    assert done.returncode == 1
    assert suite.summary()["kernels"] == suite.summary()["searches"] == "passed, 51 passed, 3 skipped in 12.72s"
    assert suite.ended() == {**dict.fromkeys(STAGES, ("passed", 0)), "bart": ("failed", 1)}
    assert suite.summary()["bart"] == "failed; gpt2: passed; base: passed"
    assert "an error" in (suite.folder / "results/report.txt").read_text()


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
        (suite.folder / f"out/{name}.jsonl").write_text(row() + "\n")
    done = suite.run("--only", "memory,bart", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert suite.ended("out") == {"bart": ("passed", 0), "memory": ("passed", 0)}
    assert suite.summary("out")["searches"] == "not run"
    assert suite.summary("out")["Triton kernel"] == "not known"
    suite.run("--only", "kernels", "--out", "out")
    assert suite.ended("out") == dict.fromkeys(["bart", "memory", "kernels"], ("passed", 0))  # the others are kept
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
    assert all("--cpu" in call for call in suite.calls()[2:])


def test_resuming_takes_what_has_not_passed(suite):
    suite.answer(fails="bart.jsonl")
    suite.run()
    before = len(suite.calls())
    suite.answer(fails="nothing")
    done = suite.run("--resume")
    assert done.returncode == 0, done.stderr
    assert len(suite.calls()) == before + 1 and "bart.jsonl" in suite.calls()[-1]
    assert suite.summary()["bart"] == "passed; gpt2: passed; base: passed"
    assert "kernels: passed already" in done.stdout
    suite.run()
    assert len(suite.calls()) == before + 1 + len(STAGES)  # without it, everything


@pytest.mark.parametrize("first", [[], ["--cpu"]], ids=["another commit", "on a CPU"])
def test_resuming_trusts_only_the_same(first, suite):
    suite.run(*first)
    if not first:
        suite.commit("other")
    before = len(suite.calls())
    assert suite.run("--resume").returncode == 0
    assert len(suite.calls()) == before + len(STAGES)


def test_a_row_that_was_not_finished_costs_only_itself(suite):
    (suite.folder / "rows/bart.jsonl").write_text(row() + "\n" + row()[:40])
    suite.answer(fails="bart.jsonl")
    suite.run()
    assert suite.summary()["bart"] == "failed, batch 4 auto 2.00x; gpt2: passed; base: passed"


def row(**values):
    """As of bench_decode.py."""
    lossless = {"auto": "4 of 4 identical, 0 ties"}
    return json.dumps(
        {"batch": 4, "seconds": {"stock": 3.0, "auto": 1.5}, "out_of_memory": [], "lossless": lossless, **values}
    )


def test_the_summary_has_the_figures(suite):
    differs = {"auto": "3 of 4 identical, 0 ties"}
    for name, text in (
        ("bart", row()),
        ("base", row(lossless=differs)),
        ("largest", row(seconds={"auto": 2.0}, out_of_memory=["stock"])),
        ("memory", '{"state_mib": {"stock": 48.0, "on": 12.0}}'),
        ("attention", '{"layout": "kernel", "of_floor": 0.75}'),
    ):
        (suite.folder / f"rows/{name}.jsonl").write_text(text + "\n")
    suite.run()
    found = suite.summary()
    assert found["bart"] == (
        "passed, batch 4 auto 2.00x; gpt2: passed; base: passed, batch 4 auto 2.00x (3 of 4 identical, 0 ties)"
    )
    assert found["largest"] == "passed, batch 4 auto 2.0 s, batch 4 stock out of memory; budget: passed"
    assert found["kept of the source"] == "passed, EL-attention keeps 4.0 to 4.0 times less than stock"
    assert found["a step of attention"] == "passed, kernel 75% of the floor"


def what_is_logged(failure, monkeypatch, caplog):
    """What our own code says of a failure."""
    if failure == "kernel disagrees":
        monkeypatch.setattr(trial, "verified", {})
        trial.tried(("fused attention",), lambda: torch.ones(1), lambda *given: torch.zeros(1))
    elif failure == "capture raises":

        def refuse(run):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

        monkeypatch.setattr(plan, "capturer", lambda device: refuse)
        model = enable_el_attention(build_model("transformer", dictionary(12)))
        ELSequenceGenerator([model], dictionary(12), beam_size=2).generate([model], batch(dictionary(12), [3]))
    else:
        return "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    return "".join(f"WARNING:{record.name}:{record.getMessage()}\n" for record in caplog.records)


@pytest.mark.parametrize(
    "failure, line, told",
    [
        ("kernel disagrees", "Triton kernel", "FALLBACK 1 times: PyTorch instead of the Triton kernel for fused"),
        ("capture raises", "CUDA graphs", "FALLBACK 1 times: decoder steps of TransformerDecoderBase are not captured"),
        ("out of memory", "largest", "failed; budget: passed"),
    ],
)
def test_failures_are_in_the_summary(failure, line, told, suite, monkeypatch, caplog):
    """Those messages are the code's own, so that the summary knows them."""
    says = what_is_logged(failure, monkeypatch, caplog)
    assert says
    suite.answer(fails="largest.jsonl" if failure == "out of memory" else "tests/cuda/test_attention.py", says=says)
    done = suite.run()
    assert done.returncode == 1
    assert suite.summary()[line].startswith(told)
    assert suite.ended()["budget"] == ("passed", 0)
    assert says in (suite.folder / "results/report.txt").read_text()


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
