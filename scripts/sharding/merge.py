"""The results of all units as one file, in source order."""

import heapq
from itertools import groupby

import numpy as np
from sharding.files import replace
from sharding.units import RESULT_LINE, Damaged


def missing_sentences(plan):
    """[missing] the sentences of the data set that are in no unit."""
    return np.setdiff1d(np.arange(plan.size), plan.ids)


def merge(work, path):
    """Write ``path``, whole or not at all; returns how many sentences it holds.

    Raises:
        Damaged: a unit or a sentence is missing, or in there twice.
    """
    plan = work.plan
    undone = [unit for unit in range(len(plan)) if not work.is_done(unit)]
    if undone:
        lost = np.sort(np.concatenate([plan.ids_of(unit) for unit in undone]))
        raise Damaged(f"units {undone} are missing, with the {len(lost)} sentences {shortened(lost)}")
    temporary = path.with_name(path.name + ".tmp")
    sentences, last = 0, -1
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            streams = [_lines(work, unit) for unit in range(len(plan))]
            for sentence, group in groupby(heapq.merge(*streams, key=_place), key=_sentence):
                units = set()
                for _, unit, line in group:
                    file.write(line)
                    units.add(unit)
                if len(units) > 1:
                    raise Damaged(f"sentence {sentence} is in units {sorted(units)}")
                sentences, last = sentences + 1, sentence
            if sentences != len(plan.ids):
                raise Damaged(f"{sentences} sentences were written, up to {last}, of {len(plan.ids)} in the plan")
            replace(temporary, file, path)
    finally:
        temporary.unlink(missing_ok=True)
    return sentences


def shortened(ids):
    """The first twenty, for a message."""
    return ", ".join(map(str, ids[:20])) + (", ..." if len(ids) > 20 else "")


def _lines(work, unit):
    for line in work.read(unit):
        yield int(RESULT_LINE.match(line)[1]), unit, line


def _place(item):
    return item[:2]


def _sentence(item):
    return item[0]
