"""The fused product against the core, and what it says about dropout."""

import pytest
import torch
from helpers.models import assert_close

from el_fairseq.ops import grouped_sdpa, shared_kv_attention


@pytest.mark.parametrize("mask", ["none", "padding", "added"])
@pytest.mark.parametrize("value_width", [4, 7])
def test_agrees_with_the_core(mask, value_width, device):
    n, h, t, s, d = 3, 5, 2, 63, 4
    query, key = torch.randn(n, h, t, d, device=device).double(), torch.randn(n, 1, s, d, device=device).double()
    value = torch.randn(n, 1, s, value_width, device=device).double()
    padding = torch.arange(s, device=device) >= torch.tensor([63, 1, 30], device=device).unsqueeze(1)
    choice = {
        "none": None,
        "padding": padding[:, None, None],
        "added": torch.randn(n, 1, t, s, device=device).double(),
    }[mask]
    output, mass = grouped_sdpa(query, key, value, choice, want_mass=True)
    core_mask = {"none": None, "padding": padding, "added": choice}[mask]
    if mask == "added":
        core_mask = choice.expand(n, h, t, s).reshape(n, h * t, s)
    expected, _, _ = shared_kv_attention(query.flatten(1, 2), key[:, 0], value[:, 0], core_mask)
    assert_close(output.flatten(1, 2), expected)
    assert_close(mass, torch.ones_like(mass))
    assert grouped_sdpa(query, key, value, choice)[1] is None


def test_mass_is_what_dropout_left(device):
    """With values that are all 1, the output is the sum of the weights."""
    query, key = torch.randn(2, 3, 4, 8, device=device), torch.randn(2, 1, 6, 8, device=device)
    output, mass = grouped_sdpa(query, key, torch.ones(2, 1, 6, 8, device=device), dropout=0.5, want_mass=True)
    assert_close(output[..., 0], mass)
    assert mass.std() > 0.1
