"""generate_sharded.sh as a user runs it, with units so slow that a worker can be killed in the middle of one."""

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
LENGTHS = "--max-len-a 0 --max-len-b 200"  # fairseq's, where a search says nothing of them


class Sharded:
    """The command with its results in ``folder``."""

    def __init__(self, data, model, folder, shards=2, options="", search=SEARCH):
        self.folder, self.merged = folder, folder / "generate-test.txt"
        self.units = folder / "generate-test.units"
        whole = f"{data} --user-dir el_fairseq --path {model} --batch-size 4 --nbest 2 {search} --units {UNITS}"
        self.arguments = [*f"{whole} --num-shards {shards} {options}".split(), "--results-path", str(folder)]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.processes = []
        self.environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def start(self, more=""):
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        command = [SCRIPT, *self.arguments, *more.split()]
        self.processes.append(subprocess.Popen(command, cwd=ROOT, env=self.environment, **both))
        return self.processes[-1]

    def end(self):
        """What a test that fails leaves running."""
        for process in self.processes:
            if process.poll() is not None:
                continue
            process.terminate()
            process.communicate(timeout=60)

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

    def hold_workers(self, number):
        """SIGSTOP of all of them, each in the middle of a unit; returns their leases."""
        while True:
            wait_until(lambda: len(self.leases()) == number)
            pids = {lease["pid"] for lease in self.leases()}
            send(signal.SIGSTOP, *pids)
            leases = self.leases()
            if len(leases) == number and {lease["pid"] for lease in leases} == pids:
                return leases
            send(signal.SIGCONT, *pids)  # one was between two units

    def kill_a_worker(self, units_done=0):
        """SIGKILL in the middle of a unit, which it returns."""
        lease = self.hold_a_worker(units_done)
        os.kill(lease["pid"], signal.SIGKILL)
        return lease["unit"]

    def pids(self):
        """Of all processes that work in the folder."""
        names = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [int(path.name) for path in names if str(self.units).encode() in command_of(path)]


def lose_two_and_stop(sharded, cancel, units):
    """Of four workers one is killed, one cancelled by ``cancel(lease)``; then Ctrl-C, when ``units`` are done.

    Returns what the command printed."""
    process = sharded.start()
    killed, cancelled, held, other = sharded.hold_workers(4)  # held: so that not all is done before Ctrl-C
    cancel(cancelled)
    os.kill(killed["pid"], signal.SIGKILL)
    lost = {killed["worker"], cancelled["worker"]}
    wait_until(lambda: not lost & {lease["worker"] for lease in sharded.leases()})  # queued again
    assert not is_running(killed["pid"]) and not is_running(cancelled["pid"])
    os.kill(other["pid"], signal.SIGCONT)
    wait_until(lambda: len(sharded.done()) >= units)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    os.kill(held["pid"], signal.SIGCONT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and not sharded.merged.exists(), printed
    for lease, how in ((killed, "was killed"), (cancelled, "stopped")):
        unit = number_of(lease)
        assert f"unit {unit} is queued again (1 of 3): worker {lease['worker']} {how}" in printed
    assert not any(is_running(lease["pid"]) for lease in (held, other))
    return printed


def number_of(lease):
    """Of its unit."""
    return int(lease["unit"][len("unit-") :])


def one_process(data, model, search=SEARCH):
    """Result lines of fairseq-generate for the same options, in source order."""
    printed = generate(data, model, "--batch-size 4 --el-products fixed", search)
    return in_source_order(lines_of(printed))


def send(number, *pids):
    for pid in pids:
        os.kill(pid, number)


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
