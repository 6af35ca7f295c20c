"""Loading through fairseq: data loads, anything else is refused in plain words, and nobody else's loading changes."""

import argparse
import importlib
import inspect
import io
import pickle
import threading
import types
from pathlib import Path

import numpy
import omegaconf
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.checkpoint_utils import load_checkpoint_to_cpu, load_ema_from_checkpoint
from fairseq.models.transformer import TransformerModel
from helpers.hostile import ask_for_everything, touch

from el_fairseq import compat
from el_fairseq.compat import load_checkpoint

REFUSED = r"^el_fairseq: checkpoint .*: refused: it holds posix\.system, which is not plain data"


class Custom:
    """Harmless in fact, but nobody can know that."""


@pytest.fixture
def allowed():
    """What torch allows without a test; it is all again after it."""
    before = torch.serialization.get_safe_globals()
    yield set(before)
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def module_of_fairseq(code):
    """A module of fairseq that is imported now, as ``examples`` and plugins are."""
    module = types.ModuleType("fairseq.imported_later")
    exec(code, module.__dict__)
    return module


LATER = module_of_fairseq("import torch as th\ndef load(f, **options): return th.load(f, **options)")
LOADERS = {
    "checkpoint": load_checkpoint_to_cpu,
    "EMA": load_ema_from_checkpoint,
    "pretrained component": lambda path: checkpoint_utils.load_pretrained_component_from_model(None, path),
    "ensemble": lambda path: checkpoint_utils.load_model_ensemble([path]),
    "hub": lambda path: TransformerModel.from_pretrained(*path.rsplit("/", 1)),
    "imported later": LATER.load,
    "memory-mapped": lambda path: LATER.load(path, mmap=True),
    "in memory": lambda path: LATER.load(io.BytesIO(Path(path).read_bytes())),
    "ours": load_checkpoint,
}
LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize("options", [{}, LEGACY, {"pickle_protocol": 4}], ids=["zip", "torch < 1.6", "protocol 4"])
@pytest.mark.parametrize("loader", LOADERS)
def test_code_is_refused_though_fairseq_asks_for_it(loader, options, tmp_path, monkeypatch):
    torch.save({"model": {}, "extra_state": touch(tmp_path / "ran")}, tmp_path / "model.pt", **options)
    ask_for_everything(monkeypatch)
    with pytest.raises(Exception, match=f"{REFUSED}|Unsupported operand|mmap can only be used"):
        LOADERS[loader](str(tmp_path / "model.pt"))
    assert not (tmp_path / "ran").exists()


def test_torchs_own_switch_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"extra": touch(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError, match=REFUSED):
        load_checkpoint_to_cpu(str(tmp_path / "model.pt"))
    assert not (tmp_path / "ran").exists()


def test_the_loading_of_other_code_stays_as_it_is(tmp_path):
    """The second half shows that the file of the other tests does run its code."""
    torch.save(argparse.Namespace(arch="transformer"), tmp_path / "arguments.pt")
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global: GLOBAL argparse.Namespace"):
        torch.load(tmp_path / "arguments.pt", weights_only=True)
    assert torch.load(tmp_path / "arguments.pt", weights_only=False).arch == "transformer"
    torch.save(touch(tmp_path / "ran"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_torch_load_looks_as_it_did():
    assert pickle.loads(pickle.dumps(torch.load)) is torch.load  # workers of a data loader get it so
    assert inspect.signature(torch.load) == inspect.signature(torch.serialization.load)


def test_a_second_import_changes_nothing(monkeypatch):
    before = torch.load
    importlib.reload(compat).guard_loading()
    assert torch.load is before


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(arch="transformer", lr=[0.1]),
        omegaconf.OmegaConf.create({"model": {"_name": "transformer", "layers": [1, 2]}, "seed": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_real_checkpoints_hold_loads(value, tmp_path):
    torch.save({"model": {}, "extra": value}, tmp_path / "model.pt")
    assert load_checkpoint(tmp_path / "model.pt")["extra"] == value


def test_anything_else_is_refused_and_named_until_its_class_is_allowed(tmp_path, allowed):
    torch.save({"model": Custom()}, tmp_path / "model.pt")
    refused = f"refused: it holds {Custom.__module__}.Custom, which is not plain data"
    with pytest.raises(pickle.UnpicklingError, match=refused):
        load_checkpoint(tmp_path / "model.pt")
    torch.serialization.add_safe_globals([Custom])
    assert isinstance(load_checkpoint(tmp_path / "model.pt")["model"], Custom)


def test_what_is_allowed_elsewhere_is_as_before_after_a_load_and_a_refusal(tmp_path, allowed):
    torch.save({"model": {}, "args": argparse.Namespace()}, tmp_path / "model.pt")
    torch.save({"model": Custom()}, tmp_path / "refused.pt")
    load_checkpoint(tmp_path / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == allowed
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "refused.pt")
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_what_other_code_allows_meanwhile_stays_allowed(tmp_path, allowed):
    torch.save({"model": torch.zeros(1)}, tmp_path / "model.pt")

    def import_something(storage, _location):
        torch.serialization.add_safe_globals([Custom])
        return storage

    LATER.load(tmp_path / "model.pt", map_location=import_something)
    assert set(torch.serialization.get_safe_globals()) == {*allowed, Custom}


def test_ours_stand_for_numpys_also_where_those_are_allowed(tmp_path, allowed):
    torch.save({"model": numpy.arange(3)}, tmp_path / "model.pt")
    names = [numpy.ndarray, numpy.dtype, numpy.core.multiarray._reconstruct, type(numpy.dtype(int))]
    torch.serialization.add_safe_globals(names)
    assert load_checkpoint(tmp_path / "model.pt")["model"].tolist() == [0, 1, 2]
    assert type(torch.load(tmp_path / "model.pt", weights_only=True)["model"]) is numpy.ndarray
    assert set(torch.serialization.get_safe_globals()) == {*allowed, *names}


def test_threads_load_at_once(tmp_path):
    torch.save({"model": {}, "args": argparse.Namespace(lr=[0.1])}, tmp_path / "model.pt")
    loaded = []

    def load_often():
        for _ in range(30):
            loaded.append(load_checkpoint(tmp_path / "model.pt")["args"].lr)

    threads = [threading.Thread(target=load_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [[0.1]] * 120


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "torch < 1.6"])
def test_truncated_files_are_called_truncated(share, zipped, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(pickle.UnpicklingError) as error:
        load_checkpoint_to_cpu(str(path))
    assert str(error.value).startswith(f"el_fairseq: checkpoint {path}: truncated, damaged, or no checkpoint at all (")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint_to_cpu(str(tmp_path / "none.pt"))
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")
