"""The architectures of checkpoints.yaml: each, in small, generates as stock; and how the whole ones are measured."""

import json
from functools import partial

import pytest
import torch
from bench import checkpoints
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.cache.buffer import BLOCK
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.modules import ELMultiheadAttention

CHECKPOINTS = checkpoints.load_checkpoints()
WORDS = dictionary(40)
LENGTHS = [12, 7, 5]


def in_small(options):
    """The same architecture with two layers of width 32: 4 self-attentions and cross-attentions, or 2 of a prompt's."""
    sizes = {"decoder_layers": 2, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 48, "decoder_attention_heads": 4}
    if checkpoints.is_language_model(options["arch"]):
        sizes.update(decoder_input_dim=32, decoder_output_dim=32)
    else:
        sizes.update({name.replace("decoder", "encoder"): size for name, size in sizes.items()})
    if "wiki103" in options["arch"]:
        sizes.update(adaptive_input_cutoff="10,20", adaptive_softmax_cutoff="10,20")
    return {**options, **sizes, "dropout": 0.0, "conv_channels": 16, "encoder_layerdrop": 0.0}


def small_batch(arch):
    """Sources of several lengths, or prompts; and the prompts."""
    if checkpoints.is_speech(arch):
        frames = [checkpoints.FRAMES * length for length in LENGTHS]
        torch.manual_seed(2)
        features = torch.randn(len(frames), max(frames), checkpoints.FEATURES, dtype=torch.float64)
        net_input = {"src_tokens": features, "src_lengths": torch.tensor(frames), "prev_output_tokens": None}
        return {"id": torch.arange(len(frames)), "net_input": net_input}, None
    sample = batch(WORDS, LENGTHS, left_pad=not checkpoints.is_language_model(arch))
    if not checkpoints.is_language_model(arch):
        return sample, None
    prompts = sample["net_input"]["src_tokens"]
    prompts[prompts == WORDS.eos()] = WORDS.nspecial  # a prompt goes on
    return sample, prompts


def small_model(options):
    model = checkpoints.build(in_small(options), WORDS).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3) if name.endswith("bias") else parameter.mul_(2.0)
    return model


def distinct(checkpoints):
    """One name for each architecture that differs from the others in more than size."""
    seen = {}
    for name, checkpoint in checkpoints.items():
        kept = {k: v for k, v in checkpoint["model"].items() if not k.endswith(("layers", "_dim", "_heads"))}
        seen.setdefault(json.dumps(kept, sort_keys=True), name)
    return list(seen.values())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("name", distinct(CHECKPOINTS))
def test_every_architecture_generates_as_stock(name, mode):
    options = CHECKPOINTS[name]["model"]
    model = small_model(options)
    sample, prompts = small_batch(options["arch"])
    search = {"beam_size": 4, "max_len_b": 20 + (0 if prompts is None else max(LENGTHS))}
    given = {"prefix_tokens": prompts, "bos_token": WORDS.eos()}
    expected = SequenceGenerator([model], WORDS, **search).generate([model], sample, **given)
    enable_el_attention(model, mode)
    assert sum(type(m) is ELMultiheadAttention for m in model.modules()) == (4 if prompts is None else 2)
    actual = ELSequenceGenerator([model], WORDS, **search).generate([model], sample, **given)
    assert_same_hypotheses(actual, expected)


@pytest.mark.parametrize("name", ["bart.base", "transformer.wmt16.en-de", "s2t librispeech s"])
def test_measured_bytes_are_those_of_the_layout(name):
    """Hidden states once for all layers and beams, one vector a token and beam; and stock's keys, values and copies."""
    checkpoint = {**CHECKPOINTS[name], "model": in_small(CHECKPOINTS[name]["model"]), "types": 40}
    row = checkpoints.measure(checkpoint, source=24)
    layers, width, beam, steps = 2, 32, checkpoints.BEAM, checkpoints.STEPS
    assert row["layers"] == [2, 2] and row["width"] == 32 and row["same_hypotheses"] and steps == BLOCK
    hidden, own = 24 * width * 4, layers * beam * steps * width * 4
    masks = 0 if name.startswith("s2t") else 24 + 4  # a padding mask (bool), the length of the source (int32)
    table = 4 * beam * beam * steps  # for each beam, which tokens of the sentence are not its own (float32)
    assert row["bytes"]["on"] == hidden + own + masks + table
    assert row["bytes"]["auto"] == row["bytes"]["on"] + 2 * layers * hidden + own
    copies = 1 if "bart" in name else beam
    assert row["bytes"]["stock"] > copies * 2 * layers * hidden + 2 * own


def test_a_narrow_model_keeps_what_the_whole_one_keeps():
    checkpoint = {"model": in_small(CHECKPOINTS["m2m_100 1.2B"]["model"]), "types": 40}
    whole, narrow = (checkpoints.measure({**checkpoint, "narrow": n}, source=24) for n in (False, True))
    assert whole["bytes"] == narrow["bytes"] and whole["parameters"] == narrow["parameters"]
    assert whole["layers"] == narrow["layers"] == [2, 2] and narrow["narrow"]


def test_a_prompt_is_kept_once_for_all_beams():
    checkpoint = {"model": in_small(CHECKPOINTS["xglm.564M"]["model"]), "types": 40}
    row = checkpoints.measure(checkpoint, source=40)
    own, prompt = 2 * 5 * checkpoints.STEPS * 32 * 4, 2 * 41 * 32 * 4
    assert row["bytes"]["on"] == own + prompt and row["bytes"]["auto"] == 2 * row["bytes"]["on"]
    assert row["bytes"]["stock"] == 2 * 2 * 5 * (41 + checkpoints.STEPS - 1) * 32 * 4


def test_an_unknown_name_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        checkpoints.main(["--json", str(tmp_path / "out.json"), "bart.huge"])
    assert "bart.huge: not in checkpoints.yaml, which has bart.base, bart.large" in capsys.readouterr().err


def test_prints_the_table_and_adds_to_the_file(tmp_path, monkeypatch, capsys):
    small = {**CHECKPOINTS["bart.base"], "model": in_small(CHECKPOINTS["bart.base"]["model"]), "types": 40}
    monkeypatch.setattr(checkpoints, "load_checkpoints", lambda: {"a": small, "b": small})
    monkeypatch.setattr(checkpoints, "measure", partial(checkpoints.measure, source=30))
    for names, rows in ((["a"], 1), ([], 2), (["--print"], 2)):
        checkpoints.main(["--json", str(tmp_path / "out.json"), *names])
        printed = capsys.readouterr().out
        table = [line for line in printed.splitlines() if line.startswith("| [")]
        assert len(json.loads((tmp_path / "out.json").read_text())) == len(table) == rows
    assert "`bart_base` | 2+2, 32 |" in table[0]
