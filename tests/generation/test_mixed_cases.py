"""The first of the cases that ``scripts/fuzz.py`` makes; and it finds what is broken."""

from collections import Counter

import pytest
import torch
from helpers.every_way import DifferenceError, compare_every_way, poisoned_memory
from helpers.mixed_cases import KINDS, mixed_case
from helpers.random_searches import STRATEGIES

from el_fairseq.cache import BeamCaches, SourceCache, StaticBeamCaches
from el_fairseq.cache.buffer import GrowingBuffer
from el_fairseq.generation import generator
from el_fairseq.generation.history import History
from el_fairseq.generation.next_token import NextToken

SEED = 0
CASES = range(40)


@pytest.mark.parametrize("number", CASES)
def test_every_way_in_gives_stocks_output(number):
    assert compare_every_way(mixed_case(SEED, number))["hypotheses"] > 0


def test_much_occurs_together():
    cases = [mixed_case(SEED, number) for number in range(300)]
    kinds, searches = (Counter(found) for found in zip(*((case.kind, case.search.kind) for case in cases)))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 20
    assert set(searches) == set(STRATEGIES) and min(searches.values()) > 5
    occurring = Counter(name for case in cases for name in case.occurring())
    assert min(occurring.values()) > 10, occurring
    together = Counter(len(case.occurring()) for case in cases)
    assert sum(count for number, count in together.items() if number >= 4) > 150
    models = [member.model for case in cases for member in case.members]
    assert sum(model["decoder_embed_dim"] % 8 > 0 for model in models) > 150
    assert sum(model["decoder_attention_heads"] not in (1, 2, 4, 8) for model in models) > 50
    assert sum(model.get("share_all_embeddings", False) for model in models) > 20


def test_a_case_can_be_made_again():
    assert str(mixed_case(3, 7)) == str(mixed_case(3, 7)) != str(mixed_case(3, 8))
    assert str(mixed_case(3, 7)) != str(mixed_case(4, 7))


def test_memory_that_nobody_has_written_to_is_poisoned():
    with poisoned_memory():
        assert torch.ones(1).new_empty(3).isnan().all() and torch.empty_like(torch.ones(3)).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def forgetful(self, like, capacity):
    """``GrowingBuffer._grow`` that leaves what was there behind."""
    self.storage = like.new_empty(*like.shape[:3], capacity, like.size(4))


def imprecise(normalize):
    return lambda self, features: normalize(self, features).mul_(1 + 1e-7)


def shifted(continuations):
    return lambda lprobs, scores, *others: continuations(lprobs, scores.roll(1, dims=0), *others)


def staying(reorder):
    """Each beam continues one of its sentence, but not the one it came from."""
    return lambda self, order: reorder(self, order.sort().values)


def unfollowed(follow):
    def with_attention_of_another_step(self, *ends):
        tokens, scores, attention = follow(self, *ends)
        return tokens, scores, attention if attention is None else attention.flip(0)

    return with_attention_of_another_step


BROKEN = {
    "a cache that forgets when it grows": (GrowingBuffer, "_grow", lambda grow: forgetful),
    "scores that are off by a ten-millionth": (NextToken, "normalize", imprecise),
    "scores of another sentence": (generator, "best_continuations", shifted),
    "a shared past whose beams stay": (BeamCaches, "reorder", staying),
    "a recorded past whose beams stay": (StaticBeamCaches, "reorder", staying),
    "sources of sentences that have left": (SourceCache, "reorder", lambda reorder: lambda self, order: None),
    "attention that is not followed": (
        History,
        "follow",
        unfollowed,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found(what, monkeypatch):
    holder, name, break_it = BROKEN[what]
    cases = [mixed_case(SEED, number) for number in CASES]
    monkeypatch.setattr(holder, name, break_it(getattr(holder, name)))
    with pytest.raises(DifferenceError) as found:
        for case in sorted(cases, key=lambda case: case.search.kind != "beam"):  # it goes through most of this
            compare_every_way(case)
    assert ("recorded" in str(found.value)) == ("recorded" in what)


def test_where_stock_has_nothing_to_draw_nothing_is_drawn_here(monkeypatch):
    """A prefix of case 33 of seed 27 forces a token whose probability underflows to 0."""
    mixed = mixed_case(27, 33)
    assert +compare_every_way(mixed) == {"stock and this have nothing to draw": 1}
    monkeypatch.setattr(type(mixed.members[0]), "ours", lambda self, models: [])
    with pytest.raises(DifferenceError) as found:
        compare_every_way(mixed)
    assert "stock has nothing to draw" in str(found.value.__cause__)
