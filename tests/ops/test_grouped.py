"""Attention with whatever is shared, against each query row by itself."""

import pytest
import torch
from helpers.models import assert_close

from el_fairseq.ops import additive, grouped_attention

B, H, T, S, C = 3, 4, 2, 9, 5


def one_by_one(query, key, value, mask):
    """Context and weights of each row, head and query alone; ``mask`` is added, for all of them, or None."""
    n, h, t, _ = query.shape
    b, k, s, _ = key.shape
    value = key if value is None else value
    context, weights = query.new_empty(n, h, t, value.size(3)), query.new_empty(n, h, t, s)
    for row in range(n):
        for head in range(h):
            for i in range(t):
                source, shared = row // (n // b), head // (h // k)
                scores = key[source, shared] @ query[row, head, i]
                if mask is not None:
                    scores = scores + mask.expand(b, n // b, t, s)[source, row % (n // b), i]
                weights[row, head, i] = torch.softmax(scores, dim=0)
                context[row, head, i] = weights[row, head, i] @ value[source, shared]
    return context, weights


def masks(beams):
    """All forms, boolean and added; in each some row has a single key."""
    padding = torch.arange(S) >= torch.tensor([S, 1, 4]).unsqueeze(1)
    by_beam = torch.rand(B, beams, 1, S) < 0.5
    by_beam[..., 0] = False
    return {
        "none": None,
        "padding": padding[:, None, None],
        "padding, added": additive(padding[:, None, None], torch.float64),
        "by beam": by_beam,
        "by beam, added": additive(by_beam, torch.float64),
        "by query": torch.randn(1, 1, T, S).double(),
        "by all": torch.randn(B, beams, T, S).double(),
    }


@pytest.mark.parametrize("mask", masks(2))
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("heads", [1, H])
@pytest.mark.parametrize("want_weights", [True, False], ids=["weights", "fused"])
@pytest.mark.parametrize("kind", ["keys and values", "values of another width", "keys alone"])
def test_is_each_row_by_itself(kind, want_weights, heads, beams, mask):
    torch.manual_seed(0)
    query, key = torch.randn(B * beams, H, T, C).double(), torch.randn(B, heads, S, C).double()
    widths = {"keys and values": C, "values of another width": 7}
    value = torch.randn(B, heads, S, widths[kind]).double() if kind in widths else None
    chosen = masks(beams)[mask]
    added = additive(chosen, torch.float64) if chosen is not None and chosen.dtype == torch.bool else chosen
    expected, expected_weights = one_by_one(query, key, value, added)
    context, weights, mass = grouped_attention(query, key, value, chosen, want_weights=want_weights)
    assert_close(context, expected)
    assert mass is None and (weights is None) == (not want_weights)
    if want_weights:
        assert_close(weights, expected_weights)


@pytest.mark.parametrize("heads", [1, H])
def test_dropout_of_weights_and_what_they_sum_to(heads):
    query, key, value = torch.randn(6, H, 1, C), torch.randn(B, heads, S, C), torch.randn(B, heads, S, C)
    _, weights, _ = grouped_attention(query, key, value)
    context, same, mass = grouped_attention(query, key, value, dropout=lambda x: x * 0.5)
    assert_close(same, weights)
    assert_close(mass, torch.full((6, H, 1), 0.5))
    assert_close(context, 0.5 * grouped_attention(query, key, value)[0])


@pytest.mark.parametrize("want_weights", [True, False])
@pytest.mark.parametrize("keys_alone", [True, False])
def test_a_row_without_any_key_is_nan_and_the_others_are_not(want_weights, keys_alone):
    query, key = torch.randn(4, H, 1, C), torch.randn(2, 1, S, C)
    mask = torch.tensor([False, True])[:, None, None, None].expand(2, 1, 1, S)
    context, _, _ = grouped_attention(query, key, None if keys_alone else key, mask, want_weights=want_weights)
    assert context[2:].isnan().all() and context[:2].isfinite().all()


def test_the_first_thousand_keys_may_all_be_left_out():
    """Fused kernels go through the keys in blocks."""
    query, key, mask = torch.randn(2, H, 1, C), torch.randn(1, H, 2500, C), torch.zeros(1, 2, 1, 2500)
    mask[0, 1, 0, :1300] = mask[0, 0, 0, 400:2000] = float("-inf")
    expected, _ = one_by_one(query.double(), key.double(), key.double(), mask.double())
    assert_close(grouped_attention(query, key, key, mask, want_weights=False)[0], expected.float())
