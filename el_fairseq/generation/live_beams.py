"""The beams of the sentences that are still in the batch."""

import math
from typing import NamedTuple

import torch

from el_fairseq.generation.history import History
from el_fairseq.generation.newest_tokens import NewestTokens


class Candidates(NamedTuple):
    """How the beams of ``b`` sentences may go on, the best first: twice as many as beams, where there are so many."""

    scores: torch.Tensor  # [b, 2·M], cumulative
    tokens: torch.Tensor  # [b, 2·M]
    rows: torch.Tensor  # [b, 2·M], the row that each continues
    none_ends: bool  # True: the first M of each sentence go on; False: that is not known


class LiveBeams:
    """``b`` sentences, ``rows = b·M``, the rows of one side by side.

    What a plain beam search needs of them is their last tokens and scores. Where anything reads more (``whole_rows``),
    ``tokens`` and ``scores`` hold all, and are moved with the beams.

    Args:
        generator: the ``ELSequenceGenerator``.
        sample: the batch.
        rows: ``[B·M]``, the sentence of each row.
        max_len: tokens without end-of-sentence, at most.
        bos_token: the first token; None: end-of-sentence.
        prefix_tokens: ``[B, P]`` or None.
        src_lengths: ``[B]``.
        plan: the ``BatchPlan``.
    """

    def __init__(self, generator, sample, rows, max_len, bos_token, prefix_tokens, src_lengths, plan):
        self.search, self.beam_size, device = generator.search, generator.beam_size, rows.device
        self.bsz = rows.numel() // self.beam_size
        self.ids = torch.arange(self.bsz, device=device)  # where in the batch each sentence stood
        self.sample_ids = sample["id"] if torch.is_tensor(sample.get("id")) else self.ids
        first = generator.eos if bos_token is None else bos_token
        self.last = torch.full((rows.numel(),), first, dtype=torch.long, device=device)
        self.last_scores = torch.zeros(rows.numel(), device=device)  # cumulative
        self.may_be_padding = True  # the last tokens
        self.history = History()
        self.whole_rows, self.tokens, self.scores = plan.whole_rows, None, None
        self.by_groups = plan.by_groups
        if plan.whole_rows:
            self.tokens = torch.full((rows.numel(), max_len + 2), generator.pad, dtype=torch.long, device=device)
            self.tokens[:, 0] = self.last
            self.scores = torch.zeros(rows.numel(), max_len + 1, device=device)
        self.prefix_tokens, self.src_lengths = prefix_tokens, src_lengths
        self.ignored = torch.zeros(self.bsz, self.beam_size, dtype=torch.bool, device=device)
        self.some_ignored = False  # known where candidates are found by groups
        self.ends = None  # [b, candidates], set at each step
        self.length = 0  # tokens that the beams had before the first step
        suppressed = generator.token_indices_to_suppress
        forbidden = [generator.pad, *([] if suppressed is None else suppressed.tolist())]
        self._forbidden = torch.tensor(forbidden, device=device)
        self._forbidden_at_first = torch.tensor([*forbidden, generator.eos], device=device)  # before ``min_len``
        self._min_len = generator.min_len
        self._first_rows = torch.arange(0, rows.numel(), self.beam_size, device=device).unsqueeze(1)  # of sentences
        self._candidates = torch.arange(2 * self.beam_size, device=device)

    def start_after(self, tokens, scores):
        """Begin with ``tokens [B, c]``, which had ``scores [B, c]``: the first beam lives, as after forced steps."""
        self.length = tokens.size(1)
        tokens = tokens.repeat_interleave(self.beam_size, dim=0)
        cumulative = scores.new_full((tokens.size(0), self.length), -math.inf)
        cumulative[:: self.beam_size] = scores.cumsum(dim=1)
        self.history.start_after(tokens, cumulative)
        if self.length > 0:
            self.last, self.last_scores = tokens[:, -1], cumulative[:, -1]
        if self.whole_rows:
            self.tokens[:, 1 : self.length + 1] = tokens
            self.set_dtype(scores.dtype)
            self.scores[:, : self.length] = cumulative

    def set_dtype(self, dtype):
        """Scores are in ``dtype``, that of log-probabilities."""
        self.last_scores = self.last_scores.to(dtype)
        if self.whole_rows:
            self.scores = self.scores.to(dtype)

    def is_plain(self, step, max_len):
        """Whether the candidates of this step are found by groups (``best_of_rows``): its only rules are forbidden
        tokens."""
        return self.by_groups and 0 < step < max_len

    def newest(self, step):
        """What the decoder step is given."""
        whole = self.tokens[:, : step + 1] if self.whole_rows else None
        return NewestTokens(self.last, step + 1, whole, self.may_be_padding)

    def forbidden(self, step):
        """Tokens that no beam may go on with, ``[n]``."""
        return self._forbidden_at_first if step < self._min_len else self._forbidden

    def row_of(self, beams):
        """Row numbers of ``beams [b, n]``."""
        return beams + self._first_rows[: self.bsz]

    def take_first_beams(self, sentences):
        """In ``sentences``, ``[b]`` booleans, all beams have the tokens and scores of the first now, as in fairseq
        where a prefix ends: ``tokens`` and ``scores`` are so already."""
        rows = torch.arange(self.last.numel(), device=self.last.device).view(self.bsz, -1)
        rows = torch.where(sentences.unsqueeze(1), rows[:, :1], rows).view(-1)
        self.last_scores = self.last_scores.index_select(0, rows)
        self.history.replace_rows(rows)

    def go_on(self, step, candidates):
        """Continue with the first M ``candidates`` of each sentence. Returns as ``advance``."""
        scores, tokens, rows = (x[:, : self.beam_size].reshape(-1) for x in candidates[:3])
        self._append(step, rows, tokens, scores)
        self.may_be_padding = False
        return rows

    def advance(self, step, candidates, ended):
        """Drop the sentences in ``ended [b]``, if given, and continue with the best M candidates that go on of each.

        Returns the row that each row continues, ``[b'·M]`` in the numbering before.
        """
        scores, tokens, rows, _ = candidates
        ends = self.ends
        if ended is not None:
            staying = (~ended).nonzero().squeeze(1)
            self._prune_others(staying)
            rows, ends, scores, tokens = rows[staying], ends[staying], scores[staying], tokens[staying]
        ends[:, : self.beam_size] |= self.ignored
        # Candidates that go on come first, each group in the order of the search.
        rank = self._candidates[: ends.size(1)] + ends.long() * 2 * self.beam_size
        rank, chosen = torch.topk(rank, k=self.beam_size, dim=1, largest=False)
        self.ignored = rank >= 2 * self.beam_size
        self.some_ignored = self.by_groups and bool(self.ignored.any())
        order = rows.gather(1, chosen).view(-1)
        self._append(step, order, tokens.gather(1, chosen).view(-1), scores.gather(1, chosen).view(-1))
        self.may_be_padding = True
        self.search.update_constraints(chosen)
        return order

    def _append(self, step, order, tokens, scores):
        self.history.append(order, tokens, scores)
        self.last, self.last_scores = tokens, scores
        if self.whole_rows:
            self.tokens, self.scores = self.tokens.index_select(0, order), self.scores.index_select(0, order)
            self.tokens[:, step + 1] = tokens
            self.scores[:, step] = scores

    def _prune_others(self, staying):
        self.search.prune_sentences(staying)
        self.bsz = staying.numel()
        self.ids, self.sample_ids = self.ids[staying], self.sample_ids[staying]
        self.src_lengths, self.ignored = self.src_lengths[staying], self.ignored[staying]
        if self.prefix_tokens is not None:
            self.prefix_tokens = self.prefix_tokens[staying]
