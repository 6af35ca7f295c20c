"""The rows of captured steps, of which some are live.

A graph holds for so many rows. Searches that draw random numbers or keep books prune sentences at once, as in stock;
the decoder keeps their rows, until half of its rows are of no use.
"""

import torch


class StaticRows:
    """Which row of the decoder each of the search's N rows is.

    Args:
        count: rows of the decoder at first, all of them live.
        beams: M, rows of a sentence, side by side in both numberings.
        device: of row numbers.
    """

    def __init__(self, count: int, beams: int, device: torch.device):
        self.count, self.beams = count, beams
        self.all = torch.arange(count, device=device)
        self.live: torch.Tensor | None = None  # [N], in the decoder's numbering; None: all of them, in order

    def follow(self, order: torch.Tensor, pruned: bool) -> tuple[torch.Tensor, bool]:
        """Translate what ``Session.reorder`` is told of the search's rows to those of the decoder, where rows that are
        not live continue themselves, and are pruned when they are half of all."""
        if self.live is None and not pruned:
            return order, False
        live = self.all if self.live is None else self.live
        continued = live.index_select(0, order)
        if 2 * order.numel() <= self.count:
            self.count, self.all, self.live = order.numel(), self.all[: order.numel()], None
            return continued, True
        if pruned:
            sentences = order[:: self.beams] // self.beams
            live = live.view(-1, self.beams).index_select(0, sentences).flatten()
        self.live = live
        return self.all.index_copy(0, live, continued), False

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """``x [N, ...]`` of the search's rows for all rows of the decoder, 0 for those that are not live."""
        return x if self.live is None else x.new_zeros(self.count, *x.shape[1:]).index_copy_(0, self.live, x)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of all rows of the decoder for the search's rows."""
        return x if self.live is None else x.index_select(0, self.live)
