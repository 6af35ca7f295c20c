"""Out of memory at one batch of several, in its halves, and for one sentence alone: the others are kept."""

import pytest
import torch
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

WORDS = dictionary(30)
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
pytestmark = pytest.mark.usefixtures("float64")


def batches():
    """Four of four sentences, numbered from 10, 20, 30, 40 on."""
    made = [batch(WORDS, lengths, seed=i) for i, lengths in enumerate([[9, 7, 5, 3], [8] * 4, [12, 9, 9, 2], [4] * 4])]
    return [{**each, "id": torch.arange(4) + 10 * (i + 1)} for i, each in enumerate(made)]


def generator_with(limit):
    """A generator whose encoder runs out of memory where ``limit(sentences, width)``; and the sizes it saw."""
    model = enable_el_attention(build_model("transformer", WORDS, seed=1, gain=2.0), "on")
    seen = []

    def before_layer(layer, args):
        width, sentences, _ = args[0].shape
        seen.append((sentences, width))
        if limit(sentences, width):
            raise RuntimeError(NO_MEMORY)

    model.encoder.layers[0].register_forward_pre_hook(before_layer)
    return ELSequenceGenerator([model], WORDS, beam_size=3, max_len_b=12), seen


def test_a_batch_and_its_halves():
    """The third batch fits in parts of one sentence; what is generated is what there would be without a limit."""
    free, _ = generator_with(lambda sentences, width: False)
    expected = [free.generate(None, each) for each in batches()]
    limited, seen = generator_with(lambda sentences, width: width == 12 and sentences > 1)
    for given, whole in zip(batches(), expected):
        assert_same_hypotheses(limited.generate(None, given), whole)
    assert [sentences for sentences, width in seen if width == 12] == [4, 2, 1, 1, 1, 1]


def test_a_sentence_that_is_too_large_alone_is_named():
    """What was generated before is there, and the generator goes on with what comes behind."""
    free, _ = generator_with(lambda sentences, width: False)
    limited, _ = generator_with(lambda sentences, width: width == 12)
    first, _, large, last = batches()
    assert_same_hypotheses(limited.generate(None, first), free.generate(None, first))
    with pytest.raises(torch.OutOfMemoryError, match=r"sentence \(S-30\) does not fit .*--max-len-b.*--beam.* on;"):
        limited.generate(None, large)
    assert_same_hypotheses(limited.generate(None, last), free.generate(None, last))
