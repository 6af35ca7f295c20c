"""The oracles: slow, loop-based versions of what this package computes, each readable against its formula.

Nothing at run time calls them; every fast path is tested against them. Weights are those of
``torch.nn.Linear``: ``y = x Wᵀ + b``, and head ``h`` owns rows ``h·d .. (h+1)·d`` of a projection.
"""

import torch


def _linear(x, weight, bias):
    return x @ weight.T if bias is None else x @ weight.T + bias


def _softmax_rows(scores, padding):
    """Softmax over the last axis of ``scores [T, S]``, keys with ``padding [S]`` left out."""
    scores = scores.masked_fill(padding, float("-inf"))
    weights = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
    return weights / weights.sum(dim=-1, keepdim=True)


def multi_head_attention(query, source, params, num_heads, padding):
    """Multi-head attention ("Attention Is All You Need", section 3.2.2), sentence by sentence, head by head.

    query [B, T, D], source [B, S, K], padding [B, S] (True where there is no token); ``params`` maps ``q k v out``
    to ``(weight, bias)``. Returns the output [B, T, D] and the attention weights [H, B, T, S].
    """
    outputs, all_weights = [], []
    for x, y, pad in zip(query, source, padding):
        queries, keys, values = _linear(x, *params["q"]), _linear(y, *params["k"]), _linear(y, *params["v"])
        d = queries.size(-1) // num_heads
        heads, weights = [], []
        for h in range(num_heads):
            own = slice(h * d, (h + 1) * d)
            weights.append(_softmax_rows(queries[:, own] @ keys[:, own].T * d**-0.5, pad))
            heads.append(weights[-1] @ values[:, own])
        outputs.append(_linear(torch.cat(heads, dim=-1), *params["out"]))
        all_weights.append(torch.stack(weights))
    return torch.stack(outputs), torch.stack(all_weights, dim=1)


def el_attention(query, source, params, num_heads, padding):
    """EL-attention (arXiv 2105.04779, section 3.2): the same result, from the source states alone.

    Head by head the key projection moves into the query and the value projection after the weighted sum. The key
    bias adds the same number to every score of a row, so it is dropped. Shapes as in ``multi_head_attention``.
    """
    (w_q, b_q), (w_k, _), (w_v, b_v), out = (params[name] for name in ("q", "k", "v", "out"))
    d = w_q.size(0) // num_heads
    outputs, all_weights = [], []
    for x, y, pad in zip(query, source, padding):
        heads, weights = [], []
        for h in range(num_heads):
            own = slice(h * d, (h + 1) * d)
            q = _linear(x, w_q[own], None if b_q is None else b_q[own]) * d**-0.5 @ w_k[own]
            weights.append(_softmax_rows(q @ y.T, pad))
            heads.append(_linear(weights[-1] @ y, w_v[own], None if b_v is None else b_v[own]))
        outputs.append(_linear(torch.cat(heads, dim=-1), *out))
        all_weights.append(torch.stack(weights))
    return torch.stack(outputs), torch.stack(all_weights, dim=1)


def mhe_attention(query, key, value, params, embeds, variant, mask, dropout=None):
    """MHE attention (arXiv 2310.07911, section 4) as the paper writes it: every head makes its own Q, K and V.

    query [B, T, D], key [B, S, K], value [B, S, V], mask [B, T, S] added to the scores; ``params`` maps ``q k v out``
    to ``(weight, bias)``, of which q, k and v are one head wide; ``embeds`` maps ``q k v`` to [H, d]; ``dropout
    [B, H, T, S]`` is what the weights are multiplied with. Returns the output [B, T, D] and the weights
    [B, H, T, S].
    """
    outputs, all_weights = [], []
    for b, added in enumerate(mask):
        shared = {name: _linear(x[b], *params[name]) for name, x in zip("qkv", (query, key, value))}
        d = shared["q"].size(-1)
        heads, weights = [], []
        for h in range(embeds["q"].size(0)):
            q, k, v = (
                shared[name] * (1 + embeds[name][h]) if variant == "mul" else shared[name] + embeds[name][h]
                for name in "qkv"
            )
            scores = q @ k.T * d**-0.5 + added
            row = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
            weights.append(row / row.sum(dim=-1, keepdim=True))
            heads.append((weights[-1] if dropout is None else weights[-1] * dropout[b, h]) @ v)
        outputs.append(_linear(torch.cat(heads, dim=-1), *params["out"]))
        all_weights.append(torch.stack(weights))
    return torch.stack(outputs), torch.stack(all_weights)


def repeated_ngram_continuations(tokens, size):
    """Tokens that would complete an n-gram which ``tokens`` (one hypothesis, a list) already holds, as a set."""
    tail = tokens[len(tokens) - size + 1 :]
    starts = range(len(tokens) - size + 1)
    return {tokens[i + size - 1] for i in starts if tokens[i : i + size - 1] == tail}
