"""Small random models, batches and comparisons."""

import copy
import random
from argparse import Namespace
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from bench.dictionary import dictionary as dictionary
from fairseq import utils
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.modules import MultiheadAttention

from el_fairseq.convert.attentions import attentions_of
from el_fairseq.convert.shared_source import unshare_beams
from el_fairseq.generation import next_token
from el_fairseq.modules.shared_kv_attention import SharedKVAttention

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def compute_in_float64(patch):
    """Real float64: fairseq computes each softmax in float32 whatever the model's dtype, here it follows the input.

    patch: a ``pytest.MonkeyPatch``.
    """
    patch.setattr(utils, "softmax", lambda x, dim, onnx_trace=False: F.softmax(x, dim=dim))
    patch.setattr(utils, "log_softmax", lambda x, dim, onnx_trace=False: F.log_softmax(x, dim=dim))
    patch.setattr(next_token, "LOG_SOFTMAX_DTYPE", torch.float64)


def assert_close(actual, expected, tolerance=None):
    """Equal within the tolerance of the dtype, absolutely and relatively; NaN and infinity have to agree."""
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance, check_dtype=False)


def build_model(arch, words, dtype=torch.float64, seed=0, gain=1.0, **options):
    """A random, small model of ``arch`` in evaluation mode; ``gain`` > 1 makes its distributions peaked."""
    small = {"encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    args = Namespace(
        **{**small, **heads, "dropout": 0.0, "arch": arch, "task": "translation", "criterion": None, **options}
    )
    ARCH_CONFIG_REGISTRY[arch](args)
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words, max_positions=lambda: (1024, 1024))
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


def written_out(attention):
    """The stock attention that a variant is a case of: shared projections repeated, head embeddings multiplied in."""
    width, heads, d = attention.embed_dim, attention.num_heads, attention.head_dim
    kinds = ("self_attention", "encoder_decoder_attention")
    options = {kind: getattr(attention, kind) for kind in kinds}
    options.update(kdim=attention.kdim, vdim=attention.vdim, dropout=attention.dropout_module.p)
    stock = MultiheadAttention(width, heads, **options).to(attention.q_proj.weight)
    with torch.no_grad():
        for part in "qkv":
            projection = getattr(attention, f"{part}_proj")
            weight, bias = projection.weight, projection.bias
            if weight.size(0) == d:
                weight, bias = weight.repeat(heads, 1), bias.repeat(heads)
            if attention.variant.startswith("mhe"):
                embed = getattr(attention, f"{part}_head_embed").flatten()
                scale, shift = (1 + embed, 0) if attention.variant == "mhe-mul" else (torch.ones_like(embed), embed)
                weight, bias = weight * scale.unsqueeze(1), bias * scale + shift
            getattr(stock, f"{part}_proj").weight.copy_(weight)
            getattr(stock, f"{part}_proj").bias.copy_(bias)
        # where there is a single head, all of stock's give the same context, and the first is read
        stock.out_proj.weight.zero_()[:, : attention.out_proj.in_features].copy_(attention.out_proj.weight)
        stock.out_proj.bias.copy_(attention.out_proj.bias)
    return stock.train(attention.training)


def write_out(model):
    """The stock model that computes what ``model``, of an ``mhe_`` architecture, computes."""
    twin = copy.deepcopy(model)
    for each in attentions_of(twin.modules()):
        if isinstance(each.module, SharedKVAttention):
            setattr(each.layer, each.name, written_out(each.module))
    if hasattr(twin, "encoder"):
        unshare_beams(twin.encoder)
    return twin


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
