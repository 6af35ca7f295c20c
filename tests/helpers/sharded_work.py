"""A work of seven sentences in four batches, without fairseq."""

import json

from sharding.units import Plan, Work

BATCHES = [[3, 0], [6, 1], [2], [5, 4]]


def lines_of_sentence(sentence):
    """As fairseq-generate prints, with what a careless reader of lines stumbles over."""
    return f"S-{sentence}\ta\x85b\u2028 \U0001f600\nH-{sentence}\t-0.5\ty - x\nP-{sentence}\t-0.5\nE-{sentence}_0\ty\n"


MERGED = "".join(map(lines_of_sentence, range(7)))


def printed_of(work, unit):
    """In the order of its batches."""
    return "".join(lines_of_sentence(sentence) for sentence in work.plan.ids_of(unit))


def new_work(folder):
    """In four units of a batch each."""
    (folder / "manifest.json").write_text(json.dumps({"options": {"units": 4}, "files": {}}))
    work = Work(folder)
    work.propose(Plan.cut(BATCHES, size=7, units=4))
    return work
