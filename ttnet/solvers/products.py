"""Products of one vector for each mode, found from samples by their logarithms and signs.

Alternating least squares find a product by way of the means of samples over the other modes. Where these means are
zero, as those of products of sines are, they see nothing but noise, in more modes the less. The logarithms of sizes are
sums, though, which linear least squares find whatever the means; and signs are sums modulo two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 1000  # how many entries all vectors may have together
ROWS = 20  # times as many samples are asked for their signs, at most
SEEN = 0.2  # the share of the samples' squares that means have to explain for a search to begin with them
EXPLAINED = 0.5  # the same for a product to be worth while
LEAST = 1e-12  # of a size whose logarithm counts, relative to the largest


def product_without_means(
    indices: Tensor,  # (samples, d)
    values: Tensor,  # (samples,)
    sizes: Sequence[int],
) -> list[Tensor] | None:
    """Find a product that explains most of what means over slices do not see.

    Args:
        indices: Where the samples are.
        values: The numbers there, of float64.
        sizes: The mode sizes.

    Returns:
        Cores of ranks one; None if the means of some mode's slices show enough, or no product does.

    Example:
        >>> i, j = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
        >>> v = torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
        >>> at = torch.stack([i.flatten(), j.flatten()], 1)
        >>> cores = product_without_means(at, torch.outer(v, v).flatten(), (4, 4))
        >>> torch.allclose(torch.outer(cores[0].flatten(), cores[1].flatten()), torch.outer(v, v))
        True
    """
    size = sum(sizes)
    if values.is_complex() or size > LARGEST or not values.any():
        return None
    whole = float(values.square().sum())
    for column, length in zip(indices.T, sizes, strict=True):
        sums = values.new_zeros(length).index_add(0, column, values)
        counts = column.bincount(minlength=length).clamp_min(1)
        if float((sums.square() / counts).sum()) > SEEN * whole:
            return None
    places = indices + indices.new_tensor([0, *sizes[:-1]]).cumsum(0)  # of the entries of all vectors together
    has_logarithm = values.abs() > LEAST * values.abs().max()
    places_of_kept, kept = places[has_logarithm], values[has_logarithm]
    vectors = _additive(places_of_kept, kept.abs().log(), size).exp() * _signs(places_of_kept, kept, size)
    vectors = vectors * (places_of_kept.flatten().bincount(minlength=size) > 0)  # slices of zeros are kept out
    found = vectors[places].prod(1)
    scale = float(found @ values) / (float(found @ found) or 1.0)
    if float((values - scale * found).square().sum()) > (1 - EXPLAINED) * whole:
        return None
    first, *others = [vector.view(1, -1, 1) for vector in vectors.split(list(sizes))]
    return [first * scale, *others]


def _additive(
    places: Tensor,  # (samples, d)
    values: Tensor,  # (samples,)
    size: int,
) -> Tensor:  # (size,)
    """Give the numbers whose sums over the places of each sample are closest to its value."""
    gram = values.new_zeros(size * size)
    for column in places.T:
        gram += (column[:, None] * size + places).flatten().bincount(minlength=size * size)
    gram, rhs = gram.view(size, size), values.new_zeros(size)
    for column in places.T:
        rhs.index_add_(0, column, values)
    # Numbers that move from one mode to another change nothing, so the matrix is singular.
    gram.diagonal().add_(LEAST * float(gram.diagonal().max()))
    return torch.linalg.solve(gram, rhs)


def _signs(
    places: Tensor,  # (samples, d)
    values: Tensor,  # (samples,), none of them zero
    size: int,
) -> Tensor:  # (size,)
    """Give signs whose products are those of the largest samples, by elimination modulo two."""
    order = values.abs().argsort(descending=True)
    pivots: dict[int, int] = {}  # by their highest bit, equations: bits for entries, and the lowest for the right side
    chosen = order[: ROWS * size]
    for entries, is_negative in zip(places[chosen].tolist(), (values[chosen] < 0).tolist(), strict=True):
        row = int(is_negative)
        for entry in entries:
            row ^= 2 << entry
        while (highest := row.bit_length()) > 1 and highest in pivots:
            row ^= pivots[highest]
        if highest > 1:
            pivots[highest] = row
        if len(pivots) == size - places.shape[1] + 1:  # signs that move from one mode to another change nothing
            break
    known = 1  # what no equation tells is zero
    for highest in sorted(pivots):
        if (pivots[highest] & known).bit_count() % 2:
            known |= 1 << (highest - 1)
    return values.new_tensor([-1.0 if known >> (entry + 1) & 1 else 1.0 for entry in range(size)])
