"""What the generator promises beside stock's results."""

import copy
import logging
import math

import pytest
import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from helpers.models import assert_close, assert_same_hypotheses, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.cache.buffer import BLOCK, GrowingBuffer
from el_fairseq.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment
from el_fairseq.generation.generator import best_continuations

WORDS = dictionary(12)
SAMPLE = batch(WORDS, [12, 7, 5, 3])
LEAVES_EARLY = {"seed": 1, "gain": 2.0}  # some sentences of SAMPLE end long before others


def generator_of(model, cls=ELSequenceGenerator, words=WORDS, **options):
    return cls([model], words, **{"beam_size": 4, "max_len_b": 20, **options})


def test_encoder_output_is_neither_expanded_nor_ordered_anew_while_no_sentence_leaves(monkeypatch):
    model = enable_el_attention(build_model("transformer", WORDS, **LEAVES_EARLY), "on")
    generator = generator_of(model)
    seen = []
    forward = generator.model.forward_decoder

    def spy(tokens, encoder_outs, states, temperature):
        seen.append((tokens.size(0) // 4, encoder_outs[0]["encoder_out"][0]))
        return forward(tokens, encoder_outs, states, temperature)

    monkeypatch.setattr(generator.model, "forward_decoder", spy)
    generator.generate(None, SAMPLE)
    assert len({sentences for sentences, _ in seen}) > 1, "no sentence left early: the test shows nothing"
    for (before, old), (after, new) in zip(seen, seen[1:]):
        assert new.size(1) == after
        assert (new is old) == (before == after)


def test_state_is_written_in_place(monkeypatch):
    """While no row leaves and no block is full, each step finds its cache where the last one left it."""
    places, append = {}, GrowingBuffer.append

    def spy(cache, new):
        append(cache, new)
        places.setdefault(id(cache), []).append((cache.storage.shape, cache.storage.data_ptr()))

    monkeypatch.setattr(GrowingBuffer, "append", spy)
    generator_of(enable_el_attention(build_model("transformer", WORDS), "on"), min_len=15).generate(None, SAMPLE)
    assert len(places) == 2
    for steps in places.values():
        in_first_block = {place for shape, place in steps[:BLOCK] if shape == steps[0][0]}
        assert len(steps) >= 15 and len(in_first_block) == 1


def test_unused_state_is_never_read(monkeypatch):
    """Memory beyond what was written holds NaN here; one of them read would show in every score."""
    model = enable_el_attention(build_model("transformer", WORDS), "on")
    expected = generator_of(model).generate(None, SAMPLE)
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kw: empty(*args, **kw).fill_(float("nan")))
    assert_same_hypotheses(generator_of(model).generate(None, SAMPLE), expected, tolerance=0)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("mode", ["on", "auto", "off"])
def test_no_repeat_ngram_really_blocks(size, mode):
    words = dictionary(30)  # enough for 20 different tokens
    sample = batch(words, [12, 7, 5, 3])
    model = enable_el_attention(build_model("transformer", words, gain=3.0, seed=3), mode)
    options = {"beam_size": 4, "max_len_b": 20}

    def repeats(hypotheses):
        count = 0
        for hypo in (h for sentence in hypotheses for h in sentence):
            tokens = hypo["tokens"].tolist()
            ngrams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
            count += len(ngrams) - len(set(ngrams))
        return count

    assert repeats(ELSequenceGenerator([model], words, **options).generate(None, sample)) > 0
    blocking = ELSequenceGenerator([model], words, no_repeat_ngram_size=size, **options)
    blocked = blocking.generate(None, sample)
    assert repeats(blocked) == 0
    assert all(sentence for sentence in blocked)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_alignments_are_stocks(arch, kind):
    model = build_model(arch, WORDS, **LEAVES_EARLY)
    options = {"print_alignment": kind, "left_pad_target": False}
    expected = generator_of(model, SequenceGeneratorWithAlignment, **options).generate(None, SAMPLE)
    enable_el_attention(model, "on")
    actual = generator_of(model, ELSequenceGeneratorWithAlignment, **options).generate(None, SAMPLE)
    assert_same_hypotheses(actual, expected)
    compared = 0
    for ours, stocks in zip(actual, expected):
        for our, stock in zip(ours, stocks):
            assert len(our["alignment"]) == len(stock["alignment"]) > 0
            # hard: pairs of positions; soft: a row of probabilities, printed, for each token
            ours_numbers, stocks_numbers = (
                torch.tensor([[*map(float, a)] for a in h["alignment"]]) for h in (our, stock)
            )
            assert_close(ours_numbers, stocks_numbers, 1e-6)
            compared += 1
    assert compared == 16


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("together", ["two EL", "EL and stock", "EL and LSTM"])
def test_ensembles(together):
    models = [build_model("transformer", WORDS, seed=0, gain=2.0), build_model("transformer", WORDS, seed=1, gain=2.0)]
    if together == "EL and LSTM":
        models[1] = build_model("lstm", WORDS, seed=1, decoder_hidden_size=16, encoder_hidden_size=16)
    expected = SequenceGenerator(models, WORDS, beam_size=4, max_len_b=20).generate(None, SAMPLE)
    enable_el_attention(models[:1] if together == "EL and stock" else models, "on")
    actual = ELSequenceGenerator(models, WORDS, beam_size=4, max_len_b=20).generate(None, SAMPLE)
    assert_same_hypotheses(actual, expected)


@pytest.mark.usefixtures("float64")
def test_batches_of_one_generator_do_not_touch_each_other():
    model = build_model("transformer", WORDS, **LEAVES_EARLY)
    samples = [SAMPLE, batch(WORDS, [3]), batch(WORDS, [9, 9, 2], seed=1), SAMPLE]
    expected = [generator_of(model, SequenceGenerator).generate(None, sample) for sample in samples]
    generator = generator_of(enable_el_attention(model, "auto"))
    for sample, hypotheses in zip(samples, expected):
        assert_same_hypotheses(generator.generate(None, sample), hypotheses)


@pytest.mark.usefixtures("float64")
def test_the_caller_keeps_its_sample():
    model = enable_el_attention(build_model("transformer", WORDS, **LEAVES_EARLY), "on")
    sample = copy.deepcopy(SAMPLE)
    prefix = torch.full((4, 1), 7)
    generator_of(model).generate(None, sample, prefix_tokens=prefix)
    assert torch.equal(sample["id"], SAMPLE["id"]) and prefix.tolist() == [[7]] * 4
    for key, value in SAMPLE["net_input"].items():
        assert torch.equal(sample["net_input"][key], value)


def test_min_len_above_max_len_names_both():
    generator = generator_of(build_model("transformer", WORDS), min_len=9, max_len_b=5)
    with pytest.raises(ValueError, match="--min-len 9 is more than the 5 tokens that --max-len-a/b allow"):
        generator.generate(None, SAMPLE)


def test_a_sentence_that_cannot_end_loses_no_other(caplog):
    """Stock stops with an AssertionError here, and whatever the batch had generated is lost."""
    model = build_model("transformer", WORDS)
    generator = generator_of(model)
    constrain = generator._constrain

    def never_end_the_second(step, max_len, lprobs, live):
        lprobs = constrain(step, max_len, lprobs, live)
        lprobs.view(-1, 4, len(WORDS))[live.ids == 1, :, WORDS.eos()] = float("-inf")
        return lprobs

    generator._constrain = never_end_the_second
    with caplog.at_level(logging.WARNING):
        hypotheses = generator.generate(None, SAMPLE)
    (empty,) = hypotheses[1]
    assert empty["tokens"].tolist() == [WORDS.eos()] and empty["positional_scores"].tolist() == [float("-inf")]
    assert empty["score"] == float("-inf") and empty["attention"].shape == (12, 1)
    assert all(len(hypotheses[i]) == 4 and hypotheses[i][0]["score"] > float("-inf") for i in (0, 2, 3))
    assert "no hypothesis could end within --max-len-a/b (20 tokens) for 1 of 4 sentences" in caplog.text


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "options",
    [
        {"decoder_layerdrop": 0.5, "encoder_layerdrop": 0.5, "decoder_layers": 4},
        {"adaptive_softmax_cutoff": "6,9", "tie_adaptive_weights": False, "adaptive_softmax_factor": 2},
        {"checkpoint_activations": True},
        {"decoder_layers": 0},
        {"quant_noise_pq": 0.1, "quant_noise_pq_block_size": 4},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("converted_while", ["training", "evaluating"])
def test_options_of_the_model_that_change_its_modules(options, converted_while):
    options = {"tie_adaptive_proj": False, "share_decoder_input_output_embed": False, **options}
    model = build_model("transformer", WORDS, **LEAVES_EARLY, **options)
    expected = generator_of(model, SequenceGenerator).generate(None, SAMPLE)
    model.train(converted_while == "training")
    torch.manual_seed(0)
    enable_el_attention(model, "on")
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0)), "it used random numbers"
    model.eval()
    assert_same_hypotheses(generator_of(model).generate(None, SAMPLE), expected)


