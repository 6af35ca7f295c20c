"""The el_ architectures: registered for every stock one, exchangeable with it."""

import importlib
import subprocess
import sys

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY, ARCH_MODEL_REGISTRY
from helpers.models import build_model, dictionary

from el_fairseq.models import el_architectures
from el_fairseq.modules import ELMultiheadAttention

WORDS = dictionary(12)


@pytest.mark.parametrize("model", ["transformer", "bart", "transformer_lm"])
def test_every_stock_architecture_has_its_twin(model):
    stock = ARCH_MODEL_INV_REGISTRY[model]
    assert len(stock) >= 4
    for arch in stock:
        if arch != "transformer_lm":  # each model with a dataclass has its own function that does nothing
            assert ARCH_CONFIG_REGISTRY[f"el_{arch}"] is ARCH_CONFIG_REGISTRY[arch]
        assert issubclass(ARCH_MODEL_REGISTRY[f"el_{arch}"], ARCH_MODEL_REGISTRY[arch])


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_built_exactly_as_stock(arch):
    """The same random weights from the same seed, under the same names."""
    stock, ours = (build_model(prefix + arch, WORDS, seed=3).state_dict() for prefix in ("", "el_"))
    assert list(stock) == list(ours)
    assert all(torch.equal(stock[name], ours[name]) for name in stock)


def test_an_option_outside_the_identities_is_refused_by_name():
    with pytest.raises(ValueError, match="--arch el_transformer: .*cross_self_attention=True"):
        build_model("el_transformer", WORDS, cross_self_attention=True, no_cross_attention=True)


def test_quantized_projections_are_refused_by_name():
    with pytest.raises(ValueError, match="--quant-noise-scalar 0.1: the projections are quantized"):
        build_model("el_transformer", WORDS, quant_noise_scalar=0.1)


def test_layerdrop_converts_every_layer():
    model = build_model("el_transformer", WORDS, decoder_layerdrop=0.9, decoder_layers=6)
    assert sum(isinstance(module, ELMultiheadAttention) for module in model.modules()) == 12


def test_a_second_import_changes_nothing():
    before = dict(ARCH_MODEL_REGISTRY)
    importlib.reload(el_architectures)
    assert before == ARCH_MODEL_REGISTRY


def test_a_worker_that_imports_the_package_afresh_finds_everything():
    code = "import el_fairseq, fairseq.models as m, fairseq.tasks as t; "
    code += "assert 'el_bart_large' in m.ARCH_MODEL_REGISTRY and 'el_translation' in t.TASK_REGISTRY"
    subprocess.run([sys.executable, "-c", code], check=True)
