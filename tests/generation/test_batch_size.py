"""Batches by free memory: the estimate holds what really is needed, and not much more."""

import random
from types import SimpleNamespace

import pytest
import torch
from helpers.allocations import peak_of
from helpers.models import batch, build_model, dictionary
from helpers.random_lms import build_lm, random_prompts

from el_fairseq import enable_el_attention
from el_fairseq.cache import Layout
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation.batch_size import STOCK, USED_SHARE, Need, Search, automatic_limits, batch_limits
from el_fairseq.generation.free_memory import free_memory

LAYOUTS = {"on": Layout.HIDDEN, "auto": Layout.PROJECTED, "off": STOCK}  # on a CPU
FACTOR = 2.5  # by which the estimate may be too high
SHAPES = {
    "small": {},
    "vocabulary": {"vocabulary": 6000},
    "long source": {"source": 500},
    "wide feed-forward": {"inner": 4000},
    "long target": {"steps": 100, "beams": 6},
    "greedy": {"beams": 1, "vocabulary": 1000},
    "ensemble": {"models": 2, "vocabulary": 3000},
    "deep": {"layers": 6, "width": 64, "inner": 256, "heads": 4, "source": 150, "steps": 40},
}
DEFAULTS = {"vocabulary": 50, "source": 40, "steps": 8, "beams": 4, "models": 1}
DEFAULTS.update({"width": 32, "inner": 64, "layers": 2, "heads": 2})


def assert_holds(measured, estimate, factor=FACTOR):
    assert measured <= estimate <= factor * measured, (measured, estimate)


@pytest.mark.parametrize("mode", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_translation_needs_no_more_than_estimated(shape, mode, arch):
    if arch == "bart_base" and shape not in ("small", "long source"):
        pytest.skip("another decoder state only")
    o = SimpleNamespace(**{**DEFAULTS, **SHAPES[shape]})
    words, sizes = dictionary(o.vocabulary), {"decoder_layers": o.layers, "encoder_layers": 1}
    for part in ("encoder", "decoder"):
        sizes[f"{part}_embed_dim"], sizes[f"{part}_ffn_embed_dim"] = o.width, o.inner
        sizes[f"{part}_attention_heads"] = o.heads
    models = [build_model(arch, words, torch.float32, seed, **sizes) for seed in range(o.models)]
    enable_el_attention(models, mode)
    generator = ELSequenceGenerator(models, words, beam_size=o.beams, max_len_b=o.steps, min_len=o.steps)
    generator.generate(None, batch(words, [3]))  # tables of positions are made once
    sample = batch(words, [o.source, o.source, o.source - 1])
    need = Need(models, LAYOUTS[mode], Search(o.beams, 0, o.steps))
    assert_holds(peak_of(lambda: generator.generate(None, sample)), 3 * need.sentence(o.source))
    assert generator.meter.peak[0] < 3 * need.sentence(o.source)


@pytest.mark.parametrize("mode", LAYOUTS)
@pytest.mark.parametrize("prompt, longest", [(60, 70), (20, 60)])
def test_language_models_need_no_more_than_estimated(prompt, longest, mode):
    words = dictionary(200)
    model = build_lm(words, decoder_layers=3, decoder_embed_dim=32).float()
    model.decoder.max_target_positions, model.max_decoder_positions = 200, lambda: 200
    enable_el_attention(model, mode)
    lengths = [prompt] * 3 + [prompt // 2]
    prompts = random_prompts(random.Random(0), words, lengths)
    sample = {"id": torch.arange(4), "net_input": {"src_tokens": prompts, "src_lengths": torch.tensor(lengths)}}
    generator = ELSequenceGenerator([model], words, beam_size=4, max_len_b=longest, min_len=longest)
    need = Need([model], LAYOUTS[mode], Search(4, 0, longest))
    estimate = need.fixed + 4 * need.sentence(prompt)
    measured = peak_of(lambda: generator.generate(None, sample, prefix_tokens=prompts))
    assert_holds(measured, estimate, factor=4)  # prompts of any mix of lengths, which need most, are assumed


def test_the_need_follows_the_options():
    model = build_model("transformer", dictionary(5000))
    need = Need([model], Layout.HIDDEN, Search(4, 0, 20))
    assert Need([model], Layout.HIDDEN, Search(4, 0, 20), item=2).sentence(30) < need.sentence(30)
    for more in ({"sampling": True}, {"lm_path": "lm.pt"}, {"beam": 5}, {"max_len_a": 1}, {"match_source_len": True}):
        search = Search(**{"beam": 4, "max_len_a": 0, "max_len_b": 20, **more})
        assert Need([model], Layout.HIDDEN, search).sentence(30) > need.sentence(30), more
    assert Need([model], Layout.HIDDEN, Search(4, 0, 5000)).sentence(5) == Need(
        [model], Layout.HIDDEN, Search(4, 0, 1023)
    ).sentence(5)
    lm = build_lm(dictionary(50))
    assert Need([lm], Layout.HIDDEN, Search(4, 0, 20, prefix_size=5)).sentence(30) == Need(
        [lm], Layout.HIDDEN, Search(4, 0, 20)
    ).sentence(5)


@pytest.mark.parametrize("quadratic", [0, 3])
def test_every_batch_within_the_limits_fits(quadratic):
    need = SimpleNamespace(fixed=1000, sentence=lambda n: 500 + 20 * n + quadratic * n**2)
    lengths = [random.Random(i).randint(1, 60) for i in range(200)]
    tokens, sentences = batch_limits(need, lengths, free=100_000)
    costs = [min(sentences, tokens // n) * need.sentence(n) for n in range(1, max(lengths) + 1)]
    room = USED_SHARE * 100_000 - 1000
    assert 0.8 * room < max(costs) <= room


def test_one_sentence_at_a_time_where_nothing_fits():
    need = SimpleNamespace(fixed=1000, sentence=lambda n: 500 * n)
    assert batch_limits(need, [3, 9, 30], free=900) == (30, 1)


def test_free_memory_of_a_machine_and_of_a_container(tmp_path):
    cpu = torch.device("cpu")
    assert free_memory(cpu, tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       24683848 kB\nMemAvailable:    1000 kB\nHugePages_Free: 0\n")
    assert free_memory(cpu, tmp_path) == 1000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("400000\n")
    assert free_memory(cpu, tmp_path) == 1000 * 1024
    (group / "memory.max").write_text("900000\n")
    assert free_memory(cpu, tmp_path) == 500000
    (group / "memory.stat").write_text("anon 300000\ninactive_file 90000\n")  # of files read, given up when needed
    assert free_memory(cpu, tmp_path) == 590000
    (group / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")  # none
    (group / "memory/memory.usage_in_bytes").write_text("1\n")
    assert free_memory(cpu, tmp_path) == 590000


def test_free_memory_here(device):
    assert free_memory(device) > 2**20


def test_a_model_that_is_not_known_leaves_the_limits_as_they_are(caplog):
    command = SimpleNamespace(generation=Search(4, 0, 20), common=SimpleNamespace(bf16=False))
    dataset = SimpleNamespace(ordered_indices=list, num_tokens=None)
    assert (
        automatic_limits([build_model("lstm", dictionary(12), encoder_hidden_size=16)], "on", command, dataset) is None
    )
    assert "LSTMDecoder is not a Transformer decoder; --max-tokens and --batch-size limit batches" in caplog.text
