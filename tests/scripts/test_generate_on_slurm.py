"""generate_sharded.sh on a real SLURM, with the quickstart's model: tasks are lost, and the output is the same."""

import re
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.sharded_runs import (
    LENGTHS,
    Sharded,
    is_running,
    lose_two_and_stop,
    number_of,
    one_process,
    send,
    wait_until,
)
from helpers.slurm_cluster import NODES, cluster, is_installed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(not is_installed(), reason="SLURM is not installed"),
    pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed"),
]
SEARCH = f"--task el_translation --beam 5 {LENGTHS} --batch-size 1 --num-workers 0"  # one word a batch
UNITS = 100


@pytest.fixture
def slurm():
    """The environment of its commands."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, cluster(folder) as environment:
        yield environment


@pytest.fixture(scope="module")
def quickstart():
    """The quickstart's data and model, in its own folder. It is run where it was not yet."""
    folder = ROOT / "quickstart"
    if not (folder / "model.pt").exists():
        subprocess.run([ROOT / "scripts/quickstart.sh"], check=True)
    return folder / "bin", folder / "model.pt"


@pytest.fixture(scope="module")
def expected(quickstart):
    return one_process(*quickstart, SEARCH)


@pytest.fixture
def sharded_on(slurm, quickstart, tmp_path):
    """Makes the command for a partition."""
    with ExitStack() as stack:

        def make(partition):
            options = f"--units {UNITS} --executor slurm --partition {partition} --time 10"
            sharded = Sharded(*quickstart, tmp_path / "out; $(of) 'it", 4, options, SEARCH)
            sharded.environment |= {"SLURM_CONF": slurm["SLURM_CONF"]}
            stack.callback(sharded.end)
            return sharded

        yield make


def job_of(lease):
    """SLURM's variables in the worker's environment."""
    variables = Path(f"/proc/{lease['pid']}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable.startswith("SLURM"))


def jobs(slurm, *options):
    query = ["squeue", "--noheader", "--array", "--format=%i", *options]
    return subprocess.run(query, env=slurm, capture_output=True, text=True, check=True).stdout.split()


def test_tasks_killed_and_cancelled_and_a_command_stopped(expected, slurm, sharded_on):
    sharded = sharded_on("main")

    def cancel(lease):
        assert {job_of(each)["SLURMD_NODENAME"] for each in sharded.leases()} == set(NODES)
        job = job_of(lease)
        task = f"{job['SLURM_ARRAY_JOB_ID']}_{job['SLURM_ARRAY_TASK_ID']}"
        assert re.fullmatch(r"\d+_[0-3]", task) and task in jobs(slurm)
        subprocess.run(["scancel", task], env=slurm, check=True)

    print(lose_two_and_stop(sharded, cancel, units=6))
    assert not jobs(slurm)
    before = sharded.done()
    assert 6 <= len(before) < UNITS

    print(sharded.run())
    assert sharded.merged.read_text() == expected
    assert sharded.done().items() >= before.items()  # those were not done again
    assert not jobs(slurm)

    next(sharded.units.glob("unit-*.txt")).unlink()
    assert "sbatch does not take the job: " in sharded.run("--partition nowhere", status=1)


@pytest.mark.parametrize("partition", ["main", "grace"])
def test_an_urgent_job_takes_a_machine(expected, slurm, sharded_on, partition):
    """SLURM queues the task again (main), or lets it end within its time of grace: then we start another."""
    sharded = sharded_on(partition)
    process = sharded.start()
    held = sharded.hold_workers(4)  # nobody goes on until SLURM has chosen one
    before = sharded.done()
    submit = ["sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(submit, env=slurm, check=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: any(not is_running(lease["pid"]) for lease in held))
    (taken,) = [lease for lease in held if not is_running(lease["pid"])]
    wait_until(lambda: not jobs(slurm, "--partition=urgent"))
    log = sharded.units / f"worker-{taken['worker']}.log"
    assert "\nstopped\n" in log.read_text()  # it had the time to say so
    others = {lease["pid"] for lease in held}
    wait_until(lambda: [lease for lease in sharded.leases() if lease["pid"] not in others], seconds=120)
    (again,) = [lease for lease in sharded.hold_workers(4) if lease["pid"] not in others]
    restarts = job_of(again).get("SLURM_RESTART_COUNT")
    send(signal.SIGCONT, *(lease["pid"] for lease in sharded.leases()))
    printed = process.communicate(timeout=300)[0]
    print(printed)
    assert process.returncode == 0
    unit = f"unit {number_of(taken)} is queued again"
    if partition == "main":
        assert f"{unit}: SLURM has taken the machine of worker {taken['worker']}, which waits for another" in printed
        assert (again["worker"], restarts) == (taken["worker"], "1")
    else:
        assert f"{unit} (1 of 3): worker {taken['worker']} stopped" in printed
        assert again["worker"] != taken["worker"] and restarts is None
    assert sharded.merged.read_text() == expected
    assert sharded.done().items() >= before.items()
    assert not jobs(slurm)
