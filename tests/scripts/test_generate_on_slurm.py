"""generate_sharded.sh on a real SLURM of one node: tasks killed, cancelled and stopped, then the same output."""

import os
import re
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.commands import train
from helpers.sharded_runs import Sharded, is_running, one_process, wait_until
from helpers.slurm_cluster import cluster, is_installed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(not is_installed(), reason="SLURM is not installed"),
    pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed"),
]


@pytest.fixture
def slurm():
    """The environment of its commands."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, cluster(folder) as environment:
        yield environment


def job_of(lease):
    """The task of the array, as ``scancel`` names it."""
    variables = Path(f"/proc/{lease['pid']}/environ").read_bytes().decode().split("\0")
    job = dict(variable.split("=", 1) for variable in variables if "=" in variable)
    return f"{job['SLURM_ARRAY_JOB_ID']}_{job['SLURM_ARRAY_TASK_ID']}"


def jobs(environment):
    query = ["squeue", "--noheader", "--array", "--format=%i"]
    return subprocess.run(query, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_an_array_of_four_through_everything(data, tmp_path, slurm):
    train(data, tmp_path, "--arch transformer_tiny --share-all-embeddings")
    model = tmp_path / "checkpoint_last.pt"
    sharded = Sharded(
        data, model, tmp_path / "out; $(of) 'it", 4, "--units 15 --executor slurm --partition one --time 10"
    )
    sharded.environment |= {"SLURM_CONF": slurm["SLURM_CONF"]}

    first = sharded.start()
    wait_until(lambda: len(sharded.leases()) == 4)
    killed, cancelled, held = sharded.leases()[:3]
    os.kill(held["pid"], signal.SIGSTOP)  # so that this does not end before we have looked
    assert re.fullmatch(r"\d+_[0-3]", job_of(killed)) and job_of(killed) != job_of(cancelled)
    assert job_of(cancelled) in jobs(slurm)
    subprocess.run(["scancel", job_of(cancelled)], env=slurm, check=True)
    os.kill(killed["pid"], signal.SIGKILL)
    lost = {killed["worker"], cancelled["worker"]}
    wait_until(lambda: not lost & {lease["worker"] for lease in sharded.leases()})  # queued again
    assert not is_running(killed["pid"]) and not is_running(cancelled["pid"])
    wait_until(lambda: len(sharded.done()) >= 6)
    first.send_signal(signal.SIGINT)
    printed = first.communicate(timeout=120)[0]
    print(printed)
    assert first.returncode == 130 and not sharded.merged.exists()
    for lease, how in ((killed, "was killed"), (cancelled, "stopped")):
        unit = int(lease["unit"][len("unit-") :])
        assert f"unit {unit} is queued again (1 of 3): worker {lease['worker']} {how}" in printed
    assert not jobs(slurm)
    before = sharded.done()
    assert 6 <= len(before) < 15 and not is_running(held["pid"])

    print(sharded.run())
    assert sharded.merged.read_text() == one_process(data, model)
    assert sharded.done().items() >= before.items()
    assert not jobs(slurm)

    next(sharded.units.glob("unit-*.txt")).unlink()
    assert "sbatch does not take the job: " in sharded.run("--partition nowhere", status=1)
