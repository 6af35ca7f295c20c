"""A shared past of fixed tensors: what rows of their own would hold, in the same tensors as long as nothing leaves."""

import random

import pytest
import torch
from test_ancestors import LAYOUTS, tokens_of

from el_fairseq.cache import static
from el_fairseq.cache.growing import SelfAttentionState
from el_fairseq.cache.static import FixedLineage

CPU = torch.device("cpu")


def addresses(lineage):
    return [x.data_ptr() for x in (*lineage.tensors(), *(x for state in lineage.states for x in state.tensors()))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_beams_consist_of_the_tokens_that_moving_rows_would_hold(layout, seed, monkeypatch):
    """As of ``Lineage``: against ``SelfAttentionState``."""
    monkeypatch.setattr(static, "ROOM", 7)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sentences, beams = 3, 1 + seed % 4
    shape, row_dim = LAYOUTS[layout]
    lineage, moving = FixedLineage(sentences, beams, CPU), SelfAttentionState(row_dim)
    states = [lineage.new_state(row_dim) for _ in range(2)]
    before = []
    for step in range(17):
        new = torch.randn([sentences * beams if size == -1 else size for size in shape])
        new[..., 0] = step  # tells tokens of one beam apart, and sorts them
        for _ in range(2):  # a step may be taken twice
            lineage.begin_step(torch.zeros(sentences * beams, 1, dtype=torch.bool))
            for state in states:
                state.append(new, None)
        moving.append(new, None)
        for row in range(sentences * beams):
            for state in states:
                actual = tokens_of(state, divmod(row, beams), lineage)
                assert torch.equal(actual, moving.cache.filled.select(row_dim, row))
        assert step in (0, 5, 7, 14) or addresses(lineage) == before
        before = addresses(lineage)
        remaining = list(range(sentences))
        if step == 4:
            remaining.pop(rng.randrange(len(remaining)))
        order = torch.tensor([s * beams + rng.randrange(beams) for s in remaining for _ in range(beams)])
        sentences = len(remaining)
        lineage.reorder(order)
        moving.reorder(order)


def test_padding_is_left_out():
    lineage = FixedLineage(2, 2, CPU)
    state = lineage.new_state(0)
    lineage.begin_step(torch.tensor([[False], [True], [False], [False]]))
    state.append(torch.ones(4, 1, 5), None)
    assert (~state.mask[:, :, :2]).tolist() == [[[True, False], [False, False]], [[True, False], [False, True]]]
    assert state.mask[:, :, 2:].all()


def test_what_is_no_number_is_left_out_of_its_own_beam_too():
    lineage = FixedLineage(1, 2, CPU)
    state = lineage.new_state(0)
    lineage.begin_step(torch.zeros(2, 1, dtype=torch.bool))
    new = torch.ones(2, 1, 5)
    new[1, 0, 3] = float("inf")
    state.append(new, None)
    assert state.cache.filled.isfinite().all() and (~state.mask[0]).sum(dim=1).tolist() == [1, 0]
