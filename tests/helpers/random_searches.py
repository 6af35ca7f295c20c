"""Random search strategies, every one that fairseq has, and what they need beside a model."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from fairseq import search
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints
from torch import nn

from el_fairseq.ops import naive

from .random_lms import build_lm


class LoopNGramBlock(nn.Module):
    """What fairseq's CUDA extension does, token by token: stock's own fallback blocks nothing."""

    def __init__(self, size):
        super().__init__()
        self.no_repeat_ngram_size = size

    def forward(self, tokens, lprobs, bsz, beam_size, step):
        for row, held in zip(lprobs, tokens[:, : step + 1].tolist()):
            for token in naive.repeated_ngram_continuations(held, self.no_repeat_ngram_size):
                row[token] = float("-inf")
        return lprobs


@dataclass
class Strategy:
    """A search strategy by name, with its own options; every generator needs a fresh one."""

    kind: str
    options: dict = field(default_factory=dict)

    def build(self, words):
        return STRATEGIES[self.kind](words, **self.options)


STRATEGIES = {
    "beam": search.BeamSearch,
    "diverse groups": search.DiverseBeamSearch,
    "diverse siblings": search.DiverseSiblingsSearch,
    "sampling": search.Sampling,
    "top-k": search.Sampling,
    "top-p": search.Sampling,
    "ordered constraints": search.LexicallyConstrainedBeamSearch,
    "unordered constraints": search.LexicallyConstrainedBeamSearch,
    "allowed tokens": search.PrefixConstrainedBeamSearch,
    "length of the source": search.LengthConstrainedBeamSearch,
    "length": search.LengthConstrainedBeamSearch,
}
SAMPLING = ("sampling", "top-k", "top-p")
CONSTRAINED = ("ordered constraints", "unordered constraints")
# They have no other candidate to go on with where one ends, and so go on behind end-of-sentence. That is repeated then,
# which stock blocks in a hypothesis of maximal length, and the generator here never.
AS_MANY_AS_BEAMS = ("diverse groups", *SAMPLING, "allowed tokens")
# They forbid end-of-sentence where they think it too early, in a forced prefix too.
FORBID_ENDS = (*CONSTRAINED, "length", "length of the source")
# They take the best 2·M of V tokens at once, and stop if there are fewer.
NEED_TYPES = ("diverse siblings", *CONSTRAINED)


def random_strategy(rng, words, beams, longest, forced):
    """A strategy for ``beams`` beams that can reach ``longest`` tokens, ``forced`` of them from a prefix."""
    kind = rng.choice(["beam", "beam", *STRATEGIES])
    if kind in NEED_TYPES and len(words) <= 2 * beams:
        kind = "beam"
    groups = rng.choice([n for n in range(1, beams + 1) if beams % n == 0])
    return Strategy(
        kind,
        {
            "diverse groups": {
                "num_groups": groups,
                "diversity_strength": rng.choice([0.2, 0.5, 1.5]),
                "diversity_discount": rng.choice([1.0, 1.0, 0.5]),
            },
            "diverse siblings": {"diversity_rate": rng.choice([0.0, 0.3, 1.2])},
            "top-k": {"sampling_topk": rng.randint(1, 6)},
            "top-p": {"sampling_topp": rng.choice([0.3, 0.8, 0.95])},
            "ordered constraints": {"representation": "ordered"},
            "unordered constraints": {"representation": "unordered"},
            "allowed tokens": {"prefix_allowed_tokens_fn": _Allowed(words, forced)},
            "length of the source": {"min_len_a": 1, "min_len_b": 0, "max_len_a": 1, "max_len_b": 0},
            "length": {
                "min_len_a": 0,
                "min_len_b": min(forced + 2, longest),
                "max_len_a": 0.5,
                "max_len_b": forced + 2,
            },
        }.get(kind, {}),
    )


@dataclass
class _Allowed:
    """Allows half of the types, which depends on the last token and the sentence; and all of them for a prefix."""

    words: object
    forced: int

    def __call__(self, sentence, tokens):
        if len(tokens) <= self.forced:
            return list(range(len(self.words)))
        odd = (int(sentence) + int(tokens[-1])) % 2
        return [self.words.eos(), *range(self.words.nspecial + odd, len(self.words), 2)]


def random_constraints(rng, words, sentences, longest):
    """Up to three constraints of up to two tokens for each sentence, packed, at most ``longest`` tokens of them."""
    batch = []
    for _ in range(sentences):
        phrases = [[rng.randrange(words.nspecial, len(words)) for _ in range(rng.randint(1, 2))] for _ in range(3)]
        phrases = phrases[: rng.randint(0, 3)]
        while sum(map(len, phrases)) > longest:
            phrases.pop()
        batch.append([torch.tensor(phrase) for phrase in phrases])
    return pack_constraints(batch)


@dataclass
class Search:
    """How to search: a strategy, the options of the generator, and what is given beside a batch."""

    seed: int
    words: object
    strategy: Strategy
    options: dict
    prefix: torch.Tensor = None
    constraints: torch.Tensor = None
    bos: int = None

    @property
    def kind(self):
        return self.strategy.kind

    @property
    def tolerance(self):
        """Lexically constrained search keeps its scores in float32."""
        return 1e-5 if self.kind in CONSTRAINED else 1e-9

    def build_generator(self, cls, models):
        return cls(models, self.words, search_strategy=self.strategy.build(self.words), **self.options)

    def stock_generator(self, models):
        """Stock's, with n-gram blocking that works."""
        generator = self.build_generator(SequenceGenerator, models)
        size = self.options["no_repeat_ngram_size"]
        if size > 0:
            generator.repeat_ngram_blocker = LoopNGramBlock(size)
        return generator

    def generate(self, generator, sample):
        """The hypotheses for ``sample``, with the same random draws every time."""
        given = {} if self.constraints is None else {"constraints": self.constraints}
        torch.manual_seed(self.seed)
        return generator.generate(None, sample, prefix_tokens=self.prefix, bos_token=self.bos, **given)


