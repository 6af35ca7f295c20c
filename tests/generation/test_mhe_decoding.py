"""Models with MHE attention or a baseline decode as the stock model with their weights written out does."""

import random

import pytest
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary, write_out
from helpers.random_cases import CASES, on_cpu, random_case

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.convert.attention_variant import PLACES
from el_fairseq.convert.shared_source import BEAMS
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.memory import MIB, state_bytes

VARIANTS = ["mhe-mul", "mhe-add", "mqa", "sha"]
ARCH = "mhe_transformer_wmt_en_de"  # the base sizes
SEEDS = [seed for seed in range(CASES) if random_case(seed).arch == "transformer"][:40]
WORDS = dictionary(12)


def places_of(seed):
    """Mostly everywhere, else some of the places."""
    rng = random.Random(seed)
    return PLACES if rng.random() < 0.6 else sorted(rng.sample(PLACES, rng.randint(1, 2)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_way_in_gives_the_output_of_the_model_written_out(seed, device):
    case = random_case(seed, device)
    options = {"attention_variant": VARIANTS[seed % 4], "attention_variant_where": ",".join(places_of(seed))}
    model = case.build_model(ARCH, **options).to(device)
    expected = on_cpu(case.stock([write_out(model)]))
    for mode in ("on", "auto", "off"):
        enable_el_attention(model, mode)
        case.assert_same(case.ours([model]), expected)
    disable_el_attention(model)
    shared = "reorder_encoder_out" in vars(model.encoder)
    assert shared == ("cross" in options["attention_variant_where"])
    actual = on_cpu(case.stock([model]))
    assert (actual is None) == (expected is None)
    if actual is not None:
        case.assert_same(actual, expected)


def decode_one_step(model, beams, lengths=(63, 40, 9)):
    """The decoder state after one step and three more: of a batch, with the source given once a sentence."""
    sample = batch(WORDS, list(lengths))["net_input"]
    encoder_out = model.encoder.forward_torchscript(sample)
    rows = sample["src_tokens"].new_tensor(range(len(lengths))).repeat_interleave(beams)
    encoder_out, state = model.encoder.reorder_encoder_out(encoder_out, rows), {}
    for length in range(1, 17):
        model.decoder(
            sample["src_tokens"].new_full((len(rows), length), WORDS.nspecial), encoder_out, incremental_state=state
        )
    return encoder_out, state


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_is_h_times_smaller_and_the_sources_once_a_sentence(variant):
    beams, heads, width, layers, sentences, length = 5, 4, 32, 2, 3, 63
    options = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in [("attention_heads", heads)]}
    model = build_model(ARCH, WORDS, encoder_embed_dim=width, attention_variant=variant, **options)
    encoder_out, state = decode_one_step(model, beams)
    assert encoder_out[BEAMS] == [beams] and encoder_out["encoder_out"][0].size(1) == sentences
    ours, theirs = state_bytes(state), state_bytes(decode_one_step(write_out(model), beams)[1])
    elements = 2 * layers * (sentences * length + sentences * beams * 16) * width // heads
    assert ours == 8 * elements
    stock_elements = 2 * layers * sentences * beams * (length + 16) * width
    assert theirs >= 8 * stock_elements  # and its padding masks


def test_the_report_counts_them(caplog):
    model = build_model(ARCH, WORDS, attention_variant="mhe-add", encoder_attention_heads=4, decoder_attention_heads=4)
    generator = ELSequenceGenerator([model], WORDS, beam_size=5, max_len_b=20)
    generator.generate(None, batch(WORDS, [63, 40, 9]))
    measured, stock = generator.meter.peak
    assert 0 < 3 * measured < stock
    with caplog.at_level("INFO"):
        generator.meter.report()
    assert f"decoder state: peak {measured / MIB:.2f} MiB; stock would keep {stock / MIB:.2f} MiB" in caplog.text


@pytest.mark.usefixtures("float64")
def test_an_ensemble_of_variants():
    models = [build_model(ARCH, WORDS, seed=n, gain=2.0, attention_variant=v) for n, v in enumerate([*VARIANTS, "mha"])]
    sample, options = batch(WORDS, [12, 7, 5]), {"beam_size": 4, "max_len_b": 20}
    expected = SequenceGenerator([write_out(m) for m in models], WORDS, **options).generate(None, sample)
    enable_el_attention(models, "on")
    assert_same_hypotheses(ELSequenceGenerator(models, WORDS, **options).generate(None, sample), expected)
