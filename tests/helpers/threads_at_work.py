"""Four threads that decode one model, each another batch again and again.

PYTHONPATH=tests:scripts python -m helpers.threads_at_work SECONDS    # by hand, for as long as you like
"""

import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from fairseq.sequence_generator import SequenceGenerator

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

from .models import assert_same_hypotheses, batch, build_model, compute_in_float64, dictionary

WORDS = dictionary(40)
SHAPES = [([9, 5, 2], 4), ([63], 1), ([4, 4, 4, 4, 3, 1], 2), ([17, 1], 3)]  # lengths of the sources, beams
KINDS = ["transformer", "bart_base"]


def decode(cls, model, shape):
    lengths, beams = shape
    return cls([model], WORDS, beam_size=beams, max_len_b=20).generate([model], batch(WORDS, lengths))


def work(kind, mode, seconds):
    """How many batches each thread has decoded; each is what stock gives for it alone."""
    model = build_model(kind, WORDS, seed=1, gain=2.0)
    expected = []
    for shape in SHAPES:
        if hasattr(model, "set_beam_size"):
            model.set_beam_size(shape[1])  # stock's BART keeps the beams of the last generator that had several
        expected.append(decode(SequenceGenerator, model, shape))
    enable_el_attention(model, mode)
    end = time.monotonic() + seconds

    def one(shape, alone):
        count = 0
        while count == 0 or time.monotonic() < end:
            assert_same_hypotheses(decode(ELSequenceGenerator, model, shape), alone)
            count += 1
        return count

    with ThreadPoolExecutor(len(SHAPES)) as pool:
        return list(pool.map(one, SHAPES, expected))


if __name__ == "__main__":
    import pytest

    compute_in_float64(pytest.MonkeyPatch())
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-5)
    logging.getLogger("el_fairseq").setLevel(logging.WARNING)
    for kind in KINDS:
        for mode in ("on", "auto"):
            print(kind, mode, work(kind, mode, float(sys.argv[1])), flush=True)
