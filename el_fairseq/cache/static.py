"""A shared past in tensors that stay where they are, so that a decoder step can be recorded once and replayed.

As in ``lineage`` the beams of a sentence share one cache, and a table says which tokens each consists of. Here there is
room for ``ROOM`` steps from the beginning, attention always reads all of it, and nothing depends on values: what was
not written yet is masked like a token of another beam. Nothing is given up but the sentences that leave.
"""

import torch
import torch.nn.functional as F

from el_fairseq.cache.ancestors import LineageState, SharedPast

ROOM = 64  # steps that are made room for at once; a step has to be recorded again after that many


class FixedLineage(SharedPast):
    """The table. Its tensors are replaced in ``reorder`` alone; another ``foreign`` means other caches, too.

    Args: sentences: B. beams: M. device: of the table.
    """

    def __init__(self, sentences, beams, device):
        table = torch.ones(sentences, beams, ROOM * beams, dtype=torch.bool, device=device)  # [B, M, columns]
        super().__init__(beams, table, FixedState)
        self.steps = 0
        self.place = torch.arange(beams, device=device)  # the columns of this step's tokens

    def begin_step(self, padding):
        """Enter the tokens of this step, of which ``padding [B·M, 1]`` are left out; once, before the layers."""
        new = self.others | padding.view(-1, 1, self.beams)  # [B, M, M]
        self.foreign.index_copy_(2, self.place, new)

    def reorder(self, order):
        """The step is over, and row ``i`` continues row ``order[i]`` of its sentence; with fewer rows than before,
        sentences have left. There are other tensors then, and where there has to be more room."""
        self.steps += 1
        rows = self.foreign.flatten(0, 1).index_select(0, order).view(-1, *self.foreign.shape[1:])
        left, full = rows.size(0) < self.foreign.size(0), self.steps * self.beams == rows.size(2)
        if left:
            sentences = order[:: self.beams] // self.beams
            for state in self.states:
                state.cache.keep(sentences)
        if full:
            rows = F.pad(rows, (0, ROOM * self.beams), value=True)
            for state in self.states:
                state.cache.make_room(ROOM * self.beams)
        if left or full:
            self.foreign = rows
        else:
            self.foreign.copy_(rows)
        self.place.add_(self.beams)


class FixedState(LineageState):
    """What one self-attention keeps, in the layouts of ``LineageState``: ``ROOM·M`` tokens, zero so far."""

    def __init__(self, row_dim, lineage):
        self.cache, self.lineage = FixedCache(row_dim), lineage

    @property
    def mask(self):
        return self.lineage.foreign

    def append(self, new, padding):
        """Write one token a beam: ``new`` as ``SelfAttentionState.append``; ``begin_step`` knows the padding."""
        rows, lineage = self.cache.row_dim, self.lineage
        new = lineage.without_lost(new, rows).squeeze(-2).unflatten(rows, (-1, lineage.beams)).movedim(rows + 1, -2)
        self.cache.write(lineage.place, new, lineage.foreign.size(2))

    def tensors(self):
        return [] if self.cache.filled is None else [self.cache.filled]


class FixedCache:
    """``filled [..., columns, width]``, all of it; ``row_dim`` numbers the sentences."""

    def __init__(self, row_dim):
        self.row_dim, self.filled = row_dim, None

    def write(self, place, new, columns):
        """Put ``new [..., n, width]`` at the columns ``place [n]``."""
        if self.filled is None:
            self.filled = new.new_zeros(*new.shape[:-2], columns, new.size(-1))
        self.filled.index_copy_(-2, place, new)

    def keep(self, sentences):
        self.filled = self.filled.index_select(self.row_dim, sentences)

    def make_room(self, columns):
        self.filled = F.pad(self.filled, (0, 0, 0, columns))
