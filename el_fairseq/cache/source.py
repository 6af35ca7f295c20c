"""What a cross-attention keeps of the source: once a sentence, for all of its beams."""

import torch

from el_fairseq.cache.buffer import sentences_of_rows
from el_fairseq.cache.layout import Layout


class SourceCache:
    """Keys and values ``[2, B, K, S, C]``, or nothing where the attention reads the encoder output itself (``HIDDEN``).

    Args:
        layout: of ``entries``.
        entries: None with ``HIDDEN``.
        beams: M.
    """

    moves_with_beams = False

    def __init__(self, layout: Layout, entries: torch.Tensor | None, beams: int):
        self.layout, self.beams = layout, beams
        self._set(entries)

    def _set(self, entries):
        self.entries = entries
        self.pair = None if entries is None else (entries[0], entries[1])  # once a batch instead of at each step

    def keys_and_values(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What to attend to, where the encoder output is ``source [S, B, D]`` now: as ``layout.keys_and_values``."""
        if self.pair is not None:
            return self.pair
        return source.transpose(0, 1).unsqueeze(1), None  # [S, B, D] -> [B, 1, S, D]

    def reorder(self, order):
        if self.entries is not None:
            sentences = sentences_of_rows(order, self.beams, self.entries.size(1))
            if sentences is not None:
                self._set(self.entries.index_select(1, sentences))

    def tensors(self):
        return [] if self.entries is None else [self.entries]
