"""The hypotheses that have ended: kept on the device, brought to the CPU once a batch."""

from itertools import islice

import torch


class FinishedHypotheses:
    """Room for M ended hypotheses of each of B sentences.

    Args:
        sentences: B. beams: M. max_len: longest hypothesis without end-of-sentence. eos: the end-of-sentence token.
        device: of its tensors. waits: whether to find out at each step what has ended, so that only that is
        stored; else everything is, mostly where nobody looks, and the device is never waited for.
    """

    def __init__(self, sentences, beams, max_len, eos, device, waits=True):
        self.sentences, self.beams, self.eos, self.waits = sentences, beams, eos, waits
        shape = (sentences, beams + (not waits))  # the last one for what is not to be stored
        self.tokens = torch.zeros(*shape, max_len + 1, dtype=torch.long, device=device)
        # in float64, which holds the scores of any model
        self.positional = torch.zeros(*shape, max_len + 1, dtype=torch.float64, device=device)
        self.scores = torch.full(shape, float("-inf"), dtype=torch.float64, device=device)
        self.steps = torch.full(shape, -1, dtype=torch.long, device=device)  # the step each one ended at
        self.rows = torch.zeros(shape, dtype=torch.long, device=device)  # and in which row
        self.count = torch.zeros(sentences, dtype=torch.long, device=device)

    def add(self, step, ended, ids, row_of, tokens, cumulative, scores):
        """Store the candidates that end now, best first, while their sentence has room.

        Args:
            step: the step that chose end-of-sentence.
            ended: ``[b, M]`` candidates that end. ids: ``[b]`` places of the live sentences in the batch.
            row_of: ``[b, M]`` the row each candidate continues. tokens: ``[b·M, >step]``, begin-of-sentence first.
            cumulative: ``[b·M, >step]`` log-probabilities, summed up. scores: ``(candidates, sentence-level) [b, M]``.
        """
        if self.waits and not bool(ended.any()):
            return
        candidate_scores, sentence_scores = scores
        slot = self.count[ids].unsqueeze(1) + ended.cumsum(dim=1) - 1
        stored = ended & (slot < self.beams)
        chosen = stored.nonzero(as_tuple=True) if self.waits else _all_places(stored)
        sentence = ids[chosen[0]]
        place, rows = (sentence, slot.masked_fill(~stored, self.beams)[chosen]), row_of[chosen]
        positional = cumulative[rows, : step + 1]
        positional[:, step] = candidate_scores[chosen]
        positional[:, 1:] = positional[:, 1:] - positional[:, :-1]
        self.positional[(*place, slice(0, step + 1))] = positional.to(self.positional)
        self.tokens[(*place, slice(0, step))] = tokens[rows, 1 : step + 1]
        self.tokens[(*place, step)] = self.eos
        self.scores[place] = sentence_scores[chosen].to(self.scores)
        self.steps[place], self.rows[place] = step, rows
        self.count.index_add_(0, sentence, stored[chosen].long())

    def drop_rest(self):
        """Give up what was not to be stored, once the last step is over. Returns how many sentences have nothing."""
        for name in ("tokens", "positional", "scores", "steps", "rows"):
            setattr(self, name, getattr(self, name)[:, : self.beams].contiguous())
        return int((self.count == 0).sum())

    def to_lists(self, attention, dtype):
        """For each sentence its hypotheses, best first, as fairseq's dictionaries of CPU tensors.

        A sentence without any gets an empty one with score -inf: fairseq's commands take the first of each.
        attention: ``[B, M, S, T]`` or None. dtype: of the scores.
        """
        order = torch.sort(self.scores, dim=1, descending=True, stable=True).indices.cpu()
        count, steps = self.count.cpu(), self.steps.cpu()
        tokens, scores, positional = self.tokens.cpu(), self.scores.to(dtype).cpu(), self.positional.to(dtype).cpu()
        without = count == 0
        count[without], steps[without, 0], tokens[without, 0, 0] = 1, 0, self.eos
        positional[without, 0, 0] = float("-inf")
        sentence, rank = (torch.arange(self.beams) < count.unsqueeze(1)).nonzero(as_tuple=True)
        ranked = sentence, order[sentence, rank]  # all hypotheses, one after the other
        lengths = steps[ranked] + 1
        real = torch.arange(tokens.size(2)) < lengths.unsqueeze(1)
        lengths, nothing = lengths.tolist(), torch.empty(0)
        tokens, positional = (x[ranked][real].split(lengths) for x in (tokens, positional))
        attentions = [nothing] * len(lengths)
        if attention is not None:
            views, places = attention.cpu().flatten(0, 1).unbind(), ranked[0] * self.beams + ranked[1]
            attentions = [views[place][:, :length] for place, length in zip(places.tolist(), lengths)]
        columns = {
            "tokens": tokens,
            "score": scores[ranked].unbind(),
            "attention": attentions,
            "alignment": [nothing] * len(lengths),
            "positional_scores": positional,
        }
        hypotheses = (dict(zip(columns, values)) for values in zip(*columns.values()))
        return [list(islice(hypotheses, number)) for number in count.tolist()]


def _all_places(x):
    """What ``x.nonzero(as_tuple=True)`` would be of ``x [b, n]`` without zeros."""
    b, n = x.shape
    places = torch.arange(b * n, device=x.device)
    return places // n, places % n


class AttentionTrace:
    """The attention of each step, followed back along the beams at the end instead of re-ordered at every step."""

    def __init__(self):
        self.weights = []  # a step: [rows, S], or nothing if the model returns none
        self.parents: list[
            torch.Tensor
        ] = []  # a step but the first: [rows], the row of the step before that each row continues

    def add(self, weights):
        """Those of one more step."""
        if weights is not None:
            self.weights.append(weights)

    def follow(self, finished):
        """``[B, M, S, T]`` for the hypotheses in ``finished``, T the longest; None if there was no attention.

        The weights of a step are given up as soon as they are followed, so that they are not kept twice.
        """
        if not self.weights:
            return None
        ends, rows = finished.steps.view(-1), finished.rows.view(-1).clone()
        steps = len(self.weights)
        shape = (steps, ends.numel(), self.weights[0].size(1))  # [T, B·M, S]
        traced = torch.zeros(shape, dtype=torch.float32, device=ends.device)  # float32 as in fairseq, for any model
        for step in reversed(range(steps)):
            alive = (ends >= step).nonzero().squeeze(1)
            traced[step, alive] = self.weights.pop()[rows[alive]].to(traced)
            if step > 0:
                rows[alive] = self.parents[step - 1][rows[alive]]
        return traced.view(steps, finished.sentences, finished.beams, -1).permute(1, 2, 3, 0)
