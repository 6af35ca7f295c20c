"""Other engines with fairseq's weights find fairseq's hypotheses, or are refused."""

from importlib.util import find_spec

import pytest
import torch
from bench import models
from bench.contest import Contest
from bench.peers import PEERS, PeerContest
from fairseq.dataclass.configs import GenerationConfig

TOKENS = 9
SIZES = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (("layers", 2), ("embed_dim", 32))}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
SHAPES = {
    "transformer": ("transformer_tiny", {}),
    "learned positions": ("transformer_tiny", {"encoder_learned_pos": True, "decoder_learned_pos": True}),
    "bart": ("bart_base", {**SIZES, **HEADS}),
    "language model": ("transformer_lm_gpt", {**SIZES, **HEADS, "decoder_ffn_embed_dim": 48}),
}


@pytest.fixture(params=list(PEERS))
def peer(request):
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def build(arch, options, monkeypatch):
    monkeypatch.setattr(models, "VOCABULARY", dict.fromkeys(models.VOCABULARY, 60))
    shape = models.Shape(arch, options)
    task = models.build_task(shape)
    model = models.build_model(shape, task)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3) if name.endswith("bias") else parameter.mul_(
                1.5
            )  # biases are zero in a new model
    model.make_generation_fast_(need_attn=False)
    return task, model


def contest(task, model, peer, lengths, search="beam"):
    """Stock's hypotheses and the peer's contest over two batches."""
    prompt = lengths[0] if not hasattr(model, "encoder") else 0
    sources = models.random_sources(task, models.Random(1), lengths)
    samples = models.batches(task, sources, 2, torch.device("cpu"))
    longest = TOKENS + prompt
    generation = GenerationConfig(beam=4, max_len_a=0, max_len_b=longest, min_len=longest)
    stock, _ = Contest(task, model, generation, samples, torch.device("cpu")).decode("stock")
    cell = {"search": search, "source": lengths[0], "tokens": TOKENS, "memory_budget_gib": None}
    return stock, PeerContest(PEERS[peer](task, model, torch.device("cpu")), generation, samples, cell)


@pytest.mark.parametrize("name", SHAPES)
def test_the_best_hypothesis_is_among_stocks(name, peer, monkeypatch):
    task, model = build(*SHAPES[name], monkeypatch)
    lengths = [7, 7, 7] if name == "language model" else [13, 8, 5]
    stock, run = contest(task, model, peer, lengths)
    hypotheses, took = run.decode()
    assert took > 0 and [len(tokens) for tokens in hypotheses] == [TOKENS] * 3
    assert run.agreement(stock, hypotheses) == 3


def test_two_dictionaries_padded_to_a_multiple_with_a_symbol_twice(monkeypatch):
    """As those of data that was prepared with --padding-factor, and of trained models with --data."""
    if find_spec("ctranslate2") is None:
        pytest.skip("ctranslate2 is not installed")
    words, others = models.dictionary(41), models.dictionary(57)
    for each, repeated in ((words, "w3"), (others, "w4")):
        each.add_symbol(repeated, overwrite=True)
        each.pad_to_multiple_(16)
    task = models.TranslationTask(models.TranslationConfig(), words, others)
    shape = models.Shape("transformer_tiny", {"share_all_embeddings": False})
    model = models.build_model(shape, task)
    model.make_generation_fast_(need_attn=False)
    stock, run = contest(task, model, "ctranslate2", [13, 8, 5])
    hypotheses, _ = run.decode()
    assert run.agreement(stock, hypotheses) == 3


def test_other_weights_are_no_peer(peer, monkeypatch):
    task, model = build(*SHAPES["transformer"], monkeypatch)
    stock, run = contest(task, model, peer, [13, 8, 5])
    hypotheses, _ = run.decode()
    with pytest.raises(SystemExit, match="no speed to report: of 3 hypotheses of .* 0 agree"):
        run.agreement(stock, [tokens[:-1] for tokens in hypotheses])


@pytest.mark.parametrize(
    "name, lengths, search, message",
    [
        ("transformer", [9, 8], "diverse", "neither CTranslate2 nor transformers has fairseq's --search diverse"),
        ("language model", [9, 8], "beam", "give --shortest as --source"),
    ],
)
def test_other_work_is_refused(name, lengths, search, message, peer, monkeypatch):
    task, model = build(*SHAPES[name], monkeypatch)
    with pytest.raises(ValueError, match=message):
        contest(task, model, peer, lengths, search)


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_what_transformers_does_not_have(monkeypatch):
    first = {"encoder_normalize_before": True, "decoder_normalize_before": True}
    task, model = build("transformer_tiny", first, monkeypatch)
    with pytest.raises(ValueError, match="normalisation first: True"):
        PEERS["transformers"](task, model, torch.device("cpu"))
    task, model = build("transformer_tiny", {"share_all_embeddings": False}, monkeypatch)
    with pytest.raises(ValueError, match="embeddings of encoder and decoder are not shared"):
        PEERS["transformers"](task, model, torch.device("cpu"))
