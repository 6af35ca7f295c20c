"""What fairseq's public tests expect of a generator, on scripted models whose hypotheses are known by hand.

Each test runs for stock's generator, which shows that the expectation is fairseq's, and for ours.
"""

import math

import pytest
import torch
from fairseq import search
from fairseq.data import BacktranslationDataset, LanguagePairDataset
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints
from helpers.models import assert_close
from helpers.scripted import ANY, END, WORDS, A, B, C, probability, sample, scripted_model

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

SOURCES = [A, B]  # of the two sentences of the sample
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=[SequenceGenerator, ELSequenceGenerator])
def generate(request):
    """``generate(models, prefix_tokens=..., constraints=..., **options)``: the hypotheses for both sentences."""

    def run(models=None, batch=None, **options):
        models = [scripted_model()] if models is None else models
        given = {name: options.pop(name) for name in ("prefix_tokens", "constraints") if name in options}
        if request.param is ELSequenceGenerator:
            enable_el_attention(models, "on")
        generator = request.param(models, WORDS, **{"beam_size": 2, "max_len_b": 8, **options})
        return generator.generate(models, sample() if batch is None else batch, **given)

    return run


def tokens_of(hypotheses):
    return [[hypo["tokens"].tolist() for hypo in sentence] for sentence in hypotheses]


def assert_hypotheses(sentence, expected, normalize=lambda score, length: score / length):
    """``expected``: pairs of tokens and the probability of each; best first."""
    assert [hypo["tokens"].tolist() for hypo in sentence] == [tokens for tokens, _ in expected]
    for hypo, (tokens, probabilities) in zip(sentence, expected):
        logs = torch.tensor(probabilities, dtype=torch.float64).log()
        assert_close(hypo["positional_scores"].double(), logs)
        assert_close(hypo["score"].double(), normalize(logs.sum(), len(tokens)))


@pytest.mark.parametrize("incremental", [True, False])
def test_beam_search(generate, incremental):
    first, second = generate([scripted_model(incremental=incremental)])
    # log(.324) / 3 > log(.36) / 2
    assert_hypotheses(first, [([A, B, END], [0.9, 0.6, 0.6]), ([A, END], [0.9, 0.4])])
    assert_hypotheses(second, [([B, END], [0.7, 0.8]), ([A, END], [0.3, 0.9])])


def test_greedy(generate):
    first, second = generate(beam_size=1)
    assert_hypotheses(first, [([A, B, END], [0.9, 0.6, 0.6])])
    assert_hypotheses(second, [([B, END], [0.7, 0.8])])


def test_without_normalization(generate):
    first, _ = generate(normalize_scores=False)
    shorter_first = [([A, END], [0.9, 0.4]), ([A, B, END], [0.9, 0.6, 0.6])]
    assert_hypotheses(first, shorter_first, normalize=lambda score, length: score)


@pytest.mark.parametrize("penalty, best", [(0.2, [A, END]), (2.0, [A, B, END])])
def test_length_penalty(generate, penalty, best):
    first, _ = generate(len_penalty=penalty)
    expected = [([A, B, END], [0.9, 0.6, 0.6]), ([A, END], [0.9, 0.4])]
    expected.sort(key=lambda hypo: hypo[0] != best)
    assert_hypotheses(first, expected, normalize=lambda score, length: score / length**penalty)


def test_the_maximal_length_forces_the_end(generate):
    first, second = generate(max_len_b=1)
    assert_hypotheses(first, [([A, END], [0.9, 0.4]), ([B, END], [0.1, 0.7])])
    assert_hypotheses(second, [([B, END], [0.7, 0.8]), ([A, END], [0.3, 0.9])])


def test_the_minimal_length_forbids_the_end(generate):
    first, second = generate(min_len=2)
    assert_hypotheses(first[:1], [([A, B, END], [0.9, 0.6, 0.6])])
    assert_hypotheses(second[:1], [([B, A, END], [0.7, 0.2, 0.8])])
    assert all(len(hypo["tokens"]) > 2 for hypo in first + second)