@pytest.mark.usefixtures("float64")
def test_a_sample_without_ids():
    model = build_model("transformer", WORDS, **LEAVES_EARLY)
    sample = {"net_input": SAMPLE["net_input"]}
    expected = generator_of(model, SequenceGenerator).generate(None, sample)
    enable_el_attention(model, "on")
    assert_same_hypotheses(generator_of(model).generate(None, sample), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["on", "auto"])
def test_half_precision_generates_close_to_float32(dtype, mode):
    """Scores of the same tokens, forced by a prefix, so that rounding cannot choose others."""
    prefix = torch.randint(4, 12, (4, 8), generator=torch.Generator().manual_seed(0))
    scores = []
    for precision in (dtype, torch.float32):
        model = enable_el_attention(build_model("transformer", WORDS, dtype=torch.float32).to(precision), mode)
        hypotheses = generator_of(model, max_len_b=8).generate(None, SAMPLE, prefix_tokens=prefix)
        scores.append(torch.stack([sentence[0]["positional_scores"][:8] for sentence in hypotheses]).float())
    assert_close(scores[0], scores[1], 0.02 if dtype == torch.float16 else 0.15)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["on", "auto"])
def test_types_that_overflow_lose_their_beams_alone(mode):
    """Beams of a sentence share their past: what is no number in one of them must not reach the others."""
    words = dictionary(30)
    model = build_model("transformer", words, gain=2.0)
    with torch.no_grad():
        model.decoder.embed_tokens.weight[words.nspecial :: 3] = float("nan")
        model.decoder.output_projection.weight = torch.nn.Parameter(torch.randn(30, 16).double())
    sample = batch(words, [12, 7, 5, 3])
    expected = generator_of(model, SequenceGenerator, words=words).generate(None, sample)
    assert all(hypo["score"].isfinite() and len(hypo["tokens"]) > 2 for hypo in expected[0][:1])
    enable_el_attention(model, mode)
    assert_same_hypotheses(generator_of(model, words=words).generate(None, sample), expected)


