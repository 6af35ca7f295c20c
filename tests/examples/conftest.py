"""The scripts of the examples as modules; a random GPT-2, converted."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_gpt2 import END, NEVER, SIZES, TOKENS, random_gpt2, write_vocabulary

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def load():
    """``load("translation/prepare")``: that script, as a module."""

    def get(name):
        spec = importlib.util.spec_from_file_location(name.replace("/", "_"), EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return get


@pytest.fixture(scope="session")
def hf():
    """The classes of transformers, which takes any torchaudio for one that can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", None)
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
