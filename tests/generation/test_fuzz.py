"""200 random models and searches: every way in gives stock's tokens, and its scores within 1e-9 in float64."""

import pytest
import torch
from helpers import assert_same_hypotheses
from random_cases import random_case

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

CASES = 200


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(CASES))
def test_every_way_in_gives_stocks_output(seed, device):
    case = random_case(seed, device)
    model = case.build_model().to(device)
    expected = case.generate(case.stock_generator([model]))
    for mode in ("on", "auto", "off"):
        enable_el_attention(model, mode)
        actual = case.generate(case.build_generator(ELSequenceGenerator, [model]))
        assert_same_hypotheses(actual, expected)
    # The el_ architecture from the same weights, under stock's own generator.
    disable_el_attention(model)
    twin = case.build_model(f"el_{case.arch}").to(device)
    twin.load_state_dict(model.state_dict())
    actual = case.generate(case.stock_generator([twin]))
    assert_same_hypotheses(on_cpu(actual), expected)
    # And the converted stock model goes back to what it was.
    assert_same_hypotheses(on_cpu(case.generate(case.stock_generator([model]))), expected, tolerance=0)


def on_cpu(hypotheses):
    move = dict.fromkeys(("tokens", "score", "attention", "alignment", "positional_scores"))
    return [[{key: hypo[key].cpu() for key in move} for hypo in sentence] for sentence in hypotheses]


def test_the_cases_are_awkward_enough():
    """What the fuzz is for really occurs in it."""
    cases = [random_case(seed) for seed in range(CASES)]
    for name in ("encoder_normalize_before", "decoder_learned_pos", "layernorm_embedding"):
        assert 20 < sum(case.model[name] for case in cases) < 180, name
    assert sum(case.model["encoder_embed_dim"] != case.model["decoder_embed_dim"] for case in cases) > 20
    assert sum(case.model["decoder_attention_heads"] == 1 for case in cases) > 20
    assert {case.generator["beam_size"] for case in cases} == {1, 2, 3, 4, 5}
    assert {case.search for case in cases} == {"beam", "diverse groups", "diverse siblings"}
    assert sum(case.prefix_size > 0 for case in cases) > 10
    early = padded = 0
    for case in cases[:40]:
        hypotheses = case.generate(case.stock_generator([case.build_model(dtype=torch.float32)]))
        lengths = [max(len(hypo["tokens"]) for hypo in sentence) for sentence in hypotheses]
        early += min(lengths) < max(lengths)
        padded += bool(case.sample["net_input"]["src_tokens"].eq(case.words.pad()).any())
    assert early > 5 and padded > 10
