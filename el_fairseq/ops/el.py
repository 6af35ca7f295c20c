"""EL-attention's two maps (arXiv 2105.04779, section 3.2): into the space of the hidden states, and back out of it.

Between them stands ``shared_kv_attention`` with the hidden states as both keys and values::

    query' = el_query(q_proj(x) * d**-0.5, k_proj.weight)
    context = shared_kv_attention(query', hidden, hidden)
    output = out_proj(el_output(context, v_proj.weight, v_proj.bias))

The bias of ``k_proj`` appears nowhere: it adds one number to a whole row of scores, which softmax cancels.
"""

import torch


def el_query(query: torch.Tensor, key_weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Move the key projection into the query: ``q_h · W_k,h``, one row a head, in the space of the hidden states.

    Args:
        query: ``[N, D]``, projected and scaled.
        key_weight: ``[D, C]``, of ``k_proj``.
        num_heads: H.

    Returns:
        ``[N, H, C]``.
    """
    per_head = query.view(query.size(0), num_heads, -1).transpose(0, 1)  # [N, H·d] -> [H, N, d]
    weight = key_weight.view(num_heads, -1, key_weight.size(1))  # [H·d, C] -> [H, d, C]
    return torch.bmm(per_head, weight).transpose(0, 1)  # [H, N, C] -> [N, H, C]


def el_output(
    context: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor | None = None,
    mass: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply the value projection to weighted sums of hidden states: ``c_h · W_v,hᵀ + b_v,h``, heads side by side.

    Args:
        context: ``[N, H, C]``, the weighted sums.
        value_weight: ``[D, C]``, of ``v_proj``.
        value_bias: ``[D]``, or None.
        mass: ``[N, H]``, what the attention weights sum to where that is not 1 (attention dropout): the bias counts
            that often.

    Returns:
        ``[N, D]``.
    """
    n, num_heads, _ = context.shape
    weight = value_weight.view(num_heads, -1, value_weight.size(1))  # [H·d, C] -> [H, d, C]
    per_head = torch.bmm(context.transpose(0, 1), weight.transpose(1, 2))  # [H, N, C] · [H, C, d] -> [H, N, d]
    if value_bias is not None:
        bias = value_bias.view(num_heads, 1, -1)  # [H·d] -> [H, 1, d]
        per_head = per_head + (bias if mass is None else mass.t().unsqueeze(-1) * bias)
    return per_head.transpose(0, 1).reshape(n, -1)  # [H, N, d] -> [N, H·d]
