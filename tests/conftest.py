"""Fixtures for all tests."""

import logging
import random

import interpreted
import numpy
import pytest
import torch
from helpers.commands import run
from helpers.models import compute_in_float64

import el_fairseq

torch.set_num_threads(1)  # the models are tiny: threads would wait for each other


def pytest_addoption(parser):
    parser.addoption("--slurm", action="store_true", help="also run the tests that start a SLURM")
    parser.addoption("--long", action="store_true", help="also run the tests that take longest")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("slurm") and not config.getoption("--slurm"):
            item.add_marker(pytest.mark.skip(reason="starts a SLURM: --slurm"))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes long, and shows what other tests show in part: --long"))
    # Files that run commands come first: at the end the processes share what is short.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def log_levels():
    """Scripts set the level of this package's log."""
    logger = logging.getLogger("el_fairseq")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def float64(monkeypatch):
    compute_in_float64(monkeypatch)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])])
def device(request):
    return torch.device(request.param)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Binarised toy data: reverse a line of letters."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    for split, size in (("train", 2000), ("test", 60)):
        rows = [[rng.choice("abcdefgh") for _ in range(rng.randint(1, 12))] for _ in range(size)]
        (folder / f"{split}.src").write_text("".join(" ".join(row) + "\n" for row in rows))
        (folder / f"{split}.tgt").write_text("".join(" ".join(reversed(row)) + "\n" for row in rows))
    options = f"-s src -t tgt --trainpref {folder}/train --validpref {folder}/test --testpref {folder}/test"
    run("fairseq-preprocess", options, f"--joined-dictionary --destdir {folder}/bin")
    return folder / "bin"


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Binarised toy text: the alphabet from anywhere on."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    for split, size in (("train", 400), ("valid", 40), ("test", 40)):
        starts = [rng.randrange(8) for _ in range(size)]
        lines = [" ".join("abcdefgh"[(start + i) % 8] for i in range(rng.randint(4, 14))) for start in starts]
        (folder / split).write_text("".join(line + "\n" for line in lines))
    parts = " ".join(f"--{part}pref {folder}/{part}" for part in ("train", "valid", "test"))
    run("fairseq-preprocess", f"--only-source {parts} --destdir {folder}/bin")
    return folder / "bin"


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """Random features, much longer than their transcripts, as the manifest of a speech corpus lists them."""
    folder = tmp_path_factory.mktemp("speech")
    rng, noise = random.Random(0), numpy.random.default_rng(0)
    (folder / "config.yaml").write_text("input_channels: 1\ninput_feat_per_channel: 8\nvocab_filename: dict.txt\n")
    (folder / "dict.txt").write_text("".join(f"{letter} 1\n" for letter in "abcdefgh"))
    for split, size in (("train", 40), ("test", 20)):
        rows = ["id\taudio\tn_frames\ttgt_text\tspeaker"]
        for i in range(size):
            frames = rng.randint(40, 200)
            path = folder / f"{split}{i}.npy"
            numpy.save(path, noise.standard_normal((frames, 8), dtype=numpy.float32))
            rows.append(f"{path.stem}\t{path}\t{frames}\t{' '.join(rng.choices('abcdefgh', k=6))}\ts")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder
