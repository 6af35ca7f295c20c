"""The check that others rely on: it must find what is wrong, and tell it from rounding."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers.models import batch, build_model, dictionary

from el_fairseq.generation import ELSequenceGenerator, attention_step
from el_fairseq.generation.hypotheses import FinishedHypotheses
from el_fairseq.generation.lossless import Comparison, LosslessCheck, in_float64
from el_fairseq.modules import el_attention

WORDS = dictionary(12)
SAMPLE = batch(WORDS, [12, 7, 5, 3])


class Task:
    """As much of a fairseq task as the check needs."""

    def build_generator(self, models, options):
        return SequenceGenerator(models, WORDS, **options)

    def inference_step(self, generator, models, sample, **kwargs):
        return generator.generate(models, sample, **kwargs)


def check(model, **options):
    checker = LosslessCheck(Task(), [model], {"beam_size": 4, "max_len_b": 20, **options}, "on")
    checker.add(SAMPLE, prefix_tokens=None)
    return checker.result


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
@pytest.mark.parametrize("size", [0, 2])
def test_all_identical(arch, size):
    model = build_model(arch, WORDS, seed=1, gain=2.0, dtype=torch.float32)
    result = check(model, no_repeat_ngram_size=size)
    assert (result.sentences, result.identical, result.ties, result.differences) == (4, 4, [], [])
    assert result.identical_hypotheses == result.hypotheses > 4
    # rounding of a token: 1.2e-4 on a processor of Intel
    assert 0 < result.positional_drift < 1e-3 and result.score_drift < 1e-4
    assert next(model.parameters()).dtype == torch.float32


def test_a_wrong_attention_is_a_real_difference(monkeypatch):
    right = attention_step.el_query
    for module in (attention_step, el_attention):  # the second decoding, in float64, goes through the modules
        monkeypatch.setattr(module, "el_query", lambda *args: right(*args) * -30)
    result = check(build_model("transformer", WORDS, seed=1, gain=3.0, dtype=torch.float32))
    assert result.differences and not result.ties and result.identical < 4


def test_an_error_that_only_batches_show_is_a_real_difference(monkeypatch):
    constrain = ELSequenceGenerator._constrain

    def forget_the_best_of_all_but_the_first_sentence(generator, step, max_len, lprobs, live):
        lprobs = constrain(generator, step, max_len, lprobs, live)
        if step == 2 and live.bsz > 1:
            lprobs[generator.beam_size :].scatter_(1, lprobs[generator.beam_size :].argmax(1, keepdim=True), -1e9)
        return lprobs

    monkeypatch.setattr(ELSequenceGenerator, "_constrain", forget_the_best_of_all_but_the_first_sentence)
    result = check(build_model("transformer", WORDS, seed=3, gain=2.0, dtype=torch.float32))
    assert result.differences and 0 not in result.differences and not result.ties


def test_a_lower_hypothesis_that_differs_is_a_difference_too(monkeypatch):
    to_lists = FinishedHypotheses.to_lists

    def last_hypotheses_changed(finished, *args):
        hypotheses = to_lists(finished, *args)
        hypotheses[1][-1]["tokens"] += 1
        return hypotheses

    monkeypatch.setattr(FinishedHypotheses, "to_lists", last_hypotheses_changed)
    result = check(build_model("transformer", WORDS, seed=3, gain=2.0, dtype=torch.float32))
    assert result.identical == 4 and result.differences == [1] and result.hypotheses - result.identical_hypotheses == 1


def test_rounding_between_equals_is_a_tie(monkeypatch):
    """Two types that score exactly the same; with EL in float32, and only there, a last digit decides between them.

    Greedy search: with more beams two of them could be equal in all, and which comes first is then nobody's to say.
    """
    model = build_model("transformer", WORDS, seed=1, gain=2.0, dtype=torch.float32)
    generator = Task().build_generator([model], {"beam_size": 1, "max_len_b": 20})

    def first_token():
        (best, *_), *_ = generator.generate(None, SAMPLE)
        return best["tokens"][0].item()

    output, el_output, decoded_with_el = model.decoder.output_projection, el_attention.el_output, []
    pair = {first_token(), len(WORDS) - 1}
    assert len(pair) == 2
    with torch.no_grad():
        for weight in (output.weight, model.decoder.embed_tokens.weight):
            weight[list(pair)] = weight[min(pair)].clone()
    (other,) = pair - {first_token()}

    def noting(context, *args):
        decoded_with_el.append(context.dtype)
        return el_output(context, *args)

    def tilt(module, inputs, logits):
        if torch.float32 in decoded_with_el:
            decoded_with_el.clear()
            logits[..., other] += 1e-5
        return logits

    for module in (attention_step, el_attention):
        monkeypatch.setattr(module, "el_output", noting)
    output.register_forward_hook(tilt)
    result = check(model, beam_size=1)
    assert result.ties and not result.differences
    assert len(result.ties) + result.identical >= 4


def test_hypotheses_closer_than_float32_can_tell_are_a_tie():
    """fairseq rounds log-probabilities to float32 in any dtype; the second decoding must not."""
    model = build_model("transformer", WORDS)
    copied = in_float64(model)
    sample = SAMPLE["net_input"]
    with torch.no_grad():
        output = model(**sample)
        rounded, exact = (m.get_normalized_probs(output, log_probs=True) for m in (model, copied))
    assert rounded.dtype == torch.float32 and exact.dtype == torch.float64
    assert torch.equal(exact, torch.log_softmax(output[0], dim=-1)) and not torch.equal(exact, rounded.double())
    probabilities = copied.get_normalized_probs(output, log_probs=False)
    torch.testing.assert_close(probabilities, exact.exp())
    (hypo, *_), *_ = SequenceGenerator([copied], WORDS, beam_size=2).generate(None, SAMPLE)
    assert hypo["score"].dtype == torch.float64
    assert "get_normalized_probs" not in vars(model)
    adaptive = build_model("transformer", WORDS, adaptive_softmax_cutoff="6,9", adaptive_softmax_factor=2)
    assert "get_normalized_probs" not in vars(in_float64(adaptive))


def test_where_stock_fails_the_other_sentences_are_compared(monkeypatch):
    """Here for the sentences of five tokens and of twelve: stock stops where none of their hypotheses can end."""
    stock = SequenceGenerator._generate

    def fail(generator, sample, **kwargs):
        lengths = sample["net_input"]["src_lengths"].tolist()
        if type(generator) is SequenceGenerator:
            assert not {5, 12} & set(lengths), "16 < 16"
        return stock(generator, sample, **kwargs)

    monkeypatch.setattr(SequenceGenerator, "_generate", fail)
    result = check(build_model("transformer", WORDS, seed=1, gain=2.0, dtype=torch.float32))
    assert (result.failed, result.sentences, result.identical) == ([0, 2], 2, 2)
    assert result.differences == result.ties == []


def test_no_hypothesis_can_end_in_stock():
    """All types are blocked before the maximal length is reached, end-of-sentence among them."""
    result = check(build_model("transformer", WORDS, dtype=torch.float32), no_repeat_ngram_size=1)
    assert result.failed == [0, 1, 2, 3] and result.sentences == 0


def test_comparison_counts():
    def hypo(tokens, score):
        scores = torch.full((len(tokens),), score)
        return {"tokens": torch.tensor(tokens), "score": torch.tensor(score), "positional_scores": scores}

    result = Comparison()
    assert not result.add([hypo([5, 2], -1.0), hypo([6, 2], -2.0)], [hypo([5, 2], -1.5), hypo([7, 2], -9.0)])
    assert not result.add([hypo([5, 2], -1.0)], [hypo([6, 2], -3.0)])
    assert not result.add([hypo([5, 2], -1.0)], [])
    assert result.add([], [])
    assert (result.sentences, result.identical, result.hypotheses, result.identical_hypotheses) == (4, 2, 4, 1)
    assert result.score_drift == 0.5 and result.positional_drift == 0.5


@pytest.mark.parametrize(
    ("stock", "ours", "drift"),
    [("nan", "nan", "inf"), ("-1", "nan", "inf"), ("-inf", "-inf", "0"), ("-inf", "-1", "inf"), ("-1", "-1.5", "0.5")],
)
def test_scores_that_are_no_numbers_drift_infinitely(stock, ours, drift):
    result = Comparison()
    hypos = [
        {"tokens": torch.tensor([5]), "score": s, "positional_scores": s[None]} for s in map(_number, (stock, ours))
    ]
    assert result.add(hypos[:1], hypos[1:])
    assert result.score_drift == result.positional_drift == float(drift)


def _number(text):
    return torch.tensor(float(text))


def test_generation_options_reach_both_generators():
    options = SimpleNamespace(asked=[])

    class Recording(Task):
        def build_generator(self, models, given):
            options.asked.append(given)
            return super().build_generator(models, given)

    checker = LosslessCheck(Recording(), [build_model("transformer", WORDS)], {"beam_size": 3}, "on")
    assert [generator.beam_size for generator in checker.generators] == [3, 3] and options.asked == [{"beam_size": 3}]
