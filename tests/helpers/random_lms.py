"""Small random language models and prompts."""

import random
from types import SimpleNamespace

import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

SIZES = {"decoder_layers": 1, "decoder_embed_dim": 16, "decoder_ffn_embed_dim": 24, "decoder_attention_heads": 2}


def build_lm(words, arch="transformer_lm", seed=0, gain=2.0, **options):
    """A random language model in float64 and evaluation mode; ``gain`` > 1 makes its distributions peaked."""
    sizes = {**SIZES, **options}
    width = sizes["decoder_embed_dim"]
    sizes.update(decoder_input_dim=width, decoder_output_dim=width, tokens_per_sample=64, max_target_positions=64)
    config = {"_name": arch, "add_bos_token": False, "tpu": False, "dropout": 0.0, **sizes}
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    torch.manual_seed(seed)
    model = build_model(OmegaConf.create({"model": config}).model, task).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3) if name.endswith("bias") else parameter.mul_(gain)
    return model


def random_prompts(rng, words, lengths):
    """Prefixes of these lengths, padded on the right as the task pads them, ``[B, longest]``."""
    prompts = torch.full((len(lengths), max(lengths)), words.pad())
    for row, length in zip(prompts, lengths):
        for place in range(length):
            row[place] = rng.choice([words.unk(), *range(words.nspecial, len(words))])
    return prompts


def prompt_batch(words, lengths, seed=0):
    """A batch of random prompts of these lengths, as a fairseq sample."""
    tokens = random_prompts(random.Random(seed), words, lengths)
    net_input = {"src_tokens": tokens, "src_lengths": torch.tensor(lengths)}
    return {"id": torch.arange(len(lengths)), "net_input": net_input}
