"""No-repeat-n-gram blocking on the device, for all hypotheses at once."""

import torch


def block_repeated_ngrams_(lprobs: torch.Tensor, tokens: torch.Tensor, size: int) -> torch.Tensor:
    """Set to -inf, in place, each next token that would repeat an n-gram of its own hypothesis.

    The semantics are those of fairseq's CUDA extension (``ngram_repeat_block``): an n-gram is looked for in everything
    generated so far, the begin-of-sentence token included.

    Args:
        lprobs: ``[N, V]`` scores of the next token.
        tokens: ``[N, t]`` in int64, what the hypotheses hold so far, without padding after it.
        size: n, at least 1.

    Returns:
        ``lprobs``.
    """
    if tokens.size(1) < size:
        return lprobs
    windows = tokens.unfold(1, size, 1)  # [N, t] -> [N, t - n + 1, n]
    tail = tokens[:, tokens.size(1) - size + 1 :]  # [N, n - 1], what the next token would extend
    repeats = (windows[..., :-1] == tail.unsqueeze(1)).all(dim=-1)  # [N, t - n + 1]
    # Adding instead of assigning: a token may end several windows, only some of which repeat.
    penalty = lprobs.new_zeros(repeats.shape).masked_fill_(repeats, float("-inf"))
    return lprobs.scatter_add_(1, windows[..., -1], penalty)
