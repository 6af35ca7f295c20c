"""Workers that end too early are replaced, and their units are done again, but not for ever."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.sharded_work import printed_of
from sharding import driver
from sharding.driver import Drive, GivenUp
from sharding.executors import LocalWorkers, SubmititWorkers
from sharding.options import WrongOption
from sharding.signals import NUMBERS, Interrupted, Interruptions
from sharding.units import Plan


class Workers:
    """Stand for processes: each look at them, those that run do a unit, or have the mishap that is said for it."""

    pause = 0

    def __init__(self, work, mishaps=()):
        self.work, self.mishaps, self.running, self.all, self.done = work, list(mishaps), [], [], []

    def start(self, names):
        self.running += names
        self.all += names

    def ended(self):
        ends = {}
        for name in self.running:
            if self.mishaps and self.mishaps[0][0] == "before":
                ends[name] = self.mishaps.pop(0)[1]
            elif (unit := self.work.claim(name)) is None:
                ends[name] = "finished"
            elif self.mishaps and self.mishaps[0][0] == unit:
                ends[name] = self.mishaps.pop(0)[1]
            else:
                self.work.finish(unit, printed_of(self.work, unit))
                self.done.append(unit)
        self.running = [name for name in self.running if name not in ends]
        return ends

    def waiting(self):
        return ()

    def where(self, name):
        log = self.work.folder / f"worker-{name}.log"
        log.write_text("many lines\n" * 20 + "RuntimeError: a mishap\n")
        return log


def drive(work, mishaps=(), workers=2, max_requeues=2):
    stand_ins = Workers(work, mishaps)
    settings = SimpleNamespace(workers=workers, max_requeues=max_requeues)
    with Interruptions() as interruptions:
        Drive(work, stand_ins, settings, interruptions).until_done()
    return stand_ins


def test_all_units_are_done_once(work):
    workers = drive(work)
    assert sorted(workers.done) == [0, 1, 2, 3] and len(workers.all) == 2


def test_only_missing_units_are_done_by_no_more_workers_than_units(work):
    for unit in (0, 1, 3):
        work.finish(unit, printed_of(work, unit))
    workers = drive(work, workers=3)
    assert workers.done == [2] and len(workers.all) == 1
    assert drive(work).all == []


def test_the_unit_of_a_dead_worker_is_done_again(work, capsys):
    workers = drive(work, [(1, "was killed by SIGKILL"), (1, "failed")])
    assert sorted(workers.done) == [0, 1, 2, 3] and len(workers.all) == 4
    said = [line for line in capsys.readouterr().err.splitlines() if "queued again" in line]
    assert "unit 1 is queued again (1 of 2): worker " in said[0] and "was killed by SIGKILL; its log: " in said[0]
    assert "unit 1 is queued again (2 of 2): worker " in said[1]


def test_a_unit_that_is_lost_too_often_ends_all(work):
    with pytest.raises(
        GivenUp, match="(?s)unit 1 was lost 3 times, last by worker .* what is done is kept; .*a mishap"
    ):
        drive(work, [(1, "was killed by SIGKILL")] * 3)
    assert work.is_done(0)


def test_a_worker_that_fails_before_its_unit_ends_all(work):
    with pytest.raises(GivenUp, match="(?s)worker .*-0 failed before it had a unit; the end of .*: a mishap$") as error:
        drive(work, [("before", "failed")])
    assert str(error.value).count("many lines") == 14


def test_the_unit_of_a_worker_that_waits_is_done_by_others(work, capsys, monkeypatch):
    """SLURM has taken its machine, and starts it again at some time."""

    def start(self, names):
        self.taken, *self.running = names
        work.claim(self.taken)

    monkeypatch.setattr(Workers, "start", start)
    monkeypatch.setattr(Workers, "waiting", lambda self: [self.taken])
    workers = drive(work, max_requeues=0)
    assert workers.done == [1, 0, 2, 3]
    message = (
        f"unit 0 is queued again: SLURM has taken the machine of worker {workers.taken}, which waits for another\n"
    )
    assert capsys.readouterr().err.count(message) == 1


@pytest.mark.parametrize("end", ["was killed by SIGKILL", "stopped"])
def test_a_worker_that_ends_before_its_unit_is_replaced(work, end):
    workers = drive(work, [("before", end)] * 2)
    assert sorted(workers.done) == [0, 1, 2, 3] and len(workers.all) == 4
    work.result(0).unlink()
    with pytest.raises(GivenUp, match=f"{end} before it had a unit"):
        drive(work, [("before", end)] * 3)


@pytest.mark.parametrize(
    "batches, skip, multiple, message",
    [
        ([[0], [3, 1]], False, 1, "2 sentences are missing: 2, 4"),
        ([[0], [3, 1]], True, 1, None),
        ([[0], [3, 1]], False, 8, None),
        ([], True, 8, "no sentence was generated"),
        ([[4, 0], [3, 1, 2]], False, 1, None),
    ],
    ids=["missing", "skipped", "multiple", "none", "all"],
)
def test_sentences_that_fairseq_leaves_out(batches, skip, multiple, message, capsys):
    args = SimpleNamespace(skip_invalid_size_inputs_valid_test=skip, required_batch_size_multiple=multiple)
    work = SimpleNamespace(plan=Plan.cut(batches, 5, 2))
    if message:
        with pytest.raises(driver.Damaged, match=message):
            driver._check_all_planned(work, args)
    else:
        driver._check_all_planned(work, args)
        assert ("WARNING: 2 sentences are missing: 2, 4" in capsys.readouterr().err) == (skip or multiple > 1)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_a_signal_is_raised_once_and_not_while_workers_start(number):
    before = signal.getsignal(number)
    reached = False
    with pytest.raises(Interrupted) as interrupted, Interruptions() as interruptions, interruptions.held():
        signal.raise_signal(number)
        signal.raise_signal(number)
        reached = True
    assert reached and interrupted.value.args == (number,)
    assert signal.getsignal(number) is before
    with pytest.raises(Interrupted), Interruptions():
        signal.raise_signal(number)
        raise AssertionError("it was not raised at once")


def test_each_worker_has_its_gpu_and_threads(tmp_path, monkeypatch):
    note = "import os, sys; print(*sys.argv[1:], os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'],"
    program = f"{note} os.getsid(0) == os.getpid(), file=open(sys.argv[3], 'w'))"
    (tmp_path / "generate_sharded.py").write_text(program)
    monkeypatch.setattr("sharding.executors.SCRIPTS", tmp_path)
    workers = LocalWorkers(tmp_path, ["3", "5"], threads=4)
    names = [str(tmp_path / f"note{i}") for i in range(3)]
    workers.start(names)
    ends = {}
    while len(ends) < 3:
        ends.update(workers.ended())
    assert set(ends.values()) == {"ended with exit status 0"}  # without a word of its end
    noted = [Path(name).read_text().split() for name in names]
    assert [line[-3:] for line in noted] == [[gpu, "4", "True"] for gpu in ("3", "5", "3")]
    (tmp_path / "generate_sharded.py").write_text("import time; time.sleep(60)")
    workers.start(["a", "b"])
    workers.processes["b"].kill()
    while workers.ended() != {"b": "was killed by SIGKILL"}:
        pass
    workers.start(["c"])
    assert (workers.gpu_of["a"], workers.gpu_of["c"]) == ("3", "5")  # the free one
    processes = list(workers.processes.values())
    workers.stop()
    assert [process.returncode for process in processes] == [-signal.SIGTERM] * 2
    assert all(line[:3] == ["--worker", str(tmp_path), name] for line, name in zip(noted, names))


def test_submitit_is_needed_for_slurm_only(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(WrongOption, match="SLURM needs submitit: pip install submitit.*; --executor local does not"):
        SubmititWorkers(tmp_path, "slurm", {})
    LocalWorkers(tmp_path, [], 1).stop()
