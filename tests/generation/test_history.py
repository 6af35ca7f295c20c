"""Hypotheses that are followed back: what tokens, scores and attention would be that move with the beams."""

import pytest
import torch

from el_fairseq.generation.history import History


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_paths_are_what_moves_with_the_beams(seed, attends):
    generator = torch.Generator().manual_seed(seed)
    history, rows = History(), 6
    tokens = torch.zeros(rows, 0, dtype=torch.long)
    scores, attention = torch.zeros(rows, 0), torch.zeros(rows, 0, 3)
    ends, expected = [], []
    for step in range(7):
        weights = torch.rand(rows, 3, generator=generator)
        history.add_attention(weights if attends else None)
        attention = torch.cat((attention, weights.unsqueeze(1)), dim=1)
        for row in torch.randperm(rows, generator=generator)[: step % 3].tolist():
            ends.append((step, row, 100 + step, -float(row)))
            expected.append(([*tokens[row].tolist(), 100 + step], [*scores[row].tolist(), -float(row)], attention[row]))
        rows -= 2 * (step == 3)
        parents = torch.randint(tokens.size(0), (rows,), generator=generator)
        chosen = torch.randint(50, (rows,), generator=generator)
        cumulative = torch.rand(rows, generator=generator)
        history.append(parents, chosen, cumulative)
        tokens, scores = tokens[parents], scores[parents]
        tokens, scores = torch.cat((tokens, chosen[:, None]), 1), torch.cat((scores, cumulative[:, None]), 1)
        attention = attention[parents]
    order = torch.randperm(len(ends), generator=generator).tolist()
    steps, *columns = zip(*(ends[i] for i in order))
    found = history.follow(list(steps), *map(torch.tensor, columns))
    assert found[0].tolist() == [token for i in order for token in expected[i][0]]
    assert torch.equal(found[1], torch.tensor([score for i in order for score in expected[i][1]]))
    if attends:
        assert torch.equal(found[2], torch.cat([expected[i][2] for i in order]))
    else:
        assert found[2] is None


def test_rows_that_were_replaced():
    """They have the tokens and scores of others, and their own attention."""
    history = History()
    history.add_attention(torch.tensor([[1.0], [2.0]]))
    history.append(torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([-1.0, -2.0]))
    history.replace_rows(torch.tensor([0, 0]))
    history.add_attention(torch.tensor([[3.0], [4.0]]))
    ends = torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([-3.0, -3.0])
    tokens, scores, attention = history.follow([1, 1], *ends)
    assert tokens.tolist() == [5, 2, 5, 2] and scores.tolist() == [-1, -3, -1, -3]
    assert attention.flatten().tolist() == [1, 3, 2, 4]


def test_a_history_that_begins_with_a_prefix():
    history = History()
    history.start_after(torch.tensor([[7, 8], [7, 9]]), torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    tokens, scores, _ = history.follow([2], torch.tensor([1]), torch.tensor([2]), torch.tensor([-5.0]))
    assert tokens.tolist() == [7, 9, 2] and scores.tolist() == [-3, -4, -5]
