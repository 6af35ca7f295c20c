"""Attention to a prompt that several rows share, and to what each row has generated since."""

import torch

from el_fairseq.ops.shared_kv import scores_of


def prompted_attention(query, prompt, own, paddings=(None, None), *, softmax_dtype=torch.float32, dropout=None):
    """One softmax over the keys of the prompt and of the row: as if the prompt's were repeated for each of its M rows.

    Args:
        query: ``[N, H, T, C]``, already scaled; the M rows of a prompt side by side, ``N = B·M``.
        prompt: keys ``[B, K, P, C]`` and values ``[B, K, P, C']`` of K heads, each shared by ``H / K`` query heads.
        own: keys ``[N, K, t, C]`` and values ``[N, K, t, C']``.
        paddings: ``[B, P]`` of the prompts and ``[N, t]`` of own keys, True where a key is left out; or None.
        softmax_dtype: dtype of the softmax. dropout: a callable applied to the attention weights, or None.

    Returns:
        ``output [N, H, T, C']``; ``weights [N, H, T, P + t]`` before dropout; ``mass [N, H, T]``, their sum after
        dropout (None without).
    """
    n, h, t, c = query.shape
    b, k, p, _ = prompt[0].shape
    rows = query.reshape(n * k, -1, c)  # [N, H, T, C] -> [N·K, H/K·T, C]
    shared = _by_prompt(query.reshape(n, k, -1, c), b)  # -> [B·K, M·H/K·T, C]
    scores_prompt = scores_of(shared, prompt[0].reshape(b * k, p, c))  # -> [B·K, M·H/K·T, P]
    scores_own = scores_of(rows, own[0].reshape(n * k, -1, c))  # -> [N·K, H/K·T, t]
    scores_prompt, scores_own = _by_row(scores_prompt, n, k).view(n, h, t, p), scores_own.view(n, h, t, -1)
    prompt_padding, own_padding = paddings
    if prompt_padding is not None:
        hidden = prompt_padding.repeat_interleave(n // b, dim=0)[:, None, None]  # [B, P] -> [N, 1, 1, P]
        scores_prompt = scores_prompt.masked_fill(hidden, float("-inf"))
    if own_padding is not None:
        scores_own = scores_own.masked_fill(own_padding[:, None, None], float("-inf"))
    weights = torch.softmax(torch.cat((scores_prompt, scores_own), dim=-1), dim=-1, dtype=softmax_dtype)
    kept = weights.to(query.dtype)
    kept = kept if dropout is None else dropout(kept)
    kept_prompt = _by_prompt(kept[..., :p].reshape(n, k, -1, p), b)
    from_prompt = torch.bmm(kept_prompt, prompt[1].reshape(b * k, p, -1))
    from_own = torch.bmm(kept[..., p:].reshape(n * k, h // k * t, -1), own[1].reshape(n * k, -1, own[1].size(-1)))
    output = _by_row(from_prompt, n, k) + from_own.view(n, k, h // k * t, -1)
    return output.view(n, h, t, -1), weights, None if dropout is None else kept.sum(dim=-1)


def _by_prompt(x, prompts):
    """``[B·M, K, X, C] -> [B·K, M·X, C]``: side by side what one head of a prompt serves."""
    n, k, size, c = x.shape
    x = x.view(prompts, n // prompts, k, size, c).transpose(1, 2)  # -> [B, K, M, X, C]
    return x.reshape(prompts * k, -1, c)


def _by_row(x, rows, k):
    """The inverse: ``[B·K, M·X, C] -> [N, K, X, C]``."""
    prompts, c = x.size(0) // k, x.size(-1)
    x = x.view(prompts, k, rows // prompts, -1, c).transpose(1, 2)  # -> [B, M, K, X, C]
    return x.reshape(rows, k, -1, c)
