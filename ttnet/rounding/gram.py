"""Rounding by Gram matrices: matrix products in the place of QR factorisations, for bounds that leave them the digits.

A Gram matrix holds the squares of the singular values, so those below some 1e-7 of the largest drown in its rounding
noise. Two things make the bound hold nevertheless. The Gram matrices are enlarged by more than their own noise, so
what is cut off is counted too high rather than too low. And nothing is decided within reach of the noise: where a rank
or the error would hang on it, the method gives up, and the caller takes the exact one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttnet.numerics.products import multiply
from ttnet.numerics.scales import Exponent, split_scale
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.sums import TrainSum, sweep

_EPS = torch.finfo(torch.float64).eps
_CLOSE = 0.1  # to being orthogonal are columns that a Cholesky factor makes so
_MARGIN = 0.1  # how much of a square the noise may make up where the square decides
_NOISIER = (1, 16, 256)  # how many times the noise measured that of a library's products is taken for, one by one


class _DrownedError(Exception):
    """A decision is within reach of the rounding noise."""


def round_by_gram(x: TrainSum, budget: RelativeBudget) -> tuple[list[Tensor], Exponent] | None:
    """Round with the Gram matrices of what lies right of each bond, and of what is carried there from the left.

    At a bond, let the part on its right be `h`, of shape (R, columns). Its Gram matrix `g = h h^H` comes by
    contraction from that of the next bond, and with a Cholesky factor `f` of it, what is carried there from the left,
    `c`, has with `h` the singular values and left singular vectors of `c f`. All of O(order * n * R**3) is in matrix
    products. Source: Al Daas, Ballard, Manning 2022, "Parallel tensor train rounding using Gram SVD"; here one-sided,
    since the bases on the left are made orthonormal as they come, and with a certificate.

    Args:
        x: The train, in double precision; no gradient flows.
        budget: What each bond may lose.

    Returns:
        As `round_exactly`, or None where squares do not decide: the bound asks for more digits than they have, or
        large numbers in the cores cancel.

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 3, 1)]
        >>> x = TrainSum([one, one], None, torch.float64)
        >>> cores, exponent = round_by_gram(x, RelativeBudget(eps=1e-3, max_ranks=[None], dtype=torch.float64))
        >>> [tuple(core.shape) for core in cores]
        [(1, 2, 1), (1, 3, 1)]
        >>> round_by_gram(x, RelativeBudget(eps=1e-9, max_ranks=[None], dtype=torch.float64)) is None
        True
    """
    try:
        cuts = _Cuts(_right_factors(x), budget)
        cores, exponents = sweep(x, cuts.find_basis)
    except _DrownedError:
        return None
    return None if cuts.may_be_noise() else (cores, exponents[-1] + x.exponent)


def _gram(
    rows: Tensor,  # (m, n)
) -> Tensor:  # (m, m)
    """Give the lower triangle of rows @ rows^H, with a quarter of the products left out."""
    half = len(rows) // 2
    gram = rows.new_zeros(len(rows), len(rows))
    gram[:half, :half] = multiply(rows[:half], rows[:half].mH)
    gram[half:] = multiply(rows[half:], rows.mH)
    return gram


def _noise_of_gram(size: int) -> float:
    """Bound the rounding noise of a Gram matrix of `size` rows of norm 1, factorised.

    Measured on random, positive, constant and overcomplete trains, with `size` from 16 to 100 and sums of up to 4000.
    """
    return _EPS * (8 + 4 * math.sqrt(size))


def _right_factors(x: TrainSum) -> list[tuple[Tensor, float]]:
    """Give, for each inner bond, an `f` with `f f^H` no smaller than `h h^H`, and by what noise it may be larger."""
    factor = x.tail
    factors = []
    for k in range(x.order - 1, 0, -1):
        factor = x.times_right(k, factor).flatten(1)  # (R, n q)
        noise = _noise_of_gram(len(factor))
        if factor.shape[0] < factor.shape[1]:
            factor, noise = _factorised(_gram(factor), noise)
        factor, _ = split_scale(factor)
        factors.append((factor, noise))
    return factors[::-1]


def _factorised(
    gram: Tensor,  # (R, R)
    noise: float,
) -> tuple[Tensor, float]:
    """Give a Cholesky factor of a Gram matrix that is enlarged by its noise, and how much that was."""
    diagonal = gram.diagonal().real
    squares = diagonal.clone()
    for times in _NOISIER:
        # Relative to each row, so that no basis of the bond is too badly scaled; the rest serves rows of zeros.
        diagonal.copy_(squares * (1 + times * noise)).clamp_min_(1e-200 * float(squares.max()))
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not failed:
            return factor, times * noise
    raise _DrownedError


def _orthonormal(
    matrix: Tensor,  # (m, n)
) -> Tensor:  # (m, n)
    """Make columns orthonormal that are nearly orthogonal, as multiples of singular vectors are.

    A Cholesky factor of their Gram matrix does that in products, and loses no digit as long as the columns, each
    divided by its norm, are so close to orthonormal ones that the factor is close to the identity. Source: Yamamoto et
    al. 2015, "Roundoff error analysis of the CholeskyQR2 algorithm", of which this is the second half.
    """
    gram = _gram(matrix.mH)
    scales = gram.diagonal().real.clamp_min(1e-200).rsqrt()
    gram = scales[:, None] * gram * scales
    factor, failed = torch.linalg.cholesky_ex(gram)
    apart = float(torch.linalg.vector_norm(gram.tril(-1)))
    if failed or not apart <= _CLOSE or float(gram.diagonal().real.min()) < 0.5:
        return torch.linalg.qr(matrix).Q
    inverse = torch.linalg.solve_triangular(factor, torch.diag(scales).to(factor.dtype), upper=False)
    return multiply(matrix, inverse.mH)


class _Cuts:
    """The truncation of one bond after the other, and what noise went into it."""

    def __init__(self, factors: list[tuple[Tensor, float]], budget: RelativeBudget) -> None:
        self._factors = factors
        self._budget = budget
        self._noise = 0.0  # relative and squared, as what is lost
        self._lost = 0.0

    def find_basis(
        self,
        k: int,
        c: Tensor,  # (r n, R)
    ) -> tuple[Tensor, Tensor]:  # (r n, s), (s, R)
        (factor, relative), budget = self._factors[k], self._budget
        image = multiply(c, factor)  # (r n, q)
        budget.measure(image)
        columns, rows = (x.abs().square().sum(dim) for dim, x in enumerate((c, factor)))  # torch's norms take longer
        noise = relative * float((columns * rows).sum()) + 4 * _EPS * budget.norm**2
        max_tail, max_rank = budget.allowance(min(image.shape))

        is_tall = image.shape[0] > image.shape[1]
        squares, vectors = torch.linalg.eigh(_gram(image.mH if is_tall else image))
        squares = squares.clamp_min(0)
        tails = squares.cumsum(0)  # tails[i]: what is cut off if i + 1 are
        cut = min(int((tails + noise <= max_tail**2).sum()), len(squares) - 1)
        if max_rank is not None:
            cut = max(cut, len(squares) - max_rank)
        tail = float(tails[cut - 1]) if cut else 0.0
        least = float(squares[cut])
        if noise > _MARGIN * max(max_tail**2, least):
            raise _DrownedError
        self._noise += noise / budget.unit**2
        self._lost += tail / budget.unit**2
        budget.spend(math.sqrt(tail), math.sqrt(noise))

        kept = vectors[:, cut:]
        u = _orthonormal(multiply(image, kept)) if is_tall else kept
        return u, multiply(u.mH, c)

    def may_be_noise(self) -> bool:
        """Say whether `max_rank` cut off so little that a train of those ranks might be as good as exact."""
        return self._budget.is_forced and self._noise > _MARGIN * self._lost
