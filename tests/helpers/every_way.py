"""A case, decoded by stock and in every way that there is here, while unused memory holds NaN."""

import traceback
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from el_fairseq import enable_el_attention
from el_fairseq.generation.cuda_graph import verified

from .fake_graph import imitate_graphs
from .models import compute_in_float64
from .random_searches import SAMPLING

WAYS = {  # the mode of EL-attention, and whether decoder steps are recorded as on a GPU
    "on": ("on", False),
    "off": ("off", False),
    "auto": ("auto", False),
    "on, recorded": ("on", True),
    "auto, recorded": ("auto", True),
}


class DifferenceError(AssertionError):
    """A way in that gives another output than stock, or none; its cause says what."""


@contextmanager
def poisoned_memory():
    """New memory that nobody has written to holds NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def compare_every_way(mixed):
    """Decode a ``MixedCase`` as stock and in all ``WAYS``, in float64.

    Returns:
        A ``Counter`` of how many ``hypotheses`` were compared, and what else was true of the case: 0 or 1 each.

    Raises:
        DifferenceError: a way gives something else, or stops where stock does not. Whatever stock raises, but that it
            found no hypothesis, or had no token left to draw.
    """
    case, found, actual, expected = mixed.members[0], Counter(), [], None
    models, stocks = mixed.build_models()
    with pytest.MonkeyPatch.context() as patch, poisoned_memory():
        compute_in_float64(patch)
        try:
            expected = case.stock(stocks)
        except RuntimeError as error:
            if not _has_nothing_to_draw(error):
                raise
            found["stock and this have nothing to draw"] = 1
        # --decoder-layerdrop draws on the CPU, as sampling does here: a replayed step would draw again.
        layerdrop = any(member.model.get("decoder_layerdrop") for member in mixed.members)
        can_record = not (layerdrop and mixed.search.kind in SAMPLING)
        for way, (mode, recorded) in WAYS.items():
            if recorded and not can_record:
                continue
            with pytest.MonkeyPatch.context() as inner:
                recordings = imitate_graphs(inner) if recorded else []
                enable_el_attention(models, mode)
                try:
                    actual = case.ours(models)
                    assert not found["stock and this have nothing to draw"], "stock has nothing to draw"
                    case.assert_same(actual, expected)
                    works = [verified.get(model.decoder, (None, not recordings))[1] for model in models]
                    assert all(works), "recorded steps are not those without"
                except Exception as error:
                    if found["stock and this have nothing to draw"] and _has_nothing_to_draw(error):
                        continue
                    if expected is None and _refuses_a_prefix(error):
                        found["stock and this refuse a prefix"] = 1
                        continue
                    raise DifferenceError(way) from error
            found["hypotheses"] += sum(map(len, actual))
            found["steps recorded"] |= bool(recordings)
    last = [max(len(hypo["tokens"]) for hypo in hypotheses) for hypotheses in actual] or [0]
    found["a sentence ended early"] = int(min(last) < max(last))
    found["stock found nothing"] = int(expected is None and not found["stock and this have nothing to draw"])
    return found


def _has_nothing_to_draw(error):
    """Whether sampling raised: a prefix forces a token whose probability underflows to 0, and no other is left."""
    return isinstance(error, RuntimeError) and "invalid multinomial distribution" in str(error)


def _refuses_a_prefix(error):
    """Whether fairseq's rule for prefixes raised: one ends a sentence after tokens that another rule has blocked."""
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return isinstance(error, AssertionError) and frames[-1] == "_prefix_tokens"
