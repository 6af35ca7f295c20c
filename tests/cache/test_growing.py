"""Decoder state that grows in place."""

import pytest
import torch

from el_fairseq.cache.growing import (
    BLOCK,
    CrossAttentionState,
    GrowingCache,
    SelfAttentionState,
    sentences_of_rows,
)


def poison(cache):
    """Make whatever nobody has written yet NaN."""
    cache.buffer.narrow(-2, cache.length, cache.buffer.size(-2) - cache.length).fill_(float("nan"))


@pytest.mark.parametrize(("shape", "row_dim"), [((3, 5), 0), ((2, 3, 4, 5), 1)], ids=["hidden", "keys and values"])
def test_cache_holds_what_was_appended_through_growth_and_reordering(shape, row_dim):
    torch.manual_seed(0)
    *lead, width = shape
    cache, expected = GrowingCache(row_dim), torch.zeros(*lead, 0, width)
    for step in range(3 * BLOCK):
        new = torch.randn(*lead, 1 + step % 3, width)
        cache.append(new)
        expected = torch.cat([expected, new], dim=-2)
        poison(cache)
        if step % 2:
            order = torch.randint(0, 3, (3,))
            cache.reorder(order)
            expected = expected.index_select(row_dim, order)
        assert torch.equal(cache.filled, expected)
    assert cache.buffer.size(-2) - cache.length < BLOCK


def test_cache_writes_in_place_until_a_block_is_full():
    cache = GrowingCache()
    cache.append(torch.randn(2, 1, 4))
    place = cache.buffer.data_ptr()
    for _ in range(BLOCK - 1):
        cache.append(torch.randn(2, 1, 4))
        cache.reorder(torch.tensor([1, 0]))
        assert cache.buffer.data_ptr() == place
    cache.append(torch.randn(2, 1, 4))
    assert cache.buffer.data_ptr() != place


def test_rows_that_leave_free_their_memory():
    cache = GrowingCache()
    cache.append(torch.randn(6, 3, 4))
    before = cache.filled.clone()
    cache.reorder(torch.tensor([5, 4, 4]))
    assert torch.equal(cache.filled, before[[5, 4, 4]])
    assert cache.buffer.untyped_storage().nbytes() == 3 * BLOCK * 4 * 4


def test_padding_appears_when_there_is_some_and_follows_the_rows():
    state = SelfAttentionState(row_dim=0)
    state.append(torch.zeros(2, 3, 4), None)
    assert state.padding is None
    state.append(torch.zeros(2, 1, 4), torch.tensor([[True], [False]]))
    state.append(torch.zeros(2, 1, 4), None)
    assert state.padding.tolist() == [[False] * 3 + [True, False], [False] * 5]
    state.reorder(torch.tensor([1, 0]))
    assert state.padding.tolist() == [[False] * 5, [False] * 3 + [True, False]]
    assert sum(t.numel() for t in state.tensors()) == 2 * BLOCK * 4 + 2 * 5


def test_cross_attention_state_follows_sentences():
    key = torch.arange(3.0).view(3, 1, 1, 1)
    state = CrossAttentionState((key, key + 10), beams=2)
    state.reorder(torch.tensor([1, 0, 2, 2, 5, 4]))  # beams change places, sentences do not
    assert state.kept[0] is key
    state.reorder(torch.tensor([0, 0, 5, 4]))  # the second sentence leaves
    assert [kept.flatten().tolist() for kept in state.kept] == [[0, 2], [10, 12]]


def test_rows_of_one_sentence_stay_together():
    assert sentences_of_rows(torch.tensor([1, 1, 2, 3]), 2, 2) is None
    assert sentences_of_rows(torch.tensor([2, 3, 1, 1]), 2, 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="rows of different sentences"):
        sentences_of_rows(torch.tensor([0, 2, 1, 3]), 2, 2)
