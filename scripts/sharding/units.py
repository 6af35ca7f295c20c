"""The folder of the work: a plan, and for each unit a lease while a worker has it and a result once it is done."""

import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from functools import cached_property
from zipfile import BadZipFile

import numpy as np
from sharding.files import write_first, write_whole

RESULT_LINE = re.compile(r"[A-Z]-(\d+)")  # S-3, H-3, E-3_1: what is printed of sentence 3


class Damaged(Exception):
    """A file of the work does not hold what it should."""


@dataclass(frozen=True)
class Plan:
    """``ids`` [sentences]: in the order of generation; batch ``b`` is ``ids[batches[b]:batches[b + 1]]``, and unit
    ``u`` the batches from ``units[u]`` to before ``units[u + 1]``. ``size``: of the data set, with all left out."""

    ids: np.ndarray
    batches: np.ndarray
    units: np.ndarray
    size: int

    @classmethod
    def cut(cls, batches, size, units):
        """At most ``units`` units of as many whole batches each. So numbers do not depend on how the work is cut."""
        lengths = [len(batch) for batch in batches]
        each = max(1, -(-len(batches) // units))
        ends = [*range(0, len(batches), each), len(batches)]
        ids = np.concatenate([np.asarray(batch, np.int64) for batch in batches]) if lengths else np.empty(0, np.int64)
        return cls(ids, np.cumsum([0, *lengths]), np.array(ends if lengths else [0]), size)

    def __len__(self):
        return len(self.units) - 1

    def batches_of(self, unit):
        """The sentences of each batch."""
        edges = self.batches[self.units[unit] : self.units[unit + 1] + 1]
        return [self.ids[start:end].tolist() for start, end in zip(edges, edges[1:])]

    def ids_of(self, unit):
        """[sentences of the unit]"""
        return self.ids[self.batches[self.units[unit]] : self.batches[self.units[unit + 1]]]


class Work:
    """One generation in its folder. Any number of processes on any machines may have it open."""

    def __init__(self, folder):
        self.folder = folder
        self._manifest = (folder / "manifest.json").read_text(encoding="utf-8")

    @property
    def manifest(self):
        return json.loads(self._manifest)

    @property
    def arguments(self):
        """fairseq's, of the latest run: what they say is the manifest's, but from that run's folder."""
        return json.loads((self.folder / "arguments.json").read_text(encoding="utf-8"))

    @cached_property
    def plan(self):
        """Raises FileNotFoundError before a worker has made it, and Damaged."""
        path = self.folder / "plan.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Plan(arrays["ids"], arrays["batches"], arrays["units"], int(arrays["size"]))
        except (ValueError, KeyError, EOFError, BadZipFile):
            raise Damaged(f"{path} is damaged: remove {self.folder} to begin again") from None

    @property
    def has_plan(self):
        return (self.folder / "plan.npz").exists()

    def propose(self, plan):
        """The first plan that is proposed is everybody's."""
        arrays = {"ids": plan.ids, "batches": plan.batches, "units": plan.units, "size": plan.size}
        write_first(self.folder / "plan.npz", lambda file: np.savez(file, **arrays))

    def result(self, unit):
        return self.folder / f"unit-{unit:04}.txt"

    def lease(self, unit):
        return self.folder / f"unit-{unit:04}.lease"

    def is_done(self, unit):
        return self.result(unit).exists()

    def claim(self, worker):
        """A unit that is nobody's and not done, now leased to ``worker``; None if there is no such unit."""
        owner = json.dumps({"worker": worker, "host": socket.gethostname(), "pid": os.getpid()}).encode()
        for unit in range(len(self.plan)):
            if self.is_done(unit) or self.lease(unit).exists():
                continue
            if write_first(self.lease(unit), lambda file: file.write(owner)):
                if not self.is_done(unit):
                    return unit
                self.release(unit)  # done since we looked
        return None

    def leases(self):
        """By name of the worker, its unit."""
        owners = {}
        for path in sorted(self.folder.glob("unit-*.lease")):
            try:
                owners[json.loads(path.read_text())["worker"]] = int(path.stem[len("unit-") :])
            except FileNotFoundError:
                continue  # released since we looked
        return owners

    def release(self, unit):
        self.lease(unit).unlink(missing_ok=True)

    def release_all_of(self, worker):
        """Whatever units ``worker`` had: it has ended, or begins again."""
        while (unit := self.leases().get(worker)) is not None:
            self.release(unit)

    def finish(self, unit, printed):
        """Keep what was printed of a unit: a line that describes the rest, and the lines in source order.

        Raises:
            Damaged: these are not the unit's sentences, or the folder is another generation's by now.
        """
        if (self.folder / "manifest.json").read_text(encoding="utf-8") != self._manifest:
            raise Damaged(f"{self.folder}/manifest.json has changed: another generation writes to this folder")
        lines = [(int(match[1]), line) for line in printed.split("\n") if (match := RESULT_LINE.match(line))]
        lines.sort(key=lambda pair: pair[0])  # stable: within a sentence as fairseq prints
        self._check_ids(unit, [line for _, line in lines])
        body = "".join(f"{line}\n" for _, line in lines)
        header = {"unit": unit, "sentences": len(self.plan.ids_of(unit)), "sha256": _digest(body)}
        write_whole(self.result(unit), f"{json.dumps(header)}\n{body}")
        self.release(unit)

    def read(self, unit):
        """The lines of a unit that is done, one by one in source order, with their ends.

        Raises:
            Damaged: the file is not what was written.
        """
        with open(self.result(unit), "rb") as file:
            try:
                expected = json.loads(file.readline())["sha256"]
            except (ValueError, KeyError, TypeError):
                expected = None
            digest, start = hashlib.sha256(), file.tell()
            while chunk := file.read(2**20):
                digest.update(chunk)
            if digest.hexdigest() != expected:
                raise Damaged(f"{self.result(unit)} is damaged: remove it, and run the same command again")
            file.seek(start)
            for line in file:
                yield line.decode("utf-8")

    def _check_ids(self, unit, lines):
        printed = {int(RESULT_LINE.match(line)[1]) for line in lines if line.startswith("H-")}
        expected = set(self.plan.ids_of(unit).tolist())
        if printed != expected:
            missing, more = sorted(expected - printed), sorted(printed - expected)
            raise Damaged(f"unit {unit}: sentences without a hypothesis: {missing[:20]}; of other units: {more[:20]}")


def _digest(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
