"""Dropout that stays on while decoding (``--retain-dropout``): the draws are stock's for the same seed."""

import pytest
import torch
from fairseq.modules import FairseqDropout
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

WORDS = dictionary(30)
SAMPLE = batch(WORDS, [12, 7, 5, 3])
pytestmark = pytest.mark.usefixtures("float64")


def build(arch, modules=None, retain=True):
    model = build_model(arch, WORDS, gain=2.0, dropout=0.2, attention_dropout=0.2, activation_dropout=0.1)
    model.make_generation_fast_(retain_dropout=retain, retain_dropout_modules=modules)
    return model


def generate(model, cls=ELSequenceGenerator, seed=3, beams=4):
    torch.manual_seed(seed)
    return cls([model], WORDS, beam_size=beams, max_len_b=20).generate(None, SAMPLE)


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
@pytest.mark.parametrize("mode", ["on", "auto", "off"])
def test_the_draws_are_stocks(arch, mode):
    model = build(arch)
    expected = generate(model, SequenceGenerator)
    assert_same_hypotheses(generate(enable_el_attention(model, mode)), expected)


@pytest.mark.parametrize("mode", ["on", "auto", "off"])
@pytest.mark.parametrize(
    "modules",
    [["TransformerEncoderLayerBase", "TransformerDecoderLayerBase"], ["TransformerEncoder", "TransformerDecoder"]],
)
def test_the_draws_of_chosen_modules_are_stocks(mode, modules):
    """``--retain-dropout-modules``, which knows modules by the names of stock's classes."""
    model = build("transformer", modules)
    retained = [m for m in model.modules() if isinstance(m, FairseqDropout) and m.apply_during_inference]
    assert 0 < len(retained) < 20
    expected = generate(model, SequenceGenerator)
    assert_same_hypotheses(generate(enable_el_attention(model, mode)), expected)
    twin = build("el_transformer", modules)
    twin.load_state_dict(model.state_dict())
    assert_same_hypotheses(generate(twin), expected)


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_retained_dropout_draws_anew_and_the_seed_decides(mode):
    plain, dropping = (enable_el_attention(build("transformer", retain=retain), mode) for retain in (False, True))

    def scores(model, seed):
        return [float(hypo["score"]) for sentence in generate(model, seed=seed) for hypo in sentence]

    assert scores(plain, 1) == scores(plain, 2)
    assert scores(dropping, 1) == scores(dropping, 1)
    assert scores(dropping, 1) != scores(dropping, 2) != scores(plain, 2)
