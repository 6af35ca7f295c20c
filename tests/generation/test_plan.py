"""The plan: from what arithmetic and memory traffic cost, and from the memory at hand."""

import logging
from types import SimpleNamespace

import pytest
import torch
from fairseq.modules import FairseqDropout
from fairseq.search import BeamSearch, DiverseBeamSearch, Sampling
from helpers.models import batch, build_model, dictionary
from helpers.random_lms import build_lm

from el_fairseq import enable_el_attention
from el_fairseq.cache import BeamCaches, CacheRequest, Layout, StaticBeamCaches
from el_fairseq.convert.el_attention import use_el_attention
from el_fairseq.generation import ELSequenceGenerator
from el_fairseq.generation import plan as module
from el_fairseq.generation.plan import cheapest, costs, shared_caches


def request(kind, source, beams, heads=8, dim=512, dtype=torch.float32, sentences=2):
    return CacheRequest(kind, torch.empty(source, sentences, dim, dtype=dtype), beams, heads)


@pytest.mark.parametrize("kind", ["self", "prefix", "cross"])
def test_keys_and_values_on_a_cpu(kind):
    assert cheapest(request(kind, 25, 4)) == Layout.PROJECTED


@pytest.mark.parametrize(
    "kind, source, beams, rate, expected",
    [
        ("cross", 1024, 4, 140, Layout.HIDDEN),
        ("cross", 1024, 1, 140, Layout.HIDDEN),
        ("cross", 1024, 4, 15, Layout.PROJECTED),  # without tensor cores
        ("cross", 8, 4, 140, Layout.PROJECTED),  # expanding queries costs more than so short a source
        ("self", 1, 1, 140, Layout.HIDDEN),
        ("self", 1, 1, 15, Layout.PROJECTED),
        ("prefix", 512, 4, 140, Layout.HIDDEN),
        ("prefix", 512, 4, 15, Layout.PROJECTED),
    ],
)
def test_arithmetic_of_gpus(kind, source, beams, rate, expected):
    """BART-large's attentions; the device is made up, the formula is the one in use."""
    cost = costs(request(kind, source, beams, heads=16, dim=1024, dtype=torch.float16), rate)
    assert min(cost, key=cost.get) == expected


def test_costs_are_those_of_the_docstring():
    cost = costs(request("cross", 100, 4), rate=10)  # float32
    assert cost[Layout.HIDDEN] == pytest.approx(4 * 4 * 8 / 10 + 4 * 4 * 512 / 100 / 10)
    assert cost[Layout.PROJECTED] == pytest.approx(8 + 4 * 512 / 64 / 10)


@pytest.mark.parametrize(
    "free, expected", [(10**9, Layout.PROJECTED), (10**6, Layout.HIDDEN), (None, Layout.PROJECTED)]
)
def test_keys_and_values_only_where_they_fit(free, expected, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    assert cheapest(request("cross", 25, 4)) == Layout.PROJECTED  # too little to look for memory
    monkeypatch.setattr(module, "ALWAYS_FITS", 0)
    assert cheapest(request("cross", 25, 4)) == expected
    assert cheapest(request("prefix", 25, 4)) == Layout.PROJECTED


def test_each_decision_is_logged_once(caplog):
    module.explain.cache_clear()
    with caplog.at_level(logging.DEBUG, logger=module.__name__):
        for _ in range(3):
            cheapest(request("cross", 25, 4))
        cheapest(request("self", 1, 1))
    assert [record.getMessage() for record in caplog.records] == [
        "cross-attention of 8 heads, 4 beams, torch.float32 on cpu: projected, faster on a CPU",
        "self-attention of 8 heads, 1 beams, torch.float32 on cpu: projected, faster on a CPU",
    ]


def test_a_decision_holds_for_the_batch():
    """Memory that comes or goes meanwhile changes nothing for a batch that has begun."""
    model, decisions = build_model("transformer", dictionary(12)), []

    def plan(asked):
        decisions.append(asked.kind)
        return Layout.HIDDEN if len(decisions) % 2 else Layout.PROJECTED

    use_el_attention(model, plan)
    source = torch.tensor([[4, 5, 6, 2]])
    encoder_out, state = model.encoder(source, torch.tensor([4])), {}
    tokens = torch.tensor([[2, 5, 6, 7]])
    for length in range(1, 5):
        model.decoder(tokens[:, :length], encoder_out=encoder_out, incremental_state=state)
    assert decisions == ["self", "cross"] * len(model.decoder.layers)


def test_whose_beams_share_a_cache():
    words = dictionary(12)
    search = BeamSearch(words)

    def shares(model, search=search, beams=2):
        return isinstance(shared_caches(model, search, 3, beams, captures=False), BeamCaches)

    model = enable_el_attention(build_model("transformer", words), "on")
    assert shares(model) and shares(model.half()) and not shares(model, beams=1)
    assert not shares(model, Sampling(words)) and not shares(model, DiverseBeamSearch(words, 2, 0.5))
    assert not shares(build_lm(words)) and shares(enable_el_attention(build_lm(words)))
    assert shares(build_model("mhe_transformer_wmt_en_de", words))
    assert not shares(build_model("lstm", words, decoder_hidden_size=16, encoder_hidden_size=16))
    drawing = enable_el_attention(build_model("transformer", words, dropout=0.1))
    for module_ in drawing.modules():
        if isinstance(module_, FairseqDropout):
            module_.apply_during_inference = True
    assert not shares(drawing)
    assert shared_caches(drawing, search, 3, 2, captures=True) is None
    for beams in (1, 2):  # a graph reads static caches, even if there is one beam
        assert isinstance(shared_caches(model, search, 3, beams, captures=True), StaticBeamCaches)


def test_the_mask_is_of_the_decoders_numbers():
    words = dictionary(12)
    model = enable_el_attention(build_model("transformer", words, torch.float32))
    table = torch.nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    model.encoder.register_parameter("first", table), model.decoder.register_parameter("first", table)
    assert shared_caches(model, BeamSearch(words), 3, 2, captures=False).mask.dtype is torch.float32
    assert shared_caches(model.double(), BeamSearch(words), 3, 2, captures=False).mask.dtype is torch.float64


@pytest.mark.parametrize(
    "options, shared",
    [({}, True), ({"beam_size": 1}, False), ({"search_strategy": DiverseBeamSearch(dictionary(12), 3, 0.5)}, False)],
    ids=["beam", "greedy", "diverse"],
)
def test_the_generator_shares_it(options, shared, monkeypatch):
    words, caches = dictionary(12), []
    new_cache = BeamCaches.new_cache
    monkeypatch.setattr(BeamCaches, "new_cache", lambda self, layout: caches.append(self) or new_cache(self, layout))
    model = enable_el_attention(build_model("transformer", words))
    generator = ELSequenceGenerator([model], words, **{"beam_size": 3, "max_len_b": 5, **options})
    generator.generate(None, batch(words, [5, 3]))
    assert bool(caches) == shared


def test_candidates_by_groups_where_that_is_less_work():
    for types, dtype, reason in (
        (30000, torch.float32, None),
        (30000, torch.bfloat16, "equal numbers are frequent in torch.bfloat16"),
        (1000, torch.float32, "a vocabulary of 1000"),
    ):
        decoder = SimpleNamespace(output_projection=SimpleNamespace(weight=torch.empty(types, 1, dtype=dtype)))
        assert module.why_no_groups([decoder], 5) == reason
        assert module.why_no_groups([decoder, decoder], 5) == "an ensemble of 2"
