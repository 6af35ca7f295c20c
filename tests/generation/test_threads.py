"""Requests at once, one converted model: each gets what it would get alone."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary
from helpers.random_lms import build_lm, prompt_batch

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

WORDS = dictionary(12)
LM_WORDS = dictionary(30)
ROUNDS = 3
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def busy_threads():
    """Threads take turns as often as they can."""
    interval, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(interval)
    torch.set_num_threads(threads)


def requests_for(kind):
    """``(sample, beams, options of generate)``: of other shapes, so that what one keeps fits no other."""
    rng = random.Random(0)
    shapes = [([9, 5, 2], 4), ([12], 1), ([4, 4, 4, 4, 3], 2), ([7, 1], 3)]
    if kind != "transformer_lm":
        return [(batch(WORDS, lengths, seed=rng.random()), beams, {}) for lengths, beams in shapes]
    samples = [(prompt_batch(LM_WORDS, lengths, seed=rng.random()), beams) for lengths, beams in shapes]
    return [(s, m, {"prefix_tokens": s["net_input"]["src_tokens"], "bos_token": LM_WORDS.eos()}) for s, m in samples]


def decode(cls, model, request):
    sample, beams, options = request
    words = LM_WORDS if "prefix_tokens" in options else WORDS
    return cls([model], words, beam_size=beams, max_len_b=14).generate([model], sample, **options)


def at_once(functions):
    """What they return, each called ``ROUNDS`` times in a thread of its own, all at the same time."""
    with ThreadPoolExecutor(len(functions)) as pool:
        waiting = [pool.submit(lambda f=f: [f() for _ in range(ROUNDS)]) for f in functions]
        return [each.result() for each in waiting]


def assert_each_as_alone(functions, alone):
    for answers, expected in zip(at_once(functions), alone, strict=True):
        for answer in answers:
            assert_same_hypotheses(answer, expected)


@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize(
    "cls, kind",
    [
        (SequenceGenerator, "transformer"),
        (ELSequenceGenerator, "transformer"),
        (SequenceGenerator, "bart_base"),
        (ELSequenceGenerator, "bart_base"),
        (SequenceGenerator, "transformer_lm"),
        (ELSequenceGenerator, "transformer_lm"),
    ],
)
def test_a_generator_for_each_request(cls, kind, mode):
    model = (
        build_lm(LM_WORDS, decoder_layers=2) if kind == "transformer_lm" else build_model(kind, WORDS, seed=1, gain=2.0)
    )
    requests = requests_for(kind)
    alone = []
    for request in requests:
        if hasattr(model, "set_beam_size"):
            model.set_beam_size(request[1])  # stock's BART keeps the beams of the last generator that had several
        alone.append(decode(SequenceGenerator, model, request))
    enable_el_attention(model, mode)
    assert_each_as_alone([lambda r=r: decode(cls, model, r) for r in requests], alone)


@pytest.mark.parametrize("kind", ["transformer", "bart_base"])
def test_one_generator_for_all_requests(kind):
    """Beam search keeps nothing between calls; only the report at the end counts all batches as one."""
    model = enable_el_attention(build_model(kind, WORDS, seed=1, gain=2.0), "on")
    samples = [sample for sample, _, _ in requests_for(kind)]
    generator = ELSequenceGenerator([model], WORDS, beam_size=3, max_len_b=14)
    alone = [ELSequenceGenerator([model], WORDS, beam_size=3, max_len_b=14).generate(None, s) for s in samples]
    assert_each_as_alone([lambda s=s: generator.generate(None, s) for s in samples], alone)


def test_the_report_of_a_shared_generator_is_that_of_its_largest_batch():
    """A small batch comes in between two steps of a large one."""
    model = enable_el_attention(build_model("transformer", WORDS, seed=1, gain=2.0), "on")
    large, small = batch(WORDS, [12, 9, 7, 5]), batch(WORDS, [3])
    options = {"beam_size": 3, "max_len_b": 14}
    alone = ELSequenceGenerator([model], WORDS, **options)
    alone.generate(None, large)
    generator = ELSequenceGenerator([model], WORDS, **options)
    forward, steps = generator.model.forward_decoder, []

    def interrupted(tokens, *args):
        steps.append(tokens.size(1))
        if len(steps) == 2:
            generator.generate(None, small)
        return forward(tokens, *args)

    generator.model.forward_decoder = interrupted
    generator.generate(None, large)
    assert len(steps) > 4 and generator.meter.peak == alone.meter.peak


def build_task(mode):
    return TASK_REGISTRY["el_translation"](TASK_DATACLASS_REGISTRY["el_translation"](el_attention=mode), WORDS, WORDS)


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_building_another_generator_changes_no_module_of_a_converted_model(mode):
    """Hub interfaces of an el_ task build a generator for every request."""
    model, task = build_model("transformer", WORDS), build_task(mode)
    task.build_generator([model], GenerationConfig())
    before = list(model.modules())
    task.build_generator([model], GenerationConfig())
    assert all(ours is theirs for ours, theirs in zip(model.modules(), before, strict=True))


def test_a_task_builds_the_generator_of_each_request():
    model, task = build_model("transformer", WORDS, seed=1, gain=2.0), build_task("on")

    def decode_by_task(request):
        sample, beams, _ = request
        generator = task.build_generator([model], GenerationConfig(beam=beams, max_len_b=14))
        return task.inference_step(generator, [model], sample)

    requests = requests_for("transformer")
    alone = [decode(SequenceGenerator, model, request) for request in requests]
    assert_each_as_alone([lambda r=r: decode_by_task(r) for r in requests], alone)
