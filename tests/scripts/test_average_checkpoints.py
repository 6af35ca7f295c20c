"""The average of checkpoints: its numbers, what it keeps, what it refuses, and that nothing half-written is left."""

import argparse
from collections import OrderedDict

import average_checkpoints
import pytest
import torch
from helpers.hostile import touch

from el_fairseq.compat import load_checkpoint


def write(path, model, **more):
    torch.save({"args": argparse.Namespace(arch="transformer"), "cfg": None, "model": model, **more}, path)
    return path


def average(folder, *models):
    """What the command writes for checkpoints with these models."""
    paths = [str(write(folder / f"{number}.pt", model)) for number, model in enumerate(models)]
    average_checkpoints.main(["--inputs", *paths, "--output", str(folder / "average.pt")])
    return load_checkpoint(folder / "average.pt")["model"]


def stopped(capsys, *arguments):
    """What the command says when it stops with an error."""
    with pytest.raises(SystemExit) as stop:
        average_checkpoints.main([str(argument) for argument in arguments])
    return f"{stop.value.code} {capsys.readouterr().err}"


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mean_is_that_of_exact_arithmetic(dtype, tmp_path):
    values = [torch.randn(50, dtype=dtype) for _ in range(7)]
    mean = average(tmp_path, *({"weight": value} for value in values))["weight"]
    assert mean.dtype is torch.promote_types(dtype, torch.float32)
    exact = torch.stack([value.to(torch.complex128) for value in values]).mean(0)
    exact = (exact if dtype.is_complex else exact.real).to(mean.dtype)
    torch.testing.assert_close(mean, exact, rtol=torch.finfo(mean.dtype).eps, atol=1e-15)


def test_large_and_small_numbers_do_not_swallow_each_other(tmp_path):
    values = [3e7, 1.0, -3e7, 1.0]
    assert average(tmp_path, *({"weight": torch.tensor([value])} for value in values))["weight"].item() == 0.5
    half = [{"weight": torch.tensor([60000.0]).half()}] * 3
    assert average(tmp_path, *half)["weight"].item() == 60000


def test_the_rest_is_the_first_checkpoints(tmp_path):
    first = OrderedDict(steps=torch.tensor(7), mask=torch.tensor([True]), weight=torch.tensor([1.0]), note="text")
    mean = average(tmp_path, first, OrderedDict(first, steps=torch.tensor(9), weight=torch.tensor([3.0])))
    assert list(mean) == list(first) and type(mean) is OrderedDict and mean["steps"] == 7 and mean["note"] == "text"
    assert mean["weight"].item() == 2 and mean["mask"].dtype is torch.bool
    assert load_checkpoint(tmp_path / "average.pt")["args"].arch == "transformer"


def test_what_is_tied_in_all_stays_tied(tmp_path):
    tied, other = torch.ones(1000), torch.zeros(1000)
    mean = average(tmp_path, {"a": tied, "b": tied, "c": tied}, {"a": other, "b": other, "c": other + 1})
    assert mean["a"].data_ptr() == mean["b"].data_ptr() != mean["c"].data_ptr()
    assert mean["a"].unique().item() == 0.5 and mean["c"].unique().item() == 1


def test_parts_of_one_tensor_are_not_tied(tmp_path):
    whole = torch.arange(6.0)
    mean = average(tmp_path, {"a": whole[:3], "b": whole[3:], "c": whole.view(2, 3)})
    assert mean["a"].tolist() == [0, 1, 2] and mean["b"].tolist() == [3, 4, 5] and mean["c"].shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--num-epoch-checkpoints", "2"], 10.5),
        (["--num-epoch-checkpoints", "2", "--checkpoint-upper-bound", "10"], 9.5),
        (["--num-update-checkpoints", "3"], 200),
        (["--num-update-checkpoints", "1", "--checkpoint-upper-bound", "299"], 200),
    ],
    ids=["epochs", "epochs up to", "updates", "updates up to"],
)
def test_the_last_checkpoints_of_a_folder_by_number(options, expected, tmp_path):
    numbers = {f"checkpoint{epoch}.pt": epoch for epoch in (2, 9, 10, 11)}
    numbers |= {f"checkpoint_{update // 100}_{update}.pt": update for update in (100, 200, 300)}
    for name, number in {**numbers, "checkpoint_best.pt": 1e6, "checkpoint12.pt.part": 1e6}.items():
        write(tmp_path / name, {"weight": torch.tensor(float(number))}, number=number)
    average_checkpoints.main(["--inputs", str(tmp_path), *options, "--output", str(tmp_path / "checkpoint_best.pt")])
    averaged = load_checkpoint(tmp_path / "checkpoint_best.pt")
    assert averaged["model"]["weight"] == expected and averaged["number"] > expected - 1


