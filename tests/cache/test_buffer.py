"""Memory for entries that grows in place, and the caches of rows and of sources in it."""

import pytest
import torch

from el_fairseq.cache import Layout, RowCaches, SourceCache
from el_fairseq.cache.buffer import BLOCK, GrowingBuffer, sentences_of_rows


def poison(buffer):
    """Make whatever nobody has written yet NaN."""
    buffer.storage.narrow(3, buffer.length, buffer.room).fill_(float("nan"))


@pytest.mark.parametrize("shape", [(1, 3, 1, 5), (2, 3, 4, 5)], ids=["hidden", "keys and values"])
def test_it_holds_what_was_appended_through_growth_and_reordering(shape):
    torch.manual_seed(0)
    *lead, width = shape
    buffer, expected = GrowingBuffer(), torch.zeros(*lead, 0, width)
    for step in range(3 * BLOCK):
        new = torch.randn(*lead, 1 + step % 3, width)
        buffer.append(new)
        expected = torch.cat([expected, new], dim=3)
        poison(buffer)
        if step % 2:
            order = torch.randint(0, 3, (3,))
            buffer.reorder(order)
            expected = expected.index_select(1, order)
        assert torch.equal(buffer.filled, expected)
    assert buffer.room < BLOCK


def test_it_writes_in_place_until_a_block_is_full():
    buffer = GrowingBuffer()
    buffer.append(torch.randn(1, 2, 1, 1, 4))
    place = buffer.storage.data_ptr()
    for _ in range(BLOCK - 1):
        buffer.append(torch.randn(1, 2, 1, 1, 4))
        buffer.reorder(torch.tensor([1, 0]))
        assert buffer.storage.data_ptr() == place
    buffer.append(torch.randn(1, 2, 1, 1, 4))
    assert buffer.storage.data_ptr() != place


def test_rows_that_leave_free_their_memory():
    buffer = GrowingBuffer()
    buffer.append(torch.randn(2, 6, 1, 3, 4))
    before = buffer.filled.clone()
    buffer.reorder(torch.tensor([5, 4, 4]))
    assert torch.equal(buffer.filled, before[:, [5, 4, 4]])
    assert buffer.storage.untyped_storage().nbytes() == 2 * 3 * BLOCK * 4 * 4


def test_padding_appears_when_there_is_some_and_follows_the_rows():
    cache = RowCaches().new_cache(Layout.HIDDEN)
    cache.append(torch.zeros(1, 2, 1, 3, 4), None)
    assert cache.padding is None
    cache.append(torch.zeros(1, 2, 1, 1, 4), torch.tensor([[True], [False]]))
    cache.append(torch.zeros(1, 2, 1, 1, 4), None)
    assert cache.padding.tolist() == [[False] * 3 + [True, False], [False] * 5]
    cache.reorder(torch.tensor([1, 0]))
    assert cache.padding.tolist() == [[False] * 5, [False] * 3 + [True, False]]
    assert sum(t.numel() for t in cache.tensors()) == 2 * BLOCK * 4 + 2 * 5


def test_sources_follow_sentences():
    key = torch.arange(3.0).view(3, 1, 1, 1)
    cache = SourceCache(Layout.PROJECTED, torch.stack((key, key + 10)), beams=2)
    before = cache.entries
    cache.reorder(torch.tensor([1, 0, 2, 2, 5, 4]))  # beams change places, sentences do not
    assert cache.entries is before
    cache.reorder(torch.tensor([0, 0, 5, 4]))  # the second sentence leaves
    assert [kept.flatten().tolist() for kept in cache.keys_and_values(None)] == [[0, 2], [10, 12]]


def test_the_encoder_output_itself_is_what_hidden_states_are_read_from():
    cache, source = SourceCache(Layout.HIDDEN, None, beams=2), torch.randn(5, 3, 4)
    key, value = cache.keys_and_values(source)
    assert value is None and key.data_ptr() == source.data_ptr() and not cache.tensors()
    assert torch.equal(key, source.transpose(0, 1).view(3, 1, 5, 4))
    cache.reorder(torch.tensor([4, 4]))


def test_rows_of_one_sentence_stay_together():
    assert sentences_of_rows(torch.tensor([1, 1, 2, 3]), 2, 2) is None
    assert sentences_of_rows(torch.tensor([2, 3, 1, 1]), 2, 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="rows of different sentences"):
        sentences_of_rows(torch.tensor([0, 2, 1, 3]), 2, 2)
