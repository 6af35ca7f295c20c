"""Private names of other libraries: what is asked of them, and what is done in a version that lacks them."""

import argparse
import ast
import importlib
from pathlib import Path

import pytest
import torch
from helpers.models import build_model, dictionary
from omegaconf import OmegaConf
from torch import nn

from el_fairseq import internals
from el_fairseq.generation.decoder_step import why_no_fast_step
from el_fairseq.ops.packed import can_pack
from el_fairseq.ops.products import apply_linear

KINDS = {
    "hook": lambda module: module.register_forward_hook(lambda *given: None),
    "hook with keywords": lambda module: module.register_forward_hook(lambda *given: None, with_kwargs=True),
    "hook always called": lambda module: module.register_forward_hook(lambda *given: None, always_call=True),
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda *given: None),
    "pre-hook with keywords": lambda module: module.register_forward_pre_hook(lambda *given: None, with_kwargs=True),
}
GLOBAL = {
    "hook": nn.modules.module.register_module_forward_hook,
    "pre-hook": nn.modules.module.register_module_forward_pre_hook,
}
needs_packed = pytest.mark.skipif(not internals.has_packed_products(), reason="this PyTorch has no packed products")


@pytest.mark.parametrize("name", internals.INHERITED)
def test_what_is_inherited_is_there(name):
    module, _, parent = name.rpartition(".")
    parent = getattr(importlib.import_module(module), parent)
    assert all(callable(getattr(parent, method)) for method in internals.INHERITED[name])


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def test_private_names_of_others_are_read_in_one_file():
    """Names that this package defines are its own, or override what ``INHERITED`` lists; ``sys`` is Python itself."""
    read, own = {}, {name for names in internals.INHERITED.values() for name in names}
    here = Path(internals.__file__)
    for path in here.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) != "sys":
                read.setdefault(node.attr, set()).add(path)
    assert {name: paths - {here} for name, paths in read.items() if name not in own and paths != {here}} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_a_module(kind):
    module = nn.Linear(2, 2)
    assert not internals.is_hooked(module)
    handle = KINDS[kind](module)
    assert internals.is_hooked(module)
    handle.remove()
    assert not internals.is_hooked(module)


@pytest.mark.parametrize("kind", GLOBAL)
def test_hooks_of_all_modules(kind):
    assert not internals.has_global_hooks()
    handle = GLOBAL[kind](lambda *given: None)
    try:
        assert internals.has_global_hooks()
    finally:
        handle.remove()
    assert not internals.has_global_hooks()


@pytest.fixture
def converted():
    model = build_model("transformer", dictionary(12), seed=1, dtype=torch.float32)
    importlib.import_module("el_fairseq").enable_el_attention(model, mode="on")
    return model.decoder


@pytest.mark.parametrize("names", ["HOOKS", "GLOBAL_HOOKS"])
def test_where_hooks_cannot_be_seen_the_decoder_goes_module_by_module(names, converted, monkeypatch):
    assert why_no_fast_step(converted) is None
    monkeypatch.setattr(internals, names, ("_gone_in_this_version",))
    assert why_no_fast_step(converted)


def test_a_version_changes_with_the_tensor():
    weight = torch.zeros(2)
    before = internals.version_of(weight)
    assert internals.version_of(weight) == before
    weight.add_(1)
    assert internals.version_of(weight) != before


def test_a_tensor_of_inference_mode_has_no_version():
    with torch.inference_mode():
        assert internals.version_of(torch.zeros(2)) is None


class Unversioned:
    """As much of a tensor as ``version_of`` asks for."""

    def is_inference(self):
        return False


def test_without_versions_no_tensor_is_what_it_was():
    tensor = Unversioned()
    assert internals.version_of(tensor) != internals.version_of(tensor)


@needs_packed
@torch.inference_mode()
def test_without_packed_products_pytorch_multiplies(monkeypatch):
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48).eval(), torch.randn(8, 64)
    assert can_pack(linear.weight)
    monkeypatch.setattr(internals, "PACKED", (*internals.PACKED, "_gone_in_this_version"))
    assert not can_pack(linear.weight)
    assert torch.equal(apply_linear(linear, x), linear(x))


def test_a_processor_that_cannot_be_asked_multiplies_no_packed_bfloat16(monkeypatch):
    monkeypatch.setattr(internals.torch.ops, "mkldnn", object())
    assert internals.has_packed_bfloat16() is False


def test_the_parent_of_a_configuration():
    whole = OmegaConf.create({"generation": {"beam": 5}})
    part = whole.generation
    assert internals.parent_of(part) is whole and internals.parent_of(whole) is None
    assert internals.parent_of(argparse.Namespace()) is None  # as a version without the method


def test_the_options_of_a_parser():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--beam", type=int, default=5)
    assert [(option.dest, option.type, option.default) for option in internals.options_of(parser)] == [("beam", int, 5)]


def test_registries_are_copies():
    module = nn.Sequential(nn.Linear(2, 2))
    own = internals.own_registries(vars(module))
    own["_modules"].clear()
    assert len(module) == 1 and set(own) == set(internals.REGISTRIES)


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0a0+git1", "2.10.1+cu130", "2.15.0.dev20260101", "3.0.0"])
def test_new_torch_is_taken(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    internals.require_torch()


@pytest.mark.parametrize("version", ["1.13.1", "2.1.2+cu121", "2.5.1"])
def test_old_torch_is_refused_by_name(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError) as refused:
        internals.require_torch()
    assert "needs torch 2.6 or newer" in str(refused.value) and version in str(refused.value)
