"""The command line of generate_sharded.sh."""

import pytest
from sharding import options
from sharding.options import WrongOption, find_gpus, read_own, threads_for

BASE = ["data-bin", "--path", "model.pt", "--results-path", "results"]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_ours_and_fairseqs():
    settings = read_own([*BASE, "--num-shards=3", "--beam", "2", "--units", "7"])
    assert (settings.workers, settings.units, settings.max_requeues, settings.executor) == (3, 7, 3, "local")
    assert settings.arguments == ["data-bin", "--path", "model.pt", "--beam", "2"]


def test_slurm():
    more = "--executor slurm --partition p --time 30 --gpus-per-task 1 --mem-gb 8"
    settings = read_own([*BASE, "--num-shards", "4", *more.split()])
    assert settings.slurm == {"partition": "p", "time": 30, "gpus_per_task": 1, "mem_gb": 8}
    assert settings.gpus == [] and settings.workers == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "no GPU found: say with --num-shards N how many processes to run on the CPU"),
        ("--num-shards 0x2", "--num-shards 0x2: not a positive number"),
        ("--num-shards 0", "--num-shards 0: not a positive number"),
        ("--num-shards 2 --shard-id 0", "--shard-id is set by this script for each process; say --num-shards N"),
        ("--num-shards 2 --distributed-rank=0", "--distributed-rank is set by this script"),
        ("--num-shards 2 --quiet", "--quiet leaves nothing to merge"),
        ("--num-shards 2 --results-path=", "--results-path DIR is required"),
        ("--num-shards 2 --units 501", "--units 501: at most 500"),
        ("--num-shards 2 --max-requeues -1", "--max-requeues -1: not a number"),
        ("--num-shards 2 --time 5", "--time is for --executor slurm"),
        ("--num-shards 2 --gpus-per-task 0", "--gpus-per-task is for --executor slurm"),
        ("--executor slurm", "--executor slurm needs --num-shards N, the number of workers"),
        ("--num-shards 2 --executor slurm --time 1h", "--time 1h: not a positive number"),
        ("--num-shards 2 --executor slurm --partition a;b", "--partition 'a;b': not the name of one"),
    ],
)
def test_wrong_command_lines(arguments, message):
    with pytest.raises(WrongOption) as error:
        read_own([*BASE, *arguments.split()])
    assert message in str(error.value)


def test_gpus(tmp_path, monkeypatch):
    assert find_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,-1")
    assert find_gpus() == ["3", "5"]
    assert read_own(BASE).workers == 2
    assert read_own([*BASE, "--num-shards", "3"]).gpus == ["3", "5"]
    assert read_own([*BASE, "--num-shards", "1", "--cpu"]).gpus == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_gpus() == ["0", "1", "2", "3"]


def test_cores_are_divided(monkeypatch):
    monkeypatch.setattr(options.os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_for(workers) for workers in (1, 3, 20)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_for(4) == 5
