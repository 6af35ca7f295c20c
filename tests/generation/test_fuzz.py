"""200 random models and searches: every way in gives stock's tokens, and its scores within 1e-9 in float64."""

import pytest
import torch
from helpers.random_cases import CASES, on_cpu, random_case
from helpers.random_searches import assert_searches_are_mixed

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.cache import Layout
from el_fairseq.convert.el_attention import use_el_attention

SEEDS = [seed if 2 * seed < CASES else pytest.param(seed, marks=pytest.mark.long) for seed in range(CASES)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_way_in_gives_stocks_output(seed, device):
    case = random_case(seed, device)
    model = case.build_model().to(device)
    expected = on_cpu(case.stock([model]))
    for mode in ("on", "auto", "off"):
        enable_el_attention(model, mode)
        case.assert_same(case.ours([model]), expected)
    # of self- and of cross-attention; equal ones are above
    for layouts in (Layout.HIDDEN, Layout.PROJECTED), (Layout.PROJECTED, Layout.HIDDEN):
        use_el_attention(model, lambda request, layouts=layouts: layouts[request.kind == "cross"])
        case.assert_same(case.ours([model]), expected)
    # The el_ architecture from the same weights, under stock's own generator.
    disable_el_attention(model)
    twin = case.build_model(f"el_{case.arch}").to(device)
    twin.load_state_dict(model.state_dict())
    actual = on_cpu(case.stock([twin]))
    assert (actual is None) == (expected is None)
    if actual is not None:
        case.assert_same(actual, expected)
    # And the converted stock model goes back to what it was.
    if seed % 4 == 0 and expected is not None:
        case.assert_same(on_cpu(case.stock([model])), expected, tolerance=0)


def test_the_cases_are_awkward_enough():
    """What the fuzz is for really occurs in it."""
    cases = [random_case(seed) for seed in range(CASES)]
    for name in ("encoder_normalize_before", "decoder_learned_pos", "layernorm_embedding"):
        assert 20 < sum(case.model[name] for case in cases) < 180, name
    assert sum(case.model["encoder_embed_dim"] != case.model["decoder_embed_dim"] for case in cases) > 20
    assert sum(case.model["decoder_attention_heads"] == 1 for case in cases) > 20
    assert_searches_are_mixed(cases)
    early = padded = stopped = 0
    for case in cases[:40]:
        hypotheses = case.stock([case.build_model(dtype=torch.float32)])
        stopped += hypotheses is None
        lengths = [max(len(hypo["tokens"]) for hypo in sentence) for sentence in hypotheses or [[{"tokens": []}]]]
        early += min(lengths) < max(lengths)
        padded += bool(case.sample["net_input"]["src_tokens"].eq(case.words.pad()).any())
    assert early > 5 and padded > 10 and stopped < 4
