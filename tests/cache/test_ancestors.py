"""Beams that share what self-attention keeps: each still consists of its own tokens, and of no others."""

import random

import pytest
import torch

from el_fairseq.cache.ancestors import LINEAGE, Lineage, LineageState, new_state, own_mask
from el_fairseq.cache.growing import BLOCK, SelfAttentionState

CPU = torch.device("cpu")
# what self-attentions keep of one token for N rows: hidden states, keys and values by head, and shared by the heads
LAYOUTS = {"hidden": ((-1, 1, 5), 0), "heads": ((2, -1, 3, 1, 5), 1), "shared": ((2, -1, 1, 5), 1)}


def tokens_of(state, beam, lineage):
    """What ``beam`` (sentence, number) consists of, in any order: ``[..., t, width]`` sorted by its first number."""
    sentence, number = beam
    seen = ~lineage.foreign[sentence, number]
    kept = state.cache.filled.select(state.cache.row_dim, sentence)[..., seen, :]
    return kept.index_select(-2, kept.reshape(-1, *kept.shape[-2:])[0, :, 0].argsort())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_beams_consist_of_the_tokens_that_moving_rows_would_hold(layout, seed):
    """Against ``SelfAttentionState``, which copies the past of each row to where the beam goes."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sentences, beams = 3, 1 + seed % 4 + (seed == 0)
    shape, row_dim = LAYOUTS[layout]
    lineage, moving = Lineage(sentences, beams, CPU), SelfAttentionState(row_dim)
    states = [lineage.new_state(row_dim) for _ in range(2)]
    for step in range(3 * BLOCK):
        new = torch.randn([sentences * beams if size == -1 else size for size in shape])
        new[..., 0] = step  # tells tokens of one beam apart, and sorts them
        for state in states:
            state.append(new, None)
        moving.append(new, None)
        assert state.mask.shape == (sentences, beams, state.cache.length)
        for row in range(sentences * beams):
            for state in states:
                actual = tokens_of(state, divmod(row, beams), lineage)
                assert torch.equal(actual, moving.cache.filled.select(row_dim, row))
        remaining = list(range(sentences))
        if step in (7, BLOCK + 3):
            remaining.pop(rng.randrange(len(remaining)))
        order = [s * beams + rng.randrange(beams) for s in remaining for _ in range(beams)]
        order = torch.tensor(order)
        sentences = len(remaining)
        lineage.reorder(order)
        moving.reorder(order)
        for state in states:
            state.reorder(order)


def test_what_no_beam_consists_of_is_given_up():
    """Where all beams go on from the first one, a sentence keeps hardly more than one of them."""
    beams, steps = 4, 6 * BLOCK
    lineage = Lineage(2, beams, CPU)
    state = lineage.new_state(0)
    for step in range(steps):
        state.append(torch.full((2 * beams, 1, 3), float(step)), None)
        lineage.reorder(torch.tensor([0] * beams + [beams] * beams))
        assert state.cache.length <= step + 1 + BLOCK * beams
    assert state.cache.buffer.size(1) <= steps + BLOCK * beams < beams * steps / 2
    assert lineage.foreign.shape == (2, beams, state.cache.length)


def test_nothing_moves_while_there_is_room():
    lineage = Lineage(2, 3, CPU)
    state = lineage.new_state(0)
    state.append(torch.randn(6, 1, 4), None)
    place, kept = state.cache.buffer.data_ptr(), state.cache.filled.clone()
    lineage.reorder(torch.tensor([2, 2, 0, 3, 5, 4]))
    assert state.cache.buffer.data_ptr() == place and torch.equal(state.cache.filled, kept)
    assert lineage.foreign[0].tolist() == [[True, True, False], [True, True, False], [False, True, True]]
    assert lineage.foreign[1].tolist() == [[False, True, True], [True, True, False], [True, False, True]]


def test_padding_is_hidden_from_all():
    lineage = Lineage(1, 2, CPU)
    state = lineage.new_state(0)
    state.append(torch.randn(2, 1, 4), None)
    state.append(torch.randn(2, 1, 4), torch.tensor([[False], [True]]))
    assert own_mask(state, None, torch.float32).tolist() == [[[False, True, False, True], [True, False, True, True]]]


def test_tokens_of_all_beams_have_no_order_for_a_mask():
    state = Lineage(1, 2, CPU).new_state(0)
    state.append(torch.randn(2, 1, 4), None)
    with pytest.raises(ValueError, match="attn_mask"):
        own_mask(state, torch.zeros(1, 1), torch.float32)


def test_beams_of_two_sentences_cannot_share():
    with pytest.raises(ValueError, match="different sentences"):
        Lineage(2, 2, CPU).reorder(torch.tensor([0, 2, 1, 3]))


def test_only_who_brings_a_lineage_shares():
    assert type(new_state({}, 0)) is SelfAttentionState
    assert type(new_state({LINEAGE: Lineage(1, 2, CPU)}, 0)) is LineageState


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_number_is_lost_with_its_beam_alone(layout, value):
    shape, row_dim = LAYOUTS[layout]
    lineage = Lineage(2, 3, CPU)
    state = lineage.new_state(row_dim)
    for step in range(2):
        new = torch.randn([6 if size == -1 else size for size in shape])
        if step:
            new.select(row_dim, 4)[..., 0] = value
        state.append(new, None)
    assert state.cache.filled.isfinite().all()
    visible = (~state.mask).sum(dim=2)
    assert visible.tolist() == [[2, 2, 2], [2, 0, 2]]


def test_large_numbers_are_not_lost():
    state = Lineage(1, 2, CPU).new_state(0)
    new = torch.full((2, 1, 4), torch.finfo(torch.float32).max)
    state.append(new, None)
    assert torch.equal(state.cache.filled, new.view(1, 2, 4)) and (~state.mask).sum() == 2
