"""The same command goes on; one of another checkpoint, data or options is refused, by name. In this process, without
workers: what they have done is there."""

import pytest
from helpers.sharded_work import BATCHES, MERGED, printed_of
from sharding import driver
from sharding.manifest import OtherGeneration, write_or_compare
from sharding.options import read_fairseq
from sharding.units import Plan, Work

COMMAND = "--user-dir el_fairseq --task el_translation --num-shards 2 --units 4"


class NoWorkers:
    def __init__(self, *arguments):
        self.started = []

    def start(self, names):
        raise AssertionError(f"workers were started: {names}")

    def stop(self):
        pass


@pytest.fixture
def generation(tmp_path, monkeypatch):
    """Runs the command in a folder where all units are done; returns its exit status."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(driver, "LocalWorkers", NoWorkers)
    (tmp_path / "bin").mkdir()
    for name in ("test.src-tgt.src.bin", "dict.src.txt", "train.src-tgt.src.bin", "a.pt", "b.pt"):
        (tmp_path / ("" if name.endswith(".pt") else "bin") / name).write_text(name)

    def run(more=""):
        files = f"{tmp_path}/bin --path {tmp_path}/a.pt:{tmp_path}/b.pt --results-path {tmp_path}/out"
        return driver.main(f"{files} {COMMAND} {more}".split())

    with pytest.raises(AssertionError, match="workers were started"):
        run()
    work = Work(tmp_path / "out/generate-test.units")
    work.propose(Plan.cut(BATCHES, 7, 4))
    for unit in range(4):
        work.finish(unit, printed_of(work, unit))
    return run


def test_the_same_goes_on(generation, tmp_path, capsys):
    assert generation() == 0
    assert (tmp_path / "out/generate-test.txt").read_bytes() == MERGED.encode()
    assert "7 sentences of 2 shards in 0 s: " in capsys.readouterr().out
    (tmp_path / "bin/train.src-tgt.src.bin").write_text("what generation does not read")
    assert generation("--num-shards 3 --max-requeues 1 --log-interval 7 --num-workers 0") == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ("a.pt", "checkpoint a.pt has changed"),
        ("bin/test.src-tgt.src.bin", "data file test.src-tgt.src.bin has changed"),
        ("bin/test.src-tgt.src.idx", "data file test.src-tgt.src.idx is new"),
        ("bin/dict.src.txt", "data file dict.src.txt has changed"),
        ("--beam 4", "--beam was 5, now 4"),
        ("--el-attention off", "--el-attention was auto, now off"),
        ("--units 3", "--units was 4, now 3"),
        ("--seed 3", "--seed was 1, now 3"),
    ],
)
def test_another_generation_is_refused_by_name(generation, tmp_path, capsys, change, message):
    assert generation() == 0
    if not change.startswith("--"):
        (tmp_path / change).write_text("another")
    assert generation(change if change.startswith("--") else "") == 1
    said = capsys.readouterr().err
    assert f"{message}" in said and "Give another --results-path, or remove that folder to lose them" in said
    assert (tmp_path / "out/generate-test.txt").read_bytes() == MERGED.encode()  # it is still what it says


def test_a_new_checkpoint_is_fine_before_a_unit_is_done(generation, tmp_path):
    folder = tmp_path / "out/generate-test.units"
    for unit in folder.glob("unit-*.txt"):
        unit.unlink()
    (tmp_path / "a.pt").write_text("repaired")
    (tmp_path / "out/generate-test.txt").write_text("of another time")
    with pytest.raises(AssertionError, match="workers were started"):
        generation()
    assert not (folder / "plan.npz").exists() and not (tmp_path / "out/generate-test.txt").exists()


def test_a_damaged_unit_leaves_the_merged_file_of_before(generation, tmp_path, capsys):
    assert generation() == 0
    unit = tmp_path / "out/generate-test.units/unit-0002.txt"
    unit.write_text("damaged")
    assert generation() == 1
    assert f"{unit} is damaged: remove it, and run the same command again" in capsys.readouterr().err


def test_an_option_that_is_new_or_gone(tmp_path):
    write_or_compare(tmp_path / "manifest.json", {"options": {"old": 1}, "files": {"path": {"x.pt": "1"}}})
    with pytest.raises(
        OtherGeneration, match="--new was not given, now 2; --old was 1, now not given; .*x.pt is missing"
    ):
        write_or_compare(tmp_path / "manifest.json", {"options": {"new": 2}, "files": {"path": {}}})


@pytest.mark.parametrize(
    "path, message", [("", "--path MODEL.pt is required"), ("--path no.pt", "--path no.pt: no such")]
)
def test_a_checkpoint_that_is_not_there(tmp_path, monkeypatch, capsys, path, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert driver.main(f"{tmp_path} --results-path {tmp_path}/out {COMMAND} {path}".split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_elsewhere(tmp_path, monkeypatch, capsys):
    (tmp_path / "model.pt").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    more = f"--path {tmp_path}/model.pt --gen-subset test/../../../elsewhere"
    assert driver.main(f"{tmp_path} --results-path {tmp_path}/out {COMMAND} {more}".split()) == 2
    assert "--gen-subset test/../../../elsewhere: results would not be below --results-path" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_incomplete_last_batches_are_kept_unless_asked():
    assert read_fairseq(["x"]).required_batch_size_multiple == 1
    assert read_fairseq(["x", "--required-batch-size-multiple", "4"]).required_batch_size_multiple == 4
