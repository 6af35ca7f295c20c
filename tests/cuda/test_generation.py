"""Whole searches on a GPU: stock's hypotheses, whatever the dtype."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_close, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator, cuda_graph
from el_fairseq.generation.lossless import LosslessCheck

WORDS = dictionary(60)
WIDE = {  # enough for the kernels
    **{f"{part}_embed_dim": 128 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
}


class Task:
    """As much of a fairseq task as the check needs."""

    def build_generator(self, models, options):
        return SequenceGenerator(models, WORDS, **options)

    def inference_step(self, generator, models, sample, **kwargs):
        return generator.generate(models, sample, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_lossless(arch, mode, dtype, verified):
    model = build_model(arch, WORDS, seed=1, gain=1.5, dtype=dtype, **WIDE).cuda()
    model.make_generation_fast_(need_attn=False)
    search = {"beam_size": 4, "max_len_b": 40, "no_repeat_ngram_size": 3}
    check = LosslessCheck(Task(), [model], search, mode)
    for seed, lengths in enumerate(([70, 33, 9, 2], [5])):
        check.add(batch(WORDS, lengths, seed=seed, device="cuda"), prefix_tokens=None)
    assert check.result.sentences == 5
    assert not check.result.differences
    if dtype == torch.float32:
        assert check.result.identical == 5
        assert check.result.positional_drift < 1e-3
    else:
        assert verified and all(verified.values())


@pytest.mark.parametrize("mode", ["auto", "on"])
@torch.no_grad()
def test_steps_are_captured(mode, caplog):
    """Over more steps than a past has room for, with sentences that leave, in a second batch too."""
    model = build_model("transformer", WORDS, seed=1, gain=1.5, dtype=torch.float32, **WIDE).cuda()
    options = {"beam_size": 4, "max_len_a": 3, "max_len_b": 100}
    samples = [batch(WORDS, lengths, seed=len(lengths), device="cuda") for lengths in ([30, 12, 9, 2, 17], [15, 21])]
    expected = [SequenceGenerator([model], WORDS, **options).cuda().generate([model], sample) for sample in samples]
    enable_el_attention(model, mode)
    generator = ELSequenceGenerator([model], WORDS, **options).cuda()
    for sample, stocks in zip(samples, expected):
        ours = generator.generate([model], sample)
        for our, stock in zip(ours, stocks):
            assert our[0]["tokens"].tolist() == stock[0]["tokens"].tolist()
            assert_close(our[0]["positional_scores"], stock[0]["positional_scores"], 1e-3)
    assert cuda_graph.verified[model.decoder][1], caplog.text
