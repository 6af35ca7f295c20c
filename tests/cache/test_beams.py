"""Beams that share a cache: each still consists of its own tokens, and of no others."""

import random

import pytest
import torch

from el_fairseq.cache import BeamCaches, Layout, RowCaches
from el_fairseq.cache.buffer import BLOCK
from el_fairseq.cache.rows import group_in

CPU = torch.device("cpu")
# entries of one token for N rows: hidden states, keys and values by head, and shared by the heads
SHAPES = {"hidden": (1, -1, 1, 1, 5), "heads": (2, -1, 3, 1, 5), "shared": (2, -1, 1, 1, 5)}


def new_entries(shape, rows):
    return torch.randn([rows if size == -1 else size for size in shape])


def tokens_of(entries, beam, table):
    """What ``beam`` (sentence, number) consists of, in any order: ``[P, K, t, C]`` sorted by its first number."""
    sentence, number = beam
    kept = entries[:, sentence][:, :, ~table.strangers[sentence, number]]
    return kept[:, :, kept[0, 0, :, 0].argsort()]


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_beams_consist_of_the_tokens_that_moving_rows_would_hold(layout, seed):
    """Against ``RowCache``, which moves the entries of each row to where the beam goes."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sentences, beams = 3, 1 + seed % 4 + (seed == 0)
    table, moving = BeamCaches(sentences, beams, CPU), RowCaches().new_cache(Layout.HIDDEN)
    caches = [table.new_cache(Layout.HIDDEN) for _ in range(2)]
    for step in range(3 * BLOCK):
        new = new_entries(SHAPES[layout], sentences * beams)
        new[..., 0] = step  # tells tokens of one beam apart, and sorts them
        for cache in caches:
            cache.append(new, None)
        moving.append(new, None)
        assert table.strangers.shape == (sentences, beams, cache.entries.length)
        for row in range(sentences * beams):
            for cache in caches:
                actual = tokens_of(cache.entries.filled, divmod(row, beams), table)
                assert torch.equal(actual, moving.entries.filled[:, row])
        remaining = list(range(sentences))
        if step in (7, BLOCK + 3):
            remaining.pop(rng.randrange(len(remaining)))
        order = [s * beams + rng.randrange(beams) for s in remaining for _ in range(beams)]
        order = torch.tensor(order)
        sentences = len(remaining)
        for each in (table, moving, *caches):
            each.reorder(order)


def test_tokens_without_a_descendant_are_evicted():
    """Where all beams go on from the first one, a sentence keeps hardly more than one of them."""
    beams, steps = 4, 6 * BLOCK
    table = BeamCaches(2, beams, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    for step in range(steps):
        cache.append(torch.full((1, 2 * beams, 1, 1, 3), float(step)), None)
        table.reorder(torch.tensor([0] * beams + [beams] * beams))
        assert cache.entries.length <= step + 1 + BLOCK * beams
    assert cache.entries.storage.size(3) <= steps + BLOCK * beams < beams * steps / 2
    assert table.strangers.shape == (2, beams, cache.entries.length)


def test_nothing_moves_while_there_is_room():
    table = BeamCaches(2, 3, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    cache.append(torch.randn(1, 6, 1, 1, 4), None)
    place, kept = cache.entries.storage.data_ptr(), cache.entries.filled.clone()
    table.reorder(torch.tensor([2, 2, 0, 3, 5, 4]))
    assert cache.entries.storage.data_ptr() == place and torch.equal(cache.entries.filled, kept)
    assert table.strangers[0].tolist() == [[True, True, False], [True, True, False], [False, True, True]]
    assert table.strangers[1].tolist() == [[False, True, True], [True, True, False], [True, False, True]]


def test_padding_is_hidden_from_all():
    table = BeamCaches(1, 2, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    cache.append(torch.randn(1, 2, 1, 1, 4), None)
    cache.append(torch.randn(1, 2, 1, 1, 4), torch.tensor([[False], [True]]))
    assert table.strangers.tolist() == [[[False, True, False, True], [True, False, True, True]]]


def test_tokens_of_all_beams_have_no_order_for_a_mask():
    cache = BeamCaches(1, 2, CPU).new_cache(Layout.HIDDEN)
    cache.append(torch.randn(1, 2, 1, 1, 4), None)
    with pytest.raises(ValueError, match="attn_mask"):
        cache.attend(torch.zeros(2, 1, 1, 4), torch.zeros(1, 1), want_weights=False)


def test_beams_of_two_sentences_cannot_share():
    with pytest.raises(ValueError, match="different sentences"):
        BeamCaches(2, 2, CPU).reorder(torch.tensor([0, 2, 1, 3]))


def test_without_a_group_each_row_has_its_own():
    table = BeamCaches(1, 2, CPU)
    assert type(group_in({})) is RowCaches and group_in({"el_caches": table}) is table


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layout", SHAPES)
def test_what_is_no_number_is_lost_with_its_beam_alone(layout, value):
    table = BeamCaches(2, 3, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    for step in range(2):
        new = new_entries(SHAPES[layout], 6)
        if step:
            new[:, 4, ..., 0] = value
        cache.append(new, None)
    assert cache.entries.filled.isfinite().all()
    visible = (~table.strangers).sum(dim=2)
    assert visible.tolist() == [[2, 2, 2], [2, 0, 2]]


def test_large_numbers_are_not_lost():
    table = BeamCaches(1, 2, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    new = torch.full((1, 2, 1, 1, 4), torch.finfo(torch.float32).max)
    cache.append(new, None)
    assert torch.equal(cache.entries.filled, new.view(1, 1, 1, 2, 4)) and (~table.strangers).sum() == 2
