"""What a checkpoint may hold: fairseq's data loads as it was saved, and nothing that is allowed runs code."""

import argparse
import ast
import collections
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fairseq
import numpy
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging import meters
from helpers.hostile import CODE, Reduced, save_pickle, touch

from el_fairseq.compat import load_checkpoint
from el_fairseq.plain_data import HARMLESS, evaluate

NUMBERS = ["f2", "f4", "f8", ">f8", "i1", "i8", "u4", "?", "c16"]


def round_trip(value, tmp_path, **options):
    torch.save({"value": value}, tmp_path / "model.pt", **options)
    return load_checkpoint(tmp_path / "model.pt")["value"]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_numpy_load(dtype, tmp_path):
    value = numpy.array([0, 1]).astype(dtype)[1]
    loaded = round_trip(value, tmp_path)
    assert loaded == value and type(loaded) is type(value)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (2, 3), "fortran"], ids=str)
def test_arrays_of_numbers_load_and_are_saved_as_before(dtype, shape, tmp_path):
    value = numpy.asfortranarray(numpy.ones((2, 3), dtype)) if shape == "fortran" else numpy.ones(shape, dtype)
    loaded = round_trip(value, tmp_path)
    assert numpy.array_equal(loaded, value) and loaded.shape == value.shape
    value = value.astype(value.dtype.newbyteorder("="), order="K")  # as numpy itself reads it
    assert pickle.dumps(loaded) == pickle.dumps(value) and type(pickle.loads(pickle.dumps(loaded, 5))) is numpy.ndarray
    assert torch.from_numpy(numpy.ones(3) + round_trip(numpy.ones(3), tmp_path)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("module", ["fairseq.meters", "fairseq.logging.meters"])
def test_meters_of_old_checkpoints_load(module, tmp_path, monkeypatch):
    average = meters.AverageMeter(round=3)
    average.update(2.5, 4)
    monkeypatch.setattr(meters.AverageMeter, "__module__", module)
    loaded = round_trip(collections.OrderedDict(train=average), tmp_path)
    assert f"{module}\nAverageMeter".encode() in (tmp_path / "model.pt").read_bytes()
    assert loaded["train"].avg == 2.5


def test_the_dictionary_in_the_state_of_audio_tasks_loads(tmp_path):
    words = Dictionary()
    words.add_symbol("word", n=3)
    loaded = round_trip({"target_dictionary": words}, tmp_path)["target_dictionary"]
    assert loaded == words and loaded.index("word") == words.index("word") and loaded.count == words.count


OBJECTS = numpy.dtype("O")
LIES = {  # what numpy believes, to read bytes as pointers
    "subarray of objects": ("f8", (3, "<", (OBJECTS, (1,)), None, None, 8, 8, 0)),
    "field of objects": ("V8", (3, "|", None, ("a",), {"a": (OBJECTS, 0)}, 8, 1, 0)),
    "flags": ("f8", (3, "<", None, None, None, 8, 8, 63)),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("holder", ["array", "number"])
def test_types_that_lie_are_refused_or_not_believed(lie, holder, tmp_path):
    code, state = LIES[lie]
    dtype = Reduced(numpy.dtype, code, False, True, state=state)
    reconstruct, scalar = numpy.zeros(0).__reduce__()[0], numpy.float64(0).__reduce__()[0]
    array = Reduced(reconstruct, numpy.ndarray, (0,), b"b", state=(1, (1,), dtype, False, bytes(8)))
    try:
        loaded = round_trip(array if holder == "array" else Reduced(scalar, dtype, bytes(8)), tmp_path)
    except pickle.UnpicklingError as error:
        assert "which is not a number" in str(error)
    else:
        assert loaded.dtype == numpy.float64 and loaded.sum() == 0


@pytest.mark.parametrize(
    "value",
    [
        numpy.array([None]),
        numpy.array(["text"]),
        numpy.zeros(1, dtype=[("a", "f8")]),
        numpy.datetime64("2020"),
        Reduced(numpy.zeros(0).__reduce__()[0], numpy.ndarray, (0,), b"b", state=(1, (1,), "O", False, [None])),
    ],
    ids=["objects", "text", "fields", "date", "type by name"],
)
def test_other_data_of_numpy_is_refused(value, tmp_path):
    with pytest.raises(pickle.UnpicklingError, match="which is not a number|not given as one of numbers"):
        round_trip(value, tmp_path)


def test_an_array_has_no_more_numbers_than_the_file(tmp_path):
    reconstruct = numpy.zeros(0).__reduce__()[0]
    for shape in [(10**6,), (2**32, 2**32), (-1,)]:
        state = (1, shape, numpy.dtype("f8"), False, bytes(8))
        with pytest.raises((pickle.UnpicklingError, MemoryError)):
            round_trip(Reduced(reconstruct, numpy.ndarray, (0,), b"b", state=state), tmp_path)


FUNCTIONS = [eval, exec, getattr, setattr, __import__, open, os.system, os.popen, subprocess.Popen, pickle.loads]
FUNCTIONS += [torch.load, torch.hub.load, numpy.load, fairseq.utils.eval_str_list, fairseq.utils.import_user_module]
NAMES = [f"{function.__module__}.{function.__qualname__}" for function in FUNCTIONS]


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
@pytest.mark.parametrize("how", ["call", "factory", "attribute"])
def test_functions_are_refused(function, how, tmp_path):
    value = {
        "call": Reduced(function, CODE.format(tmp_path / "ran")),
        "factory": collections.defaultdict(function),
        "attribute": fairseq.data.Dictionary(),
    }[how]
    if how == "attribute":
        value.indices = function
    with pytest.raises(pickle.UnpicklingError, match="refused: it holds"):
        round_trip(value, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_allowed_does_not_run_what_it_is_given(name, tmp_path):
    """Called with code, a path, a class and containers of them; then given a state of the same."""
    module, _, attribute = name.rpartition(".")
    code = CODE.format(tmp_path / "ran")
    fillings = [code, {code: code, "default_factory": code}, [code], meters.AverageMeter]
    for count, state in itertools.product(range(3), [(None, fillings[1]), (3, code, code)]):
        for arguments in itertools.product(fillings, repeat=count):
            parts = [pickle.dumps(part, 2)[2:-1] for part in (arguments, state)]
            pickled = f"c{module}\n{attribute}\n".encode() + parts[0] + b"R" + parts[1] + b"b"
            save_pickle(b"\x80\x02" + pickled + b".", tmp_path / "model.pt")
            try:
                str(load_checkpoint(tmp_path / "model.pt"))
            except Exception as error:
                assert "refused: it holds" not in str(error)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_class_cannot_be_changed(tmp_path):
    before = meters.AverageMeter.reset
    state = b"N}X\x05\x00\x00\x00resetcargparse\nNamespace\ns\x86"  # (None, {"reset": argparse.Namespace})
    pickled = b"\x80\x02cfairseq.logging.meters\nAverageMeter\n" + state + b"b."
    assert pickle.loads(pickled).reset is argparse.Namespace
    meters.AverageMeter.reset = before
    save_pickle(pickled, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError, match="Can only build"):
        load_checkpoint(tmp_path / "model.pt")
    assert meters.AverageMeter.reset is before


def test_names_that_are_put_together_in_the_file_are_refused(tmp_path):
    """A scan for GLOBAL does not see them."""
    command = f"touch {tmp_path}/ran".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    save_pickle(b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R.", tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError, match="Unsupported operand"):
        load_checkpoint(tmp_path / "model.pt")
    assert pickle.loads(b"\x80\x04\x8c\x05posix\x8c\x06system\x93.") is os.system and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "source",
    [
        "[(512, 10, 5)] + [(512, 3, 2)] * 4",  # options of models that fairseq evaluates
        "(0.9, 0.98)",
        " True",
        "None",
        "{'name': 'scaled_dot_product', 'dropout': 0.1, 'parts': {1, 2}}",
        "('kenlm.bin', 'lexicon.txt', 2, -1)",
        b"1e-6",
    ],
)
def test_options_that_are_data_are_evaluated(source):
    assert evaluate(source) == eval(source)


@pytest.mark.parametrize(
    "source",
    [
        CODE,
        f"  {CODE}",
        f"[1, {CODE}]",
        CODE.encode(),
        b"# coding: utf-7\n" + CODE.encode("utf-7"),
        f"f'{{{CODE}}}'".replace("'os'", "chr(1)"),
        "[0 for torch.load in [1]]",
        "(lambda: 1)",
        "(x := 1)",
        "torch.load",
        "torch",
        "args.__class__",
        "x[0]",
        "1 if 1 else x()",
        "[*x]",
    ],
    ids=str,
)
def test_options_that_are_code_are_refused(source):
    with pytest.raises((ValueError, SyntaxError)):
        evaluate(source, globals(), locals())


def test_other_values_are_what_they_are_for_eval():
    for value in (True, 1, None, [1], compile("1", "<code>", "eval")):
        with pytest.raises(TypeError):
            evaluate(value)
    assert fairseq.utils.eval_bool(True, default="default") == "default"


def test_every_module_of_fairseq_that_evaluates_finds_ours():
    found = set()
    for name, module in list(sys.modules.items()):
        path = str(getattr(module, "__file__", None))
        if name.startswith("fairseq.") and path.endswith(".py"):
            calls = [node.func for node in ast.walk(ast.parse(Path(path).read_text())) if isinstance(node, ast.Call)]
            called = {function.id for function in calls if isinstance(function, ast.Name)}
            assert "exec" not in called, name
            if "eval" in called:
                assert module.eval is evaluate, name
                found.add(name)
    assert {"fairseq.utils", "fairseq.models.transformer_lm", "fairseq.models.fconv"} < found and len(found) > 15


def test_touching_is_what_hostile_files_do(tmp_path):
    pickle.loads(pickle.dumps(touch(tmp_path / "ran")))
    eval(CODE.format(tmp_path / "evaluated"))
    assert sorted(os.listdir(tmp_path)) == ["evaluated", "ran"]
