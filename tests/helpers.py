"""Small random models, batches and comparisons."""

import random
from argparse import Namespace
from types import SimpleNamespace

import torch
from fairseq.data import Dictionary, data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def assert_close(actual, expected, tolerance=None):
    """Equal within the tolerance of the dtype, absolutely and relatively; NaN and infinity have to agree."""
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance, check_dtype=False)


def dictionary(size):
    """A dictionary of ``size`` types, the special ones included."""
    words = Dictionary()
    for i in range(size - len(words)):
        words.add_symbol(f"w{i}")
    return words


def build_model(arch, words, dtype=torch.float64, seed=0, gain=1.0, **options):
    """A random, small model of ``arch`` in evaluation mode; ``gain`` > 1 makes its distributions peaked."""
    small = {"encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    args = Namespace(
        **{**small, **heads, "dropout": 0.0, "arch": arch, "task": "translation", "criterion": None, **options}
    )
    ARCH_CONFIG_REGISTRY[arch](args)
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    torch.manual_seed(seed)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases are zero in a new model; a test that never sees one proves nothing about it.
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            else:
                parameter.mul_(gain)
    return model


def batch(words, lengths, seed=0, left_pad=True, device="cpu"):
    """A batch of random sources with these lengths (end-of-sentence included), as a fairseq sample."""
    rng = random.Random(seed)
    low = words.nspecial
    sources = [torch.tensor([rng.randrange(low, len(words)) for _ in range(n - 1)] + [words.eos()]) for n in lengths]
    tokens = data_utils.collate_tokens(sources, words.pad(), words.eos(), left_pad=left_pad).to(device)
    lengths = torch.tensor(lengths, device=device)
    net_input = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": tokens}
    return {"id": torch.arange(len(sources), device=device), "net_input": net_input, "target": None}


def assert_same_hypotheses(actual, expected, tolerance=1e-9):
    """The same hypotheses in the same order: tokens identical, all scores and attentions within the tolerance."""
    assert [len(hypos) for hypos in actual] == [len(hypos) for hypos in expected]
    for sentence, (ours, stocks) in enumerate(zip(actual, expected)):
        for rank, (our, stock) in enumerate(zip(ours, stocks)):
            where = f"sentence {sentence}, hypothesis {rank}"
            assert our["tokens"].tolist() == stock["tokens"].tolist(), where
            assert our.keys() == stock.keys(), where
            for key in ("score", "positional_scores"):
                assert_close(our[key].double(), stock[key].double(), tolerance)
            # fairseq records attention in float32
            assert_close(our["attention"], stock["attention"], max(tolerance, 1e-7))
            assert our["tokens"].device.type == "cpu", where
