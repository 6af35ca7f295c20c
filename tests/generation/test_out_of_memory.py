"""Out of memory in a batch: the parts give what the whole would have given, in every search."""

import gc
import math

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary
from helpers.random_cases import random_case, random_lm_case
from helpers.random_searches import SAMPLING
from helpers.speech import WORDS as SPEECH_WORDS
from helpers.speech import build_speech_model, speech_batch

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment
from el_fairseq.generation.out_of_memory import BatchSplitter, is_out_of_memory, slice_batch

WORDS = dictionary(30)
ON_CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
CASES = 16


class LittleMemory:
    """Lets a generator run out of memory in the second step of more than ``room`` sentences; notes all attempts."""

    def __init__(self, generator, room, error=ON_CPU):
        self.room, self.error = room, error
        self.attempts, self.steps = [], 0
        self.search, self.encode = generator._search, generator.model.forward_encoder
        generator._search, generator.model.forward_encoder = self.step, self.begin

    def begin(self, net_input):
        self.attempts.append(len(net_input["src_tokens"]))
        self.steps = 0
        return self.encode(net_input)

    def step(self, step, max_len, lprobs, live):
        self.steps += 1
        if live.bsz > self.room and self.steps > 1:
            raise RuntimeError(self.error)
        return self.search(step, max_len, lprobs, live)


def transformer_generator(cls=ELSequenceGenerator, **options):
    model = build_model("transformer", WORDS, seed=1, gain=2.0)
    return cls([enable_el_attention(model, "on")], WORDS, **{"beam_size": 3, "max_len_b": 12, **options})


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("family", [random_case, random_lm_case], ids=["encoder-decoder", "language model"])
@pytest.mark.parametrize("seed", range(CASES))
def test_parts_give_what_the_whole_gives(family, seed):
    case = family(seed)
    model = enable_el_attention(case.build_model(), "on")
    expected = case.ours([model])
    generator = case.search.build_generator(ELSequenceGenerator, [model])
    memory = LittleMemory(generator, room=1 + seed % 2)
    actual = case.search.generate(generator, case.sample)
    assert len(actual) == len(expected)
    if case.search.kind not in SAMPLING:
        assert_same_hypotheses(actual, expected, case.search.tolerance)
    assert memory.attempts[0] == len(expected)
    assert len(memory.attempts) == 1 or min(memory.attempts) <= memory.room


def test_the_cases_run_out_of_memory():
    """In most of them, that is; sentences can also end before the second step."""
    failed = 0
    for seed in range(8):
        case = random_case(seed)
        generator = case.search.build_generator(ELSequenceGenerator, [case.build_model()])
        memory = LittleMemory(generator, room=1)
        case.search.generate(generator, case.sample)
        failed += len(memory.attempts) > 1
    assert failed > 3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arch", ["s2t_transformer", "s2t_conformer"])
def test_speech_is_batched_anew(arch):
    """Its encoders take no more padding than the longest utterance needs; rules on length stay the whole batch's."""
    whole, parts = speech_batch([200, 141, 63, 20]), []
    for rows, width in ((slice(0, 2), 200), (slice(2, 4), 63)):
        net_input = {"src_tokens": whole["net_input"]["src_tokens"][rows, :width]}
        net_input["src_lengths"] = whole["net_input"]["src_lengths"][rows]
        parts.append({"id": torch.arange(2), "net_input": net_input})
    model, options = build_speech_model(arch), {"beam_size": 3, "normalize_scores": False}
    stock = SequenceGenerator([model], SPEECH_WORDS, max_len_b=20, **options)
    expected = [sentence for part in parts for sentence in stock.generate(None, part)]
    ours = ELSequenceGenerator([model], SPEECH_WORDS, max_len_a=0.1, max_len_b=0, **options)
    memory = LittleMemory(ours, room=2)
    assert_same_hypotheses(ours.generate(None, whole), expected)
    assert memory.attempts == [4, 2, 2]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("full_context", [False, True])
def test_alignments(full_context):
    given = batch(WORDS, [12, 7, 5, 3, 3])
    given["target"] = batch(WORDS, [6, 9, 2, 4, 3], seed=5, left_pad=False)["net_input"]["src_tokens"]
    generator = transformer_generator(ELSequenceGeneratorWithAlignment, print_alignment="hard")
    (model,) = generator.model.models
    model.full_context_alignment = full_context
    expected = generator.generate(None, given)
    memory = LittleMemory(generator, room=2)
    actual = generator.generate(None, given)
    assert_same_hypotheses(actual, expected)
    assert [[list(h["alignment"]) for h in s] for s in actual] == [[list(h["alignment"]) for h in s] for s in expected]
    assert memory.attempts == [5, 2, 3, 1, 2]


@pytest.mark.parametrize("sampling", [False, True])
def test_one_warning_says_what_fitted(sampling, caplog):
    from fairseq.search import Sampling

    strategy = {"search_strategy": Sampling(WORDS)} if sampling else {}
    generator = transformer_generator(min_len=3, **strategy)
    LittleMemory(generator, room=2)
    generator.generate(None, batch(WORDS, [9] * 8))
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    expected = "out of memory in a batch of 8 sentences, width 9: split, at most 2 at once fitted, none is lost"
    draws = "; random draws are not those that the whole batch would have had"
    assert record.getMessage() == expected + draws * sampling