def test_progress_and_what_was_written(tmp_path, capsys):
    average(tmp_path, {"a": torch.ones(1000), "b": torch.ones(3)}, {"a": torch.ones(1000), "b": torch.ones(3)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"1/2 {tmp_path}/0.pt", f"2/2 {tmp_path}/1.pt"]
    assert lines[2:] == [f"{tmp_path}/average.pt: the mean of 2 checkpoints, 1,003 numbers"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"weight": torch.ones(2)}, "1.pt: not the model of the first checkpoint: it lacks bias"),
        (
            {"weight": torch.ones(2), "bias": torch.ones(1), "extra": torch.ones(1)},
            "1.pt: not the model of the first checkpoint: it also has extra",
        ),
        ({"weight": torch.ones(3), "bias": torch.ones(1)}, "1.pt: weight is [3], in the first checkpoint [2]"),
        (None, "1.pt: no checkpoint of fairseq (it has no 'model')"),
    ],
    ids=["lacks", "has more", "shape", "no model"],
)
def test_other_models_are_refused(second, message, tmp_path, capsys):
    write(tmp_path / "0.pt", {"weight": torch.ones(2), "bias": torch.ones(1)})
    write(tmp_path / "1.pt", second)
    said = stopped(capsys, "--inputs", tmp_path / "0.pt", tmp_path / "1.pt", "--output", tmp_path / "average.pt")
    assert message in said and not (tmp_path / "average.pt").exists()


def test_code_is_refused_and_nothing_is_written(tmp_path, capsys):
    write(tmp_path / "0.pt", {"weight": torch.ones(2)}, extra=touch(tmp_path / "ran"))
    said = stopped(capsys, "--inputs", tmp_path / "0.pt", "--output", tmp_path / "average.pt")
    assert said.startswith(f"el_fairseq: checkpoint {tmp_path}/0.pt: refused: it holds posix.system")
    assert [path.name for path in tmp_path.iterdir()] == ["0.pt"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write(tmp_path / "0.pt", {"weight": torch.ones(2)})
    (tmp_path / "average.pt").write_text("old")

    def fill_the_disk(_state, path):
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        average_checkpoints.main(["--inputs", str(tmp_path / "0.pt"), "--output", str(tmp_path / "average.pt")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pt", "average.pt"]
    assert (tmp_path / "average.pt").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--inputs none.pt folder", "--inputs: no such file: none.pt, folder (for a folder give --num-epoch"),
        ("--inputs folder --num-epoch-checkpoints 0", "0 checkpoints: the number has to be 1 or more"),
        ("--inputs folder --num-update-checkpoints -1", "-1 checkpoints: the number has to be 1 or more"),
        ("--inputs folder --num-epoch-checkpoints 1", "folder: 1 checkpoints asked for, 0 there (checkpoint"),
        (
            "--inputs folder --num-epoch-checkpoints 1 --checkpoint-upper-bound 5",
            "folder: 1 checkpoints asked for, 0 there up to 5",
        ),
        ("--inputs none --num-epoch-checkpoints 1", "need --inputs FOLDER, one that is there"),
        ("--inputs folder folder --num-update-checkpoints 1", "need --inputs FOLDER, one that is there"),
        ("--inputs 0.pt --checkpoint-upper-bound 5", "--checkpoint-upper-bound needs --num-epoch-checkpoints"),
        ("--inputs folder --num-epoch-checkpoints 1 --num-update-checkpoints 1", "not allowed with argument"),
        ("--inputs 0.pt --output none/average.pt", "--output none/average.pt: has to be a file in a folder"),
        ("--inputs 0.pt --output folder", "--output folder: has to be a file in a folder"),
    ],
)
def test_wrong_command_lines_say_what_to_do(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "0.pt", {"weight": torch.ones(2)})
    (tmp_path / "folder").mkdir()
    assert message in stopped(capsys, "--output", "average.pt", *arguments.split())


def test_one_checkpoint_is_in_memory_at_a_time(tmp_path, monkeypatch):
    alive = []

    class Counted(dict):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.append(self["number"])

        def __del__(self):
            alive.remove(self["number"])

    def load(path):
        assert set(alive) <= {0}  # the first one has the settings
        return Counted(load_checkpoint(path))

    monkeypatch.setattr(average_checkpoints, "load_checkpoint", load)
    paths = [write(tmp_path / f"{number}.pt", {"w": torch.ones(1)}, number=number) for number in range(4)]
    assert average_checkpoints.average(paths)["number"] == 0
