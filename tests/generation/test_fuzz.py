"""200 random models and searches: every way in gives stock's tokens, and its scores within 1e-9 in float64."""

from collections import Counter

import pytest
import torch
from random_cases import random_case
from random_searches import STRATEGIES

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.cache import Layout
from el_fairseq.convert.el_attention import use_el_attention

CASES = 200


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(CASES))
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


def on_cpu(hypotheses):
    """Stock's hypotheses, or None where it stopped."""
    move = dict.fromkeys(("tokens", "score", "attention", "alignment", "positional_scores"))
    return hypotheses and [[{key: hypo[key].cpu() for key in move} for hypo in sentence] for sentence in hypotheses]


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


def assert_searches_are_mixed(cases):
    """Every search of fairseq occurs, with one beam and with more, behind prefixes and with a second language model."""
    searches = [case.search for case in cases]
    assert {search.options["beam_size"] for search in searches} == {1, 2, 3, 4, 5}
    kinds = Counter(search.kind for search in searches)
    assert set(kinds) == set(STRATEGIES) and min(kinds.values()) >= 8, kinds
    for kind in STRATEGIES:
        assert any(search.options["beam_size"] > 1 for search in searches if search.kind == kind), kind
        assert any(search.prefix is not None for search in searches if search.kind == kind), kind
    assert sum(search.options["beam_size"] == 1 and search.kind == "beam" for search in searches) > 5  # greedy
    assert sum(search.prefix is not None for search in searches) > 10
    assert sum("lm_model" in search.options for search in searches) > 10
    assert sum(bool(search.options["tokens_to_suppress"]) for search in searches) > 10
    assert sum(search.options["no_repeat_ngram_size"] > 0 for search in searches) > 30
    constraints = [search.constraints for search in searches if search.constraints is not None]
    assert sum(int(packed[:, 0].max()) > 1 for packed in constraints) > 10
