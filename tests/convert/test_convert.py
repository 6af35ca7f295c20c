"""Models converted in place, and back."""

import copy
import logging
import pickle

import pytest
import torch
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.convert.el_attention import use_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.modules import ELMultiheadAttention

WORDS = dictionary(12)
SAMPLE = batch(WORDS, [12, 7, 5, 3])
PEAKED = {"seed": 1, "gain": 2.0}
OUTSIDE = {  # what EL-attention does not cover, with the options its architecture needs
    "lstm": {"encoder_hidden_size": 16, "decoder_hidden_size": 16},
    "transformer with cross-self-attention": {"cross_self_attention": True, "no_cross_attention": True},
    "lightconv": {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in [("conv_dim", 16), ("conv_type", "lightweight"), ("kernel_size_list", [3, 3]), ("glu", True)]
    },
}
OUTSIDE["lightconv"].update(weight_softmax=True, weight_dropout=0.0, input_dropout=0.0)


def attentions(model):
    return [type(module) for module in model.decoder.modules() if isinstance(module, MultiheadAttention)]


def generate(models, cls=SequenceGenerator, **options):
    return cls(models, WORDS, **{"beam_size": 4, "max_len_b": 20, **options}).generate(None, SAMPLE)


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_parameters_and_state_dict_stay_as_they_are(arch):
    model = build_model(arch, WORDS)
    names, parameters = list(model.state_dict()), list(model.parameters())
    enable_el_attention(model, "on")
    assert attentions(model) == [ELMultiheadAttention] * 4
    assert list(model.state_dict()) == names
    assert all(after is before for after, before in zip(model.parameters(), parameters))
    model.load_state_dict(build_model(arch, WORDS, seed=5).state_dict())
    disable_el_attention(model)
    assert attentions(model) == [MultiheadAttention] * 4
    assert all(after is before for after, before in zip(model.parameters(), parameters))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_converted_models_work_with_stocks_generator(arch, mode):
    """Also after stock has prepared BART for another number of beams, and with one beam after several."""
    model = build_model(arch, WORDS, **PEAKED)
    beams = (4, 1, 5)
    expected = [generate([copy.deepcopy(model)], beam_size=beam) for beam in beams]
    generate([model], beam_size=3)
    enable_el_attention(model, mode)
    for beam, hypotheses in zip(beams, expected):
        assert_same_hypotheses(generate([model], beam_size=beam), hypotheses)
    disable_el_attention(model)
    assert_same_hypotheses(generate([model], beam_size=5), expected[-1], tolerance=0)


@pytest.mark.usefixtures("float64")
def test_a_converted_model_can_be_converted_again_copied_pickled_and_moved():
    model = build_model("transformer", WORDS, **PEAKED)
    expected = generate([model])
    for mode in ("on", "auto", "on"):
        enable_el_attention(model, mode)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.float().double()):
        if twin is not model:
            assert twin.encoder.reorder_encoder_out.args == (twin.encoder, twin)
        for cls in (SequenceGenerator, ELSequenceGenerator):
            # the round trip through float32 changes the weights a little
            assert_same_hypotheses(generate([twin], cls), expected, tolerance=1e-4 if twin is model else 1e-9)


def test_training_is_stock_bit_by_bit():
    losses = []
    for mode in ("off", "on"):
        model = build_model("transformer", WORDS, dropout=0.2, attention_dropout=0.2, dtype=torch.float32)
        enable_el_attention(model, mode).train()
        torch.manual_seed(3)
        logits, _ = model(**SAMPLE["net_input"])
        logits.logsumexp(-1).sum().backward()
        losses.append([logits, *(parameter.grad for parameter in model.parameters())])
    for ours, stocks in zip(*losses):
        assert (ours is None and stocks is None) or torch.equal(ours, stocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_validation_is_stock_bit_by_bit(dtype):
    logits = []
    for mode in ("off", "on"):
        model = enable_el_attention(build_model("transformer", WORDS, dtype=dtype), mode)
        with torch.no_grad():
            generate([model], ELSequenceGenerator)
            logits.append(model(**SAMPLE["net_input"])[0])
    assert torch.equal(*logits)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arch", OUTSIDE)
def test_a_model_that_cannot_take_part_decodes_as_stock_and_one_log_line_says_so(arch, caplog):
    options = OUTSIDE[arch]
    model = build_model(arch.split()[0], WORDS, **PEAKED, **options)
    expected = generate([copy.deepcopy(model)])
    with caplog.at_level(logging.INFO, logger="el_fairseq"):
        enable_el_attention(model, "on")
    (record,) = caplog.records
    assert "decodes with stock attention" in record.getMessage()
    assert_same_hypotheses(generate([model], ELSequenceGenerator), expected)


@pytest.mark.usefixtures("float64")
def test_one_attention_outside_the_identities_keeps_the_others(caplog):
    """A replaced projection in one cross-attention: no cross-attention is shared, self-attention still takes part."""

    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model = build_model("transformer", WORDS, **PEAKED)
    cross = model.decoder.layers[1].encoder_attn
    replaced = Scaled(16, 16).double()
    replaced.load_state_dict(cross.k_proj.state_dict())
    cross.k_proj = replaced
    expected = generate([model])
    assert use_el_attention(model) == ["encoder_attn: k_proj is a Scaled, not a Linear"]
    assert attentions(model) == [ELMultiheadAttention, MultiheadAttention] * 2
    for cls in (SequenceGenerator, ELSequenceGenerator):
        assert_same_hypotheses(generate([model], cls), expected)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode='fast': choose one of auto, on, off"):
        enable_el_attention(build_model("transformer", WORDS), "fast")


def test_lists_are_ensembles():
    models = [build_model("transformer", WORDS), build_model("bart_base", WORDS)]
    assert enable_el_attention(models, "on") is models
    assert all(set(attentions(model)) == {ELMultiheadAttention} for model in models)
    disable_el_attention(torch.nn.ModuleList(models))
    assert all(set(attentions(model)) == {MultiheadAttention} for model in models)


@pytest.mark.usefixtures("float64")
def test_encoder_output_can_still_be_ordered_freely():
    """Whoever calls reorder_encoder_out with an order that is no expansion gets that order."""
    model = enable_el_attention(build_model("transformer", WORDS), "on")
    encoder_out = model.encoder(SAMPLE["net_input"]["src_tokens"], SAMPLE["net_input"]["src_lengths"])
    reordered = model.encoder.reorder_encoder_out(encoder_out, torch.tensor([3, 0, 0]))
    assert torch.equal(reordered["encoder_out"][0], encoder_out["encoder_out"][0][:, [3, 0, 0]])
    assert torch.equal(reordered["encoder_padding_mask"][0], encoder_out["encoder_padding_mask"][0][[3, 0, 0]])
