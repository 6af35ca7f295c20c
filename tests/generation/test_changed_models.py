"""Models that people changed: the output is that of stock with the same change."""

import copy
from itertools import product

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers.changes import CHANGES
from helpers.fake_graph import capture
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary
from torch import nn

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator, encode, plan

WORDS = dictionary(12)
SAMPLE = batch(WORDS, [7, 4, 3])
SEARCH = {"beam_size": 3, "max_len_a": 0, "max_len_b": 6}
SIZE = {"encoder_layers": 1, "decoder_layers": 1, "seed": 1, "gain": 2.0, "encoder_normalize_before": True}
MODES = ["on", "auto", "el architecture", "graph"]
SHORT = [("on", True), ("graph", False)]  # the others take long
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Encoders take few tokens at a time, where they may."""
    monkeypatch.setattr(encode, "CHUNK_ROWS", 10)
    with torch.no_grad():
        yield


def modules_of(model, fits):
    """The names of all modules but lists, which are never called, and the model itself."""
    skipped = (nn.ModuleList,)
    return [name for name, module in model.named_modules() if name and not isinstance(module, skipped) and fits(module)]


def generate(cls, model):
    return cls([model], WORDS, **SEARCH).generate([model], SAMPLE)


def changed_ours(mode, before, change, name):
    arch = "el_transformer" if mode == "el architecture" else "transformer"
    model = build_model(arch, WORDS, **SIZE)
    if before:
        change(model, name)
    if mode != "el architecture":
        enable_el_attention(model, "on" if mode == "graph" else mode)
    if not before:
        change(model, name)
    return model


@pytest.mark.parametrize(
    "mode, before",
    [
        pytest.param(mode, before, marks=[pytest.mark.long] * ((mode, before) not in SHORT))
        for mode, before in product(MODES, (False, True))
        if not (before and mode == "el architecture")
    ],
    ids=lambda value: value if isinstance(value, str) else "before" if value else "after",
)
@pytest.mark.parametrize("kind", CHANGES)
def test_each_module_in_turn(kind, mode, before, monkeypatch):
    if mode == "graph":
        monkeypatch.setattr(plan, "capturer", lambda device: capture)
    change, fits = CHANGES[kind]
    plain, wrong, effects = build_model("transformer", WORDS, **SIZE), [], 0
    unchanged = generate(SequenceGenerator, plain)
    for name in modules_of(plain, fits):
        stock = copy.deepcopy(plain)
        change(stock, name)
        expected = generate(SequenceGenerator, stock)
        effects += str(expected) != str(unchanged)
        for cls in (ELSequenceGenerator, SequenceGenerator):
            try:
                assert_same_hypotheses(generate(cls, changed_ours(mode, before, change, name)), expected)
            except Exception as error:  # all of them are wanted, not the first
                wrong.append(f"{name} by {cls.__name__}: {type(error).__name__}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)
    assert effects >= 6, "the changes change nothing"


def shape(x):
    return list(x.shape) if torch.is_tensor(x) else type(x).__name__


def seen_by_hook(cls, model, name):
    """What a hook on a module sees: the shapes of its inputs and output at each call."""
    calls = []

    def look(module, args, kwargs, output):
        inputs = [shape(x) for x in args] + [(key, shape(kwargs[key])) for key in ("query", "x") if key in kwargs]
        calls.append((inputs[:1], shape(output[0] if isinstance(output, tuple) else output)))

    model.get_submodule(name).register_forward_hook(look, with_kwargs=True)
    generate(cls, model)
    return calls


@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_hooks_see_what_they_see_in_stock(arch, mode):
    """As often and in the same shapes: in parts of a batch, "the first sentence" would be another one."""
    build = [build_model(arch, WORDS, **SIZE) for _ in range(2)]
    for name in modules_of(build[0], lambda module: True):
        stock, ours = (copy.deepcopy(model) for model in build)
        expected = seen_by_hook(SequenceGenerator, stock, name)
        assert seen_by_hook(ELSequenceGenerator, enable_el_attention(ours, mode), name) == expected, name
