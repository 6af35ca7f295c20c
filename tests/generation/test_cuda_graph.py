"""Decoder steps as CUDA graphs, of which this is an imitation: what the step computes that is not captured."""

import logging

import pytest
import torch
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from helpers.fake_graph import Waits, WaitsForAValueError, capture, imitate_graphs
from helpers.models import assert_close, assert_same_hypotheses, batch, build_model, dictionary, write_out
from helpers.random_cases import CASES, on_cpu, random_case, random_lm_case
from helpers.random_lms import build_lm
from helpers.random_searches import SAMPLING

from el_fairseq import disable_el_attention, enable_el_attention
from el_fairseq.cache import CACHES, BeamCaches, Layout, StaticBeamCaches, static
from el_fairseq.convert.el_attention import use_el_attention
from el_fairseq.generation import ELSequenceGenerator, cuda_graph, plan
from el_fairseq.generation.cuda_graph import GraphedStep, verified
from el_fairseq.generation.decoder_step import DecoderStep
from el_fairseq.generation.hypotheses import FinishedHypotheses
from el_fairseq.generation.newest_tokens import NewestTokens
from el_fairseq.generation.static_rows import StaticRows

WORDS = dictionary(30)
BEAMS = 2
SEEDS = [seed if seed % 4 == 0 else pytest.param(seed, marks=pytest.mark.long) for seed in range(CASES)]
# Those of --decoder-layerdrop are of the CPU, and a GPU draws its samples from others: here they are the same.
NO_DRAWS = {"decoder_layerdrop": 0}


@pytest.fixture
def captures(monkeypatch):
    """What was captured."""
    return imitate_graphs(monkeypatch)


@pytest.fixture(autouse=True)
def no_gradients(float64):
    with torch.no_grad():
        yield


@pytest.mark.parametrize("seed", SEEDS)
def test_every_layout_gives_stocks_output(seed, captures):
    case = random_case(seed)
    model = case.build_model(**(NO_DRAWS if case.search.kind in SAMPLING else {}))
    expected = on_cpu(case.stock([model]))
    made = set()
    for kept in (Layout.HIDDEN, Layout.PROJECTED):
        captures.clear()
        use_el_attention(model, lambda request, kept=kept: kept)
        case.assert_same(case.ours([model]), expected)
        made.add(bool(captures))
    assert made == {works(model.decoder)}


@pytest.mark.parametrize("seed", SEEDS)
def test_prompts_are_continued_as_stock_does(seed, captures):
    case = random_lm_case(seed)
    model = case.build_model()
    expected = on_cpu(case.stock([write_out(model)]))
    made = set()
    for mode in ("on", "auto"):
        captures.clear()
        enable_el_attention(model, mode)
        case.assert_same(case.ours([model]), expected)
        made.add(bool(captures))
    assert made == {works(model.decoder)}