def test_temperature_flattens(generate):
    first, _ = generate(temperature=2.0)
    roots = [[p**0.5 for p in row] for row in ([0.9, 0.1], [0.4, 0.6])]
    flat = [row[0] / sum(row) for row in roots]
    (ends_early,) = [hypo for hypo in first if hypo["tokens"].tolist() == [A, END]]
    assert_close(ends_early["positional_scores"].double(), torch.tensor(flat, dtype=torch.float64).log())


def test_the_unknown_word_is_penalized(generate):
    script = {A: {(): {WORDS.unk(): 0.6, A: 0.4}}, B: {(): {WORDS.unk(): 0.9, B: 0.1}}}
    best = [sentence[0]["tokens"].tolist() for sentence in generate([scripted_model(script)], unk_penalty=1.0)]
    # .6 / e < .4, but .9 / e > .1
    assert best == [[A, END], [WORDS.unk(), END]]


def test_prefix_tokens(generate):
    """A forced token counts as it was scored; where the prefix is padding nothing is forced."""
    first, second = generate(prefix_tokens=torch.tensor([[B], [WORDS.pad()]]))
    assert_hypotheses(first, [([B, A, END], [0.1, 0.3, 0.8]), ([B, END], [0.1, 0.7])])
    assert_hypotheses(second, [([B, END], [0.7, 0.8]), ([A, END], [0.3, 0.9])])


def test_a_prefix_that_ends(generate):
    """End-of-sentence in the prefix ends that sentence alone."""
    first, second = generate(prefix_tokens=torch.tensor([[B, END, WORDS.pad()], [B, A, C]]))
    assert all(tokens == [B, END] for tokens in tokens_of([first])[0])
    assert all(tokens[:3] == [B, A, C] for tokens in tokens_of([second])[0])


def test_suppressed_tokens(generate):
    assert tokens_of(generate(tokens_to_suppress=["w1"], beam_size=1)) == [[[A, END]], [[A, END]]]


def test_diverse_groups(generate):
    """The second group leaves the first one's token; that costs it nothing where it would take another anyway."""
    first, _ = generate(search_strategy=search.DiverseBeamSearch(WORDS, 2, 5.0), batch=alone())
    assert_hypotheses(first, [([A, B, END], [0.9, 0.6, 0.6]), ([B, END], [0.1, 0.7])])


def test_one_weak_group_is_beam_search_for_the_best(generate):
    strategy = search.DiverseBeamSearch(WORDS, 2, 0.0)
    first, _ = generate(search_strategy=strategy, batch=alone())
    assert tokens_of([first]) == [[[A, B, END], [A, B, END]]]


def alone():
    """The sample with the ids that diverse groups need: places in the batch."""
    return {**sample(), "id": torch.arange(2)}


def test_diverse_siblings(generate):
    """The n-th best continuation of a beam loses n times the rate, from the second token on."""
    first, _ = generate(search_strategy=search.DiverseSiblingsSearch(WORDS, 2.0))
    cost = math.exp(-2)
    assert_hypotheses(first, [([A, B, END], [0.9, 0.6 * cost, 0.6 * cost]), ([B, END], [0.1, 0.7 * cost])])


@pytest.mark.parametrize("options", [{"sampling_topk": 1}, {"sampling_topp": 0.5}])
def test_sampling_from_one_token_is_greedy(generate, options):
    best = tokens_of(generate(search_strategy=search.Sampling(WORDS, **options)))
    assert best == [[[A, B, END]] * 2, [[B, END]] * 2]


@pytest.mark.parametrize(
    "options, first, later",
    [
        ({}, {A, B, C}, {END, A, B, C}),
        ({"sampling_topk": 2}, {A, B}, {END, A}),
        ({"sampling_topp": 0.85}, {A, B, C}, {END, A}),  # of the end, .8, there is none to begin with (min_len 1)
    ],
)
def test_sampling_draws_with_the_probabilities_of_the_model(generate, options, first, later):
    """Scores are those of what was drawn, nothing outside the k or the mass p is drawn, a seed repeats its draws."""
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        strategy = search.Sampling(WORDS, **options)
        draws.append(generate([scripted_model({})], beam_size=7, search_strategy=strategy, normalize_scores=False))
    assert tokens_of(draws[0]) == tokens_of(draws[1]) != tokens_of(draws[2])
    drawn = [hypo for sentence in draws[0] + draws[2] for hypo in sentence]
    assert {hypo["tokens"].tolist()[0] for hypo in drawn} == first
    for hypo in drawn:
        tokens = hypo["tokens"].tolist()
        assert set(tokens[1:]) <= later and tokens.count(END) == 1
        assert math.isclose(float(hypo["score"]), sum(math.log(ANY[token]) for token in tokens), rel_tol=1e-9)


