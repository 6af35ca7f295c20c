"""The k largest by groups: torch's, also which of equal ones."""

import pytest
import torch

from el_fairseq.ops import grouped_topk
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
