"""Log-probabilities in one buffer: what the ensemble computes."""

import pytest
import torch
from fairseq.models.speech_to_text.s2t_transformer import TransformerDecoderScriptable
from fairseq.sequence_generator import EnsembleModel
from helpers.models import TOLERANCE, assert_close, batch, build_model, dictionary
from helpers.random_lms import build_lm

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.generation import next_token as module
from el_fairseq.generation.decoder_step import why_no_fast_step
from el_fairseq.generation.newest_tokens import NewestTokens
from el_fairseq.generation.next_token import NextToken
from el_fairseq.generation.plan import BatchPlan, why_no_one_product

WORDS = dictionary(30)
SAMPLE = batch(WORDS, [12, 7, 5, 3])
ADAPTIVE = {"adaptive_softmax_cutoff": "10,20", "adaptive_softmax_dropout": 0.0, "adaptive_softmax_factor": 4}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def next_token_of(ensemble, temperature):
    one_product = why_no_one_product(ensemble) is None
    fast = one_product and all(why_no_fast_step(model.decoder) is None for model in ensemble.models)
    plan = BatchPlan(one_product, fast, [None] * ensemble.models_size, None, False, False, None, False, whole_rows=True)
    return NextToken(ensemble, temperature, plan)


def stocks(ensemble, temperature):
    """The step of fairseq's ``EnsembleModel``."""
    return lambda tokens, *others: ensemble.forward_decoder(tokens.whole, *others, temperature)


def steps(ensemble, decode, count=3):
    """The results of the first decoder steps."""
    outs = ensemble.forward_encoder(SAMPLE["net_input"]) if ensemble.has_encoder() else None
    states = [{} for _ in ensemble.models]
    torch.manual_seed(0)
    tokens = torch.randint(4, 30, (4, count))
    return [decode(NewestTokens.of(tokens[:, : i + 1]), outs, states) for i in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("arch", ["transformer", "bart_base", "transformer_lm"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_is_the_ensembles(arch, temperature, dtype, rows, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", rows * len(WORDS) * dtype.itemsize)
    model = (build_lm(WORDS) if arch == "transformer_lm" else build_model(arch, WORDS)).to(dtype)
    ensemble = EnsembleModel([enable_el_attention(model)])
    assert why_no_one_product(ensemble) is None
    next_token, copies = next_token_of(ensemble, temperature), []

    def decode(*args):
        lprobs, attention = next_token(*args)
        copies.append((lprobs.data_ptr(), lprobs.dtype))
        return lprobs.clone(), attention

    actual = steps(ensemble, decode)
    expected = steps(ensemble, stocks(ensemble, temperature))
    for (ours, attention), (theirs, their_attention) in zip(actual, expected):
        tolerance = 2 * TOLERANCE[dtype]  # modules ask for attention weights everywhere, so that nothing is fused there
        assert_close(ours, theirs, tolerance)
        assert (attention is None) == (their_attention is None)
        if attention is not None:
            assert_close(attention.float(), their_attention.float(), tolerance)
    assert len(set(copies)) == 1 and copies[0][1] == torch.float32


def test_rows_that_left_are_not_there():
    ensemble = EnsembleModel([enable_el_attention(build_lm(WORDS))])
    next_token = next_token_of(ensemble, 1.0)
    for rows in (4, 2, 6):
        assert next_token(NewestTokens.of(torch.full((rows, 1), 5)), None, [{}])[0].shape == (rows, 30)


class Own(EnsembleModel):
    def forward_decoder(self, tokens, encoder_outs, incremental_states, temperature=1.0):
        return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)


CASES = {
    "own ensemble": lambda model: None,
    "adaptive softmax": lambda model: None,
    "off": disable_el_attention,
    "own output layer": lambda model: own_class(model.decoder, output_layer=lambda self, x: x),
    "own scores": lambda model: own_class(model, get_normalized_probs=lambda self, *args, **kwargs: None),
    "an object's output layer": lambda model: vars(model.decoder).update(output_layer=lambda x: x),
    "an object's scores": lambda model: vars(model).update(get_normalized_probs=lambda *args, **kwargs: None),
    "an object's decoder": lambda model: vars(model.decoder).update(forward=lambda *args, **kwargs: None),
}


def own_class(module, **methods):
    module.__class__ = type("Own", (type(module),), methods)


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_one_product_decodes_as_it_does(case):
    model = build_model("transformer", WORDS, **(ADAPTIVE if case == "adaptive softmax" else {}))
    other = enable_el_attention(build_model("transformer", WORDS, seed=1))
    enable_el_attention(model)
    CASES[case](model)
    kind = Own if case == "own ensemble" else EnsembleModel
    assert why_no_one_product(kind([model])) and why_no_one_product(kind([other, model]))
    assert why_no_one_product(EnsembleModel([other])) is None


def test_vocabularies_of_different_sizes_are_left_to_stock():
    models = [enable_el_attention(build_model("transformer", dictionary(size))) for size in (30, 34)]
    assert why_no_one_product(EnsembleModel(models)) == "vocabularies of different sizes"


def test_with_gradients_the_ensemble_decodes():
    with torch.enable_grad():
        ensemble = EnsembleModel([enable_el_attention(build_lm(WORDS))])
        lprobs, _ = next_token_of(ensemble, 1.0)(NewestTokens.of(torch.full((2, 1), 5)), None, [{}])
    assert lprobs.requires_grad


def test_a_decoder_that_returns_nothing_but_features():
    model = build_model("transformer", WORDS)
    model.decoder.__class__ = TransformerDecoderScriptable
    ensemble = EnsembleModel([enable_el_attention(model)])
    assert why_no_one_product(ensemble) is None
    ((_, attention),) = steps(ensemble, next_token_of(ensemble, 1.0), count=1)
    assert attention is None


@pytest.mark.parametrize("archs", ["transformer bart_base", "transformer transformer mhe_transformer_wmt_en_de"])
def test_ensembles(archs, float64):
    models = [build_model(arch, WORDS, seed=seed, gain=2.0) for seed, arch in enumerate(archs.split())]
    ensemble = EnsembleModel(enable_el_attention(models))
    next_token = next_token_of(ensemble, 0.7)
    assert next_token.plan.fast_step
    actual = steps(ensemble, next_token)
    expected = steps(ensemble, stocks(ensemble, 0.7))
    for (ours, attention), (theirs, their_attention) in zip(actual, expected):
        assert_close(ours, theirs)
        assert_close(attention, their_attention)


def test_an_embedding_that_has_grown_under_its_output_layer():
    """As online back-translation adds the symbols of its languages to a dictionary that a model shares."""
    model = build_lm(WORDS, share_decoder_input_output_embed=True)
    weight = model.decoder.embed_tokens.weight
    grown = torch.nn.Parameter(torch.cat((weight, weight[:3])))
    model.decoder.embed_tokens.weight = model.decoder.output_projection.weight = grown
    ensemble = EnsembleModel([enable_el_attention(model)])
    next_token = next_token_of(ensemble, 1.0)
    actual = steps(ensemble, lambda *args: (next_token(*args)[0].clone(), None))
    expected = steps(ensemble, stocks(ensemble, 1.0))
    assert actual[0][0].shape == (4, 33)
    for (ours, _), (theirs, _) in zip(actual, expected):
        torch.testing.assert_close(ours, theirs)
