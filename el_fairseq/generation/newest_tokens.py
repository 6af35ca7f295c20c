"""What a decoder step is given: the newest token of each row, and as much of the rest as anybody reads."""

from typing import NamedTuple

import torch


class NewestTokens(NamedTuple):
    """The last of ``count`` tokens of each of N rows."""

    last: torch.Tensor  # [N]
    count: int
    whole: torch.Tensor | None = None  # [N, count], all tokens; None: nobody reads more than the last
    may_be_padding: bool = True  # False: no last token is padding

    @classmethod
    def of(cls, whole: torch.Tensor) -> "NewestTokens":
        """Of ``whole [N, count]``."""
        return cls(whole[:, -1], whole.size(1), whole)

    def index_select(self, rows: torch.Tensor) -> "NewestTokens":
        """Those of ``rows [n]``."""
        whole = None if self.whole is None else self.whole.index_select(0, rows)
        return NewestTokens(self.last.index_select(0, rows), self.count, whole, self.may_be_padding)
