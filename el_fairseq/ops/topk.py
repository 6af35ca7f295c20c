"""The few largest of very many numbers, as ``torch.topk`` finds them."""

import torch

GROUP = 64  # neighbours of which the largest is looked at first
LARGEST_SHARE = 1 / 8  # of all groups is what may be looked into


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
