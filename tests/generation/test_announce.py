"""One log line whenever the way in which a model decodes changes, and no other."""

import copy
import logging

import pytest
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from helpers.models import build_model, dictionary

from el_fairseq import disable_el_attention, enable_el_attention

WORDS = dictionary(12)
ON = "TransformerModel decodes with EL-attention (mode on): 2 self-attentions, 2 cross-attentions"
OFF = "TransformerModel decodes with stock attention: mode off"


@pytest.fixture(autouse=True)
def levels(caplog):
    caplog.set_level(logging.INFO, logger="el_fairseq")


@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("asked", [1, 3], ids=["once", "again and again"])
def test_active_says_mode_and_attentions_once(mode, asked, caplog):
    model = build_model("transformer", WORDS)
    for _ in range(asked):
        enable_el_attention([model], mode)
    assert caplog.messages == [ON.replace("mode on", f"mode {mode}")]


def test_each_change_is_said(caplog):
    model = build_model("transformer", WORDS)
    for mode in ("off", "on", "on", "auto", "off", "off", "on"):
        enable_el_attention(model, mode)
    assert caplog.messages == [ON, ON.replace("mode on", "mode auto"), OFF, ON]


def test_each_model_is_named(caplog):
    enable_el_attention([build_model("transformer", WORDS), build_model("bart_base", WORDS)], "on")
    assert caplog.messages == [ON, ON.replace("TransformerModel", "BARTModel")]


def test_what_keeps_stock_attention_says_why(caplog):
    model = build_model("lstm", WORDS, encoder_hidden_size=16, decoder_hidden_size=16)
    for _ in range(2):
        enable_el_attention(model, "on")
    assert caplog.messages == ["LSTMModel decodes with stock attention: LSTMDecoder is not a Transformer decoder"]


def test_a_part_that_keeps_stock_attention_says_why(caplog):
    model = build_model("transformer", WORDS)
    cross = model.decoder.layers[1].encoder_attn
    cross.bias_k = cross.k_proj.bias
    enable_el_attention(model, "on")
    (line,) = caplog.messages
    assert line.startswith(ON.replace("2 cross", "0 cross") + "; the others with stock attention: encoder_attn: ")


def test_an_architecture_says_it_when_the_model_is_built(caplog):
    model = build_model("el_transformer", WORDS)
    assert caplog.messages == ["EL" + ON]
    enable_el_attention(model, "on")
    assert len(caplog.messages) == 1
    disable_el_attention(model)
    assert caplog.messages[1:] == ["EL" + OFF]


def test_mhe_says_what_its_heads_share(caplog):
    model = build_model("mhe_transformer_wmt_en_de", WORDS, attention_variant="mhe-mul")
    enable_el_attention(model, "auto")
    assert caplog.messages[1:] == ["MHETransformerModel decodes with the keys and values that its heads share"]


@pytest.mark.parametrize("mode, lines", [("on", [ON]), ("off", [])], ids=["on", "off"])
def test_a_task_says_it_once_however_many_generators_it_builds(mode, lines, caplog):
    task = TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](el_attention=mode), WORDS, WORDS)
    model = build_model("transformer", WORDS)
    for _ in range(3):
        task.build_generator([model], GenerationConfig())
    assert caplog.messages == lines


def test_a_copy_is_another_model(caplog):
    model = enable_el_attention(build_model("transformer", WORDS), "on")
    enable_el_attention(copy.deepcopy(model), "on")
    assert caplog.messages == [ON, ON]
