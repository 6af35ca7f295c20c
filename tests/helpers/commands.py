"""fairseq's commands, run as a user would, and what they print."""

import atexit
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ALL = "--required-batch-size-multiple 1"  # or else fairseq drops the sentences of an incomplete last batch
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
ENTRIES = {
    f"fairseq-{name.replace('_', '-')}": f"fairseq_cli.{name}"
    for name in ("train", "generate", "interactive", "validate", "eval_lm", "preprocess", "hydra_train")
}
# Importing fairseq takes longer than most of these commands, and so does what the first optimizer makes PyTorch import:
# one server imports both and forks a process for each command.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([*ENTRIES.values(), "torch._dynamo"])
BART = (  # these are tiny models
    "--arch bart_base --encoder-embed-dim 32 --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 "
    "--encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4"
)
LSTM = (
    "--arch lstm --encoder-embed-dim 32 --encoder-hidden-size 32 --decoder-embed-dim 32 "
    "--decoder-hidden-size 32 --decoder-out-embed-dim 32"
)
LM = (  # a size, for any architecture of transformer_lm
    "--decoder-layers 2 --decoder-embed-dim 32 --decoder-input-dim 32 --decoder-output-dim 32 "
    "--decoder-ffn-embed-dim 32 --decoder-attention-heads 4"
)
S2T = (
    "--arch s2t_transformer --encoder-embed-dim 32 --encoder-ffn-embed-dim 32 --encoder-layers 2 "
    "--encoder-attention-heads 2 --decoder-layers 2 --decoder-attention-heads 2 --conv-channels 32"
)
TIMEOUT = 300  # seconds
PYTHON_PATH = os.pathsep.join(str(ROOT / folder) for folder in ("", "tests", "scripts"))  # as pytest's
READ_DATA = ("fairseq-train", "fairseq-generate", "fairseq-interactive", "fairseq-validate", "fairseq-eval-lm")


def run(command, *arguments, stdin="", ok=True, cwd=ROOT, fresh=False):
    """Run a command; returns what it printed. Arguments are split at blanks, but for those in a list.

    ``fresh``: in a Python of its own, not in a fork.
    """
    parts = (argument if isinstance(argument, list) else str(argument).split() for argument in arguments)
    arguments = [str(part) for each in parts for part in each]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").write_text(stdin)
        with open(Path(folder) / "in") as source, open(Path(folder) / "out", "w+") as out:
            if fresh or command not in ENTRIES:
                whole = [BIN / command, *arguments]
                status = subprocess.run(
                    whole, stdin=source, stdout=out, stderr=subprocess.STDOUT, cwd=cwd, timeout=TIMEOUT
                ).returncode
            else:
                status = fork(command, arguments, source.name, out.name, cwd)
        output = (Path(folder) / "out").read_text()
    assert (status == 0) == ok, output[-8000:]
    return output


def run_module(name, *arguments, **options):
    """Run a module of tests/ or scripts/ in a Python of its own; options are ``subprocess.run``'s."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def fork(command, arguments, source, out, cwd):
    """Run one of ``ENTRIES`` in a fork, from and to the files ``source`` and ``out``; returns its exit status."""
    if command in READ_DATA:
        arguments = [*arguments, "--num-workers", "0"]  # a worker would import fairseq first
    process = SERVER.Process(target=_be_the_command, args=(command, arguments, str(source), str(out), str(cwd)))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _be_the_command(command, arguments, source, out, cwd):
    for path, flags, descriptor in ((source, os.O_RDONLY, 0), (out, os.O_WRONLY | os.O_APPEND, 1)):
        os.dup2(os.open(path, flags), descriptor)
    os.dup2(1, 2)
    sys.stdin = os.fdopen(0)  # multiprocessing has closed it
    torch.set_num_threads(1)  # these models are tiny
    os.chdir(cwd)
    sys.argv = [str(BIN / command), *arguments]
    try:
        sys.exit(import_module(ENTRIES[command]).cli_main())
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without them


def lines_of(output, kinds="STHDPA"):
    """The lines with results, in order."""
    return [line for line in output.splitlines() if re.match(f"[{kinds}]-[0-9]", line)]


def assert_same_output(actual, expected):
    """The same result lines; numbers may differ by what float32 leaves open."""
    actual, expected = lines_of(actual), lines_of(expected)
    assert [NUMBER.sub("#", line) for line in actual] == [NUMBER.sub("#", line) for line in expected]
    for ours, stocks in zip(actual, expected):
        pairs = list(zip(NUMBER.findall(ours), NUMBER.findall(stocks)))
        assert all(abs(float(our) - float(stock)) < 1e-3 for our, stock in pairs), (ours, stocks)


def generate(data, path, *options, **kwargs):
    """Both best hypotheses of every test sentence."""
    return run(
        "fairseq-generate",
        f"{data} --user-dir el_fairseq --path {path} --batch-size 16 --nbest 2 --max-len-b 20 {ALL}",
        *options,
        **kwargs,
    )


def train(data, save_dir, model, *more, until="--max-update 30"):
    """Train a translation model for moments; returns the log."""
    return run(
        "fairseq-train",
        f"{data} --user-dir el_fairseq --save-dir {save_dir} --optimizer adam --lr 0.005 --max-tokens 800 --seed 2",
        f"{until} --no-epoch-checkpoints --disable-validation --log-format simple --log-interval 5",
        model,
        *more,
    )
