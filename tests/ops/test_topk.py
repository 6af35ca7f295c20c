"""The k largest by groups: torch's, also which of equal ones."""

import pytest
import torch

from el_fairseq.ops import best_of_rows, grouped_topk, row_width
from el_fairseq.ops.topk import GROUP


@pytest.fixture
def passes(monkeypatch):
    """Sizes of what torch looked through."""
    sizes, original = [], torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda x, *a, **kw: sizes.append(x.size(1)) or original(x, *a, **kw))
    return sizes


def assert_is_torchs(x, k):
    for ours, theirs in zip(grouped_topk(x, k), torch.topk(x, k)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rest", [0, 1, GROUP - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [1, 8, 20])
def test_is_torchs(k, dtype, rest):
    torch.manual_seed(k)
    assert_is_torchs(torch.randn(5, 200 * GROUP + rest).to(dtype), k)


def test_looks_through_groups_alone(passes):
    torch.manual_seed(0)
    x = torch.randn(3, 100 * GROUP + 5, dtype=torch.float64)
    x[1, 7 * GROUP : 7 * GROUP + 4] = 10 + torch.arange(4.0)  # the best may be neighbours
    x[2, -2:] = torch.tensor([12.0, 11.0])  # or behind the last group
    grouped_topk(x, 4)
    assert passes == [100, 5 * GROUP + 5]
    assert_is_torchs(x, 4)


@pytest.mark.parametrize("places", [(3, 4), (3, 9 * GROUP), (100 * GROUP, 5)], ids=["neighbours", "apart", "behind"])
@pytest.mark.parametrize("rank", [0, 3, 4])
def test_torch_decides_between_equal_numbers(rank, places, passes):
    """Also where the last that is taken equals the first that is not (rank 3 of k = 4)."""
    torch.manual_seed(0)
    x = torch.randn(2, 100 * GROUP + 3, dtype=torch.float64)
    value = x[0].sort(descending=True).values[rank] + 1e-9
    x[0, list(places)] = value
    grouped_topk(x, 4)
    assert (x.size(1) in passes) == (rank < 4)
    assert_is_torchs(x, 4)


@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan")])
def test_what_is_not_a_number_is_torchs(value):
    torch.manual_seed(0)
    x = torch.full((2, 100 * GROUP), value)
    x[1] = torch.randn(100 * GROUP)
    x[1, :3] = value
    for ours, theirs in zip(grouped_topk(x, 6), torch.topk(x, 6)):
        assert torch.equal(ours.nan_to_num(nan=7.0), theirs.nan_to_num(nan=7.0))


def test_small_ones_are_torchs(passes):
    grouped_topk(torch.randn(2, 20 * GROUP), 8)
    assert passes == [20 * GROUP]


def of_rows(x, sentences, offsets=None):
    """``best_of_rows`` of ``x [N, V]`` in rows as wide as it wants them, k = 4, and what it should be."""
    n, size = x.shape
    offsets = torch.randn(n, dtype=x.dtype) if offsets is None else offsets
    wide = torch.full((n, row_width(size)), float("-inf"), dtype=x.dtype)
    wide[:, :size] = x
    sums, places = (x + offsets.unsqueeze(1)).view(sentences, -1).topk(4)
    rows = places // size + torch.arange(sentences).unsqueeze(1) * (n // sentences)
    return best_of_rows(wide[:, :size], offsets, 4, sentences), (sums, places % size, rows)


@pytest.mark.parametrize("size", [100 * GROUP, 30 * GROUP + 1, 31 * GROUP - 1])
@pytest.mark.parametrize("sentences, rows", [(1, 3), (3, 2), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_best_of_rows_are_those_of_the_sums(dtype, sentences, rows, size):
    torch.manual_seed(size)
    x = torch.randn(sentences * rows, size * 2 if rows == 1 else size, dtype=dtype)
    for found, expected in zip(*of_rows(x, sentences)):
        assert torch.equal(found, expected)


def test_the_best_of_rows_may_be_neighbours_or_the_last():
    torch.manual_seed(0)
    x = torch.randn(4, 60 * GROUP + 3)
    x[1, 7 * GROUP : 7 * GROUP + 3] = 10 + torch.arange(3.0)
    x[2, -2:] = torch.tensor([12.0, 11.0])
    for found, expected in zip(*of_rows(x, 2)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan"), 7.0])
@pytest.mark.parametrize("places", [(3, 4), (3, 30 * GROUP), (59 * GROUP, 5)], ids=["neighbours", "apart", "last"])
def test_the_best_of_rows_leave_it_to_torch(value, places):
    """Between equal numbers, also after an offset of their own; and where there is no number."""
    torch.manual_seed(0)
    x = torch.full((4, 60 * GROUP), float("-inf")) if value == float("-inf") else torch.randn(4, 60 * GROUP)
    x[2, list(places)] = value
    offsets = torch.tensor([0.0, 1.0, 2.0, 1.0])
    assert of_rows(x, 2, offsets)[0] is None
    x[2, places[1]], x[3, places[1]] = -1.0, value + 1
    assert of_rows(x, 2, offsets)[0] is None


def test_the_best_of_few_numbers_are_left_to_torch():
    assert of_rows(torch.randn(2, 10 * GROUP), 1)[0] is None
    assert best_of_rows(torch.randn(2, 100 * GROUP + 1), torch.zeros(2), 4, 1) is None  # rows that are too close
