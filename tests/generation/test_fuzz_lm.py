"""200 random language models and searches: prompts, read at once, are continued as stock continues them."""

import pytest
import torch
from helpers.models import write_out
from helpers.random_cases import CASES, on_cpu, random_lm_case
from helpers.random_searches import assert_searches_are_mixed

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.prefill import why_no_prefill

SEEDS = [seed if 2 * seed < CASES else pytest.param(seed, marks=pytest.mark.long) for seed in range(CASES)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_search_continues_prompts_as_stock(seed, device):
    case = random_lm_case(seed, device)
    model = case.build_model().to(device)
    expected = on_cpu(case.stock([write_out(model)]))
    for mode in ("on", "auto", "off") if seed % 4 == 0 else ("on", "auto"):
        enable_el_attention(model, mode)
        generator = case.search.build_generator(ELSequenceGenerator, [model])
        stock_attention = mode == "off" and case.arch == "transformer_lm"
        fused = generator.lm_model is not None
        assert (why_no_prefill(generator) is not None) == (stock_attention or fused)
        case.assert_same(case.search.generate(generator, case.sample), expected)
    if seed % 4 == 1 and case.arch == "transformer_lm":  # the el_ architecture under stock's own generator
        twin = case.build_model("el_transformer_lm").to(device)
        assert_as_stock(case, on_cpu(case.stock([twin])), expected)


def assert_as_stock(case, actual, expected):
    """Both came from stock's generator: where it stops for one, it stops for the other."""
    assert (actual is None) == (expected is None)
    if expected is not None:
        case.assert_same(actual, expected)


def test_the_cases_are_awkward_enough():
    cases = [random_lm_case(seed) for seed in range(CASES)]
    assert_searches_are_mixed(cases)
    for arch in ("transformer_lm", "mhe_transformer_lm"):
        assert sum(case.arch == arch for case in cases) > 50
    assert {case.model.get("attention_variant") for case in cases} == {None, "mhe-mul", "mhe-add", "mqa", "sha"}
    prompted = [case for case in cases if case.search.prefix is not None]
    lengths = [case.sample["net_input"]["src_lengths"] for case in prompted]
    assert 50 < sum(bool(torch.any(each != each[0])) for each in lengths) < len(prompted) - 50
    assert sum(bool(each.eq(0).any()) for each in lengths) > 10
    assert sum(bool(case.search.prefix.eq(case.words.eos()).any()) for case in prompted) > 10
    assert sum(case.search.options["max_len_b"] < case.search.prefix.size(1) for case in prompted) > 5
    assert sum(case.stock([write_out(case.build_model())]) is None for case in cases[:20]) < 5
