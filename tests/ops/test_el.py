"""EL's maps: the naive EL-attention equals naive multi-head attention, and the fast functions equal both."""

import pytest
import torch
from helpers.models import assert_close

from el_fairseq.ops import el_output, el_query, naive, shared_kv_attention

SHAPES = [(1, 1, 1, 8, 8, 1), (2, 3, 63, 12, 12, 4), (3, 2, 7, 12, 20, 3), (2, 5, 9, 16, 6, 16)]


def random_attention(shape, bias):
    b, t, s, d, k, _ = shape
    torch.manual_seed(s)
    query, source = torch.randn(b, t, d).double(), torch.randn(b, s, k).double()
    padding = torch.arange(s) >= torch.randint(1, s + 1, (b, 1))
    widths = {"q": d, "k": k, "v": k, "out": d}
    params = {
        name: (torch.randn(d, w).double() / w**0.5, torch.randn(d).double() if bias else None)
        for name, w in widths.items()
    }
    return query, source, params, padding


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_naive_el_attention_is_multi_head_attention(shape, bias):
    query, source, params, padding = random_attention(shape, bias)
    expected = naive.multi_head_attention(query, source, params, shape[-1], padding)
    actual = naive.el_attention(query, source, params, shape[-1], padding)
    for ours, theirs in zip(actual, expected):
        assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_around_the_core_are_multi_head_attention(shape, bias, device):
    b, t, s, d, k, h = shape
    query, source, params, padding = random_attention(shape, bias)
    expected, expected_weights = naive.multi_head_attention(query, source, params, h, padding)
    query, source, padding = (x.to(device) for x in (query, source, padding))
    (w_q, b_q), (w_k, _), (w_v, b_v), (w_o, b_o) = (
        tuple(None if x is None else x.to(device) for x in params[name]) for name in ("q", "k", "v", "out")
    )
    q = torch.nn.functional.linear(query, w_q, b_q) * (d // h) ** -0.5
    q = el_query(q.view(b * t, d), w_k, h).reshape(b, t * h, k)
    context, weights, _ = shared_kv_attention(q, source, source, padding)
    output = el_output(context.view(b * t, h, k), w_v, b_v)
    output = torch.nn.functional.linear(output, w_o, b_o).view(b, t, d)
    assert_close(output, expected)
    assert_close(weights.view(b, t, h, s).permute(2, 0, 1, 3), expected_weights)


def test_value_bias_counts_as_often_as_the_weights_sum_to():
    torch.manual_seed(0)
    hidden, weights = torch.randn(5, 7, 6).double(), torch.rand(5, 2, 7).double()  # rows that do not sum to 1
    w_v, b_v = torch.randn(8, 6).double(), torch.randn(8).double()
    values = torch.nn.functional.linear(hidden, w_v, b_v).view(5, 7, 2, 4)
    expected = torch.einsum("nhs,nshd->nhd", weights, values).reshape(5, 8)
    assert_close(el_output(weights @ hidden, w_v, b_v, mass=weights.sum(-1)), expected)
