"""Every search on a GPU, by captured steps where they can be: stock's hypotheses, in float64."""

import pytest
import torch
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary, write_out
from helpers.random_cases import on_cpu, random_case, random_lm_case

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.cuda_graph import verified

DEVICE = "cuda"
WORDS = dictionary(30)
CASES = range(16)  # of the fuzz, which is too long for the time that there is
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("kind", [random_case, random_lm_case], ids=["translation", "language model"])
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_stocks_output(kind, seed, mode):
    case = kind(seed, DEVICE)
    model = case.build_model().to(DEVICE)
    expected = on_cpu(case.stock([write_out(model)]))
    case.assert_same(case.ours([enable_el_attention(model, mode)]), expected)
    assert verified.get(model.decoder, (None, True))[1]


@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize("strategy", [None, Sampling], ids=["beam", "sampling"])
def test_steps_are_captured(strategy, models):
    def generate(kind):
        torch.manual_seed(3)
        search = None if strategy is None else strategy(WORDS, sampling_topk=5)
        generator = kind(ensemble, WORDS, beam_size=3, max_len_b=100, search_strategy=search)
        return generator.generate(ensemble, batch(WORDS, [9, 4, 7, 5], device=DEVICE))

    ensemble = [build_model("transformer", WORDS, seed=seed, gain=2.0).to(DEVICE) for seed in range(models)]
    expected = on_cpu(generate(SequenceGenerator))
    enable_el_attention(ensemble)
    assert_same_hypotheses(generate(ELSequenceGenerator), expected)
    assert all(verified[model.decoder][1] for model in ensemble)
