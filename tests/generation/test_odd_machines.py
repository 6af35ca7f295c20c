"""Processors and libraries that are not the usual ones: what stock generates, and no crash."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.ops import packed, products
from el_fairseq.ops.tuner import Tuner

WORDS = dictionary(3000)
SEARCH = {"beam_size": 3, "max_len_b": 12}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@pytest.fixture(autouse=True)
def tuner(monkeypatch):
    """One that has chosen nothing yet; and as many threads afterwards as before."""
    threads, fresh = torch.get_num_threads(), Tuner()
    monkeypatch.setattr(products, "TUNER", fresh)
    yield fresh
    torch.set_num_threads(threads)


def assert_is_stocks(mode="auto", between=lambda model: None, of_step=None):
    """Two batches, the second after ``between(model)``, which stock's model has gone through, too."""
    models = [build_model("transformer", WORDS, torch.float32, gain=2.0, encoder_layers=1) for _ in range(2)]
    stock = SequenceGenerator([models[0]], WORDS, **SEARCH)
    ours = ELSequenceGenerator([enable_el_attention(models[1], mode)], WORDS, **SEARCH)
    if of_step is not None:
        search = ours._search
        ours._search = lambda step, *rest: (of_step(step), search(step, *rest))[1]
    for lengths in ([9, 4, 7], [5, 30]):
        sample = batch(WORDS, lengths)
        expected, actual = (g.generate([m], sample) for g, m in zip((stock, ours), models))
        assert_same_hypotheses(actual, expected, 1e-4)
        for model in models:
            between(model)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_one_thread(mode):
    torch.set_num_threads(1)
    assert_is_stocks(mode)


def test_threads_that_change_between_batches():
    assert_is_stocks(between=lambda model: torch.set_num_threads(3 - torch.get_num_threads()))


def test_threads_that_change_within_a_batch():
    assert_is_stocks(of_step=lambda step: torch.set_num_threads(1 + step % 2))


def scale(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def test_weights_that_change_between_batches():
    assert_is_stocks(between=scale)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_no_onednn(mode, tuner, monkeypatch):
    monkeypatch.setattr(packed, "has_packed_products", lambda: False)
    assert_is_stocks(mode)
    assert not tuner.chosen


@pytest.mark.parametrize("way", products._WAYS)
def test_whichever_product_is_the_fastest(way, tuner, monkeypatch):
    """Where there are all of them; joint products of large weights are packed always."""
    monkeypatch.setattr(tuner, "choose", lambda key, ways, default: way if way in ways else default)
    assert_is_stocks()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another kind of processor")
def test_a_processor_without_avx512():
    here = Path(__file__).resolve()
    code = f"import sys; sys.path[:0] = {sys.path!r}; import {here.stem} as t; t.check_without_avx512()"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=os.environ | AVX2, cwd=here.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["AVX2"]


def check_without_avx512():
    print(torch.backends.cpu.get_cpu_capability())
    for mode in ("auto", "on"):
        assert_is_stocks(mode)
