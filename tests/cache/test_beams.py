"""Beams that share a cache: each still consists of its own tokens, and of no others."""

import random

import pytest
import torch
from helpers.models import assert_close

from el_fairseq.cache import BeamCaches, Layout, RowCaches, StaticBeamCaches
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
    kept = entries[:, sentence][:, :, table.mask[sentence * table.beams + number] == 0]
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
        assert table.mask.shape == (sentences * beams, cache.entries.length)
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
    assert table.mask.shape == (2 * beams, cache.entries.length)


def test_nothing_moves_while_there_is_room():
    table = BeamCaches(2, 3, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    cache.append(torch.randn(1, 6, 1, 1, 4), None)
    place, kept = cache.entries.storage.data_ptr(), cache.entries.filled.clone()
    table.reorder(torch.tensor([2, 2, 0, 3, 5, 4]))
    assert cache.entries.storage.data_ptr() == place and torch.equal(cache.entries.filled, kept)
    assert (table.mask[:3] == 0).tolist() == [[False, False, True], [False, False, True], [True, False, False]]
    assert (table.mask[3:] == 0).tolist() == [[True, False, False], [False, False, True], [False, True, False]]


def test_padding_is_hidden_from_all():
    table = BeamCaches(1, 2, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    cache.append(torch.randn(1, 2, 1, 1, 4), None)
    cache.append(torch.randn(1, 2, 1, 1, 4), torch.tensor([[False], [True]]))
    assert (table.mask == 0).tolist() == [[True, False, True, False], [False, True, False, False]]


def test_tokens_of_all_beams_have_no_order_for_a_mask():
    cache = BeamCaches(1, 2, CPU).new_cache(Layout.HIDDEN)
    cache.append(torch.randn(1, 2, 1, 1, 4), None)
    with pytest.raises(ValueError, match="attn_mask"):
        cache.attend(torch.zeros(2, 1, 1, 4), torch.zeros(1, 1), want_weights=False)


def test_beams_of_two_sentences_cannot_share():
    with pytest.raises(ValueError, match="different sentences"):
        BeamCaches(3, 2, CPU).reorder(torch.tensor([0, 2, 1, 3]))


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
    assert (table.mask == 0).sum(dim=1).tolist() == [2, 2, 2, 2, 0, 2]
    assert table.mask.isnan().all(dim=1).tolist() == [False, False, False, False, True, False]


def test_large_numbers_are_not_lost():
    table = BeamCaches(1, 2, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    new = torch.full((1, 2, 1, 1, 4), torch.finfo(torch.float32).max)
    cache.append(new, None)
    assert torch.equal(cache.entries.filled, new.view(1, 1, 1, 2, 4)) and (table.mask == 0).sum() == 2


@pytest.mark.parametrize("layout", [(2, -1, 3, 1, 5)])
def test_a_step_that_was_taken_back_may_be_taken_again(layout):
    table = BeamCaches(2, 3, CPU)
    caches = [table.new_cache(Layout.PROJECTED) for _ in range(2)]
    first, second, third = (new_entries(layout, 6) for _ in range(3))
    for new in (first, second):
        for cache in caches:
            cache.append(new, None)
    table.undo_step()
    assert table.mask.shape == (6, 3) and table.looks_for_lost
    for cache in caches:
        cache.append(third, None)
    expected = torch.stack((first, third), dim=3).squeeze(4)
    for row in range(6):
        actual = caches[0].entries.filled[:, row // 3][:, :, table.mask[row] == 0]
        assert torch.equal(actual, expected[:, row])


@pytest.mark.parametrize("looks", [True, False], ids=["looks for lost beams", "does not"])
@pytest.mark.parametrize("make", [lambda: BeamCaches(2, 3, CPU), RowCaches, lambda: StaticBeamCaches(2, 3, CPU)])
def test_to_decode_is_to_append_and_to_attend(make, looks):
    group, same = make(), make()
    for each in (group, same):
        each.looks_for_lost = looks
    cache, expected = group.new_cache(Layout.PROJECTED), same.new_cache(Layout.PROJECTED)
    for _ in range(3):
        qkv, padding = torch.randn(6, 3, 4, 5), torch.zeros(6, 1, dtype=torch.bool)
        for each in (group, same):
            if hasattr(each, "begin_step"):
                each.begin_step(padding)
        context = cache.decode(qkv.flatten(1), 4, None, 0.3)
        expected.append(qkv[:, 1:].transpose(0, 1).unsqueeze(3), None)
        attended, _, _ = expected.attend(0.3 * qkv[:, 0].unsqueeze(2), None, want_weights=False)
        assert_close(context, attended.flatten(1))
        for each in (group, same):
            each.reorder(torch.tensor([1, 0, 2, 5, 5, 3]))
        for each in (cache, expected):
            each.reorder(torch.tensor([1, 0, 2, 5, 5, 3]))


def test_a_key_that_was_infinite_all_along_is_found_when_a_step_is_taken_back():
    """It goes unnoticed as long as its products with queries are -inf: here for a step."""
    table, moving = BeamCaches(1, 2, CPU), RowCaches().new_cache(Layout.PROJECTED)
    table.looks_for_lost = False
    cache = table.new_cache(Layout.PROJECTED)
    steps = torch.rand(3, 2, 3, 1, 4) + 0.1  # [step, N, (query, key, value), H, d], all positive
    steps[1, 0, 1] = float("inf")
    steps[:2, :, 0] *= -1
    for qkv in steps:
        ours, rows = (each.decode(qkv.flatten(1), 1, None, 1.0) for each in (cache, moving))
        if not ours.isfinite().all():
            table.undo_step()
            ours = cache.decode(qkv.flatten(1), 1, None, 1.0)
        assert torch.equal(ours.isfinite(), rows.isfinite())
        assert_close(ours.nan_to_num(0.0), rows.nan_to_num(0.0))
    assert table.looks_for_lost and rows.isfinite().all(dim=1).tolist() == [False, True]
