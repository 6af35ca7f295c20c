"""The few largest of very many numbers, as ``torch.topk`` finds them."""

import math

import torch

GROUP_BITS = 6
GROUP = 2**GROUP_BITS  # neighbours of which the largest is looked at first
LARGEST_SHARE = 1 / 8  # of all groups is what may be looked into


def best_of_rows(x, offsets, k, sentences):
    """The k largest of ``x + offsets``, of all rows of each sentence, without a pass over memory to add them.

    Args:
        x: ``[N, V]`` on a CPU, the rows of a sentence side by side; ``row_width(V)`` numbers apart in memory, and what
            lies between them is -inf.
        offsets: ``[N]``, of the dtype of ``x``.
        k: how many.
        sentences: b.

    Returns:
        The sums, descending, their columns and their rows, ``[b, k]`` each; None where ``torch.topk`` of all sums has
        to decide: between equal numbers, where one is NaN, where fewer than k are finite, or not ``has_groups``.
    """
    groups, rows = row_width(x.size(1)) // GROUP, x.size(0) // sentences
    if not has_groups(x.size(1), rows, k) or x.stride(0) != groups * GROUP:
        return None
    grouped = x.as_strided((x.size(0), groups, GROUP), (x.stride(0), GROUP, 1))
    largest = grouped.amax(dim=2).add_(offsets.unsqueeze(1))  # [N, groups]
    chosen = largest.view(sentences, rows * groups).topk(k + 1, sorted=False).indices
    if sentences > 1:
        chosen += torch.arange(0, x.size(0) * groups, rows * groups).unsqueeze(1)  # among the groups of all sentences
    sums = grouped.view(-1, GROUP)[chosen].add_(offsets[chosen // groups].unsqueeze(2))  # [b, k + 1, GROUP]
    best, which = sums.view(sentences, -1).topk(k + 1)
    numbers = best.numpy()
    if not ((numbers[:, 1:] < numbers[:, :-1]).all() and (numbers[:, k - 1] > -math.inf).all()):
        return None
    which = which[:, :k]
    group = chosen.gather(1, which >> GROUP_BITS)
    place = torch.add(which & (GROUP - 1), group, alpha=GROUP)  # in N rows of groups·GROUP
    return best[:, :k], place % (groups * GROUP), place // (groups * GROUP)


def has_groups(size, rows, k):
    """Whether ``best_of_rows`` finds the k largest of ``rows`` rows of ``size`` numbers by looking at few of them."""
    return k + 1 <= LARGEST_SHARE * rows * (row_width(size) // GROUP)


def row_width(size):
    """How many numbers apart in memory rows of ``size`` have to be for ``best_of_rows``."""
    return -(-size // GROUP) * GROUP


def grouped_topk(x, k):
    """``x.topk(k)`` of ``x [n, size]``: values ``[n, k]`` in descending order and their places.

    On a CPU the largest of each group of neighbours comes first, in one pass over memory; the k largest numbers are in
    the k groups with the largest. Which of equal numbers torch takes first is not documented: where a result depends on
    it, torch decides.
    """
    n, size = x.shape
    groups, rest = divmod(size, GROUP)
    if x.device.type != "cpu" or k + 1 > LARGEST_SHARE * groups:
        return x.topk(k)
    largest = x[:, : size - rest].unflatten(1, (groups, GROUP)).amax(dim=2)  # [n, groups]
    chosen = largest.topk(k + 1, sorted=False).indices.unsqueeze(2) * GROUP
    places = (chosen + torch.arange(GROUP)).flatten(1)  # [n, (k + 1)·GROUP]
    places = torch.cat((places, torch.arange(size - rest, size).expand(n, rest)), dim=1)
    values, which = x.gather(1, places).topk(k + 1)
    if not bool((values[:, 1:] < values[:, :-1]).all()):
        return x.topk(k)
    return values[:, :k], places.gather(1, which[:, :k])
