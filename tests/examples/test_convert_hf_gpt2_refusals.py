"""What the script that converts GPT-2 refuses, and what it says."""

import json
import re

import pytest
import torch
from helpers.random_gpt2 import SIZES, TOKENS, write_vocabulary


@pytest.mark.parametrize(
    "option, value",
    [
        ("model_type", "gpt_neo"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("activation_function", "silu"),
    ],
)
def test_other_functions_are_refused(option, value, folder, load, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, option: value}))
    with pytest.raises(ValueError, match=f"config.json: {option} is {value!r}; "):
        load("language_modeling/convert_hf_gpt2").read_config(tmp_path)


def test_options_that_config_json_leaves_out(folder, load, tmp_path):
    config = {"model_type": "gpt2", **{name: SIZES[name] for name in SIZES if name != "n_inner"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    script = load("language_modeling/convert_hf_gpt2")
    assert script.read_config(tmp_path) == {**config, "activation_function": "gelu_new"}
    for missing in ("model_type", "n_head"):
        (tmp_path / "config.json").write_text(json.dumps({name: config[name] for name in config if name != missing}))
        with pytest.raises(ValueError, match=missing):
            script.read_config(tmp_path)


@pytest.mark.parametrize("token", ["À", "Á", "<|endoftext|>", "õ"])
def test_a_vocabulary_without_a_special_token_is_refused(token, load):
    vocabulary = {other: i for i, other in enumerate(TOKENS) if other != token}
    with pytest.raises(ValueError, match=re.escape(f"no {token!r}")):
        load("language_modeling/convert_hf_gpt2").order_of(vocabulary, len(TOKENS))


def test_numbers_beyond_the_model_and_twice_are_refused(load):
    order_of = load("language_modeling/convert_hf_gpt2").order_of
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    for wrong in ({"a": 0}, {"more": len(TOKENS)}):
        with pytest.raises(ValueError, match=f"vocab_size, {len(TOKENS)}"):
            order_of({**vocabulary, **wrong}, len(TOKENS))


@pytest.mark.parametrize(
    "part, option, value",
    [("model", "type", "Unigram"), ("pre_tokenizer", "add_prefix_space", True), ("", "normalizer", {"type": "NFC"})],
)
def test_other_tokenizers_are_refused(part, option, value, tokenizer, load, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    (settings[part] if part else settings)[option] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=re.escape(f"{option} is {value!r}")):
        load("language_modeling/convert_hf_gpt2").read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors: tensors.pop("h.2.mlp.c_fc.bias"), "the weights have no h.2.mlp.c_fc.bias"),
        (lambda tensors: tensors.update({"h.3.ln_1.bias": torch.zeros(32)}), r"3 layers .*\['h.3.ln_1.bias'\]"),
        (
            lambda tensors: tensors.update({"wpe.weight": torch.zeros(9, 32)}),
            r"embed_positions.*\(11, 32\); .*\(34, 32\)",
        ),
        (lambda tensors: tensors.update({"wte.weight": torch.zeros(264, 32)}), "wte.weight has 264 rows, .* 267"),
    ],
    ids=["missing", "left over", "shape", "rows"],
)
def test_weights_that_do_not_fit(change, message, folder, gpt2, convert, tmp_path):
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in gpt2.state_dict().items()}
    change(tensors)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    write_vocabulary(tmp_path)
    with pytest.raises(SystemExit, match=message):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_files_are_named(folder, convert, tmp_path, capsys):
    for file, missing in (
        ("config.json", "config.json does not exist"),
        ("vocab.json", "neither vocab.json and merges.txt nor tokenizer.json"),
        ("merges.txt", "neither vocab.json and merges.txt nor tokenizer.json"),
        ("model.safetensors", "neither model.safetensors nor pytorch_model.bin"),
    ):
        with pytest.raises(SystemExit, match=missing):
            convert(tmp_path, tmp_path / "out")
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    with pytest.raises(SystemExit):
        convert(tmp_path, tmp_path)
    assert "would be overwritten" in capsys.readouterr().err
