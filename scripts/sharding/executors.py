"""Where workers run: processes of this machine, or jobs of SLURM."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from sharding import worker as worker_side
from sharding.options import WrongOption

SCRIPTS = Path(__file__).resolve().parents[1]
GRACE = 10  # seconds in which a process that was asked to stop has to


class NotStarted(Exception):
    """Workers that are not let run."""


class LocalWorkers:
    """Processes of this machine, one a GPU where there are any."""

    pause = 0.2  # seconds between looks at them

    def __init__(self, folder, gpus, threads):
        self.folder, self.gpus, self.threads = folder, gpus, threads
        self.processes, self.gpu_of = {}, {}

    def start(self, names):
        """Start a worker for each of ``names``."""
        for name in names:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
            if self.gpus:
                self.gpu_of[name] = environment["CUDA_VISIBLE_DEVICES"] = min(self.gpus, key=self._workers_on)
            command = [sys.executable, SCRIPTS / "generate_sharded.py", "--worker", self.folder, name]
            # A session of its own: Ctrl-C is for the driver, and it can end the worker with all it started.
            self.processes[name] = subprocess.Popen(
                command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )

    def ended(self):
        """{name: how} of the workers that have ended since the last call."""
        codes = {name: process.poll() for name, process in self.processes.items()}
        ends = {name: self._how(name, code) for name, code in codes.items() if code is not None}
        for name in ends:
            _kill_all(self.processes.pop(name))
        return ends

    def waiting(self):
        """Names of the workers that have no machine, of which ``ended`` knew last."""
        return ()

    def _workers_on(self, gpu):
        return sum(self.gpu_of[name] == gpu for name in self.processes)

    def _how(self, name, code):
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        if code == worker_side.STATUS[worker_side.NO_ROOM]:
            return worker_side.NO_ROOM
        return end_of(self.folder, name) or f"ended with exit status {code}"

    def stop(self):
        """End all that run, with what they have started."""
        for process in self.processes.values():
            process.terminate()
        end = time.monotonic() + GRACE
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, end - time.monotonic()))
            _kill_all(process)
            process.wait()
        self.processes.clear()

    def where(self, name):
        """For a message: where to read on."""
        return worker_side.log_of(self.folder, name)


class SubmititWorkers:
    """Jobs that submitit submits, all that start at once as one array. ``cluster``: slurm, or local to try it out."""

    def __init__(self, folder, cluster, parameters):
        try:
            import submitit
        except ImportError:
            raise WrongOption(
                "SLURM needs submitit: pip install submitit, or this package's extra 'slurm'; --executor local does not"
            ) from None
        self.submission_error = submitit.core.utils.FailedJobError
        self.folder, self.cluster, self.jobs, self.states = folder, cluster, {}, {}
        self.pause = 5 if cluster == "slurm" else 0.5  # who asks SLURM, or a shared disk, too often slows it for all
        try:
            self.executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=cluster)
        except RuntimeError as error:
            raise WrongOption(f"--executor slurm: {error}") from None
        self.executor.update_parameters(**self._parameters(parameters))
        path = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(path)  # jobs get our environment, and import this package

    def _parameters(self, given):
        if self.cluster == "local":
            return {"timeout_min": 24 * 60}
        own = {"name": "generate_sharded", "timeout_min": given.get("time", 60), "tasks_per_node": 1}
        for name in ("cpus_per_task", "mem_gb"):
            if name in given:
                own[name] = given[name]
        for name in ("partition", "account", "qos", "gpus_per_task"):
            if name in given:
                own[f"slurm_{name}"] = given[name]
        return own

    def start(self, names):
        """Submit a worker for each of ``names``.

        Raises:
            NotStarted: with what sbatch said.
        """
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(worker_side.run, str(self.folder), name) for name in names]
            self.jobs.update(zip(names, jobs))
        except self.submission_error as error:
            raise NotStarted(f"sbatch does not take the job: {error}") from None

    def ended(self):
        """{name: how} of the workers that have ended since the last call."""
        self.states = self._ask()
        names = [name for name, job in self.jobs.items() if job.job_id not in self.states]
        return {name: end_of(self.folder, name) or "was killed" for name in names if self.jobs.pop(name)}

    def waiting(self):
        """Names of the workers that have no machine: not yet, or SLURM has taken it and starts them again by itself."""
        return [name for name, job in self.jobs.items() if self.states.get(job.job_id) == "PENDING"]

    def _ask(self):
        """{id: state} of our jobs that wait or run. squeue knows, also where SLURM keeps no accounts for sacct."""
        if not self.jobs:
            return {}
        if self.cluster == "local":
            return {job.job_id: "RUNNING" for job in self.jobs.values() if not job.done()}
        ours = ",".join(sorted({job.job_id.split("_")[0] for job in self.jobs.values()}))
        query = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={ours}"]
        done = subprocess.run(query, capture_output=True, text=True)
        if done.returncode != 0 and "Invalid job id" not in done.stderr:  # it has forgotten jobs that ended long ago
            return dict.fromkeys((job.job_id for job in self.jobs.values()), "UNKNOWN")  # no answer: ask later
        return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)

    def stop(self):
        for job in self.jobs.values():
            job.cancel(check=False)
        end = time.monotonic() + 3 * GRACE
        while self._ask() and time.monotonic() < end:
            time.sleep(0.5)
        self.jobs.clear()

    def where(self, name):
        log = worker_side.log_of(self.folder, name)
        return log if log.exists() else self.folder / "submitit"


def end_of(folder, name):
    """What a worker said of its end, or "" if it had no time to."""
    path = worker_side.end_of(folder, name)
    return path.read_text() if path.exists() else ""


def _kill_all(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
