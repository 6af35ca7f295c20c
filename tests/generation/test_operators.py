"""How many operators a step of beam search is: a number without noise, which stands for the time of small models."""

from collections import Counter

import pytest
import torch
from helpers.models import build_model, dictionary
from torch.utils._python_dispatch import TorchDispatchMode

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.internals import has_packed_products

A_LAYER, BESIDES = {"auto": 32, "on": 88}, {"auto": 60, "on": 56}  # at most
SHORT, LONG = 6, 14  # tokens of a hypothesis: neither has room in a cache to make


class Operators(TorchDispatchMode):
    """Counts them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators_a_step(layers, mode):
    """For one sentence and beam 5, after the first steps of a batch."""
    words = dictionary(9000)
    widths = dict.fromkeys(("decoder_embed_dim", "encoder_embed_dim", "decoder_ffn_embed_dim"), 512)
    widths.update(encoder_ffn_embed_dim=512, decoder_attention_heads=4)
    model = build_model("transformer", words, torch.float32, decoder_layers=layers, **widths)
    source = torch.tensor([[10, 11, 12, 13, 14, words.eos()]])
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([6]), "prev_output_tokens": source}
    sample, counts = {"id": torch.arange(1), "net_input": net_input}, Counter()
    for length in (SHORT, LONG):
        options = {"beam_size": 5, "max_len_b": length, "min_len": length}
        generator = ELSequenceGenerator([enable_el_attention(model, mode)], words, **options)
        generator.generate([model], sample)  # packs the weights
        with Operators() as seen:
            generator.generate([model], sample)
        counts[length] = seen.count
    return (counts[LONG] - counts[SHORT]) / (LONG - SHORT)


@pytest.mark.skipif(not has_packed_products(), reason="PyTorch without oneDNN's packed products")
@pytest.mark.parametrize("mode", A_LAYER)
def test_a_step_has_few_operators(mode):
    one, three = operators_a_step(1, mode), operators_a_step(3, mode)
    layer = (three - one) / 2
    assert layer <= A_LAYER[mode]
    assert one - layer <= BESIDES[mode]
