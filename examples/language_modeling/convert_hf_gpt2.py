#!/usr/bin/env python3
"""A GPT-2 of Hugging Face's transformers as a fairseq language model: checkpoint, dictionary, BPE.

Reads a local folder: config.json; model.safetensors or pytorch_model.bin; vocab.json and merges.txt, or tokenizer.json.
Nothing is fetched from the network, and transformers itself is not needed.

The probabilities are those of GPT-2, over its very vocabulary. Four of its tokens are fairseq's special symbols: </s>
is <|endoftext|>, and <s>, <pad>, <unk> are the bytes C0, C1 and F5, which no UTF-8 text contains. All other tokens are
named by their numbers, as --bpe gpt2 expects.
"""

import argparse
import json
import re
import shlex
import warnings
from pathlib import Path

import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from omegaconf import OmegaConf

SPECIAL = {
    "<s>": "À",
    "<pad>": "Á",
    "</s>": "<|endoftext|>",
    "<unk>": "õ",
}  # in fairseq's order, as vocab.json spells them
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# Options that change what the model computes: fairseq's transformer_lm has this value and no other. (The option
# reorder_and_upcast_attn is not among them: in float32 it changes nothing.)
FIXED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
TANH_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate")
ACTIVATIONS = {**dict.fromkeys(TANH_GELU, "gelu_accurate"), "gelu": "gelu", "relu": "relu", "tanh": "tanh"}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # causal masks that old versions stored
LAYER = {  # a module of fairseq's layer: GPT-2's
    "self_attn_layer_norm": "ln_1",
    "self_attn.out_proj": "attn.c_proj",
    "final_layer_norm": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def read_config(folder):
    """``config.json`` of a GPT-2; ValueError for one that fairseq's model cannot compute."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; HF-FOLDER is a folder that save_pretrained wrote")
    config = json.loads(path.read_text(encoding="utf-8"))
    for option, value in FIXED.items():
        if config.get(option, None if option == "model_type" else value) != value:
            raise ValueError(f"{path}: {option} is {config.get(option)!r}; only {value!r} can be converted")
    activation = config.setdefault("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{path}: activation_function is {activation!r}; fairseq has {', '.join(ACTIVATIONS)}")
    missing = [size for size in SIZES if size not in config]
    if missing:
        raise ValueError(f"{path} does not say {', '.join(missing)}")
    return config


def read_vocabulary(folder):
    """``{token: number}`` and the merges, a line each; from tokenizer.json where the older two files are not there."""
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        return vocabulary, [line for line in lines if line and not line.startswith("#version")]
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} has neither vocab.json and merges.txt nor tokenizer.json")
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    model, splitter = tokenizer["model"], {"use_regex": True, **(tokenizer["pre_tokenizer"] or {})}
    ours = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    settings = [("model.type", model["type"], "BPE"), ("normalizer", tokenizer["normalizer"], None)]
    settings += [(f"pre_tokenizer.{key}", splitter.get(key), ours[key]) for key in ours]
    for option, value, wanted in settings:
        if value != wanted:
            raise ValueError(f"{path}: {option} is {value!r}; fairseq's --bpe gpt2 has {wanted!r}")
    letters = bytes_to_unicode()
    added = {"".join(letters[b] for b in token["content"].encode()): token["id"] for token in tokenizer["added_tokens"]}
    return {**added, **model["vocab"]}, [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def order_of(vocabulary, size):
    """The numbers of GPT-2's tokens in the order of fairseq's dictionary: the special ones first."""
    numbers = set(vocabulary.values())
    if len(numbers) < len(vocabulary) or not numbers <= set(range(size)):
        raise ValueError(f"the vocabulary's numbers are not different ones below config.json's vocab_size, {size}")
    for symbol, token in SPECIAL.items():
        if token not in vocabulary:
            raise ValueError(f"the vocabulary has no {token!r}, which is to be fairseq's {symbol}")
    special = [vocabulary[token] for token in SPECIAL.values()]
    return special + [number for number in range(size) if number not in special]


def read_weights(folder):
    """``{GPT-2's name: tensor}`` in float32, from one file or from the parts that an index lists."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            files = [folder / name]
        elif index.exists():
            files = [folder / part for part in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        else:
            continue
        tensors = {key: tensor for file in files for key, tensor in read_tensors(file).items()}
        return {key.removeprefix("transformer."): tensor.float() for key, tensor in tensors.items()}
    raise FileNotFoundError(f"{folder} has neither {' nor '.join(WEIGHTS)} (nor their .index.json)")


def read_tensors(file):
    if file.suffix == ".bin":
        return torch.load(file, map_location="cpu", weights_only=True)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{file} needs safetensors: pip install -c constraints.txt '.[gpt2]'") from error
    return load_file(file)


def convert(weights, config, order):
    """fairseq's ``state_dict``; takes what it uses out of ``weights``. ValueError if anything is missing or left."""

    def take(name):
        if name not in weights:
            raise ValueError(f"the weights have no {name}")
        return weights.pop(name)

    words, positions = take("wte.weight"), take("wpe.weight")
    tied = config.get("tie_word_embeddings", True)
    out = words if tied else take("lm_head.weight")
    for name, tensor in (("wte.weight", words), ("lm_head.weight", out)):
        if len(tensor) != len(order):
            raise ValueError(f"{name} has {len(tensor)} rows, and config.json's vocab_size is {len(order)}")
    state = {
        "decoder.version": torch.tensor([3.0]),
        "decoder.embed_tokens.weight": words[order],
        # fairseq counts positions from 2: one row is unused, one is for padding
        "decoder.embed_positions.weight": torch.cat([positions.new_zeros(2, positions.size(1)), positions]),
    }
    state["decoder.output_projection.weight"] = state["decoder.embed_tokens.weight"] if tied else out[order]
    for kind in ("weight", "bias"):
        state[f"decoder.layer_norm.{kind}"] = take(f"ln_f.{kind}")
        for i in range(config["n_layer"]):
            # GPT-2 keeps the weights of its projections transposed
            for name, theirs in LAYER.items():
                state[f"decoder.layers.{i}.{name}.{kind}"] = take(f"h.{i}.{theirs}.{kind}").t().contiguous()
            for name, part in zip("qkv", take(f"h.{i}.attn.c_attn.{kind}").t().chunk(3)):
                state[f"decoder.layers.{i}.self_attn.{name}_proj.{kind}"] = part.clone()
    left = [name for name in weights if not NOT_WEIGHTS.fullmatch(name) and not (tied and name == "lm_head.weight")]
    if left:
        raise ValueError(
            f"the weights have tensors that a language model of {config['n_layer']} layers has not: {left}"
        )
    return state


def configuration(config, out):
    """What fairseq-train would save as its configuration for this model."""
    width, positions = config["n_embd"], config["n_positions"]
    given = {
        "task": "language_modeling",
        "tokens-per-sample": positions,
        "max-target-positions": positions,
        "arch": "transformer_lm_gpt",
        "decoder-embed-dim": width,
        "decoder-ffn-embed-dim": config.get("n_inner") or 4 * width,
        "decoder-layers": config["n_layer"],
        "decoder-attention-heads": config["n_head"],
        "activation-fn": ACTIVATIONS[config["activation_function"]],
        "dropout": config.get("resid_pdrop", 0.1),
        "attention-dropout": config.get("attn_pdrop", 0.1),
    }
    flags = ["--decoder-learned-pos", "--no-scale-embedding"]
    if config.get("tie_word_embeddings", True):
        flags.append("--share-decoder-input-output-embed")
    words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
    args = options.parse_args_and_arch(options.get_training_parser(), [str(out), *words, *flags])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # today's Hydra, about fairseq's use of it
        return convert_namespace_to_omegaconf(args)


def check_shapes(state, cfg, dictionary):
    """ValueError if ``state`` is not that of the model of ``cfg``; else its number of parameters."""
    with torch.device("meta"):
        model = LanguageModelingTask(cfg.task, dictionary).build_model(cfg.model)
    for name, tensor in model.state_dict().items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} would be {tuple(state[name].shape)}; config.json makes it {tuple(tensor.shape)}")
    unused = 2 * model.decoder.embed_dim  # fairseq's two rows of positions
    return sum(parameter.numel() for parameter in model.parameters()) - unused


def save(out, state, cfg, dictionary, vocabulary, merges):
    """Write the folder: model.pt as fairseq-train would, of plain containers; dict.txt; the two files of the BPE."""
    out.mkdir(parents=True, exist_ok=True)
    training = {"criterion_name": None, "optimizer_name": None, "lr_scheduler_state": {}, "num_updates": 0}
    checkpoint = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": state,
        "criterion": None,
        "optimizer_history": [training],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(checkpoint, out / "model.pt")
    dictionary.save(str(out / "dict.txt"))
    # --bpe gpt2 reads vocab.json in the locale's encoding (this is ASCII), stops at a number that has no token, and
    # takes the first line of merges.txt for a header whether it is one or not
    named = set(vocabulary.values())
    unnamed = {f"<|{number}|>": number for number in range(len(dictionary)) if number not in named}
    (out / "vocab.json").write_text(json.dumps({**unnamed, **vocabulary}))
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="HF-FOLDER", type=Path, help="what save_pretrained wrote, or a download")
    parser.add_argument("out", metavar="OUT-FOLDER", type=Path, help="gets model.pt, dict.txt, vocab.json, merges.txt")
    args = parser.parse_args()
    if args.out.resolve() == args.folder.resolve():
        parser.error("OUT-FOLDER is HF-FOLDER, whose vocab.json would be overwritten")
    try:
        config = read_config(args.folder)
        vocabulary, merges = read_vocabulary(args.folder)
        order = order_of(vocabulary, config["vocab_size"])
        dictionary = Dictionary()
        for number in order[len(SPECIAL) :]:
            dictionary.add_symbol(str(number))
        cfg = configuration(config, args.out)
        state = convert(read_weights(args.folder), config, order)
        parameters = check_shapes(state, cfg, dictionary)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    save(args.out, state, cfg, dictionary, vocabulary, merges)
    out = shlex.quote(str(args.out))
    print(f"fairseq-interactive {out} --user-dir el_fairseq --task el_language_modeling --path {out}/model.pt \\")
    print(f"    --bpe gpt2 --gpt2-encoder-json {out}/vocab.json --gpt2-vocab-bpe {out}/merges.txt \\")
    print("    --beam 1 --max-len-a 1 --max-len-b 50")
    print(f"wrote {args.out}: {parameters:,} parameters, {config['n_layer']} layers, {len(order):,} tokens")


if __name__ == "__main__":
    main()
