"""MHE attention's two maps (arXiv 2310.07911, section 4): one shared query becomes one a head, and back.

Between them stands attention with the shared keys and values, one head wide::

    context = attention(mhe_query(q_proj(x), ...), k_proj(y), v_proj(y))
    output = out_proj(mhe_output(context, ...))

The paper gives every head its own keys and values: ``k + e^K_h`` or ``k (1 + e^K_h)``, and likewise the values.
Nothing of that has to be done to the keys and values themselves. ``mul``: the factor of the keys moves to the query,
that of the values after the weighted sum. ``add``: the term of the keys adds one number to a whole row of scores,
which softmax cancels; that of the values is added after the weighted sum, as often as the attention weights of the
row sum to.
"""

import torch

MUL, ADD = "mul", "add"


def mhe_query(query: torch.Tensor, variant: str, q_embed: torch.Tensor, k_embed: torch.Tensor) -> torch.Tensor:
    """One scaled query a head: ``q (1 + e^Q_h)(1 + e^K_h) d^-½`` (mul) or ``(q + e^Q_h) d^-½`` (add).

    In ``add`` the gradient of ``k_embed`` is zero, but there is one: DistributedDataParallel would otherwise wait.

    Args:
        query: ``[N, T, d]``.
        variant: ``"mul"`` or ``"add"``.
        q_embed: ``[H, d]``.
        k_embed: ``[H, d]``.

    Returns:
        ``[N, H, T, d]``.
    """
    scale = query.size(-1) ** -0.5
    shared = query.unsqueeze(1)  # [N, T, d] -> [N, 1, T, d]
    if variant == MUL:
        return shared * ((1 + q_embed) * (1 + k_embed) * scale).unsqueeze(1)  # [H, d] -> [H, 1, d]
    return shared * scale + ((q_embed + 0 * k_embed) * scale).unsqueeze(1)


def mhe_output(
    context: torch.Tensor, variant: str, v_embed: torch.Tensor, mass: torch.Tensor | None = None
) -> torch.Tensor:
    """The values' embeddings, after the weighted sum: ``c_h (1 + e^V_h)`` (mul) or ``c_h + e^V_h`` (add).

    Args:
        context: ``[N, H, T, d]``, the weighted sums.
        variant: ``"mul"`` or ``"add"``.
        v_embed: ``[H, d]``.
        mass: ``[N, H, T]``, what the attention weights sum to where that is not 1 (attention dropout): in ``add`` the
            embedding counts that often.

    Returns:
        ``[N, H, T, d]``.
    """
    embed = v_embed.unsqueeze(1)  # [H, d] -> [H, 1, d]
    if variant == MUL:
        return context * (1 + embed)
    return context + (embed if mass is None else mass.unsqueeze(-1) * embed)
