"""Small random speech models, and features for them."""

from argparse import Namespace
from types import SimpleNamespace

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

from .models import dictionary

WORDS = dictionary(20)
FEATURES = 8


def build_speech_model(arch="s2t_transformer", **options):
    sizes = {"encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_layers": 2, "decoder_layers": 2}
    heads = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "conv_channels": 16,
        "dropout": 0.0,
        "fp16": False,
    }
    args = Namespace(
        **{**sizes, **heads, "input_feat_per_channel": FEATURES, "input_channels": 1, "arch": arch, **options}
    )
    ARCH_CONFIG_REGISTRY[arch](args)
    args.max_source_positions = args.max_target_positions = 300
    torch.manual_seed(1)
    task = SimpleNamespace(source_dictionary=None, target_dictionary=WORDS)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def speech_batch(lengths):
    torch.manual_seed(2)
    features = torch.randn(len(lengths), max(lengths), FEATURES).double()
    net_input = {"src_tokens": features, "src_lengths": torch.tensor(lengths)}
    return {"id": torch.arange(len(lengths)), "net_input": {**net_input, "prev_output_tokens": None}}