@pytest.mark.usefixtures("float64")
def test_state_of_other_modules_beside_ours():
    """Positions that keep a state of their own: fairseq reorders it, and what the beams share is reordered too."""
    model = build_model("transformer", WORDS, **LEAVES_EARLY)
    model.decoder.embed_positions.__class__ = CountingPositions
    expected = generator_of(model, SequenceGenerator).generate(None, SAMPLE)
    enable_el_attention(model, "auto")
    assert_same_hypotheses(generator_of(model).generate(None, SAMPLE), expected)


class CountingPositions(SinusoidalPositionalEmbedding):
    """Adds a running sum of the tokens."""

    def forward(self, tokens, incremental_state=None, timestep=None, positions=None):
        embedded = super().forward(tokens, incremental_state, timestep, positions)
        if incremental_state is None:
            return embedded
        total = tokens[:, -1:].double() + incremental_state.get("counting", {}).get("total", 0)
        incremental_state["counting"] = {"total": total}
        return embedded + 0.01 * total.unsqueeze(-1)

    def reorder_incremental_state(self, incremental_state, order):
        counting = incremental_state["counting"]
        counting["total"] = counting["total"].index_select(0, order)


def test_continuations_of_rows_that_lie_apart():
    """As the padded buffer of log-probabilities has them: what contiguous ones give, also between equals."""
    torch.manual_seed(0)
    wide = torch.randn(6, 70).round()
    wide[:, 65:] = -math.inf
    scores = torch.randn(3, 2, 1).round()
    apart, dense = wide[:, :65], wide[:, :65].contiguous()
    for found, expected in zip(*(best_continuations(x.view(3, 2, 65), scores, 4) for x in (apart, dense))):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prefix", [[[7, 8, 2]], [[7, 2, 1], [7, 8, 9]]], ids=["one", "two"])
def test_the_attention_of_a_prefix_that_ends_its_sentence(prefix):
    """fairseq gives all beams the tokens of the first one then, and leaves each its own attention."""
    words = dictionary(30)
    model, search = build_model("transformer", words, seed=4, gain=2.0), {"beam_size": 3, "max_len_b": 8}
    sample, prefix = batch(words, [9, 4][: len(prefix)]), torch.tensor(prefix)
    expected = SequenceGenerator([model], words, **search).generate([model], sample, prefix_tokens=prefix)
    ours = ELSequenceGenerator([enable_el_attention(model)], words, **search)
    assert_same_hypotheses(ours.generate([model], sample, prefix_tokens=prefix), expected)
