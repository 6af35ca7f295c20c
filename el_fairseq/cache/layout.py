"""In which of the lossless layouts an attention keeps what it attends to, and what a plan is asked."""

from typing import NamedTuple

import torch

HIDDEN = "hidden"  # EL-attention: keys and values are the hidden states themselves
PROJECTED = "projected"  # projected keys and values, those of a source shared by its beams


class Attended(NamedTuple):
    """What an attention begins to attend to, at the start of a batch."""

    kind: str  # "cross", an encoder output; "prompt", a prompt that rows share; "self", what rows have written
    hidden: torch.Tensor  # [S, B, D], hidden states; of "self", which grows, the first
    beams: int  # M, rows that share each of them
    heads: int  # H


def hidden_everywhere(attended):
    """The plan that always uses EL-attention (``--el-attention on``)."""
    return HIDDEN
