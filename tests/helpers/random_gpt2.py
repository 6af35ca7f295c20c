"""A small random GPT-2 with a byte-level vocabulary, and what it is called in fairseq."""

import json
import re

import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode

MERGES = ["t h", "th e", "Ġ the", "i n", "a n", "Ġ a", "ð Ł"]
TOKENS = [*bytes_to_unicode().values(), *("".join(merge.split()) for merge in MERGES), "<|endoftext|>"]
END = TOKENS.index("<|endoftext|>")
BOS, PAD, UNK = NEVER = [TOKENS.index(byte) for byte in "ÀÁõ"]  # what they are in fairseq
LINES = [TOKENS.index(byte) for byte in "Ċč"]
UNNAMED = 3  # rows of the embeddings that no token has
TEXT = ["the cat in the  hat", "an Äpfel, 日本語 and 😀🏳️‍🌈!", "x", "they're 1,234 \t things", "", "e\u0301 — ¿qué?"]
PROMPTS = ["the cat in the hat", "an Äpfel 日本", "x", "😀 they're 1,234"]
SIZES = {"vocab_size": len(TOKENS) + UNNAMED, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, "n_inner": 48}


def random_gpt2(hf, **options):
    """A model without a parameter that is zero or one; ``hf``: the classes of transformers."""
    options = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END, **SIZES, **options}
    model = hf.Model(hf.Config(**options)).eval()
    torch.manual_seed(6)  # its greedy output varies, and some of it ends
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            if re.search(r"ln_.*weight", name):
                parameter.add_(1)
        # hardly ever a new line or what no text has; the end now and then
        model.transformer.wte.weight[[*NEVER, *LINES, *range(len(TOKENS), model.config.vocab_size)]] *= 0.1
        model.transformer.ln_f.bias += model.transformer.wte.weight[END]
    return model


def write_vocabulary(folder):
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")


def in_fairseq(out):
    """The model, its task and ``{GPT-2's number: fairseq's}``."""
    (model,), _, task = load_model_ensemble_and_task([str(out / "model.pt")], arg_overrides={"data": str(out)})
    words = task.source_dictionary
    special = {BOS: words.bos(), PAD: words.pad(), END: words.eos(), UNK: words.unk()}
    numbers = {i: words.indices.get(str(i)) for i in range(len(words))}
    numbers.update(special)
    assert sorted(numbers.values()) == list(range(len(words)))
    return model.eval(), task, numbers


def random_tokens(rows, length, size, seed=0):
    """``[rows, length]`` numbers of GPT-2's below ``size``, without fairseq's padding."""
    tokens = torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(seed))
    return tokens.masked_fill(tokens == PAD, END)
