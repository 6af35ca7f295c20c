"""The folder of the work: who has which unit, and results that are whole or not there."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers.commands import ROOT
from helpers.sharded_work import BATCHES, MERGED, lines_of_sentence, printed_of
from sharding.units import Damaged, Plan, Work


@pytest.mark.parametrize("units", [1, 2, 3, 4, 500])
def test_a_plan_cuts_between_batches(units):
    plan = Plan.cut(BATCHES, 7, units)
    assert len(plan) <= units
    assert [batch for unit in range(len(plan)) for batch in plan.batches_of(unit)] == BATCHES
    assert np.concatenate([plan.ids_of(unit) for unit in range(len(plan))]).tolist() == sum(BATCHES, [])


def test_no_batches_are_no_units():
    assert len(Plan.cut([], 0, 3)) == 0


def test_the_first_plan_is_everybodys(work):
    work.propose(Plan.cut(BATCHES[::-1], 7, 1))
    assert Work(work.folder).plan.ids.tolist() == sum(BATCHES, [])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("content", ["empty", "cut short", "a pickle", "an array of pickles"])
def test_a_damaged_plan_is_named_and_never_unpickled(work, content, tmp_path, monkeypatch):
    path = work.folder / "plan.npz"
    if content == "an array of pickles":
        np.savez(path, ids=np.array([Evil()], dtype=object), batches=[0, 1], units=[0, 1], size=1)
    else:
        contents = {"empty": b"", "cut short": path.read_bytes()[:-30], "a pickle": pickle.dumps(Evil())}
        path.write_bytes(contents[content])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Damaged, match="plan.npz is damaged: remove .* to begin again"):
        _ = work.plan
    assert not (tmp_path / "evil").exists()


def test_each_unit_is_claimed_once(work):
    claimed = [work.claim(f"w{i}") for i in range(5)]
    assert claimed == [0, 1, 2, 3, None]
    assert work.leases() == {"w0": 0, "w1": 1, "w2": 2, "w3": 3}
    work.release(2)
    assert Work(work.folder).claim("w9") == 2


def test_a_worker_that_begins_again_has_no_units(work):
    assert [work.claim(name) for name in ("w", "w", "other")] == [0, 1, 2]
    work.release_all_of("w")
    assert work.leases() == {"other": 2}


def test_processes_do_not_claim_the_same_unit(tmp_path, work):
    work.folder.joinpath("plan.npz").unlink()
    work.propose(Plan.cut([[i] for i in range(60)], 60, 60))
    program = (
        "import sys; from pathlib import Path; from sharding.units import Work; work = Work(Path(sys.argv[1]))\n"
        "while (unit := work.claim(sys.argv[2])) is not None: print(unit)"
    )
    command = [sys.executable, "-c", program, tmp_path]
    pipe = {"stdout": subprocess.PIPE, "cwd": ROOT / "scripts", "text": True}
    processes = [subprocess.Popen([*command, str(i)], **pipe) for i in range(3)]
    claimed = [int(unit) for process in processes for unit in process.communicate(timeout=60)[0].split()]
    assert sorted(claimed) == list(range(60))


def test_a_result_is_in_source_order_and_ends_the_lease(work):
    unit = work.claim("w")
    work.finish(unit, "a log line\n" + printed_of(work, unit) + "Generate test with beam=5: BLEU4 = 1.00\n")
    assert "".join(work.read(unit)) == lines_of_sentence(0) + lines_of_sentence(3)
    assert work.is_done(unit) and not work.leases()
    assert work.claim("w") == unit + 1
    assert not [path.name for path in work.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "printed, message",
    [
        ("", "unit 0: sentences without a hypothesis: [0, 3]; of other units: []"),
        (lines_of_sentence(3), "unit 0: sentences without a hypothesis: [0]; of other units: []"),
        (MERGED, "unit 0: sentences without a hypothesis: []; of other units: [1, 2, 4, 5, 6]"),
        ("S-3\ta\n" + lines_of_sentence(0), "unit 0: sentences without a hypothesis: [3]; of other units: []"),
    ],
    ids=["nothing", "one less", "too many", "a source alone"],
)
def test_other_sentences_than_the_units_are_refused(work, printed, message):
    with pytest.raises(Damaged, match=message.replace("[", r"\[")):
        work.finish(0, printed)
    assert not work.is_done(0)


def test_a_worker_of_another_generation_writes_nothing(work):
    (work.folder / "manifest.json").write_text("{}")
    with pytest.raises(Damaged, match="another generation writes to this folder"):
        work.finish(0, printed_of(work, 0))
    assert not work.is_done(0)


@pytest.mark.parametrize("change", ["cut short", "flipped", "no header"])
def test_a_damaged_result_is_noticed(work, change):
    work.finish(0, printed_of(work, 0))
    content = work.result(0).read_bytes()
    changed = {"cut short": content[:-9], "flipped": content.replace(b"y - x", b"z - x"), "no header": content[9:]}
    work.result(0).write_bytes(changed[change])
    with pytest.raises(Damaged, match="unit-0000.txt is damaged: remove it, and run the same command again"):
        list(work.read(0))


def test_the_header_counts(work):
    work.finish(2, printed_of(work, 2))
    header = json.loads(work.result(2).read_text().partition("\n")[0])
    assert (header["unit"], header["sentences"]) == (2, 1)
