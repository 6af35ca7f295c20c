"""generate_sharded.sh with fairseq itself: what is merged is what one process prints, whatever happens to it."""

import importlib.util
import os
import re
import signal
import subprocess
import sys

import pytest
from fairseq_cli import score
from helpers.commands import generate, lines_of, train
from helpers.sharded_runs import (
    SCRIPT,
    SEARCH,
    Sharded,
    in_source_order,
    is_running,
    lose_two_and_stop,
    one_process,
    wait_until,
)

pytestmark = pytest.mark.slow
SUBMITIT = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train(data, folder, "--arch transformer_tiny --share-all-embeddings")
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def expected(data, model):
    return one_process(data, model)


@pytest.mark.long
def test_a_killed_worker_loses_only_its_unit(data, model, expected, tmp_path):
    sharded = Sharded(data, model, tmp_path)
    process = sharded.start()
    unit = sharded.kill_a_worker(units_done=1)
    before = sharded.done()
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    number = int(unit[len("unit-") :])
    assert re.search(
        rf"unit {number} is queued again \(1 of 3\): worker \S+ was killed by SIGKILL; its log: \S+", printed
    )
    assert sharded.merged.read_text() == expected
    assert sharded.done().items() >= before.items()  # those were not done again
    assert re.search(r"^60 sentences of 2 shards in \d+ s: .*/generate-test.txt$", printed, re.MULTILINE)


@pytest.mark.long
def test_a_stopped_run_goes_on(data, model, expected, tmp_path):
    sharded = Sharded(data, model, tmp_path)
    process = sharded.start()
    lease = sharded.hold_a_worker(units_done=1)
    pids = sharded.pids()
    os.killpg(process.pid, signal.SIGTERM)
    os.kill(lease["pid"], signal.SIGCONT)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert re.search(r"stopped, with \d units done: run the same command again to do what is missing", printed)
    assert pids and not any(map(is_running, pids))
    before = sharded.done()
    assert 1 <= len(before) < 4 and not sharded.merged.exists()
    sharded.run("--num-shards 1")
    assert sharded.merged.read_text() == expected
    assert sharded.done().items() >= before.items()


@pytest.mark.long
def test_workers_end_with_their_driver(data, model, expected, tmp_path):
    sharded = Sharded(data, model, tmp_path)
    process = sharded.start()
    lease = sharded.hold_a_worker(units_done=1)
    another = sharded.run(status=1)
    assert f"another run is writing to {sharded.units}" in another
    pids = sharded.pids()
    os.kill(process.pid, signal.SIGKILL)
    os.kill(lease["pid"], signal.SIGCONT)
    wait_until(lambda: not any(map(is_running, pids)), seconds=10)
    process.wait()
    before = sharded.done()
    sharded.run()
    assert sharded.merged.read_text() == expected
    assert sharded.done().items() >= before.items()


@pytest.mark.long
def test_a_damaged_checkpoint_leaves_nothing_and_binds_to_nothing(data, model, tmp_path):
    damaged = tmp_path / "model.pt"
    damaged.write_bytes(model.read_bytes()[:-100])
    sharded = Sharded(data, damaged, tmp_path)
    printed = sharded.run(status=1)
    assert re.search(r"worker \S+-\d failed before it had a unit; the end of \S+\.log:\n", printed)
    assert "model.pt" in printed and "Copy or download it again" in printed  # the end of its log
    assert not sharded.merged.exists() and not sharded.pids()


@pytest.mark.long
def test_sampling_is_the_same_however_it_is_cut(data, model, tmp_path):
    sampling = "--sampling --sampling-topk 5 --seed 7 --min-len 1 --max-len-b 20"
    texts = []
    for shards, units in ((1, 500), (2, 3)):
        sharded = Sharded(data, model, tmp_path / str(units), shards, f"{sampling} --units {units}")
        sharded.run()
        texts.append(sharded.merged.read_text())
    assert texts[0] == texts[1]


@SUBMITIT
def test_submitit_without_slurm(data, model, expected, tmp_path):
    """As test_generate_on_slurm.py: the jobs are processes here, and scancel is its signal."""
    folder = tmp_path / "no line; of a $(touch shell) 'script"
    sharded = Sharded(data, model, folder, 4, "--executor submitit --units 8")

    def cancel(lease):
        for number in (signal.SIGCONT, signal.SIGTERM):
            os.kill(lease["pid"], number)

    lose_two_and_stop(sharded, cancel, units=1)
    before = sharded.done()
    assert 1 <= len(before) < 8
    sharded.run("--num-shards 2 --executor local")
    assert sharded.merged.read_text() == expected
    assert sharded.done().items() >= before.items()


def score_as_documented(merged, monkeypatch, capsys):
    """The commands that --help gives, up to fairseq-score: the line it prints."""
    documented = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^    (\S.*)", documented.replace("DIR/generate-test.txt", str(merged)), re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["awk", "awk", "fairseq-score", "sacrebleu"]
    subprocess.run(["bash", "-ec", "\n".join(lines[:2])], check=True, cwd=merged.parent)
    monkeypatch.chdir(merged.parent)
    monkeypatch.setattr(sys, "argv", lines[2].partition("#")[0].split())
    score.cli_main()
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.long
def test_the_score_is_that_of_one_process(data, model, tmp_path, monkeypatch, capsys):
    """More workers than units; a stock task; processes that load the data."""
    quick = "--min-len 1 --max-len-b 20"
    whole = generate(data, model, SEARCH, f"--batch-size 4 {quick} --task translation")
    sharded = Sharded(data, model, tmp_path, shards=3, options=f"{quick} --units 2 --task translation --num-workers 2")
    sharded.run()
    assert sharded.merged.read_text() == in_source_order(lines_of(whole))
    bleu = score_as_documented(sharded.merged, monkeypatch, capsys)
    assert bleu.startswith("BLEU4 = ") and f"Generate test with beam=2: {bleu}\n" in whole
