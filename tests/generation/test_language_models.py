"""Language models read the prompts of a batch at once, and keep them once a sentence (the fuzz: test_fuzz_lm.py)."""

from functools import partial

import pytest
import torch
from fairseq import search
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, dictionary, write_out
from helpers.random_lms import build_lm, prompt_batch

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator, prefill
from el_fairseq.generation.decoder_step import DecoderStep
from el_fairseq.generation.prefill import prefix_lengths, why_no_prefill
from el_fairseq.stock import log_once

WORDS = dictionary(30)
SEARCHES = {"beam": search.BeamSearch, "sampling": search.Sampling}
pytestmark = pytest.mark.usefixtures("float64")
build = partial(build_lm, WORDS, decoder_layers=2)
sample = partial(prompt_batch, WORDS)


def generate(cls, models, batch, kind="beam", **options):
    options = {"beam_size": 4, "max_len_b": 25, **options}
    generator = cls(models, WORDS, search_strategy=SEARCHES[kind](WORDS), **options)
    torch.manual_seed(11)
    prompts = batch["net_input"]["src_tokens"]
    return generator, generator.generate(models, batch, prefix_tokens=prompts, bos_token=WORDS.eos())


@pytest.mark.parametrize("kind", ["beam", "sampling"])
def test_the_prompt_is_one_pass_and_one_state_a_sentence(kind, monkeypatch):
    model, calls = enable_el_attention(build(), "on"), []
    read, step = prefill.prefill_pass, DecoderStep.__call__

    def read_spy(decoder, tokens, keep):
        calls.append(tuple(tokens.shape))
        return read(decoder, tokens, keep)

    def step_spy(self, tokens, encoder_out):
        calls.append((tokens.last.size(0), 1))
        return step(self, tokens, encoder_out)

    monkeypatch.setattr(prefill, "prefill_pass", read_spy)
    monkeypatch.setattr(DecoderStep, "__call__", step_spy)
    generator, _ = generate(ELSequenceGenerator, [model], sample([12, 12, 9]), kind, min_len=25)
    # begin-of-sentence and all prompts, then a token a step: of the third sentence alone while the others have prompt
    assert calls == [(3, 13)] + [(4, 1)] * 3 + [(12, 1)] * 13
    measured, _ = generator.meter.peak
    kept, own = 2 * 3 * 13 * 16 * 8, 2 * 12 * 16 * 16 * 8  # layers, rows, tokens (own: a block of 16), width, bytes
    assert measured == kept + own + 3 * 13 + 12 * 3  # and masks for the shorter prompt


def test_an_ensemble_reads_its_prompt_at_once():
    models = [build(seed=1), build("mhe_transformer_lm", seed=2, attention_variant="mqa")]
    batch = sample([7, 7])
    _, expected = generate(SequenceGenerator, [write_out(model) for model in models], batch)
    enable_el_attention(models, "on")
    generator, actual = generate(ELSequenceGenerator, models, batch)
    assert why_no_prefill(generator) is None
    assert_same_hypotheses(actual, expected)


def test_a_prompt_as_long_as_the_limit_and_one_without_tokens():
    model = build(seed=3)
    for lengths, limit in (([10, 10], 10), ([10, 10], 4), ([3, 0], 8), ([0, 0], 8)):
        batch = sample(lengths)
        _, expected = generate(SequenceGenerator, [model], batch, max_len_b=limit)
        enable_el_attention(model, "on")
        _, actual = generate(ELSequenceGenerator, [model], batch, max_len_b=limit)
        assert_same_hypotheses(actual, expected)
        enable_el_attention(model, "off")


def test_retained_dropout_falls_back_and_says_so(caplog):
    model = enable_el_attention(build(dropout=0.3), "on")
    generator = ELSequenceGenerator([model], WORDS, beam_size=2)
    assert why_no_prefill(generator) is None
    model.make_generation_fast_(retain_dropout=True)
    prompts = sample([5, 3])
    log_once.cache_clear()
    with caplog.at_level("INFO"):
        for _ in range(2):
            generator.generate(None, prompts, prefix_tokens=prompts["net_input"]["src_tokens"])
    said = "prompts are read token by token, without a prefill: dropout (--retain-dropout): every step draws its own"
    assert caplog.messages.count(said) == 1


def test_prompt_lengths():
    prompts = torch.tensor([[5, 6, 7], [5, 1, 1], [5, 2, 7], [2, 5, 5], [1, 5, 1]])
    assert prefix_lengths(prompts, pad=1, eos=2, limit=9) == [3, 1, 1, 0, 0]
    assert prefix_lengths(prompts, pad=1, eos=2, limit=2) == [2, 1, 1, 0, 0]
