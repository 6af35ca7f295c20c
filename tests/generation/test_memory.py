"""The memory report: measured against formula, for stock and for ours."""

import gc
import logging
import math
import re

import pytest
import torch
from bench.memory import MeasuredEnsemble
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.cache.buffer import BLOCK
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.memory import state_bytes

WORDS = dictionary(30)
SAMPLE = batch(WORDS, [12, 7, 5, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
@pytest.mark.parametrize("beam", [1, 4])
def test_what_stock_would_keep_is_what_stock_keeps(arch, beam, dtype):
    model = build_model(arch, WORDS, gain=2.0, dtype=dtype, decoder_attention_heads=4, decoder_layers=3)
    options = {"beam_size": beam, "max_len_b": 20}
    if dtype == torch.bfloat16:  # where rounding could change the length of a hypothesis
        options["min_len"] = 20
    stock = SequenceGenerator(MeasuredEnsemble([model]), WORDS, **options)
    expected = stock.generate(None, SAMPLE)
    ours = ELSequenceGenerator([enable_el_attention(model, "on")], WORDS, **options)
    actual = ours.generate(None, SAMPLE)
    assert [len(h["tokens"]) for s in actual for h in s] == [len(h["tokens"]) for s in expected for h in s]
    assert ours.meter.peak[1] == stock.model.peak


@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("beam", [1, 5])
def test_what_was_measured_is_what_the_layout_needs(mode, beam):
    """All sentences run to the end, so the peak is in the last step. With several beams it is less: what none of them
    consists of is given up, and the first step has but one token for all."""
    steps, width, layers, sentences, source = 40, 16, 3, *SAMPLE["net_input"]["src_tokens"].shape
    model = build_model("transformer", WORDS, dtype=torch.float32, decoder_layers=layers)
    options = {"beam_size": beam, "max_len_b": steps - 1, "min_len": steps - 1}
    generator = ELSequenceGenerator([enable_el_attention(model, mode)], WORDS, **options)
    generator.generate(None, SAMPLE)
    capacity = math.ceil(steps / BLOCK) * BLOCK
    hidden = sentences * source * width * 4  # once a sentence, for all layers
    encoder = hidden + sentences * source + sentences * 4  # padding mask (bool), source length (int32)
    own = layers * sentences * beam * capacity * width * 4
    expected = encoder + own if mode == "on" else encoder + 2 * layers * hidden + 2 * own
    if beam == 1:
        assert generator.meter.peak[0] == expected
    else:
        assert encoder + own / beam < generator.meter.peak[0] < expected


def test_a_model_that_decodes_as_stock_is_measured_as_it_is():
    model = build_model("lstm", WORDS, decoder_hidden_size=16, encoder_hidden_size=16)
    generator = ELSequenceGenerator([model], WORDS, beam_size=3)
    generator.generate(None, SAMPLE)
    measured, stock = generator.meter.peak
    assert measured == stock > 0


def test_state_bytes_counts_each_storage_once():
    tensor = torch.zeros(10, 10)
    assert state_bytes({"a": [tensor, tensor[2:]], "b": {"c": tensor.view(-1)}}, None, 3) == 400
    assert state_bytes() == 0


def test_the_peak_is_that_of_the_largest_batch():
    generator = ELSequenceGenerator([build_model("transformer", WORDS)], WORDS, beam_size=2, max_len_b=5)
    generator.generate(None, SAMPLE)
    largest = generator.meter.peak
    generator.generate(None, batch(WORDS, [3]))
    assert generator.meter.peak == largest


def test_one_log_line_at_the_end_of_generation(caplog):
    model = enable_el_attention(build_model("transformer", WORDS), "on")
    gc.collect()  # generators of other tests report now
    caplog.clear()
    generator = ELSequenceGenerator([model], WORDS, beam_size=4, max_len_b=20)
    with caplog.at_level(logging.INFO, logger="el_fairseq.generation.memory"):
        generator.generate(None, SAMPLE)
        generator.generate(None, SAMPLE)
        assert not caplog.records
        measured, stock = generator.meter.peak
        del generator
        gc.collect()
        record, speed = caplog.records
    assert record.getMessage() == (
        f"decoder state: peak {measured / 2**20:.2f} MiB; stock would keep {stock / 2**20:.2f} MiB "
        f"for the same batch, {stock / measured:.1f}x"
    )
    assert re.fullmatch(
        r"generated [\d.]+ sentences/s, [\d.]+ tokens/s; peak memory [\d.]+ MiB \(the whole process\)",
        speed.getMessage(),
    )
