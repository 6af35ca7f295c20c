"""generate_sharded.sh: what is merged, what is kept, and how it fails, with a stand-in for fairseq-generate."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import ROOT

SCRIPT = ROOT / "scripts/generate_sharded.sh"
MERGED = [line for i in range(7) for line in (f"S-{i}\t{i} - x", f"H-{i}\t-0.5\ty {i}", f"P-{i}\t-0.5", f"E-{i}_0\ty")]
pytestmark = pytest.mark.slow


class Sharded:
    """The script over a stand-in for fairseq-generate, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.mishaps, self.started = folder, folder / "mishaps", folder / "started"
        self.merged = folder / "results/generate-test.txt"
        self.shards = folder / "results/generate-test.shards"
        shutil.copy(Path(__file__).with_name("fake_generate.py"), folder / "fairseq-generate")
        (folder / "fairseq-generate").chmod(0o755)
        (folder / "model.pt").write_text("a checkpoint")
        environment = {**os.environ, "FAKE": folder, "PATH": f"{folder}:{os.environ['PATH']}"}
        self.environment = {**environment, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def start(self, arguments, mishaps="", **more):
        self.mishaps.write_text(mishaps)
        self.started.unlink(missing_ok=True)
        command = [SCRIPT, "data-bin", "--path", "model.pt", "--results-path", "results", *arguments.split()]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **both, **more)

    def run(self, arguments="--num-shards 3", mishaps="", status=0):
        """What the script prints. Whatever happens, a merged file is there if and only if it says so."""
        process = self.start(arguments, mishaps)
        printed = process.communicate(timeout=60)[0]
        assert process.returncode == status, printed
        assert self.merged.exists() == (status == 0)
        if status == 0:
            assert self.merged.read_text().splitlines() == MERGED
        return printed

    def notes(self):
        """What the processes noted of themselves, by shard: its number, its id, its environment, its arguments."""
        return sorted(line.split() for line in self.started.read_text().splitlines())

    def ran(self):
        return "".join(note[0] for note in self.notes()) if self.started.exists() else ""


@pytest.fixture
def sharded(tmp_path):
    return Sharded(tmp_path)


def test_merges_in_source_order(sharded):
    printed = sharded.run()
    assert re.fullmatch(r"7 sentences of 3 shards in \d+ s: results/generate-test.txt", printed.splitlines()[-1])
    for rank, (_, _, _, _, *arguments) in enumerate(sharded.notes()):
        folder = f"results/generate-test.shards/{rank}"
        expected = f"--required-batch-size-multiple 1 data-bin --path model.pt --results-path {folder} "
        assert " ".join(arguments) == f"{expected}--distributed-world-size 3 --distributed-rank {rank}"


def test_a_failing_shard_is_named_and_only_it_runs_again(sharded):
    sharded.run()
    printed = sharded.run("--num-shards 3 --beam 2", "fail 1", status=1)  # what was merged before is gone
    assert "shard 1 of 3 failed (exit status 1); the end of results/generate-test.shards/1/log:\n" in printed
    assert "\n    RuntimeError: a mishap\n" in printed
    sharded.run("--num-shards 3 --beam 2")
    assert sharded.ran() == "1"
    sharded.run("--num-shards 3 --beam 2")
    assert sharded.ran() == ""


@pytest.mark.parametrize("change", ["--num-shards 3 --beam 4", "--num-shards 2", "checkpoint"])
def test_what_makes_all_shards_run_again(sharded, change):
    sharded.run()
    if change == "checkpoint":
        (sharded.folder / "model.pt").write_text("another")
        sharded.run()
    else:
        sharded.run(change)
    assert sharded.ran() == ("01" if change == "--num-shards 2" else "012")


@pytest.mark.parametrize(
    "mishaps, message",
    [
        ("lose 1", "shard 1 of 3 failed (it says it translated 2 sentences, but wrote 1)"),
        ("drop 0\ndrop 2", "2 sentences are missing, the first is 0"),
        ("everything 0", "sentence 1 is in two shards: does this fairseq shard by --distributed-rank?"),
    ],
)
def test_all_sentences_have_to_be_there_once(sharded, mishaps, message):
    assert message in sharded.run(mishaps=mishaps, status=1)


def test_the_last_sentence_is_missed_too(sharded):
    log = "INFO | loaded 7 examples from: data-bin/test.en-de.en"
    program = sharded.folder / "fairseq-generate"
    program.write_text(program.read_text().replace("SENTENCES = 7", f"SENTENCES = 6\nprint({log!r})"))
    assert "1 sentences are missing, the first is 6" in sharded.run(status=1)
    sharded.merged.parent.mkdir(exist_ok=True)
    process = sharded.start("--num-shards 3 --skip-invalid-size-inputs-valid-test")
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and sharded.merged.read_text().splitlines() == MERGED[:-4]
    assert "1 sentences are missing (the first is 6): --skip-invalid-size-inputs-valid-test was given" in printed


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "another shard fails"])
def test_no_process_is_left_behind(sharded, how):
    """Neither shards nor what they have started."""
    fails = how == "another shard fails"
    process = sharded.start(
        "--num-shards 3",
        "hang 0\nfail 1\nhang 2" if fails else "hang 0\nhang 2",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell cannot trap what is ignored
    )
    wait_until(lambda: sharded.ran() == "00122")
    if not fails:
        os.killpg(process.pid, how)
    assert process.wait(timeout=20) == (1 if fails else 128 + how)
    pids = [int(note[1]) for note in sharded.notes()]
    wait_until(lambda: not any(map(is_running, pids)), seconds=2)
    assert not sharded.merged.exists()


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_until(condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


def test_two_runs_do_not_write_to_one_folder(sharded):
    first = sharded.start("--num-shards 2", "hang 0")
    wait_until(lambda: sharded.ran().startswith("00"))
    second = sharded.start("--num-shards 2")
    assert "another run is writing to results/generate-test.shards" in second.communicate(timeout=20)[0]
    assert second.returncode == 1
    first.terminate()
    assert first.wait(timeout=20) == 143


def test_one_process_for_each_gpu(sharded):
    sharded.environment["CUDA_VISIBLE_DEVICES"] = "3,5"
    sharded.run("")
    assert [note[2] for note in sharded.notes()] == ["3", "5"]
    sharded.run("--num-shards=3")
    assert [note[2] for note in sharded.notes()] == ["3", "5", "3"]
    del sharded.environment["CUDA_VISIBLE_DEVICES"]
    (sharded.folder / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    (sharded.folder / "nvidia-smi").chmod(0o755)
    sharded.run("")
    assert [note[2] for note in sharded.notes()] == ["0", "1", "2", "3"]
    sharded.run("--cpu --num-shards 1")
    assert [note[2] for note in sharded.notes()] == ["none"]


def test_cores_are_divided(sharded):
    del sharded.environment["OMP_NUM_THREADS"]
    sharded.run("--num-shards 2")
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [note[3] for note in sharded.notes()] == [str(each)] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "no GPU found: say with --num-shards N how many processes to run on the CPU"),
        ("--num-shards 0x2", "--num-shards 0x2: not a positive number"),
        ("--num-shards 2 --shard-id 0", "--shard-id is set by this script for each process; say --num-shards N"),
        ("--num-shards 2 --quiet", "--quiet leaves nothing to merge"),
        ("--num-shards", "--num-shards needs a value"),
        ("--num-shards 2 --results-path=", "--results-path DIR is required"),
    ],
)
def test_wrong_command_lines(sharded, arguments, message):
    assert message in sharded.run(arguments, status=2)
    assert sharded.ran() == ""
