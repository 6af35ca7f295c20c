"""One file in source order, with every sentence once, or none."""

import numpy as np
import pytest
from helpers.sharded_work import BATCHES, MERGED, lines_of_sentence, printed_of
from sharding.merge import merge, missing_sentences
from sharding.options import MOST_UNITS
from sharding.units import Damaged, Plan


def finish(work, *units):
    for unit in units:
        work.finish(unit, printed_of(work, unit))


def test_units_are_merged_in_source_order(work, tmp_path):
    finish(work, 2, 0, 3, 1)
    assert merge(work, tmp_path / "merged.txt") == 7
    assert (tmp_path / "merged.txt").read_bytes() == MERGED.encode()


def test_missing_units_are_named_with_their_sentences(work, tmp_path):
    finish(work, 0, 2)
    with pytest.raises(Damaged, match=r"units \[1, 3\] are missing, with the 4 sentences 1, 4, 5, 6$"):
        merge(work, tmp_path / "merged.txt")


def test_a_sentence_in_two_units_is_named(work, tmp_path):
    (tmp_path / "plan.npz").unlink()
    work.propose(Plan.cut([[0, 1], [1, 2]], 3, 2))
    finish(work, 0, 1)
    with pytest.raises(Damaged, match=r"sentence 1 is in units \[0, 1\]"):
        merge(work, tmp_path / "merged.txt")


def test_a_failing_merge_keeps_the_old_file_and_leaves_nothing(work, tmp_path):
    finish(work, 0, 1, 2, 3)
    (tmp_path / "merged.txt").write_text("of before")
    content = work.result(3).read_bytes()
    work.result(3).write_bytes(content[:-1])
    with pytest.raises(Damaged, match="unit-0003.txt is damaged"):
        merge(work, tmp_path / "merged.txt")
    assert (tmp_path / "merged.txt").read_text() == "of before"
    assert not (tmp_path / "merged.txt.tmp").exists()


def test_sentences_that_are_in_no_unit():
    assert missing_sentences(Plan.cut(BATCHES, 9, 2)).tolist() == [7, 8]
    assert missing_sentences(Plan.cut(BATCHES[1:], 7, 2)).tolist() == [0, 3]
    assert np.size(missing_sentences(Plan.cut(BATCHES, 7, 2))) == 0


def test_as_many_units_as_there_can_be_after_a_merge_that_was_killed(work, tmp_path):
    (tmp_path / "plan.npz").unlink()
    work.propose(Plan.cut([[i] for i in reversed(range(1000))], 1000, MOST_UNITS))
    finish(work, *range(MOST_UNITS))
    (tmp_path / "merged.txt.tmp").write_text("what it had written")
    assert merge(work, tmp_path / "merged.txt") == 1000
    assert (tmp_path / "merged.txt").read_text() == "".join(map(lines_of_sentence, range(1000)))
    assert not (tmp_path / "merged.txt.tmp").exists()
