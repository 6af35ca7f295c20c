"""Ensembles of models of different kinds: each decodes with what it has, the average is stock's."""

import copy

import pytest
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary, write_out

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.modules import ELMultiheadAttention

WORDS = dictionary(12)
SAMPLE = batch(WORDS, [9, 5, 3])
BOTH_BEFORE = {"encoder_normalize_before": True, "decoder_normalize_before": True}
LARGER = {"encoder_embed_dim": 24, "encoder_ffn_embed_dim": 40, "decoder_layers": 3, "decoder_attention_heads": 4}
LSTM = {"decoder_hidden_size": 16, "encoder_hidden_size": 16}
MODELS = {  # architecture and options
    "transformer": ("transformer", {}),
    "pre-norm": ("transformer", BOTH_BEFORE),
    "larger": ("transformer", LARGER),
    "bart": ("bart_base", {"encoder_attention_heads": 4, "decoder_attention_heads": 4}),
    "mhe": ("mhe_transformer_wmt_en_de", {"attention_variant": "mhe-mul"}),
    "el": ("el_transformer", LARGER),
    "lstm": ("lstm", LSTM),
}
ENSEMBLES = [
    "transformer bart",
    "bart transformer",
    "pre-norm transformer larger",
    "transformer mhe",
    "lstm transformer",
    "el transformer",
    "el bart lstm mhe",
]


def build(names):
    kinds = [MODELS[name] for name in names.split()]
    return [build_model(arch, WORDS, seed=i, gain=2.0, **options) for i, (arch, options) in enumerate(kinds)]


def stock_twins(models):
    """Copies that decode with stock's attention only: the oracle."""
    twins = disable_el_attention(copy.deepcopy(models))
    return [write_out(model) if hasattr(model, "encoder") else model for model in twins]


def generate(cls, models):
    return cls(models, WORDS, beam_size=3, max_len_b=10).generate(None, SAMPLE)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("names", ENSEMBLES)
def test_generates_what_stock_generates(names):
    models = build(names)
    expected = generate(SequenceGenerator, stock_twins(models))
    assert_same_hypotheses(generate(SequenceGenerator, models), expected)  # el_ and mhe_ models as they are built
    for mode in ("on", "auto"):
        enable_el_attention(models, mode)
        assert_same_hypotheses(generate(ELSequenceGenerator, models), expected)
    assert_same_hypotheses(generate(SequenceGenerator, models), expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("names", ENSEMBLES)
def test_every_model_has_its_say(names):
    """Or else the test above would not see that one is missing."""
    models = build(names)
    whole = generate(ELSequenceGenerator, models)
    for i in range(len(models)):
        without = generate(ELSequenceGenerator, models[:i] + models[i + 1 :])
        assert any(abs(a[0]["score"] - b[0]["score"]) > 1e-3 for a, b in zip(without, whole)), names.split()[i]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("names", ["transformer bart", "el transformer", "transformer lstm"])
@pytest.mark.parametrize("converted", [0, 1])
def test_one_model_decodes_with_el_attention_and_one_as_stock(names, converted):
    models = build(names)
    expected = generate(SequenceGenerator, stock_twins(models))
    disable_el_attention(models)
    enable_el_attention(models[converted], "on")
    el = [any(isinstance(module, ELMultiheadAttention) for module in model.modules()) for model in models]
    assert el == [i == converted and names.split()[i] != "lstm" for i in range(2)]
    assert_same_hypotheses(generate(ELSequenceGenerator, models), expected)
    assert_same_hypotheses(generate(SequenceGenerator, models), expected)


@pytest.mark.parametrize("names", ["transformer bart", "larger mhe el"])
def test_the_report_adds_the_models_up(names):
    models = enable_el_attention(build(names), "on")
    options = {"beam_size": 4, "min_len": 15, "max_len_b": 15}  # no sentence leaves early

    def peak(models):
        generator = ELSequenceGenerator(models, WORDS, **options)
        generator.generate(None, SAMPLE)
        return generator.meter.peak

    each = [peak([model]) for model in models]
    assert peak(models) == tuple(map(sum, zip(*each)))
    assert all(measured > 0 for measured, _ in each)
