"""Language models continue prompts as stock does; what prompts have in common in length is read at once."""

import random
from types import SimpleNamespace

import pytest
import torch
from fairseq import search
from fairseq.models import build_model
from fairseq.sequence_generator import SequenceGenerator
from helpers import assert_same_hypotheses, dictionary, write_out
from omegaconf import OmegaConf
from random_searches import LoopNGramBlock
from test_fuzz import on_cpu

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.prompt import prompt_lengths, why_step_by_step

WORDS = dictionary(30)
CASES = 40
STOCK_STOPS = set()
SEARCHES = {
    "beam": lambda beams: search.BeamSearch(WORDS),
    "groups": lambda beams: search.DiverseBeamSearch(WORDS, beams, 0.5),
    "siblings": lambda beams: search.DiverseSiblingsSearch(WORDS, 0.3),
    "sampling": lambda beams: search.Sampling(WORDS),
    "top-k": lambda beams: search.Sampling(WORDS, 5),
    "top-p": lambda beams: search.Sampling(WORDS, -1, 0.8),
}
pytestmark = pytest.mark.usefixtures("float64")


def build(arch="transformer_lm", seed=0, gain=2.0, **options):
    sizes = {"decoder_layers": 2, "decoder_embed_dim": 16, "decoder_ffn_embed_dim": 24, "decoder_attention_heads": 2}
    sizes.update(decoder_input_dim=16, decoder_output_dim=16, tokens_per_sample=64, max_target_positions=64)
    config = {"_name": arch, **sizes, "add_bos_token": False, "tpu": False, "dropout": 0.0, **options}
    task = SimpleNamespace(source_dictionary=WORDS, target_dictionary=WORDS)
    torch.manual_seed(seed)
    model = build_model(OmegaConf.create({"model": config}).model, task).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3) if name.endswith("bias") else parameter.mul_(gain)
    return model


def sample(lengths, seed=0, device="cpu", eos_at=None):
    """Prompts of these lengths, padded as the task pads them; end-of-sentence in the first at ``eos_at``."""
    rng = random.Random(seed)
    prompts = torch.full((len(lengths), max(lengths)), WORDS.pad())
    for row, length in zip(prompts, lengths):
        row[:length] = torch.tensor(
            [rng.choice([WORDS.unk(), *range(WORDS.nspecial, len(WORDS))]) for _ in range(length)]
        )
    if eos_at is not None:
        prompts[0, eos_at] = WORDS.eos()
    prompts = prompts.to(device)
    net_input = {"src_tokens": prompts, "src_lengths": torch.tensor(lengths, device=device)}
    return {"id": torch.arange(len(lengths), device=device), "net_input": net_input}


def generate(cls, models, batch, kind="beam", **options):
    options = {"beam_size": 4, "max_len_b": 25, **options}
    generator = cls(models, WORDS, search_strategy=SEARCHES[kind](options["beam_size"]), **options)
    if options.get("no_repeat_ngram_size") and cls is SequenceGenerator:
        generator.repeat_ngram_blocker = LoopNGramBlock(options["no_repeat_ngram_size"])
    torch.manual_seed(11)
    prompts = batch["net_input"]["src_tokens"]
    return generator, generator.generate(models, batch, prefix_tokens=prompts, bos_token=WORDS.eos())