@pytest.mark.parametrize("variant", ["mhe-mul", "mhe-add", "mqa", "sha"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("sentences", [1, 3])
def test_shared_keys_and_values(sentences, beams, variant, captures):
    options = {"attention_variant": variant, "attention_variant_where": "decoder,cross"}
    model = enable_el_attention(build_model("mhe_transformer_wmt_en_de", WORDS, gain=2.0, **options))
    search, sample = {"beam_size": beams, "max_len_b": 14}, batch(WORDS, [9, 4, 7][:sentences])
    expected = SequenceGenerator([write_out(model)], WORDS, **search).generate([model], sample)
    assert_same_hypotheses(ELSequenceGenerator([model], WORDS, **search).generate([model], sample), expected)
    assert captures and works(model.decoder)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_language_model_without_prefixes(beams, captures):
    model = enable_el_attention(build_lm(WORDS))
    sample = {"id": torch.arange(2), "net_input": {"src_tokens": torch.full((2, 1), WORDS.eos())}}
    sample["net_input"]["src_lengths"] = torch.ones(2, dtype=torch.long)
    search = {"beam_size": beams, "max_len_a": 0, "max_len_b": 12}
    expected = SequenceGenerator([disable_el_attention(build_lm(WORDS))], WORDS, **search).generate([model], sample)
    assert_same_hypotheses(ELSequenceGenerator([model], WORDS, **search).generate([model], sample), expected)
    assert captures and works(model.decoder)


ENSEMBLES = [("transformer", "bart_base"), ("lm", "lm"), ("mhe_transformer_wmt_en_de", "transformer")]


@pytest.mark.parametrize("archs", ENSEMBLES, ids=" ".join)
@pytest.mark.parametrize("strategy", [None, Sampling], ids=["beam", "sampling"])
def test_ensembles(archs, strategy, captures):
    def build(arch, seed):
        return build_lm(WORDS, seed=seed) if arch == "lm" else build_model(arch, WORDS, seed=seed)

    def generate(kind, models):
        torch.manual_seed(3)
        search = None if strategy is None else strategy(WORDS, sampling_topk=5)
        generator = kind(models, WORDS, beam_size=3, max_len_b=14, search_strategy=search)
        return generator.generate(models, sample, prefix_tokens=prefix)

    models = [build(arch, seed) for seed, arch in enumerate(archs)]
    sample, prefix = batch(WORDS, [9, 4, 7]), None
    if archs[0] == "lm":
        prefix = torch.tensor([[5, 6, 7], [8, 1, 1], [9, 10, 1]])  # of different lengths
        sample["net_input"] = {"src_tokens": prefix, "src_lengths": torch.tensor([3, 1, 2])}
    expected = generate(SequenceGenerator, [write_out(model) for model in models])
    enable_el_attention(models)
    assert_same_hypotheses(generate(ELSequenceGenerator, models), expected)
    assert len(captures) > 2 and all(works(model.decoder) for model in models)


def test_an_ensemble_is_captured_whole_or_not_at_all(captures):
    """The second model draws dropout for each token, so its beams keep caches of their own."""
    models = [build_model("transformer", WORDS, seed=seed) for seed in (0, 1)]
    models[1].encoder.dropout_module.p = 1e-15  # which drops nothing
    models[1].encoder.dropout_module.apply_during_inference = True
    sample, search = batch(WORDS, [9, 4, 7]), {"beam_size": 3, "max_len_b": 14}
    expected = SequenceGenerator(models, WORDS, **search).generate(models, sample)
    enable_el_attention(models)
    assert_same_hypotheses(ELSequenceGenerator(models, WORDS, **search).generate(models, sample), expected)
    assert not captures


def test_sentences_that_leave_one_by_one_cost_no_capture_each(captures, monkeypatch):
    """Sampling prunes at once; the decoder keeps the rows until half of them are of no use."""
    monkeypatch.setattr(static, "ROOM", 64)
    model, left = enable_el_attention(build_model("transformer", WORDS)), []
    follow = StaticRows.follow
    monkeypatch.setattr(StaticRows, "follow", lambda self, *given: left.append(given[1]) or follow(self, *given))
    torch.manual_seed(0)
    search = Sampling(WORDS)
    generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=60, search_strategy=search)
    generator.generate([model], batch(WORDS, [5] * 16))
    assert sum(left) > 8 and len(captures) <= 5


def test_tokens_that_are_forced_behind_an_end(captures):
    """Stock's rule for prefixes refuses a sentence that should have left."""
    model, end = enable_el_attention(build_model("transformer", WORDS)), WORDS.eos()
    prefix = torch.tensor([[5, end, 6, end, 7], [8, 9, 10, 11, 12], [5, 5, 5, 5, 5]])
    search, sample = {"beam_size": 1, "max_len_b": 9}, batch(WORDS, [9, 4, 7])
    stock = SequenceGenerator([build_model("transformer", WORDS)], WORDS, **search)
    expected = stock.generate([model], sample, prefix_tokens=prefix)
    ours = ELSequenceGenerator([model], WORDS, **search).generate([model], sample, prefix_tokens=prefix)
    assert_same_hypotheses(ours, expected)
    assert captures


def test_the_cases_are_captured(captures):
    counts = []
    for seed in range(40):
        case = (random_case, random_lm_case)[seed % 2](seed)
        case.ours([enable_el_attention(case.build_model())])
        counts.append(len(captures))
        captures.clear()
    assert sum(count > 0 for count in counts) > len(counts) / 2 and max(counts) > 4


def works(decoder):
    """Whether its steps were recorded, and rightly."""
    return verified.get(decoder, (None, False))[1]


class Steps:
    """A ``GraphedStep`` and a ``DecoderStep`` over moving beams, both from the same tokens."""

    def __init__(self, model, capture, sentences=3):
        self.model, self.sentences = model, sentences
        rows = torch.arange(sentences).repeat_interleave(BEAMS)
        source = model.encoder.forward_torchscript(batch(WORDS, [9, 4, 7][:sentences])["net_input"])
        self.source = model.encoder.reorder_encoder_out(source, rows)
        self.past, self.plain = StaticBeamCaches(sentences, BEAMS, "cpu"), BeamCaches(sentences, BEAMS, "cpu")
        self.graphed = GraphedStep(DecoderStep(model.decoder, {CACHES: self.past}), self.past, capture)
        self.straight = DecoderStep(model.decoder, {CACHES: self.plain})
        self.tokens = torch.randint(4, 30, (rows.numel(), 40), generator=torch.Generator().manual_seed(0))
        self.length = 0

    def take(self):
        """One more step; returns the features of both, and compares their attention."""
        self.length += 1
        tokens = NewestTokens.of(self.tokens[:, : self.length])
        (features, attention), (expected, other) = (step(tokens, self.source) for step in (self.graphed, self.straight))
        assert_close(attention.nan_to_num(-1), other.nan_to_num(-1))
        return features.clone(), expected

    def reorder(self, order):
        order = torch.tensor(order)
        self.source = self.model.encoder.reorder_encoder_out(self.source, order)
        self.tokens = self.tokens[order]
        for step, past in ((self.graphed, self.past), (self.straight, self.plain)):
            self.model.decoder.reorder_incremental_state_scripting(step.state, order)
            past.reorder(order)


@pytest.fixture
def model():
    return enable_el_attention(build_model("transformer", WORDS))


def test_a_graph_is_made_once_where_nothing_changes(model, captures):
    steps = Steps(model, plan.capturer(None))
    for length in range(1, 10):
        assert_close(*steps.take())
        # A step without a recording comes first, after each change: the past has room for five at a time.
        assert len(captures) == (length > 1) + (length > 6)
        steps.reorder([1, 0, 2, 2, 5, 4])


def test_sentences_leave(model, captures):
    steps = Steps(model, plan.capturer(None))
    for order in ([0, 0, 2, 3, 4, 5], [1, 0, 3, 2, 5, 5], [5, 4], [1, 1], [0, 1]):
        assert_close(*steps.take())
        steps.reorder(order)
    assert_close(*steps.take())
    assert len(captures) == 2


def waits(model, length, prefix=None):
    """How often a search of ``length`` steps waits for the device."""
    generator = ELSequenceGenerator([model], WORDS, beam_size=3, max_len_b=length, min_len=length)
    with Waits() as seen:
        generator.generate([model], batch(WORDS, [5, 3, 4]), prefix_tokens=prefix)
    return seen.count


@pytest.mark.parametrize("prefix", [None, torch.tensor([[5], [6], [7]])], ids=["free", "a language first"])
def test_no_step_waits_for_the_device(prefix, captures, monkeypatch):
    """But for how many sentences have ended, which is known by then."""
    monkeypatch.setattr(static, "ROOM", 64)
    monkeypatch.setattr(FinishedHypotheses, "to_lists", lambda self, history, dtype: [])  # after the last step
    # fairseq's sinusoidal positions read their shapes from tensors, which are on the CPU on any device
    model = enable_el_attention(build_model("transformer", WORDS, decoder_learned_pos=True))
    waits(model, 10, prefix)  # the first graph of a decoder is compared
    assert waits(model, 30, prefix) - waits(model, 10, prefix) == 20


def test_attention_of_earlier_steps_is_kept(model, captures):
    steps = Steps(model, plan.capturer(None))
    seen = []
    for _ in range(4):
        _, attention = steps.graphed(NewestTokens.of(steps.tokens[:, : len(seen) + 1]), steps.source)
        seen.append((attention, attention.clone()))
        steps.reorder([0, 1, 2, 3, 4, 5])
    assert all(torch.equal(kept, then) for kept, then in seen)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_lost_beam_is_lost_alone(bad, model, captures):
    """What is no number reaches no beam but the one it came from, whose score is lost with it."""
    steps = Steps(model, plan.capturer(None))
    model.decoder.embed_tokens.weight[7] = bad
    steps.tokens[steps.tokens == 7] = 8
    steps.tokens[2, 3] = 7
    lost = torch.zeros(6, dtype=torch.bool)
    for order in (
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 5, 5],
        [1, 0, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
        [0, 0, 3, 2, 4, 5],
        [0, 1, 2, 3, 5, 4],
    ):
        new = steps.tokens[:, steps.length] == 7
        lost |= new
        features, expected = steps.take()
        assert not features[new].isfinite().any() and features[~lost].isfinite().all()
        assert_close(features[~lost], expected[~lost])
        steps.reorder(order)
        lost = lost[torch.tensor(order)]
    assert lost.sum() == 1 and len(captures) == 1


def test_a_beam_that_is_lost_in_the_first_graph(model, captures):
    """Which is compared, so that the step is taken more than once."""
    steps = Steps(model, plan.capturer(None))
    model.decoder.embed_tokens.weight[7] = float("inf")
    steps.tokens[steps.tokens == 7] = 8
    steps.tokens[2, 1] = 7
    for length in range(3):
        features, expected = steps.take()
        assert torch.equal(features.isfinite(), expected.isfinite())
        assert length != 1 or not features[2].isfinite().any()
        steps.reorder([0, 1, 2, 3, 4, 5])
    assert len(captures) == 1 and works(model.decoder)


def test_what_was_not_written_is_not_read(model, captures):
    steps = Steps(model, plan.capturer(None))
    for _ in range(3):
        assert_close(*steps.take())
        steps.reorder([0, 1, 2, 3, 4, 5])
    for cache in steps.past.caches:
        cache.entries.narrow(3, 3 * BEAMS, 2 * BEAMS).fill_(1e6)
    assert_close(*steps.take())


def test_a_graph_that_fails_costs_a_warning(model, caplog, monkeypatch):
    def refuse(run):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    steps = Steps(model, refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert_close(*steps.take())
            steps.reorder([0, 1, 2, 3, 4, 5])
    (warning,) = caplog.records
    assert warning.getMessage() == (
        "decoder steps of TransformerDecoderBase are not captured as CUDA graphs: RuntimeError: CUDA error: operation "
        "not permitted when stream is capturing"
    )


def test_a_graph_that_differs_is_not_used(model, caplog):
    def wrong(run):
        replay, (features, attention) = capture(run)
        return (lambda: (replay(), features.mul_(1.1))), (features, attention)

    steps = Steps(model, wrong)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert_close(*steps.take())
            steps.reorder([0, 1, 2, 3, 4, 5])
    assert len(caplog.records) == 1 and "its features are off by" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("CUDA error: out of memory")], ids=repr)
