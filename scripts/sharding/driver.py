"""The command: units are given to workers until all are done, and then merged."""

import fcntl
import json
import sys
import time
import uuid
from collections import Counter
from contextlib import contextmanager

from sharding.executors import LocalWorkers, NotStarted, SubmititWorkers
from sharding.files import write_whole
from sharding.manifest import OtherGeneration, describe, write_or_compare
from sharding.merge import merge, missing_sentences, shortened
from sharding.options import WrongOption, check_fairseq, complain, read_fairseq, read_own, threads_for
from sharding.signals import Interrupted, Interruptions
from sharding.units import Damaged, Work
from sharding.worker import CANNOT_WRITE, FAILED, FINISHED, NO_ROOM
from tqdm import tqdm

LOG_LINES = 15
CURE = "what is done is kept: make room or allow writing there, and run the same command again"


class GivenUp(Exception):
    """A unit or the workers failed too often."""


def main(arguments):
    """Run the whole command; returns its exit status."""
    try:
        settings = read_own(arguments)
        args = read_fairseq(settings.arguments)
        check_fairseq(args)
        with Interruptions() as interruptions, _naming_results(settings.results):
            return _generate(settings, args, interruptions)
    except WrongOption as error:
        complain(error)
        return 2
    except (OtherGeneration, GivenUp, NotStarted, Damaged) as error:
        complain(error)
        return 1
    except OSError as error:
        complain(f"{error}; units that are done are kept")
        return 1
    except Interrupted as interruption:
        return 128 + interruption.args[0]


def _generate(settings, args, interruptions):
    began = time.monotonic()
    merged = settings.results / f"generate-{args.gen_subset}.txt"
    folder = settings.results / f"generate-{args.gen_subset}.units"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        work = _open(folder, settings, args, merged)
        try:
            _run_workers(work, settings, interruptions)
            _check_all_planned(work, args)
            sentences = merge(work, merged)
        except Interrupted:
            done = sum(work.is_done(unit) for unit in range(len(work.plan))) if work.has_plan else 0
            complain(f"stopped, with {done} units done: run the same command again to do what is missing")
            raise
    seconds = time.monotonic() - began
    print(f"{sentences} sentences of {settings.workers} shards in {seconds:.0f} s: {merged}")
    return 0


def _run_workers(work, settings, interruptions):
    workers = _workers(settings, work.folder)
    try:
        Drive(work, workers, settings, interruptions).until_done()
    finally:
        workers.stop()


def _open(folder, settings, args, merged):
    """The work in ``folder``, new or to be continued. Before any unit is done nothing binds it."""
    manifest = folder / "manifest.json"
    if not any(folder.glob("unit-*.txt")):
        for path in (manifest, folder / "plan.npz", merged):
            path.unlink(missing_ok=True)
    write_or_compare(manifest, describe(args, settings.units))
    write_whole(folder / "arguments.json", json.dumps(settings.arguments))
    for lease in folder.glob("unit-*.lease"):  # of workers that an earlier run has left
        lease.unlink()
    return Work(folder)


def _workers(settings, folder):
    if settings.executor == "local":
        return LocalWorkers(folder, settings.gpus, threads_for(settings.workers))
    return SubmititWorkers(folder, "slurm" if settings.executor == "slurm" else "local", settings.slurm)