@pytest.mark.parametrize("seed", range(CASES))
def test_every_search_continues_prompts_as_stock(seed, device):
    rng = random.Random(seed)
    kind = list(SEARCHES)[seed % len(SEARCHES)]
    beams = rng.choice([2, 4]) if kind == "groups" else rng.choice([1, 2, 4])
    longest = rng.choice([1, 5, 12, 20])
    lengths = [longest] * 3 if rng.random() < 0.5 else [rng.randint(1, longest) for _ in range(rng.randint(2, 6))]
    batch = sample(lengths, seed, device, eos_at=rng.randrange(lengths[0]) if rng.random() < 0.2 else None)
    options = {
        "beam_size": beams,
        "temperature": rng.choice([1.0, 0.7]),
        "unk_penalty": rng.choice([0.0, 0.5]),
        "min_len": rng.choice([1, 1, 16]),
        "len_penalty": rng.choice([1.0, 0.6]),
        "no_repeat_ngram_size": rng.choice([0, 0, 4]),
        "normalize_scores": rng.random() < 0.7,
    }
    learned = {"decoder_learned_pos": rng.random() < 0.5, "share_decoder_input_output_embed": rng.random() < 0.5}
    arch = rng.choice(["transformer_lm", "mhe_transformer_lm"])
    variant = (
        {} if arch == "transformer_lm" else {"attention_variant": rng.choice(["mhe-mul", "mhe-add", "mqa", "sha"])}
    )
    model = build(arch, seed, **learned, **variant).to(device)
    try:
        _, expected = generate(SequenceGenerator, [write_out(model)], batch, kind, **options)
    except AssertionError:  # stock stops where no hypothesis can end; ours does not
        generate(ELSequenceGenerator, [enable_el_attention(model, "on")], batch, kind, **options)
        assert seed in STOCK_STOPS
        return
    assert seed not in STOCK_STOPS
    for mode in ("on", "auto", "off"):
        enable_el_attention(model, mode)
        generator, actual = generate(ELSequenceGenerator, [model], batch, kind, **options)
        assert_same_hypotheses(actual, on_cpu(expected))
        assert (why_step_by_step(generator) is None) == (mode != "off" or arch != "transformer_lm")


@pytest.mark.parametrize("kind", ["beam", "sampling"])
def test_the_prompt_is_one_pass_and_one_state_a_sentence(kind, monkeypatch):
    model, calls = enable_el_attention(build(), "on"), []
    forward = model.decoder.forward

    def spy(tokens, *args, incremental_state=None, **kwargs):
        calls.append((tokens.size(0), tokens.size(1) if incremental_state is None else 1))
        return forward(tokens, *args, incremental_state=incremental_state, **kwargs)

    monkeypatch.setattr(model.decoder, "forward", spy)
    generator, _ = generate(ELSequenceGenerator, [model], sample([12, 12, 9]), kind, min_len=25)
    # begin-of-sentence and all prompts, then a token a step: of the third sentence alone while the others have prompt
    assert calls == [(3, 13)] + [(4, 1)] * 3 + [(12, 1)] * 13
    measured, _ = generator.meter.peak
    prompt, own = 2 * 3 * 13 * 16 * 8, 2 * 12 * 16 * 16 * 8  # layers, rows, tokens (own: a block of 16), width, bytes
    assert measured == prompt + own + 3 * 13 + 12 * 3  # and masks for the shorter prompt


def test_an_ensemble_reads_its_prompt_at_once():
    models = [build(seed=1), build("mhe_transformer_lm", seed=2, attention_variant="mqa")]
    batch = sample([7, 7])
    _, expected = generate(SequenceGenerator, [write_out(model) for model in models], batch)
    enable_el_attention(models, "on")
    generator, actual = generate(ELSequenceGenerator, models, batch)
    assert why_step_by_step(generator) is None
    assert_same_hypotheses(actual, expected)


def test_a_prompt_as_long_as_the_limit_and_one_without_tokens():
    model = build(seed=3)
    for lengths, limit in (([10, 10], 10), ([10, 10], 4)):
        batch = sample(lengths)
        _, expected = generate(SequenceGenerator, [model], batch, max_len_b=limit)
        enable_el_attention(model, "on")
        _, actual = generate(ELSequenceGenerator, [model], batch, max_len_b=limit)
        assert_same_hypotheses(actual, expected)
        enable_el_attention(model, "off")


def test_retained_dropout_falls_back():
    model = enable_el_attention(build(dropout=0.3), "on")
    generator = ELSequenceGenerator([model], WORDS, beam_size=2)
    assert why_step_by_step(generator) is None
    model.make_generation_fast_(retain_dropout=True)
    assert why_step_by_step(generator).startswith("--retain-dropout")


def test_prompt_lengths():
    prompts = torch.tensor([[5, 6, 7], [5, 1, 1], [5, 2, 7], [2, 5, 5], [1, 5, 1]])
    assert prompt_lengths(prompts, pad=1, eos=2, limit=9) == [3, 1, 1, 0, 0]
    assert prompt_lengths(prompts, pad=1, eos=2, limit=2) == [2, 1, 1, 0, 0]