def random_search(rng, seed, words, sample, limits, prefix=None, bos=None):
    """A search for ``sample``; ``limits`` are ``max_len_a`` and ``max_len_b`` of the generator."""
    source = sample["net_input"]["src_tokens"]
    longest = int(limits["max_len_a"] * source.size(1) + limits["max_len_b"])
    forced = 0 if prefix is None else min(prefix.size(1), longest)
    beams = rng.choice([1, 2, 3, 4, 5])
    strategy = random_strategy(rng, words, beams, longest, forced)
    match_source_len = strategy.kind == "length of the source"
    constrained = strategy.kind in CONSTRAINED
    if constrained and forced > 2:  # it would give most of its beams to constraints that a prefix makes impossible
        prefix, forced = None, 0
    options = {
        **limits,
        "beam_size": beams,
        "min_len": 1 if match_source_len else min(rng.choice([1, 1, 3, forced + 3]), longest),
        "match_source_len": match_source_len,
        "normalize_scores": rng.random() < 0.8,
        "len_penalty": rng.choice([1.0, 0.6, 2.0, 0.0]),
        "unk_penalty": rng.choice([0.0, 1.5, -1.5]),
        "temperature": rng.choice([1.0, 0.7, 1.3]),
        "no_repeat_ngram_size": 0 if strategy.kind in AS_MANY_AS_BEAMS else rng.choice([0, 0, 0, 2, 3]),
        "tokens_to_suppress": rng.choice([(), (), (), ("w1",)]),
    }
    if rng.random() < 0.1:
        options.update(lm_model=build_lm(words, seed=seed + 1000).to(source.device), lm_weight=0.4)
    constraints = (
        random_constraints(rng, words, len(source), longest - forced).to(source.device) if constrained else None
    )
    return Search(seed, words, strategy, options, prefix, constraints, bos)


def assert_searches_are_mixed(cases):
    """Every search of fairseq occurs, with one beam and with more, behind prefixes and with a second language model."""
    searches = [case.search for case in cases]
    assert {search.options["beam_size"] for search in searches} == {1, 2, 3, 4, 5}
    kinds = Counter(search.kind for search in searches)
    assert set(kinds) == set(STRATEGIES) and min(kinds.values()) >= 8, kinds
    for kind in STRATEGIES:
        assert any(search.options["beam_size"] > 1 for search in searches if search.kind == kind), kind
        assert any(search.prefix is not None for search in searches if search.kind == kind), kind
    assert sum(search.options["beam_size"] == 1 and search.kind == "beam" for search in searches) > 5  # greedy
    assert sum(search.prefix is not None for search in searches) > 10
    assert sum("lm_model" in search.options for search in searches) > 10
    assert sum(bool(search.options["tokens_to_suppress"]) for search in searches) > 10
    assert sum(search.options["no_repeat_ngram_size"] > 0 for search in searches) > 30
    constraints = [search.constraints for search in searches if search.constraints is not None]
    assert sum(int(packed[:, 0].max()) > 1 for packed in constraints) > 10