def test_an_ensemble_averages_probabilities(generate):
    other = {A: {(): {A: 0.2, B: 0.8}, (B,): {END: 0.5, C: 0.5}}, B: {(): {B: 1.0}, (B,): {END: 0.4, C: 0.6}}}
    first, second = generate([scripted_model(), scripted_model(other)], beam_size=1)
    # .9 and .2 make .55 of A; behind it .4 and .8 (the other's script says nothing) of the end
    assert_hypotheses(first, [([A, END], [0.55, 0.6])])
    assert_hypotheses(second, [([B, END], [0.85, 0.6])])


def test_hypotheses_of_wide_beams_have_the_probability_of_their_tokens(generate):
    for source, sentence in zip(SOURCES, generate(beam_size=7)):
        assert len(sentence) == 7 and len({tuple(hypo["tokens"].tolist()) for hypo in sentence}) == 7
        expected = [(tokens, probability(source, tokens)) for tokens in tokens_of([sentence])[0]]
        assert_hypotheses(sentence, expected)


@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_every_hypothesis_has_its_constraints(generate, order):
    """Also improbable ones; in the given order if that was asked for, and none for a sentence without any."""
    phrases = [[torch.tensor([C, B]), torch.tensor([A])], []]
    first, second = generate(
        [scripted_model({})],
        beam_size=3,
        search_strategy=search.LexicallyConstrainedBeamSearch(WORDS, order),
        constraints=pack_constraints(phrases),
    )
    for hypo in first:
        line = "".join("ABC"[token - A] for token in hypo["tokens"].tolist()[:-1])
        assert "CB" in line and "A" in line.replace("CB", "", 1)
        assert order == "unordered" or "A" in line[line.index("CB") + 2 :]
    assert tokens_of([second])[0][0] == [A, END]


def test_allowed_tokens_depend_on_the_sentence_and_what_it_has(generate):
    seen = []

    def allowed(sentence, tokens):
        seen.append((int(sentence), tokens.tolist()))
        return [END, C] if sentence == 7 else [END, B]

    strategy = search.PrefixConstrainedBeamSearch(WORDS, allowed)
    assert tokens_of(generate([scripted_model({})], search_strategy=strategy, beam_size=1)) == [[[C, END]], [[B, END]]]
    assert seen == [(7, [END]), (3, [END]), (7, [END, C]), (3, [END, B])]


def test_outputs_as_long_as_their_sources(generate):
    strategy = search.LengthConstrainedBeamSearch(WORDS, 1, 0, 1, 0)
    first, second = generate([scripted_model({})], search_strategy=strategy, match_source_len=True)
    # of 3 and 2 tokens, and an end; what is longer than the source gets the score -inf
    assert {len(hypo["tokens"]) for hypo in first} == {4}
    assert len(second[0]["tokens"]) == 3 and float(second[0]["score"]) > -math.inf


def test_backtranslation(generate):
    """The best hypotheses become sources, without padding; the sentences themselves the targets."""
    sentences = sample()["net_input"]["src_tokens"]
    lines = [line[line.ne(WORDS.pad())] for line in sentences]
    targets = LanguagePairDataset(lines, [len(line) for line in lines], WORDS, left_pad_source=False)
    dataset = BacktranslationDataset(
        targets, WORDS, WORDS, backtranslation_fn=lambda batch: generate(batch=batch), output_collater=collate
    )
    batch = dataset.collater([dataset[0], dataset[1]])
    assert batch == {"source": [[A, B, END], [B, END]], "target": [line.tolist() for line in lines]}


def collate(samples):
    return {part: [sample[part].tolist() for sample in samples] for part in ("source", "target")}
