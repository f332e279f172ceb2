"""Deviations of entries from their mean: of all entries as a number, and along some modes as a train of variances.

What is squared is centred first, since a mean of squares less the square of a mean cancels. Along several modes, what
is centred is a sum of parts, each centred in one mode, averaged over those before and left as it is in those after. The
mean of a product of two of them is zero (the law of total variance), so that the means of their squares add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype, real_dtype
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains import arithmetic, reductions
from ttnet.trains.orthogonal import right_orthogonalise
from ttnet.trains.sweeps import check_finite


def correcting_factor(correction: object, count: int) -> float:
    """Give what the mean of `count` squares is multiplied by to be a variance.

    Args:
        correction: What is taken off the number of squares, an int from 0 to `count` - 1.
        count: Their number, at least 1, which may exceed every float.

    Returns:
        `count / (count - correction)`.

    Raises:
        TTTypeError: If `correction` is not an int.
        TTValueError: If it is out of range.

    Example:
        >>> correcting_factor(1, 4)
        1.333...
    """
    if isinstance(correction, bool) or not isinstance(correction, int):
        raise TTTypeError(f"correction is {correction!r}; expected an int.")
    if not 0 <= correction < count:
        raise TTValueError(f"correction is {correction}; expected 0 to {count - 1} for so many entries.")
    return float(Fraction(count, count - correction))


def deviation(
    cores: Sequence[Tensor],  # each (r, n, r')
    factor: float,
) -> Tensor:
    """Compute the standard deviation of all entries.

    Args:
        cores: The cores of a train of any scale.
        factor: What the mean of the squares is multiplied by, at least 1.

    Returns:
        A real tensor of shape (), in at least single precision, to be cast once.

    Example:
        >>> deviation([torch.tensor([[[1.0], [3.0]]])], 1.0)
        tensor(1.0000)
    """
    cores = [core.to(compute_dtype(core.dtype)) for core in cores]
    order = len(cores) if cores[0].ndim == 3 else 0
    [mean] = reductions.reduce(cores, range(order), mean=True)
    ones = [core.new_ones(1, *core.shape[1:-1], 1) for core in cores]
    centred = arithmetic.add(cores, arithmetic.scale(ones, -mean.reshape(()), torch.mul))
    # A share of each core, since the number of entries may exceed every float.
    share = [core / core.shape[1] ** 0.5 for core in centred] if order else centred
    return arithmetic.norm(share) * factor**0.5


def variances(
    cores: Sequence[Tensor],  # each (r, n, r')
    dims: Sequence[int],
    factor: float,
    *,
    keepdim: bool = False,
) -> list[Tensor]:
    """Compute the variances along some modes, in O(order * n * r**4) for each of these modes.

    The parts are orthogonalised before they are squared: where cores cancel, squares would cancel to fewer digits.

    Args:
        cores: The cores of a train of any scale.
        dims: The positions of the modes, some but not all.
        factor: What the mean of the squares is multiplied by, at least 1.
        keepdim: Whether these modes stay, with size 1.

    Returns:
        The cores of a train of the dtype's real numbers, whose ranks are at most `len(dims) * r**2`; twice that if it
        was complex.

    Raises:
        TTValueError: If a core has entries that are NaN or infinite.

    Example:
        >>> [core] = variances([torch.ones(1, 3, 1), torch.tensor([[[1.0], [3.0]]])], [1], 2.0)
        >>> core.flatten()
        tensor([2.0000, 2.0000, 2.0000])
    """
    check_finite(cores)
    dtype = real_dtype(cores[0].dtype)
    cores, exponent = split_scales(cores, compute_dtype(cores[0].dtype))
    total: list[Tensor] = []
    for k in dims:
        mean = cores[k].mean(1, keepdim=True)
        part, own = right_orthogonalise([*cores[:k], cores[k] - mean, *cores[k + 1 :]])
        squares = join_scale(arithmetic.hadamard([core.conj() for core in part], part), 2 * own, part[0].dtype)
        squares = reductions.reduce(squares, dims, keepdim=keepdim, mean=True)
        total = arithmetic.add(total, squares) if total else squares
        cores[k] = mean
    return join_scale(_real_part(arithmetic.scale(total, factor, torch.mul)), 2 * exponent, dtype)


def _real_part(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> list[Tensor]:  # each (2 r, n, 2 r'), the outer ranks staying 1
    """Give the train of the real parts, by the matrices of two rows that multiply as complex numbers do."""
    if not cores[0].is_complex():
        return list(cores)
    pairs = [(core.real, core.imag) for core in cores]
    rows = [torch.stack([torch.cat([a, -b], -1), torch.cat([b, a], -1)]) for a, b in pairs]  # (2, r, n, 2 r')
    first, *others = [core.flatten(0, 1) for core in rows]
    blocks = [first[:1], *others]
    return [*blocks[:-1], blocks[-1][..., :1]]