def test_without_memory_for_a_graph_steps_are_taken_without(error, model, caplog):
    """Once for the same tensors, with one line; it verifies nothing."""
    caplog.set_level(logging.INFO)
    attempts = []

    def full(run):
        attempts.append(run)
        raise error

    steps = Steps(model, full)
    for _ in range(4):
        assert_close(*steps.take())
        steps.reorder([0, 1, 2, 3, 4, 5])
    assert len(attempts) == 1 and model.decoder not in verified
    (record,) = (record for record in caplog.records if record.name.endswith("cuda_graph"))
    assert record.levelname == "INFO" and record.getMessage().startswith("no memory for a CUDA graph: ")


def test_without_memory_for_a_step_the_error_is_raised(model, captures, monkeypatch):
    steps = Steps(model, plan.capturer(None))
    steps.take()
    monkeypatch.setattr(DecoderStep, "layers", lambda *args: torch.ones(2**60))
    with pytest.raises(RuntimeError, match="memory"):
        steps.take()


def test_a_graph_that_holds_nothing_is_not_used(model, caplog):
    """As where a graph is captured on another device than that of the model."""
    steps = Steps(model, lambda run: (lambda: None, run()))
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert_close(*steps.take())
            steps.reorder([0, 1, 2, 3, 4, 5])
    assert len(caplog.records) == 1 and not works(model.decoder)


def test_a_verification_is_for_a_dtype(captures):
    model = enable_el_attention(build_model("transformer", WORDS))
    for dtype in (torch.float64, torch.float32, torch.float32):
        steps = Steps(model.to(dtype), plan.capturer(None))
        for _ in range(2):
            steps.take()
            steps.reorder([0, 1, 2, 3, 4, 5])
        assert verified[model.decoder] == ((torch.device("cpu"), dtype), True)


@pytest.mark.parametrize("waits", [lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.nonzero()])
def test_the_imitation_refuses_what_a_graph_cannot_hold(waits):
    with pytest.raises(WaitsForAValueError):
        capture(lambda: waits(torch.ones(3)))


def test_nothing_is_captured_on_a_cpu():
    assert cuda_graph.capturer(torch.device("cpu")) is None
    model = enable_el_attention(build_model("transformer", WORDS).float())
    generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=6)
    generator.generate([model], batch(WORDS, [5, 3]))
    assert not works(model.decoder)
