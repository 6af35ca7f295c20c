"""Decoder state behind prompts: what is kept of a prompt is kept once, for all rows that continue it."""

import torch
import torch.nn.functional as F

from el_fairseq.cache.growing import GrowingCache


class PromptLayout:
    """The prompts of B sentences, shortest first, of which the first ``awake`` are being continued by M rows each.

    A longer prompt is read to its end while shorter ones are already being continued: a token that the rows of the
    shortest have generated and those of a longer one have not is filler there.

    Args: lengths: tokens of each prompt, begin-of-sentence included, ascending. beams: M. device: of the masks.
    """

    def __init__(self, lengths, beams, device):
        self.lengths, self.beams, self.device = lengths, beams, device
        self.wake(0)

    @property
    def width(self):
        """Tokens of the longest prompt that is being continued."""
        return self.lengths[self.awake - 1]

    def wake(self, sentences):
        """From now on the first ``sentences`` are being continued."""
        self.awake = sentences
        self._grown = None
        self.masks = None, None  # [awake, width] and [awake·M, width - shortest], True where the place is not used
        if self.awake and self.width > self.lengths[0]:
            lengths = torch.tensor(self.lengths[: self.awake], device=self.device).unsqueeze(1)
            places = torch.arange(self.width, device=self.device)
            filler = places[self.lengths[0] :] < lengths
            self.masks = places >= lengths, filler.repeat_interleave(self.beams, dim=0)

    def keep(self, slots):
        """Only the sentences in ``slots`` remain. Returns how many leading tokens of the rows are filler in all."""
        shortest, awake = self.lengths[0], sum(slot < self.awake for slot in slots)
        self.lengths = [self.lengths[slot] for slot in slots]
        self.wake(awake)
        return self.lengths[0] - shortest

    def paddings(self, tokens):
        """``[awake, width]`` of the prompts and ``[awake·M, tokens]`` of what the rows keep; or None."""
        padding, filler = self.masks
        if filler is None:
            return None, None
        if self._grown is None or self._grown.size(1) != tokens:  # once a step, for all layers
            self._grown = F.pad(filler[:, :tokens], (0, max(0, tokens - filler.size(1))))
        return padding, self._grown


class PromptedState:
    """What one self-attention keeps behind prompts, in the layouts of ``SelfAttentionState``.

    ``prompt`` is kept once a sentence (``[B, P, E]``, ``[2, B, H, P, d]`` or ``[2, B, P, d]``), ``cache`` holds what
    the rows have generated. The sentences stand in the order of ``layout``, which all layers share.
    """

    def __init__(self, row_dim, prompt, layout):
        self.cache = GrowingCache(row_dim)
        self.prompt, self.layout = prompt, layout

    @property
    def shared(self):
        """``prompt``, as far as it is being continued: a view."""
        return self.prompt.narrow(self.cache.row_dim, 0, self.layout.awake).narrow(-2, 0, self.layout.width)

    def append(self, new, padding):
        """Append tokens; ``padding`` is not kept: only rows of score -inf hold any, and they never come back."""
        self.cache.append(new)

    def wake(self, rows):
        """``rows`` more rows begin."""
        self.cache.add_rows(rows)

    def keep(self, sentences, filler):
        """Prompts of ``sentences [B']`` remain; ``filler`` as ``PromptLayout.keep`` returned it, before the rows go."""
        self.prompt = self.prompt.index_select(self.cache.row_dim, sentences)
        if self.layout.awake == 0:
            self.cache = GrowingCache(self.cache.row_dim)
        else:
            self.cache.drop(filler)

    def reorder(self, order):
        """Row ``i`` of those that have begun becomes what row ``order[i]`` was."""
        self.cache.reorder(order)

    def tensors(self):
        return [kept for kept in (self.cache.buffer, self.prompt, *self.layout.masks) if kept is not None]
