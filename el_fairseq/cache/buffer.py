"""Memory for entries that is written in place and grows in blocks."""

from typing import Any

import torch
import torch.nn.functional as F

BLOCK = 16  # tokens by which a buffer grows for each row: the memory above need is at most this much


class GrowingBuffer:
    """Preallocated ``[P, N, K, capacity, C]`` of which ``[P, N, K, :length, C]`` is filled.

    ``append`` writes in place and copies only where a ``block`` of tokens is full; ``reorder`` works in place while no
    row is pruned, and on a CPU touches only rows that change.
    """

    def __init__(self, block: int = BLOCK):
        self.block = block
        self.storage: Any = None  # a tensor, from the first entries on
        self.length = 0

    @property
    def filled(self) -> torch.Tensor:
        """``[P, N, K, length, C]``, a view."""
        return self.storage.narrow(3, 0, self.length)

    @property
    def room(self) -> int:
        """How many tokens fit after those that are there."""
        return 0 if self.storage is None else self.storage.size(3) - self.length

    def append(self, new: torch.Tensor) -> None:
        """Add ``new [P, N, K, T, C]``."""
        length = self.length + new.size(3)
        if self.storage is None or length > self.storage.size(3):
            self._grow(new, -(-length // self.block) * self.block)
        self.storage.narrow(3, self.length, new.size(3)).copy_(new)
        self.length = length

    def _grow(self, like, capacity):
        grown = like.new_empty(*like.shape[:3], capacity, like.size(4))
        if self.storage is not None:
            grown.narrow(3, 0, self.length).copy_(self.filled)
        self.storage = grown

    def keep(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Only ``rows [N']`` remain, and ``tokens [N', t']`` of each; a full buffer gets room for a block more."""
        self.length, capacity = tokens.size(1), tokens.size(1) + (self.room or self.block)
        shape, width = self.storage.shape[:4], self.storage.size(4)  # [P, N, K, capacity]
        firsts = torch.arange(0, shape.numel(), shape[3], device=rows.device).view(shape[:3])
        firsts = firsts.index_select(1, rows)  # [P, N', K], where the tokens of each begin
        tokens = F.pad(tokens, (0, capacity - self.length))  # anything: what is after the length is not read
        places = firsts.unsqueeze(3) + tokens.unsqueeze(1)  # [P, N', K, 1] + [N', 1, capacity]
        self.storage = self.storage.view(-1, width).index_select(0, places.view(-1)).view(*places.shape, width)

    def drop(self, count: int) -> None:
        """Forget the first ``count`` tokens."""
        if count > 0:
            self.storage, self.length = self.storage[:, :, :, count:].clone(), self.length - count

    def add_rows(self, count: int) -> None:
        """Add rows, zero so far, after those there are."""
        if self.storage is not None:
            p, _, *rest = self.storage.shape
            self.storage = torch.cat((self.storage, self.storage.new_zeros(p, count, *rest)), dim=1)

    def reorder(self, order: torch.Tensor) -> None:
        """Row ``i`` becomes what row ``order[i]`` was; fewer rows than before free the memory of the rest."""
        if self.storage is None:
            return
        rows = self.storage.size(1)
        if order.numel() == rows and order.device.type == "cpu":  # elsewhere it would cost a synchronisation to know
            changed = (order != torch.arange(rows)).nonzero().squeeze(1)
            self.filled.index_copy_(1, changed, self.filled.index_select(1, order[changed]))
            return
        moved = self.filled.index_select(1, order)
        if order.numel() != rows:
            p, _, *rest = self.storage.shape
            self.storage = moved.new_empty(p, order.numel(), *rest)
        self.filled.copy_(moved)


def sentences_of_rows(order: torch.Tensor, beams: int, sentences: int) -> torch.Tensor | None:
    """Which sentences remain, and in what order, after rows are re-ordered: ``[B']``, or None if nothing changes.

    Args:
        order: ``[B'·M]`` row numbers, the rows of a sentence side by side.
        beams: M.
        sentences: B, how many there are now.

    Raises:
        ValueError: a group of M rows mixes sentences, so that they could not share their entries.
    """
    groups = order.view(-1, beams) // beams  # [B'·M] -> [B', M]
    remaining = groups[:, 0]
    if not bool((groups == remaining.unsqueeze(1)).all()):
        raise ValueError(f"rows of different sentences in one group of {beams} beams: {order.tolist()}")
    unchanged = remaining.numel() == sentences and torch.equal(
        remaining, torch.arange(sentences, device=remaining.device)
    )
    return None if unchanged else remaining
