"""N-gram blocking against a loop over hypotheses."""

import pytest
import torch

from el_fairseq.ops import block_repeated_ngrams_, naive


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 40])
def test_blocks_what_the_loop_blocks_and_nothing_else(size, length, device):
    torch.manual_seed(length)
    tokens = torch.randint(0, 4 if size < 4 else 2, (50, length))  # so few types that repetitions are certain
    lprobs = torch.randn(50, 6)
    expected = lprobs.clone()
    for row, held in zip(expected, tokens.tolist()):
        for token in naive.repeated_ngram_continuations(held, size):
            row[token] = float("-inf")
    actual = block_repeated_ngrams_(lprobs.to(device), tokens.to(device), size)
    assert torch.equal(actual.cpu(), expected)
    if length > size + 3:
        assert expected.isinf().any()


def test_works_in_place():
    lprobs = torch.zeros(1, 3)
    assert block_repeated_ngrams_(lprobs, torch.tensor([[0, 1, 0]]), 2) is lprobs
    assert lprobs.tolist() == [[0.0, float("-inf"), 0.0]]


def test_oracle_on_examples():
    continuations = naive.repeated_ngram_continuations
    assert continuations([2, 5, 6, 7, 5, 6], 3) == {7}
    assert continuations([2, 5, 6, 7, 5, 6], 2) == {7}
    assert continuations([2, 5, 5], 2) == {5}
    assert continuations([2, 5, 6], 1) == {2, 5, 6}
    assert continuations([2, 5], 3) == set()
