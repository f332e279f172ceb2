"""Where to begin a completion: a product and a sum of one vector for each mode, told by means over slices.

Products are fitted by alternating least squares, which for one vector a mode are quotients of sums over slices. The
sum, a train of rank 2, is most of what many smooth functions are, and takes one pass over the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.trains.tensor_train import TensorTrain

AMPLE = 5  # samples for each parameter of a train of rank 2, for a sum to be tried
SEEN = 0.7  # the relative error from which on a sum says nothing
CLOSER = 4  # so many times closer products leave sums untried
STEADY = 0.5  # a sweep that leaves more than this share of what a product misses is the last,
PASSES = 10  # and there are no more than these


def begin_with_means(
    indices: Tensor,  # (samples, d)
    values: Tensor,  # (samples,)
    held: Tensor,  # (held, d)
    held_values: Tensor,  # (held,)
    sizes: Sequence[int],
    tol: float,
) -> tuple[list[Tensor], list[Tensor] | None] | None:
    """Fit a product and a sum of one vector for each mode, if the sum tells about the numbers.

    Args:
        indices: Where the samples are; each slice has some.
        values: The numbers there.
        held: Where the samples are that judge.
        held_values: The numbers there.
        sizes: The mode sizes.
        tol: The relative error at which a product is close enough.

    Returns:
        Cores of rank 1, and of rank 2 or None where the product is much closer. None in place of both if there are
        not two modes, or too few samples, or the sum tells too little, or the product leaves the range of floats.

    Example:
        >>> at = torch.cartesian_prod(torch.arange(9), torch.arange(9)).repeat(3, 1)
        >>> product, sum_ = begin_with_means(at, at.double().sum(1), at, at.double().sum(1), (9, 9), 1e-8)
        >>> (sum_[0].view(9, 2) @ sum_[1].view(2, 9))[2, :4]
        tensor([2., 3., 4., 5.], dtype=torch.float64)
    """
    parameters = 4 * sum(sizes) - 2 * (sizes[0] + sizes[-1])
    if len(sizes) < 2 or len(values) < AMPLE * parameters:
        return None
    columns, there = indices.T.contiguous(), held.T.contiguous()
    total, size = torch.zeros_like(held_values), float(torch.linalg.vector_norm(held_values))
    summands = _sum(columns, values, sizes)
    for vector, column in zip(summands, there, strict=True):
        total += vector.index_select(0, column)
    lacking = float(torch.linalg.vector_norm(total - held_values))
    if not lacking < SEEN * size:
        return None
    found = torch.ones_like(held_values)
    factors = _product(columns, values, sizes)
    for vector, column in zip(factors, there, strict=True):
        found *= vector.index_select(0, column)
    left = float(torch.linalg.vector_norm(found - held_values))
    if not math.isfinite(left):  # numbers of so many sizes that a product leaves the range of floats
        return None
    is_enough = left <= tol * size or CLOSER * left < lacking
    return [vector.view(1, -1, 1) for vector in factors], None if is_enough else _cores(summands)


def _sum(columns: Tensor, values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Fit a sum, mode by mode to what those before leave."""
    rest, vectors = values.clone(), []
    for column, size in zip(columns, sizes, strict=True):
        vectors.append(values.new_zeros(size).index_add_(0, column, rest) / column.bincount(minlength=size))
        rest -= vectors[-1].index_select(0, column)
    return vectors


def _product(columns: Tensor, values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Fit a product by alternating least squares from a constant, forth only, until a sweep brings little."""
    vectors, last = [values.new_ones(size) for size in sizes], float("inf")
    tiny = torch.finfo(values.dtype).tiny
    for _ in range(PASSES):
        rights = [torch.ones_like(values)]
        for vector, column in zip(vectors[:0:-1], columns.flip(0), strict=False):
            rights.append(rights[-1] * vector.index_select(0, column))
        left = torch.ones_like(values)
        for k, (column, size) in enumerate(zip(columns, sizes, strict=True)):
            others = left * rights.pop()
            squares = values.new_zeros(size).index_add_(0, column, others * others.conj())
            vectors[k] = values.new_zeros(size).index_add_(0, column, others.conj() * values) / (squares + tiny)
            left *= vectors[k].index_select(0, column)
        missed = float(torch.linalg.vector_norm(values - left))
        if missed > STEADY * last:
            break
        last = missed
    return vectors


def _cores(
    summands: Sequence[Tensor],  # each (n,)
) -> list[Tensor]:  # each (r, n, r')
    """Give a sum as a train whose second index holds what has been added so far."""
    cores = []
    for vector in summands:
        core = vector.new_zeros(2, len(vector), 2)
        core[0, :, 0] = core[1, :, 1] = 1
        core[0, :, 1] = vector
        cores.append(core)
    cores = [cores[0][:1], *cores[1:-1], cores[-1][:, :, 1:]]
    # Beside outer modes of size 1 no train needs rank 2.
    return cores if min(len(summands[0]), len(summands[-1])) > 1 else list(TensorTrain(cores).round().cores)