def test_random_numbers_go_on_from_where_the_failed_attempt_began():
    """A batch whose first attempt fails, and the same in parts from the start, draw the same."""
    from fairseq.search import Sampling

    drawn = []
    for parts_from_the_start in (False, True):
        generator = transformer_generator(min_len=3, search_strategy=Sampling(WORDS, sampling_topk=5))
        LittleMemory(generator, room=2)
        if parts_from_the_start:
            generator.splitter.fitted, generator.splitter.failed = 2 * 21, 4 * 21
        torch.manual_seed(3)
        drawn.append(generator.generate(None, batch(WORDS, [9] * 4)))
    assert_same_hypotheses(*drawn)


def test_later_batches_begin_with_what_fitted(caplog):
    generator = transformer_generator(min_len=3)
    memory = LittleMemory(generator, room=4)
    attempts = []
    for sentences, width in ((16, 9), (16, 9), (17, 9), (15, 10), (4, 9), (6, 9), (6, 9), (2, 40)):
        memory.attempts.clear()
        assert len(generator.generate(None, batch(WORDS, [width] * sentences))) == sentences
        attempts.append(list(memory.attempts))
    assert attempts[:2] == [[16, 8, 4, 4, 4, 4], [4] * 4]
    assert attempts[2] == [4, 4, 4, 5, 2, 3]  # 5 are nearer to the 4 that fitted than to the 8 that did not
    assert attempts[3] == [3, 4, 4, 4]
    assert attempts[4:] == [[4], [3, 3], [3, 3], [1, 1]]
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


def test_what_is_learned_is_unlearned():
    splitter = BatchSplitter()
    splitter.succeeded(10)
    splitter.ran_out(40)
    assert [splitter.too_large(size) for size in (10, 25, 26, 40)] == [False, False, True, True]
    splitter.ran_out(8)  # of another shape, or another process took memory
    assert [splitter.too_large(size) for size in (4, 5)] == [False, True]
    splitter.succeeded(9)
    assert not splitter.too_large(1000)


def test_a_sentence_for_which_there_is_no_room_stops_with_what_to_do():
    generator = transformer_generator(min_len=3)
    LittleMemory(generator, room=0)
    with pytest.raises(
        torch.OutOfMemoryError, match="width 9 and up to 12 tokens.*--max-len-b.*--beam.*--el-attention on"
    ):
        generator.generate(None, batch(WORDS, [9] * 4))


def test_other_errors_are_not_touched():
    generator = transformer_generator(min_len=3)
    memory = LittleMemory(generator, room=1, error="shape '[4, 5]' is invalid")
    with pytest.raises(RuntimeError, match="is invalid"):
        generator.generate(None, batch(WORDS, [9] * 4))
    assert memory.attempts == [4]


def test_which_errors_are_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_a_failed_attempt_holds_nothing_when_the_next_one_begins():
    """Its tensors would be missing then."""
    generator = transformer_generator(min_len=3)
    alive = []

    class Notes(LittleMemory):
        def begin(self, net_input):
            alive.append(sum(map(_size, gc.get_objects())))
            return super().begin(net_input)

    Notes(generator, room=2)
    generator.generate(None, batch(WORDS, [9] * 8))
    generator.generate(None, batch(WORDS, [9] * 8))
    assert len(alive) > 6
    assert max(alive[1:3]) <= alive[0]  # the parts of the first batch, before any hypothesis is kept


def _size(thing):
    if type(thing) is not torch.Tensor or not thing.is_floating_point() or thing.layout is not torch.strided:
        return 0  # packed weights stay
    return thing.untyped_storage().nbytes()


def test_rows_of_everything_that_has_a_row_a_sentence():
    given = {
        "id": torch.arange(3),
        "net_input": {"src_tokens": torch.arange(12).view(3, 4), "padding_mask": None},
        "nsentences": 3,
        "names": ["a", "b", "c"],
        "other": torch.zeros(4, 3),
        "scalar": torch.tensor(3),
    }
    part = slice_batch(given, 3, slice(1, 3))
    assert part["id"].tolist() == [1, 2] and part["names"] == ["b", "c"] and part["nsentences"] == 3
    assert part["net_input"]["src_tokens"].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert part["net_input"]["padding_mask"] is None and part["other"].shape == (4, 3) and part["scalar"] == 3
    assert given["id"].tolist() == [0, 1, 2] and math.prod(given["net_input"]["src_tokens"].shape) == 12


@pytest.mark.usefixtures("float64")
def test_diverse_groups_of_any_numbers_in_the_data_set():
    """Stock looks up the overlap of groups under a sentence's number: in a part that is its place there."""
    from fairseq.search import DiverseBeamSearch

    def generator(cls):
        return transformer_generator(cls, beam_size=4, search_strategy=DiverseBeamSearch(WORDS, 2, 0.7))

    given = batch(WORDS, [12, 7, 5, 3])
    expected = generator(SequenceGenerator).generate(None, given)
    limited = generator(ELSequenceGenerator)
    memory = LittleMemory(limited, room=1)
    assert_same_hypotheses(limited.generate(None, given), expected)
    assert min(memory.attempts) == 1
