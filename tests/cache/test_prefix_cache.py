"""What attentions keep after prefixes of different lengths."""

import math

import torch

from el_fairseq.cache import Layout, PrefixCaches

CPU = torch.device("cpu")
AFTER = [[False, False, True, True], [False] * 4]  # prefixes of 2 and of 4 tokens


def entries(values, rows):
    """``[1, rows, 1, t, 1]`` of ``rows·t`` numbers."""
    return torch.tensor(values, dtype=torch.float32).view(1, rows, 1, -1, 1)


def test_masks_hide_what_a_shorter_prefix_lacks_and_what_a_longer_one_has_not_generated():
    group = PrefixCaches([2, 3, 5], beams=2, device=CPU)
    group.start(1)
    assert group.width == 2 and group.paddings(3) == (None, None)
    group.start(2)
    padding, filler = group.paddings(3)
    assert padding.tolist() == [[False, False, True], [False, False, False]]
    assert filler.tolist() == [[False] * 3] * 2 + [[True, False, False]] * 2
    group.start(3)
    padding, filler = group.paddings(2)
    assert padding.sum(dim=1).tolist() == [3, 2, 0]
    assert filler.tolist() == [[False] * 2] * 2 + [[True, False]] * 2 + [[True, True]] * 2


def test_no_masks_where_all_prefixes_that_go_on_are_of_one_length():
    group = PrefixCaches([2, 4, 4], beams=3, device=CPU)
    group.start(3)
    assert group.paddings(1)[0] is not None and len(group.tensors()) == 2
    assert group.keep([1, 2]) == 2  # two tokens that only the first sentence had generated
    assert group.paddings(1) == (None, None) and group.width == 4 and group.started == 2
    group = PrefixCaches([2, 4, 4], beams=3, device=CPU)
    group.start(1)
    assert group.keep([0, 2]) == 0 and group.started == 1 and group.lengths == [2, 4]


def test_rows_start_and_sentences_leave():
    group = PrefixCaches([2, 4], beams=2, device=CPU)
    cache, prefix = group.new_cache(Layout.HIDDEN), entries([0, 1, math.nan, math.inf, *range(4, 8)], 2)
    cache.prefill(prefix)
    group.start(1)
    assert cache.shared().flatten().tolist() == [0, 1]
    for token in (10.0, 20.0):
        cache.append(entries([token, token + 1], 2), None)
    cache.start(2)
    group.start(2)
    assert torch.equal(cache.shared(), prefix.masked_fill(torch.tensor(AFTER).view(1, 2, 1, 4, 1), 0.0))
    cache.append(entries([30, 31, 32, 33], 4), None)
    kept = cache.entries.filled.view(4, 3).tolist()
    assert kept == [[10, 20, 30], [11, 21, 31], [0, 0, 32], [0, 0, 33]]
    filler = group.keep([1])
    cache.keep(torch.tensor([1]), filler)
    cache.reorder(torch.tensor([3, 3]))
    assert cache.entries.filled.flatten().tolist() == [33, 33]
    assert torch.equal(cache.shared(), prefix[:, 1:])


def test_nothing_is_left_of_rows_that_are_gone():
    group = PrefixCaches([2, 4], beams=2, device=CPU)
    cache = group.new_cache(Layout.HIDDEN)
    cache.prefill(torch.zeros(1, 2, 1, 4, 1))
    group.start(1)
    cache.append(entries([1, 1], 2), None)
    cache.keep(torch.tensor([1]), group.keep([1]))
    assert group.started == 0 and [kept is cache.prefix for kept in cache.tensors()] == [True]
    cache.start(2)
    group.start(1)
    cache.append(entries([5, 5], 2), None)
    assert cache.entries.filled.flatten().tolist() == [5, 5]
