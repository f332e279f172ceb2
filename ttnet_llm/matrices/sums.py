"""Weighted sums of trains that are held as parameters."""

import operator
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ttnet import TensorTrain


@torch.no_grad()
def set_to_sum(
    new: Sequence[Tensor],  # (r, n_k, r)
    given: Sequence[Sequence[Tensor]],  # (r_a, n_k, r_a)
    scales: Sequence[float],
) -> None:
    """Set the cores of a train to a weighted sum of others, rounded by TT-SVD where its ranks are larger.

    Args:
        new: The cores to set, in place; the outer ranks are 1.
        given: The cores of each of the others, of the same modes.
        scales: The factor on each.

    Example:
        >>> new = [torch.empty(1, 2, 2), torch.empty(2, 2, 1)]
        >>> set_to_sum(new, [[torch.ones(1, 2, 1), torch.ones(1, 2, 1)]] * 2, [1.0, 0.5])
        >>> torch.tensordot(*new, dims=1).flatten()
        tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """
    trains = [TensorTrain([core.double() for core in cores]) * s for cores, s in zip(given, scales, strict=True)]
    total = reduce(operator.add, trains)
    room = [core.shape[-1] for core in new[:-1]]
    if any(rank > most for rank, most in zip(total.ranks[1:-1], room, strict=True)):
        total = total.round(max_rank=room)
    for core, entries in zip(new, total.cores, strict=True):
        core.zero_()
        core[tuple(slice(size) for size in entries.shape)] = entries.to(core.dtype)
