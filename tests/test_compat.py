"""Loading checkpoints: what is harmless loads, everything else is refused in plain words."""

import argparse
import collections
import subprocess
import sys

import numpy
import omegaconf
import pytest
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from fairseq.logging import meters

from el_fairseq.compat import _checkpoint_in, load_hint


class Custom:
    """Harmless in fact, but nobody can know that."""


def meter():
    average = meters.AverageMeter(round=3)
    average.update(2.5, 4)
    return average


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(arch="transformer", lr=[0.1]),
        omegaconf.OmegaConf.create({"model": {"_name": "transformer", "layers": [1, 2]}, "seed": 1}),
        numpy.float64(3.5),
        numpy.float32(0.5),
        collections.OrderedDict(train=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_real_checkpoints_hold_loads(value, tmp_path):
    torch.save({"model": {}, "extra": value}, tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt")["extra"] == value


def test_arrays_of_counts_load_and_arrays_of_objects_do_not(tmp_path):
    counts = numpy.array([3, 1, 4])
    torch.save({"counts": counts}, tmp_path / "model.pt")
    assert numpy.array_equal(torch.load(tmp_path / "model.pt")["counts"], counts)
    torch.save({"counts": numpy.array([Custom()])}, tmp_path / "model.pt")
    with pytest.raises(Exception, match="ObjectDType|Custom"):
        torch.load(tmp_path / "model.pt")


@pytest.mark.parametrize("module", ["fairseq.meters", "fairseq.logging.meters"])
def test_meters_of_old_checkpoints_load(module, tmp_path, monkeypatch):
    monkeypatch.setattr(meters.AverageMeter, "__module__", module)
    torch.save({"train_meters": meter()}, tmp_path / "model.pt")
    assert f"{module}\nAverageMeter".encode() in (tmp_path / "model.pt").read_bytes()
    assert torch.load(tmp_path / "model.pt")["train_meters"].avg == 2.5


def test_anything_else_is_refused_and_named(tmp_path):
    torch.save({"model": Custom()}, tmp_path / "model.pt")
    with pytest.raises(Exception, match="Custom") as refused:
        torch.load(tmp_path / "model.pt")
    assert load_hint(refused.value).startswith(f"refused: it holds {Custom.__module__}.Custom, which is not plain data")


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "torch < 1.6"])
def test_truncated_files_are_called_truncated(share, zipped, tmp_path):
    torch.save({"model": torch.zeros(1000)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: int(len(whole) * share)])
    try:
        load_checkpoint_to_cpu(str(tmp_path / "model.pt"))
    except Exception as error:
        assert _checkpoint_in(error.__traceback__) == str(tmp_path / "model.pt")
        assert load_hint(error).startswith("truncated, damaged, or no checkpoint at all")
    else:
        pytest.fail("it loaded")


def test_a_missing_file_gets_no_hint(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        load_checkpoint_to_cpu(str(tmp_path / "none.pt"))
    assert _checkpoint_in(missing.value.__traceback__) is None


def test_other_errors_get_no_hint():
    done = subprocess.run([sys.executable, "-c", "import el_fairseq; 1 / 0"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1] == "ZeroDivisionError: division by zero"
