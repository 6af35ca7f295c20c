"""generate_sharded.sh as a user runs it, over a model so slow that a worker can be killed in the middle of a unit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .commands import ROOT, generate, lines_of

SCRIPT = ROOT / "scripts/generate_sharded.sh"
SEARCH = "--task el_translation --beam 2 --num-workers 0 --min-len 150 --max-len-b 160"
UNITS = 4  # of four batches, half a second each


class Sharded:
    """The command with its results in ``folder``."""

    def __init__(self, data, model, folder, shards=2, options=""):
        self.folder, self.merged = folder, folder / "generate-test.txt"
        self.units = folder / "generate-test.units"
        whole = f"{data} --user-dir el_fairseq --path {model} --batch-size 4 --nbest 2 {SEARCH} --units {UNITS}"
        self.arguments = [*f"{whole} --num-shards {shards} {options}".split(), "--results-path", str(folder)]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def start(self, more=""):
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen([SCRIPT, *self.arguments, *more.split()], cwd=ROOT, env=self.environment, **both)

    def run(self, more="", status=0):
        """What it prints."""
        process = self.start(more)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == status, printed
        return printed

    def done(self):
        """{unit: when it was done}"""
        return {path.name: path.stat().st_mtime_ns for path in self.units.glob("unit-*.txt")}

    def leases(self):
        """Of each worker that has a unit: its name, host, process and unit."""
        leases = []
        for path in self.units.glob("unit-*.lease"):
            try:
                leases.append({**json.loads(path.read_text()), "unit": path.stem})
            except FileNotFoundError:
                continue  # done since we looked
        return leases

    def wait_for_lease(self, units_done=0):
        """A unit that is being generated, after ``units_done`` others."""
        wait_until(lambda: len(self.done()) >= units_done and self.leases())
        return self.leases()[0]

    def hold_a_worker(self, units_done=0):
        """SIGSTOP in the middle of a unit; returns its lease."""
        while True:
            lease = self.wait_for_lease(units_done)
            os.kill(lease["pid"], signal.SIGSTOP)
            if lease in self.leases():
                return lease
            os.kill(lease["pid"], signal.SIGCONT)  # it was faster

    def kill_a_worker(self, units_done=0):
        """SIGKILL in the middle of a unit, which it returns."""
        lease = self.hold_a_worker(units_done)
        os.kill(lease["pid"], signal.SIGKILL)
        return lease["unit"]

    def pids(self):
        """Of all processes that work in the folder."""
        names = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [int(path.name) for path in names if str(self.units).encode() in command_of(path)]


def one_process(data, model):
    """Result lines of fairseq-generate for the same options, in source order."""
    printed = generate(data, model, SEARCH, "--batch-size 4 --el-products fixed")
    return in_source_order(lines_of(printed))


def in_source_order(lines):
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda line: int(line.split("\t")[0][2:])))


def command_of(process):
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
