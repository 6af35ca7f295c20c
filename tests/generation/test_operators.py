"""How many operators a step of beam search is: a number without noise, which stands for the time of small models."""

import pytest
import torch
from bench import operators

from el_fairseq.internals import has_packed_products
from el_fairseq.ops.tuner import TUNER

VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
pytestmark = [
    pytest.mark.skipif(not has_packed_products(), reason="PyTorch without oneDNN's packed products"),
    pytest.mark.skipif(VERSION < (2, 13), reason="before 2.13 PyTorch composes operators of others"),
]
A_LAYER, BESIDES = {"auto": 30, "on": 87}, {"auto": 60, "on": 56}  # at most
SHARED_KV = {"mhe-mul": 39, "mhe-add": 39, "mqa": 34, "sha": 37}  # a layer, of `auto`


@pytest.mark.parametrize("types", [9024, 9000], ids=["a multiple of 64 types", "no multiple"])
@pytest.mark.parametrize("mode", A_LAYER)
def test_a_step_has_few_operators(mode, types, monkeypatch):
    monkeypatch.setattr(TUNER, "fixed", True)
    layer, rest = operators.a_layer_and_the_rest(mode, types)
    assert layer <= A_LAYER[mode]
    assert rest <= BESIDES[mode]


@pytest.mark.parametrize("variant", SHARED_KV)
def test_a_step_of_shared_keys_and_values_has_few_operators(variant, monkeypatch):
    monkeypatch.setattr(TUNER, "fixed", True)
    layer, rest = operators.a_layer_and_the_rest("auto", variant=variant)
    assert layer <= SHARED_KV[variant]
    assert rest <= 62
