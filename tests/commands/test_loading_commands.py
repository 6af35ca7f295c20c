"""fairseq's commands and checkpoints: real ones load, hostile ones are refused, averages generate."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.commands import ALL, ROOT, assert_same_output, generate, lines_of, run, train
from helpers.hostile import ASKS_FOR_EVERYTHING, CODE, touch

from el_fairseq.compat import load_checkpoint

PLUGIN_AND_LAST_MAIN = f"import el_fairseq\n{ASKS_FOR_EVERYTHING}"
pytestmark = pytest.mark.slow
TINY = "--arch transformer_tiny --share-all-embeddings"
SHORT = "--batch-size 60 --beam 1 --max-len-b 5"
EL = "--task el_translation --beam 3"
REFUSED = r"el_fairseq: checkpoint \S+evil.pt: refused: it holds posix.system, which is not plain data"


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """A folder with checkpoints of updates 10, 20 and 30, and ``checkpoint_last.pt``."""
    folder = tmp_path_factory.mktemp("trained")
    train(data, folder, TINY, "--save-interval-updates 10 --store-ema --ema-decay 0.9")
    return folder


@pytest.fixture
def evil(trained, tmp_path):
    """A checkpoint that touches ``tmp_path/ran`` when it is loaded as anything."""
    torch.save(
        {**load_checkpoint(trained / "checkpoint_last.pt"), "extra": touch(tmp_path / "ran")}, tmp_path / "evil.pt"
    )
    return tmp_path / "evil.pt"


def user_dir(folder, code):
    (folder / "user_dir").mkdir()
    (folder / "user_dir/__init__.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}")
    return f"--user-dir {folder}/user_dir"


COMMANDS = {
    "generate, el_ task": ("generate", f"{EL} --path {{evil}}"),
    "generate, stock task": ("generate", "--task translation --path {evil}"),
    "a language model for fusion": ("generate", f"{EL} --path {{good}} --lm-path {{evil}}"),
    "validate": ("validate", "--task el_translation --path {evil} --valid-subset test"),
    "restore": ("train", "--restore-file {evil}"),
    "fine-tune": ("train", "--finetune-from-model {evil}"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_hostile_checkpoints_are_refused_though_fairseq_asks_for_them(name, data, trained, evil, tmp_path):
    command, options = COMMANDS[name]
    options = options.format(evil=evil, good=trained / "checkpoint_last.pt")
    options += f" --batch-size 16 {user_dir(tmp_path, PLUGIN_AND_LAST_MAIN)}"
    if command == "train":
        options += f" {TINY} --optimizer adam --lr 0.005 --max-update 40 --save-dir {tmp_path}/save"
    output = run(f"fairseq-{command}", data, options, ok=False)
    assert re.search(REFUSED, output.strip().splitlines()[-1]) and not lines_of(output)
    assert not (tmp_path / "ran").exists()


def test_without_the_plugin_they_are_not(data, evil, tmp_path):
    run("fairseq-generate", data, user_dir(tmp_path, ASKS_FOR_EVERYTHING), f"--path {evil} {SHORT}")
    assert (tmp_path / "ran").exists()


def last_main(command, *arguments, **kwargs):
    return run("python", "tests/helpers/last_main.py", command, *arguments, "--user-dir el_fairseq", **kwargs)


def test_with_the_sources_of_fairseqs_last_main(data, trained, evil, tmp_path):
    options = f"{data} {SHORT} --path"
    output = last_main("generate", f"{options} {evil} --task el_translation", ok=False)
    assert re.search(REFUSED, output.strip().splitlines()[-1]) and not (tmp_path / "ran").exists()
    run("python", "tests/helpers/last_main.py", "generate", f"{options} {evil}")  # without the plugin
    assert (tmp_path / "ran").exists()


@pytest.mark.long
def test_training_resumes_with_the_sources_of_fairseqs_last_main(data, trained, tmp_path):
    options = f"{TINY} --optimizer adam --lr 0.005 --max-tokens 800 --max-update 32 --disable-validation"
    output = last_main("train", data, f"{options} --restore-file {trained}/checkpoint_last.pt --save-dir {tmp_path}")
    assert re.search(r"Loaded checkpoint \S+checkpoint_last.pt \(epoch \d @ 30 updates\)", output)
    state = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 32


def test_two_processes_resume(data, trained, tmp_path):
    """One reads the checkpoint and sends it to the other, through ``torch.save`` and ``torch.load``."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = (
        f"{TINY} --optimizer adam --lr 0.005 --max-tokens 800 --max-update 32 --disable-validation --cpu "
        f"--restore-file {trained}/checkpoint_last.pt --reset-dataloader --save-dir {tmp_path} "
        f"{user_dir(tmp_path, PLUGIN_AND_LAST_MAIN)} --distributed-world-size 2 --distributed-no-spawn "
        f"--distributed-backend gloo --ddp-backend legacy_ddp --distributed-init-method tcp://localhost:{port}"
    )
    with ThreadPoolExecutor() as pool:
        ranks = [pool.submit(run, "fairseq-train", data, f"{options} --distributed-rank {rank}") for rank in range(2)]
    assert "done training" in ranks[0].result() and ranks[1].result()
    assert load_checkpoint(tmp_path / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 32


def test_an_option_that_is_code_is_refused(data, trained, tmp_path):
    """All of it is plain data; fairseq evaluates the option when it builds the model."""
    state = load_checkpoint(trained / "checkpoint_last.pt")
    state["cfg"]["model"].adaptive_softmax_cutoff = CODE.format(tmp_path / "ran")
    torch.save(state, tmp_path / "evil.pt")
    output = generate(data, tmp_path / "evil.pt", EL, ok=False)
    assert "ValueError: el_fairseq: refused: fairseq would run the option \"__import__('os')" in output
    assert not (tmp_path / "ran").exists()
    without = user_dir(tmp_path, ASKS_FOR_EVERYTHING)
    run("fairseq-generate", data, f"{without} {SHORT} --path {tmp_path}/evil.pt", ok=False)
    assert (tmp_path / "ran").exists()


def test_a_truncated_checkpoint_is_called_truncated(data, trained, tmp_path):
    whole = (trained / "checkpoint_last.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    last = generate(data, tmp_path / "half.pt", EL, ok=False).strip().splitlines()[-1]
    assert f"el_fairseq: checkpoint {tmp_path}/half.pt: truncated, damaged, or no checkpoint" in last


def test_the_documented_way_to_allow_a_class_allows_it(data, trained, tmp_path):
    page = (ROOT / "docs/compatibility.md").read_text()
    snippet = re.search(r"```python\n((?:(?!```).)*add_safe_globals.*?)```", page, re.S)[1]
    (tmp_path / "my_package.py").write_text("class Settings:\n    def __init__(self):\n        self.depth = 3\n")
    make = f"import sys, torch; sys.path.insert(0, {str(tmp_path)!r}); from my_package import Settings\n"
    make += f"state = torch.load({str(trained / 'checkpoint_last.pt')!r}, weights_only=False)\n"
    (tmp_path / "make.py").write_text(make + f"torch.save({{**state, 'settings': Settings()}}, '{tmp_path}/own.pt')")
    run("python", tmp_path / "make.py")
    refused = generate(data, tmp_path / "own.pt", EL, ok=False)
    assert "refused: it holds my_package.Settings, which is not plain data" in refused
    options = f"{user_dir(tmp_path, snippet)} --batch-size 16 {EL} --nbest 2 --max-len-b 20 {ALL} --path"
    own = run("fairseq-generate", data, f"{options} {tmp_path}/own.pt")
    assert_same_output(own, generate(data, trained / "checkpoint_last.pt", EL))
    assert "decoder state: peak" in own


def test_an_average_generates_as_a_checkpoint(data, trained, tmp_path):
    average = f"--inputs {trained} --num-update-checkpoints 2 --output {tmp_path}/average.pt"
    output = run("python", "scripts/average_checkpoints.py", average)
    paths = re.findall(rf"[12]/2 ({trained}/checkpoint_\d_\d0\.pt)\n", output)
    assert len(paths) == 2 and "the mean of 2 checkpoints" in output
    states = [load_checkpoint(path)["model"] for path in paths]
    mean = load_checkpoint(tmp_path / "average.pt")["model"]
    for name, value in mean.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    expected = generate(data, tmp_path / "average.pt", "--task translation --beam 3")
    assert len(lines_of(expected, "H")) == 120
    assert_same_output(generate(data, tmp_path / "average.pt", EL, "--el-attention on"), expected)