class Drive:
    """Workers at work: those that end too early are replaced, and their units done again, a bounded number of times."""

    def __init__(self, work, workers, settings, interruptions):
        self.work, self.workers, self.settings, self.interruptions = work, workers, settings, interruptions
        self.running, self.losses, self.started = set(), Counter(), 0
        self.run = uuid.uuid4().hex[:6]

    def until_done(self):
        """Raises GivenUp, naming unit and log."""
        with tqdm(unit=" sentences", mininterval=0.5 if sys.stderr.isatty() else 30, smoothing=0) as bar:
            while self._show(bar) or not self.work.has_plan:
                self._start_missing()
                time.sleep(self.workers.pause)
                for name, how in self.workers.ended().items():
                    self._note_end(name, how)
                for name in self.workers.waiting():
                    self._note_wait(name)

    def _undone(self):
        return [unit for unit in range(len(self.work.plan)) if not self.work.is_done(unit)]

    def _show(self, bar):
        """How many units are not done yet."""
        if not self.work.has_plan:
            return 0
        plan, undone = self.work.plan, self._undone()
        total = len(plan.ids)
        done = total - sum(len(plan.ids_of(unit)) for unit in undone)
        if bar.total is None:
            bar.reset(total)
            bar.initial = bar.n = done
        bar.set_postfix_str(
            f"{len(plan) - len(undone)} of {len(plan)} units, {len(self.running)} workers", refresh=False
        )
        bar.update(done - bar.n)
        return len(undone)

    def _start_missing(self):
        """As many workers as have something to do."""
        free = self.settings.workers - len(self.running)
        if self.work.has_plan:
            leases = self.work.leases()
            unclaimed = len(set(self._undone()) - set(leases.values()))
            free = min(free, unclaimed - len(self.running - leases.keys()))
        if free > 0:
            names = [f"{self.run}-{self.started + i}" for i in range(free)]
            self.started += free
            with self.interruptions.held():
                self.workers.start(names)
            self.running.update(names)

    def _note_end(self, name, how):
        self.running.discard(name)
        unit = self.work.leases().get(name)
        log = self.workers.where(name)
        if how == NO_ROOM:  # another worker could not either
            results = self.work.folder.parent
            raise GivenUp(f"--results-path {results}: worker {name} {how}; {CURE}; {_end_of_log(log)}")
        if unit is None:
            if how == FINISHED:
                return
            self.losses[None] += 1
            if how == FAILED or self.losses[None] > self.settings.max_requeues:
                raise GivenUp(f"worker {name} {how} before it had a unit; {_end_of_log(log)}")
            _say(f"worker {name} {how} before it had a unit; another one follows; its log: {log}")
            return
        self.losses[unit] += 1
        if self.losses[unit] > self.settings.max_requeues:
            raise GivenUp(
                f"unit {unit} was lost {self.losses[unit]} times, last by worker {name} ({how}); what is done is kept; "
                f"{_end_of_log(log)}"
            )
        times = f"{self.losses[unit]} of {self.settings.max_requeues}"
        _say(f"unit {unit} is queued again ({times}): worker {name} {how}; its log: {log}")
        self.work.release_all_of(name)

    def _note_wait(self, name):
        """Others can do its unit meanwhile. It is nobody's fault, and not counted."""
        unit = self.work.leases().get(name)
        if unit is not None:
            _say(f"unit {unit} is queued again: SLURM has taken the machine of worker {name}, which waits for another")
            self.work.release_all_of(name)


def _check_all_planned(work, args):
    if not len(work.plan.ids):
        raise Damaged("no sentence was generated: the data set is empty, or all its sentences are left out")
    missing = missing_sentences(work.plan)
    if not len(missing):
        return
    message = f"{len(missing)} sentences are missing: {shortened(missing)}"
    if args.skip_invalid_size_inputs_valid_test:
        complain(f"WARNING: {message}: --skip-invalid-size-inputs-valid-test was given")
    elif args.required_batch_size_multiple > 1:
        complain(f"WARNING: {message}: --required-batch-size-multiple was given")
    else:
        raise Damaged(message)


def _say(message):
    tqdm.write(f"generate_sharded.sh: {message}", file=sys.stderr)  # past the progress bar


def _end_of_log(log):
    if not log.is_file():
        return f"see {log}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return f"the end of {log}:\n" + "\n".join(f"    {line}" for line in lines)


@contextmanager
def _naming_results(folder):
    """A full disk, or a folder that nobody may write to, as GivenUp."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE and not str(error.filename).startswith(str(folder)):
            raise  # about the data or the checkpoint
        raise GivenUp(f"--results-path {folder}: {error}; {CURE}") from None


@contextmanager
def _alone(folder):
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GivenUp(f"another run is writing to {folder}") from None
        yield
