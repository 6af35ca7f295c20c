"""When sentences are pruned: at once, or by halves and without waiting."""

import torch

from el_fairseq.generation.pruning import Pruning


def ended(count, sentences=6):
    return torch.arange(sentences) < count


def test_at_once():
    pruning = Pruning(late=False)
    assert [pruning.due(ended(count)) for count in (0, 1, 5, 6)] == [
        (False, False),
        (False, True),
        (False, True),
        (True, True),
    ]


def test_half_of_them_a_step_after_it_was_known():
    pruning = Pruning(late=True)
    assert [pruning.due(ended(count)) for count in (0, 2, 3)] == [(False, False)] * 3
    assert pruning.due(ended(4)) == (False, True)  # 3 of 6 were known of; all 4 leave
    # What was known is of those that have left.
    assert [pruning.due(ended(count, sentences=2)) for count in (1, 2)] == [(False, False), (True, True)]


def test_all_may_have_ended_meanwhile():
    pruning = Pruning(late=True)
    pruning.due(ended(3))
    assert pruning.due(ended(6)) == (True, True)


def test_one_sentence_needs_one_more_step():
    pruning = Pruning(late=True)
    assert pruning.due(ended(1, sentences=1)) == (False, False)
    assert pruning.due(ended(1, sentences=1)) == (True, True)
