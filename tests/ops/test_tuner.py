"""The fastest of several candidates, timed once."""

import logging

import pytest

from el_fairseq.ops import tuner as module
from el_fairseq.ops.tuner import Tuner


class Clock:
    """Time that passes only while a candidate runs."""

    def __init__(self):
        self.now, self.runs = 0.0, []

    def candidate(self, name, *durations):
        """It takes each of ``durations`` once, and the last one from then on."""
        left = list(durations)

        def run():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.runs.append(name)

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_fastest_is_remembered(clock):
    tuner, candidates = Tuner(), {"slow": clock.candidate("slow", 3e-4), "fast": clock.candidate("fast", 1e-4)}
    assert tuner.choose("shape", candidates, "slow") == "fast"
    count = len(clock.runs)
    assert tuner.choose("shape", candidates, "slow") == "fast" and len(clock.runs) == count
    assert tuner.choose("another", candidates, "slow") == "fast" and len(clock.runs) == 2 * count


def test_candidates_take_turns_and_the_first_call_does_not_count(clock):
    first_call_is_slow = clock.candidate("a", 1.0, 1e-4)
    assert Tuner().choose("shape", {"a": first_call_is_slow, "b": clock.candidate("b", 1.0)}, "b") == "a"
    assert clock.runs == ["a", "b", "a", "b"]  # no further round: it took long


def test_a_moment_of_noise_does_not_decide(clock):
    noisy = clock.candidate("good", 1e-4, 9e-3, 1e-4)
    assert Tuner().choose("shape", {"good": noisy, "bad": clock.candidate("bad", 2e-4)}, "bad") == "good"


def test_the_default_stays_where_little_is_gained(clock):
    candidates = {"default": clock.candidate("default", 1e-4), "other": clock.candidate("other", 0.95e-4)}
    assert Tuner().choose("shape", candidates, "default") == "default"


def test_fixed_takes_the_default_and_times_nothing(clock):
    tuner = Tuner()
    tuner.fixed = True
    assert tuner.choose("shape", {"a": clock.candidate("a", 1.0), "b": clock.candidate("b", 1e-6)}, "a") == "a"
    assert not clock.runs and not tuner.chosen


def test_what_was_found_is_logged_at_debug_level(clock, caplog):
    caplog.set_level(logging.DEBUG, logger=module.__name__)
    Tuner().choose("4 rows", {"a": clock.candidate("a", 2e-4), "b": clock.candidate("b", 1e-4)}, "a")
    assert "4 rows: b (microseconds: a 200, b 100; found in 1.8 ms" in caplog.text
