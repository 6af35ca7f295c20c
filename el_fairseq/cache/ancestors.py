"""Self-attention state that stays where it was written when beams change places.

The M beams of a sentence share one cache. A step writes M tokens to it, one a beam, and a table, the same for all
layers, says of which of them each beam consists: it is a mask of the attention. Where stock copies the past of every
beam in every layer to where the beam went, only the table moves. Tokens that no beam consists of any more are given up
when the cache is full, or when a sentence leaves; mostly that is most of them, because beams share their beginnings.
"""

import math
import weakref

import torch

from el_fairseq.cache.growing import BLOCK, GrowingCache, SelfAttentionState, sentences_of_rows
from el_fairseq.ops import merge_masks

LINEAGE = "lineage"  # its key in the incremental state


class SharedPast:
    """A table of what each beam consists of, ``foreign [B, M, tokens]`` (True where a token is not the beam's), and the
    states of the self-attentions that know it."""

    def __init__(self, beams, foreign, state_class):
        self.beams, self.foreign, self.state_class = beams, foreign, state_class
        self.others = ~torch.eye(beams, dtype=torch.bool, device=foreign.device)  # [M, M]
        self.states = weakref.WeakSet()  # a cycle would outlive the batch

    def new_state(self, row_dim):
        """The state of one more self-attention; ``row_dim`` as in ``SelfAttentionState``."""
        state = self.state_class(row_dim, self)
        self.states.add(state)
        return state

    def without_lost(self, new, row_dim):
        """``new`` with zeros for what is infinite or no number; the beams it is of are lost, as they are in stock.

        What a beam does not consist of counts 0 times its value, which has to be a number for that.
        """
        finite = new.isfinite()
        lost = ~finite.movedim(row_dim, 0).flatten(1).all(dim=1)  # [B·M]
        self.foreign.logical_or_(lost.view(-1, self.beams, 1))  # nothing is left to attend to: NaN, for this beam alone
        return new.masked_fill(~finite, 0.0)

    def tensors(self):
        return [self.foreign]


class Lineage(SharedPast):
    """The table: which of the tokens of a sentence each of its beams consists of.

    Args: sentences: B. beams: M. device: of the table.
    """

    def __init__(self, sentences, beams, device):
        super().__init__(beams, torch.zeros(sentences, beams, 0, dtype=torch.bool, device=device), LineageState)

    def mask(self, tokens, padding):
        """``[B, M, tokens]``, True where a token is not the beam's; the last M are those of this step.

        ``padding [B·M, 1]`` of this step's tokens, or None. Made once a step, by the first layer that asks.
        """
        if self.foreign.size(2) < tokens:
            new = self.others.expand(self.foreign.size(0), -1, -1)  # [M, M] -> [B, M, M]
            if padding is not None:
                new = new | padding.view(-1, 1, self.beams)
            self.foreign = torch.cat((self.foreign, new), dim=2)
        return self.foreign

    def reorder(self, order):
        """Row ``i`` continues row ``order[i]``; sentences leave as in ``sentences_of_rows``."""
        sentences = sentences_of_rows(order, self.beams, self.foreign.size(0))
        shape = order.numel() // self.beams, self.beams, self.foreign.size(2)
        self.foreign = self.foreign.flatten(0, 1).index_select(0, order).view(shape)
        if sentences is not None or any(state.cache.room < self.beams for state in self.states):
            self._give_up(sentences)

    def _give_up(self, sentences):
        """Keep ``sentences [B']`` (None: all), and what their beams consist of."""
        alive = ~self.foreign.all(dim=1)  # [B', tokens]
        count = int(alive.sum(dim=1).max())
        kept = alive.byte().sort(dim=1, descending=True, stable=True).indices[:, :count]  # first those that are alive
        self.foreign = self.foreign.gather(2, kept.unsqueeze(1).expand(-1, self.beams, -1))
        if sentences is None:
            sentences = torch.arange(alive.size(0), device=alive.device)
        for state in self.states:
            state.cache.keep(sentences, kept)


class LineageState:
    """What one self-attention keeps, in the layouts of ``SelfAttentionState`` with the tokens of all beams of a
    sentence side by side: ``[B, M·t, E]``, ``[2, B, H, M·t, d]``, or ``[2, B, M·t, d]``, of which some are given up.
    """

    def __init__(self, row_dim, lineage):
        self.cache = GrowingCache(row_dim, block=BLOCK * lineage.beams)
        self.lineage = lineage
        self.mask = None  # [B, M, tokens kept], of this step

    def append(self, new, padding):
        """Append one token a beam: ``new`` as ``SelfAttentionState.append``, with a single token a row."""
        rows = self.cache.row_dim
        self.mask = self.lineage.mask(self.cache.length + self.lineage.beams, padding)
        if not math.isfinite(new.sum(dtype=torch.promote_types(new.dtype, torch.float32)).item()):
            new = self.lineage.without_lost(new, rows)
        self.cache.append(new.squeeze(-2).unflatten(rows, (-1, self.lineage.beams)).movedim(rows + 1, -2))

    def reorder(self, order):
        """Nothing to do: the lineage follows the beams, for all layers at once."""

    def tensors(self):
        return [] if self.cache.buffer is None else [self.cache.buffer]


def new_state(incremental_state, row_dim):
    """What a self-attention keeps from now on: with a ``Lineage`` there, one cache for all beams of a sentence."""
    lineage = incremental_state.get(LINEAGE)
    return SelfAttentionState(row_dim) if lineage is None else lineage.new_state(row_dim)


def own_mask(state, attn_mask, dtype):
    """What hides keys in the state of a self-attention: as ``merge_masks``, or ``[B, M, S]``.

    Raises:
        ValueError: an ``attn_mask`` where the beams of a sentence share their past.
    """
    if not isinstance(state, LineageState):
        return merge_masks(state.padding, attn_mask, dtype)
    if attn_mask is not None:
        raise ValueError("attn_mask: the tokens of all beams of a sentence stand side by side, in no order")
    return state.mask
