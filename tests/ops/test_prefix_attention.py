"""Attention to a shared prefix against the core with the prefix repeated for every row."""

import pytest
import torch
from helpers.models import assert_close

from el_fairseq.ops import prefix_attention, shared_kv_attention


@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("dropped", [True, False], ids=["dropout", "exact"])
def test_as_if_the_prefix_were_repeated(key_heads, beams, padded, dropped, device):
    b, h, t, p, own, c, width = 3, 6, 2, 63, 5, 4, 7
    n = b * beams

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, device=device)

    query = random(n, h, t, c)
    prefix = random(b, key_heads, p, c), random(b, key_heads, p, width)
    rows = random(n, key_heads, own, c), random(n, key_heads, own, width)
    paddings = [torch.rand(size, device=device) < 0.4 if padded else None for size in ((b, p), (n, own))]
    whole = [torch.cat((x.repeat_interleave(beams, dim=0), y), dim=2) for x, y in zip(prefix, rows)]
    hidden = None
    if padded:
        hidden = torch.cat((paddings[0].repeat_interleave(beams, dim=0), paddings[1]), dim=1)
        hidden = hidden.repeat_interleave(key_heads, dim=0)
    keep = (lambda weights: weights * 0.5) if dropped else None
    options = {"dropout": keep}
    expected, expected_weights, expected_mass = shared_kv_attention(
        query.reshape(n * key_heads, -1, c), *(x.flatten(0, 1) for x in whole), hidden, **options
    )
    output, weights, mass = prefix_attention(query, prefix, rows, paddings, **options)
    assert_close(output, expected.view(n, h, t, width))
    assert_close(weights, expected_weights.view(n, h, t, p + own))
    assert (mass is None) == (expected_mass is None)
    if dropped:
        assert_close(mass, expected_mass.view(n, h, t))


def test_keys_that_are_the_values_too(device):
    query, prefix, own = (
        torch.randn(*shape, device=device).double() for shape in ((6, 4, 1, 5), (3, 1, 9, 5), (6, 1, 2, 5))
    )
    for actual, expected in zip(
        prefix_attention(query, (prefix, None), (own, None)), prefix_attention(query, (prefix, prefix), (own, own))
    ):
        assert actual is expected or torch.equal(actual, expected)
