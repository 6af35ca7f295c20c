"""Static caches: what rows of their own would hold, in the same tensors as long as no sentence is pruned."""

import random

import pytest
import torch

from el_fairseq.cache import Layout, RowCaches, StaticBeamCaches, static

CPU = torch.device("cpu")
SHAPES = {"hidden": (1, -1, 1, 1, 5), "heads": (2, -1, 3, 1, 5), "shared": (2, -1, 1, 1, 5)}


def addresses(table):
    return [x.data_ptr() for x in (*table.tensors(), *(x for cache in table.caches for x in cache.tensors()))]


def tokens_of(cache, beam, table):
    """What ``beam`` (sentence, number) consists of: ``[P, K, t, C]`` sorted by its first number."""
    sentence, number = beam
    kept = cache.entries[:, sentence][:, :, table.mask[sentence * table.beams + number] == 0]
    return kept[:, :, kept[0, 0, :, 0].argsort()]


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_beams_consist_of_the_tokens_that_moving_rows_would_hold(layout, seed, monkeypatch):
    """As of ``BeamCaches``: against ``RowCache``."""
    monkeypatch.setattr(static, "ROOM", 7)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sentences, beams = 3, 1 + seed % 4
    table, moving = StaticBeamCaches(sentences, beams, CPU), RowCaches().new_cache(Layout.HIDDEN)
    caches = [table.new_cache(Layout.HIDDEN) for _ in range(2)]
    before = []
    for step in range(17):
        new = torch.randn([sentences * beams if size == -1 else size for size in SHAPES[layout]])
        new[..., 0] = step  # tells tokens of one beam apart, and sorts them
        for _ in range(2):  # a step may be taken twice
            table.begin_step(torch.zeros(sentences * beams, 1, dtype=torch.bool))
            for cache in caches:
                cache.append(new, None)
        moving.append(new, None)
        for row in range(sentences * beams):
            for cache in caches:
                assert torch.equal(tokens_of(cache, divmod(row, beams), table), moving.entries.filled[:, row])
        assert step in (0, 5, 7, 14) or addresses(table) == before
        before = addresses(table)
        remaining = list(range(sentences))
        if step == 4:
            remaining.pop(rng.randrange(len(remaining)))
        order = torch.tensor([s * beams + rng.randrange(beams) for s in remaining for _ in range(beams)])
        sentences = len(remaining)
        table.reorder(order)
        moving.reorder(order)


def test_padding_is_left_out():
    table = StaticBeamCaches(2, 2, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    table.begin_step(torch.tensor([[False], [True], [False], [False]]))
    cache.append(torch.ones(1, 4, 1, 1, 5), None)
    shown = table.mask == 0
    assert shown[:, :2].tolist() == [[True, False], [False, False], [True, False], [False, True]]
    assert not shown[:, 2:].any()


def test_what_is_no_number_is_left_out_of_its_own_beam_too():
    table = StaticBeamCaches(1, 2, CPU)
    cache = table.new_cache(Layout.HIDDEN)
    table.begin_step(torch.zeros(2, 1, dtype=torch.bool))
    new = torch.ones(1, 2, 1, 1, 5)
    new[0, 1, 0, 0, 3] = float("inf")
    cache.append(new, None)
    assert cache.entries.isfinite().all() and (table.mask == 0).sum(dim=1).tolist() == [1, 0]
