"""fairseq's scorer (``--score-reference``) beside the generator: both know the same probabilities."""

import pytest
from fairseq.data import data_utils
from fairseq.sequence_scorer import SequenceScorer
from helpers.models import assert_close, batch, build_model, dictionary

from el_fairseq import enable_el_attention
from el_fairseq.generation import ELSequenceGenerator

WORDS = dictionary(12)


def with_targets(sample, targets):
    """The sample for teacher forcing."""
    pad, eos = WORDS.pad(), WORDS.eos()
    previous = data_utils.collate_tokens(targets, pad, eos, left_pad=False, move_eos_to_beginning=True)
    net_input = {**sample["net_input"], "prev_output_tokens": previous}
    target = data_utils.collate_tokens(targets, pad, eos, left_pad=False)
    return {**sample, "net_input": net_input, "target": target}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arch", ["transformer", "bart_base", "el_transformer"])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_scores_of_generated_hypotheses(arch, ensemble):
    """What was generated with EL-attention is scored as stock scores it, with the attentions converted or not."""
    models = [build_model(arch, WORDS, seed=seed, gain=2.0) for seed in range(ensemble)]
    sample = batch(WORDS, [9, 4, 6])
    best = [sentence[0] for sentence in generate(enable_el_attention(models, "on"), sample)]
    forced = with_targets(sample, [hypo["tokens"] for hypo in best])
    for mode in ("on", "off"):
        scored = SequenceScorer(WORDS).generate(enable_el_attention(models, mode), forced)
        for hypo, (reference,) in zip(best, scored):
            assert reference["tokens"].tolist() == hypo["tokens"].tolist()
            assert_close(hypo["positional_scores"], reference["positional_scores"])
            assert_close(hypo["score"], reference["score"])


def generate(models, sample):
    return ELSequenceGenerator(models, WORDS, beam_size=3, max_len_b=15).generate(None, sample)
