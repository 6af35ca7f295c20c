"""The scripts of the examples as modules and as commands; a random GPT-2, converted."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from multiprocessing.connection import Client, Listener
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import BIN, ENTRIES, ROOT, fork
from helpers.random_gpt2 import END, NEVER, SIZES, TOKENS, random_gpt2, write_vocabulary

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STAND_IN = """#!{python} -ES
import sys
from multiprocessing.connection import Client
with Client({address!r}) as server:
    server.send((sys.argv[0].rpartition("/")[2], sys.argv[1:]))
    status, output = server.recv()
print(output, end="")
sys.exit(status)
"""


@pytest.fixture(scope="session")
def load():
    """``load("translation/prepare")``: that script, as a module."""

    def get(name):
        spec = importlib.util.spec_from_file_location(f"examples.{name.replace('/', '.')}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return get


@pytest.fixture
def shell(tmp_path):
    """``shell("language_modeling/compare.sh", *arguments)``: run a script; returns what it prints.

    It has to fail where ``ok`` is False. It runs in copies of examples/ and scripts/ whose environment.sh installs
    nothing. fairseq's commands are forks of the process that has imported it.
    """
    for folder in ("examples", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / "copy" / folder)
    bin_folder, address = tmp_path / "copy/bin", str(tmp_path / "socket")
    bin_folder.mkdir()
    for name in ENTRIES:
        (bin_folder / name).write_text(STAND_IN.format(python=sys.executable, address=address))
        (bin_folder / name).chmod(0o755)
    environment = f'set -euo pipefail\ncd "{ROOT}"\nexport PATH="{bin_folder}:{BIN}:$PATH"\n'
    (tmp_path / "copy/scripts/environment.sh").write_text(environment)
    with Listener(address) as listener:
        threading.Thread(target=_serve, args=(listener, tmp_path / "output"), daemon=True).start()

        def run_script(script, *arguments, ok=True):
            command = ["bash", tmp_path / "copy/examples" / script, *map(str, arguments)]
            both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            done = subprocess.run(command, **both, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
            assert (done.returncode == 0) == ok, done.stdout[-8000:]
            return done.stdout

        yield run_script
        with Client(address) as client:
            client.send((None, []))


def _serve(listener, output):
    """Run the commands that the stand-ins ask for, until None is asked for."""
    while True:
        with listener.accept() as client:
            command, arguments = client.recv()
            if command is None:
                return
            output.write_text("")
            client.send((fork(command, arguments, os.devnull, output, ROOT), output.read_text()))


@pytest.fixture(scope="session")
def hf():
    """The classes of transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
    from transformers.activations import ACT2FN

    return SimpleNamespace(Config=GPT2Config, Model=GPT2LMHeadModel, Tokenizer=GPT2Tokenizer, activations=ACT2FN)


@pytest.fixture(scope="session")
def convert(load):
    """``convert(folder, out)``: the script's ``main``; returns ``out``."""
    script = load("language_modeling/convert_hf_gpt2")

    def run_script(folder, out):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["convert_hf_gpt2.py", str(folder), str(out)])
            script.main()
        return out

    return run_script


@pytest.fixture(scope="session")
def gpt2(hf):
    return random_gpt2(hf)


@pytest.fixture(scope="session")
def folder(gpt2, tmp_path_factory):
    """The model as a download of it looks: safetensors, vocab.json, merges.txt."""
    folder = tmp_path_factory.mktemp("hf")
    gpt2.save_pretrained(folder)
    write_vocabulary(folder)
    return folder


@pytest.fixture(scope="session")
def converted(folder, convert, tmp_path_factory):
    return convert(folder, tmp_path_factory.mktemp("converted") / "out")


@pytest.fixture(scope="session")
def bpe(converted):
    """The options of ``--bpe gpt2``."""
    return {"gpt2_encoder_json": str(converted / "vocab.json"), "gpt2_vocab_bpe": str(converted / "merges.txt")}


@pytest.fixture(scope="session")
def tokenizer(hf, folder):
    return hf.Tokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="session")
def continue_in_hf(gpt2):
    """``(prompt, new, may_end) -> tokens``: the prompt and transformers' greedy continuation."""

    @functools.cache
    def continue_(prompt, new, may_end=True):
        start = torch.tensor([[END, *prompt]])
        options = {"do_sample": False, "max_new_tokens": new, "suppress_tokens": None if may_end else [END]}
        tokens = gpt2.generate(start, attention_mask=torch.ones_like(start), **options)[0, 1:].tolist()
        assert not {*NEVER, *range(len(TOKENS), SIZES["vocab_size"])} & set(tokens[len(prompt) :])
        return tokens

    return continue_


@pytest.fixture(scope="session")
def text_in_hf(continue_in_hf, tokenizer):
    """``prompt -> text``: with ten tokens more, or up to the end."""

    def continue_(prompt):
        ids = continue_in_hf(tuple(tokenizer(prompt).input_ids), 10)
        return tokenizer.decode([token for token in ids if token != END])

    return continue_
