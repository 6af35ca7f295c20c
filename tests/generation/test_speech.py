"""Speech models: features in, long encoder outputs, the encoder's own way of ordering them."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from helpers import assert_same_hypotheses, dictionary
from test_memory import MeasuredEnsemble

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.modules import ELMultiheadAttention

WORDS = dictionary(20)
FEATURES = 8


def build(arch="s2t_transformer", **options):
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


def sample(lengths):
    torch.manual_seed(2)
    features = torch.randn(len(lengths), max(lengths), FEATURES).double()
    net_input = {"src_tokens": features, "src_lengths": torch.tensor(lengths)}
    return {"id": torch.arange(len(lengths)), "net_input": {**net_input, "prev_output_tokens": None}}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("lengths", [[200, 141, 63, 20], [64, 64]], ids=["padded", "unpadded"])
@pytest.mark.parametrize("arch", ["s2t_transformer", "s2t_conformer"])
def test_speech_to_text_is_stocks_from_less_memory(arch, lengths, mode):
    model, options = build(arch), {"beam_size": 4, "max_len_b": 20}
    stock = SequenceGenerator(MeasuredEnsemble([model]), WORDS, **options)
    expected = stock.generate(None, sample(lengths))
    enable_el_attention(model, mode)
    assert sum(isinstance(module, ELMultiheadAttention) for module in model.modules()) == 4
    ours = ELSequenceGenerator([model], WORDS, **options)
    assert_same_hypotheses(ours.generate(None, sample(lengths)), expected)
    measured, stocks = ours.meter.peak
    assert stocks == stock.model.peak and measured < stocks
