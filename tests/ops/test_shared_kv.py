"""The core against the definition of attention."""

import pytest
import torch
from helpers.models import assert_close

from el_fairseq.ops import shared_kv_attention

SHAPES = [(1, 1, 1, 4, 4), (3, 5, 63, 8, 8), (2, 7, 1, 6, 3), (4, 2, 64, 16, 24)]


def by_definition(query, key, value, keep):
    """Row by row, key by key; ``keep [B, R, S]``."""
    output, weights = torch.zeros(*query.shape[:2], value.size(2)), torch.zeros(keep.shape)
    output, weights = output.to(query), weights.to(query)
    for b, r, s in keep.nonzero().tolist():
        weights[b, r, s] = torch.exp(query[b, r] @ key[b, s])
    for b in range(query.size(0)):
        for r in range(query.size(1)):
            weights[b, r] /= weights[b, r].sum()
            output[b, r] = sum(weights[b, r, s] * value[b, s] for s in range(key.size(1)))
    return output, weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", ["no mask", "padding", "by row", "additive"])
def test_is_softmax_of_products_times_values(shape, masked, dtype, device):
    b, r, s, c, c_out = shape
    torch.manual_seed(s)
    query, key, value = (torch.randn(b, n, w, dtype=torch.float64) * 0.5 for n, w in ((r, c), (s, c), (s, c_out)))
    keep = torch.ones(b, r, s, dtype=torch.bool)
    mask = None
    if masked == "padding":
        mask = torch.arange(s) >= torch.randint(1, s + 1, (b, 1))
        keep &= ~mask[:, None]
    elif masked != "no mask":
        mask = torch.rand(b, r, s) < 0.5
        mask[..., 0] = False
        keep &= ~mask
    if masked == "additive":
        mask = torch.zeros(mask.shape).masked_fill(mask, float("-inf")).to(device, dtype)
    query, key, value = (x.to(dtype) for x in (query, key, value))
    expected, expected_weights = by_definition(*(x.double() for x in (query, key, value)), keep)
    mask = mask if mask is None else mask.to(device)
    softmax_dtype = torch.promote_types(dtype, torch.float32)
    inputs = (x.to(device) for x in (query, key, value))
    output, weights, mass = shared_kv_attention(*inputs, mask)
    assert output.dtype == dtype and weights.dtype == softmax_dtype and mass is None
    assert_close(output, expected.to(dtype))
    assert_close(weights, expected_weights.to(softmax_dtype), 3e-2 if dtype == torch.bfloat16 else 2e-5)


@pytest.mark.parametrize("by_row", [False, True], ids=["padding", "by row"])
def test_one_mask_can_hold_for_several_entries(by_row):
    torch.manual_seed(0)
    query, key = torch.randn(6, 4, 5), torch.randn(6, 7, 5)
    mask = torch.rand(2, 4, 7) < 0.5 if by_row else torch.rand(2, 7) < 0.5
    mask[..., 0] = False
    expected, _, _ = shared_kv_attention(query, key, key, mask.repeat_interleave(3, dim=0))
    actual, _, _ = shared_kv_attention(query, key, key, mask)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_softmax_is_in_float32_or_more(dtype):
    _, weights, _ = shared_kv_attention(torch.randn(1, 2, 4).to(dtype), *torch.randn(2, 1, 3, 4).to(dtype))
    assert weights.dtype == torch.promote_types(dtype, torch.float32)


def test_dropout_gives_back_the_mass_that_is_left():
    torch.manual_seed(0)
    query, key = torch.randn(2, 50, 4).double(), torch.randn(2, 9, 4).double()
    kept = []

    def dropout(weights):
        kept.append(torch.nn.functional.dropout(weights, 0.5))
        return kept[0]

    output, weights, mass = shared_kv_attention(query, key, key, dropout=dropout)
    assert_close(weights.sum(-1), torch.ones(2, 50).double())
    assert_close(mass, kept[0].sum(-1))
    assert mass.std() > 0.1
    assert_close(output, kept[0] @ key)


def test_a_row_without_any_key_is_nan_as_in_stock():
    query, key = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    output, _, _ = shared_kv_attention(query, key, key, torch.ones(1, 3, dtype=torch.bool))
    assert output.isnan().all()
