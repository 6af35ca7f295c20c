"""The hypotheses that have ended: noted on the device, brought to the CPU once a batch."""

from itertools import islice

import torch


class FinishedHypotheses:
    """Room for M ended hypotheses of each of B sentences.

    Args:
        sentences: B.
        beams: M.
        eos: the end-of-sentence token.
        device: of its tensors.
        waits: whether to find out at each step what has ended, so that only that is stored; else everything is, mostly
            where nobody looks, and the device is never waited for.
    """

    def __init__(self, sentences, beams, eos, device, waits=True):
        self.sentences, self.beams, self.eos, self.waits = sentences, beams, eos, waits
        shape = (sentences, beams + (not waits))  # the last one for what is not to be stored
        # in float64, which holds the scores of any model: of the whole hypothesis, and its cumulative log-probability
        self.scores, self.cumulative = torch.full((2, *shape), float("-inf"), dtype=torch.float64, device=device)
        self.steps = torch.zeros(shape, dtype=torch.long, device=device)  # the step each one ended at
        self.rows = (torch.arange(sentences, device=device) * beams).unsqueeze(1).repeat(1, shape[1])  # it continues
        self.count = torch.zeros(sentences, dtype=torch.long, device=device)

    def add(self, step, ended, ids, rows, cumulative, scores):
        """Store the candidates that end now, best first, while their sentence has room.

        Args:
            step: the step that chose end-of-sentence.
            ended: ``[b, M]`` candidates that end.
            ids: ``[b]``, places of the live sentences in the batch.
            rows: ``[b, M]``, the row each candidate continues.
            cumulative: ``[b, M]``, their log-probabilities, summed up.
            scores: ``[b, M]``, of them as whole hypotheses.

        Returns:
            Whether anything ends; True where that is not known.
        """
        if self.waits and not bool(ended.any()):
            return False
        slot = self.count[ids].unsqueeze(1) + ended.cumsum(dim=1) - 1
        stored = ended & (slot < self.beams)
        chosen = stored.nonzero(as_tuple=True) if self.waits else _all_places(stored)
        sentence = ids[chosen[0]]
        place = (sentence, slot.masked_fill(~stored, self.beams)[chosen])
        self.scores[place], self.cumulative[place] = scores[chosen].double(), cumulative[chosen].double()
        self.steps[place], self.rows[place] = step, rows[chosen]
        self.count.index_add_(0, sentence, stored[chosen].long())
        return True

    def to_lists(self, history, dtype):
        """For each sentence its hypotheses, best first, as fairseq's dictionaries of CPU tensors.

        A sentence without any gets an empty one with score -inf: fairseq's commands take the first of each.

        Args:
            history: of the batch.
            dtype: of the scores.
        """
        scores, cumulative, steps, rows = (
            x[:, : self.beams] for x in (self.scores, self.cumulative, self.steps, self.rows)
        )
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices
        count = self.count.cpu().clamp(min=1)
        sentence, rank = (torch.arange(self.beams) < count.unsqueeze(1)).nonzero(as_tuple=True)
        sentence, rank = sentence.to(order.device), rank.to(order.device)
        ranked = sentence, order[sentence, rank]  # all hypotheses, one after the other
        lengths = (steps[ranked] + 1).tolist()
        last = torch.full_like(ranked[1], self.eos)
        paths = history.follow([n - 1 for n in lengths], rows[ranked], last, cumulative[ranked].to(dtype))
        tokens, cumulative, attention = paths
        attentions = [torch.empty(0)] * len(lengths)
        if attention is not None:
            attentions = [weights.t() for weights in attention.split(lengths)]  # [T, S] -> [S, T]
        columns = {
            "tokens": tokens.split(lengths),
            "score": scores[ranked].to(dtype).cpu().unbind(),
            "attention": attentions,
            "alignment": [torch.empty(0)] * len(lengths),
            "positional_scores": _differences(cumulative, lengths).split(lengths),
        }
        hypotheses = (dict(zip(columns, values)) for values in zip(*columns.values()))
        return [list(islice(hypotheses, number)) for number in count.tolist()]

    def without_any(self) -> int:
        """How many sentences have no hypothesis."""
        return int((self.count == 0).sum())


def _differences(cumulative, lengths):
    """What each place of ``cumulative [total]`` adds, in sequences of ``lengths``, one after the other."""
    first = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    differences = torch.cat((cumulative[:1], cumulative[1:] - cumulative[:-1]))
    differences[first] = cumulative[first]
    return differences


def _all_places(x):
    """What ``x.nonzero(as_tuple=True)`` would be of ``x [b, n]`` without zeros."""
    b, n = x.shape
    places = torch.arange(b * n, device=x.device)
    return places // n, places % n
