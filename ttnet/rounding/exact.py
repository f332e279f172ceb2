"""Rounding by QR factorisations and truncated SVDs: the method of reference, right to the last digits."""

from __future__ import annotations

from torch import Tensor

from ttnet.numerics.linalg import column_basis, plain_qr, qr, r_factor, triangular_factor, truncated_svd
from ttnet.numerics.scales import Exponent, split_scale
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.sums import TrainSum, sweep


def round_exactly(x: TrainSum, budget: RelativeBudget) -> tuple[list[Tensor], Exponent]:
    """Round by one sweep of QR factorisations from the right and one of truncated SVDs from the left.

    At a bond, let the part on its right be `h`, of shape (R, columns), and `h^H = q f^H` its QR factorisation. What is
    carried there from the left, `c`, has with `h` the singular values and left singular vectors of `c f`: so the large
    orthonormal `q` is never formed. Costs O(order * n * R**3), most of it for the factors `f`. Source: Oseledets 2011,
    "Tensor-Train Decomposition", Algorithm 2, here without its products with `q`.

    Args:
        x: The train, in a dtype that LAPACK knows.
        budget: What each bond may lose.

    Returns:
        The new cores, all but the last one left-orthogonal, and an exponent: the train is theirs times 2**exponent.

    Example:
        >>> import torch
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 3, 1)]
        >>> x = TrainSum([one, one], None, torch.float64)
        >>> cores, exponent = round_exactly(x, RelativeBudget(eps=0.0, max_ranks=[None], dtype=torch.float64))
        >>> [tuple(core.shape) for core in cores]
        [(1, 2, 1), (1, 3, 1)]
    """
    factors = _right_factors(x)

    def find_basis(k: int, c: Tensor) -> tuple[Tensor, Tensor]:  # (r n, R) to (r n, s) and (s, R)
        # Sums over the long side, as in u^H c, lose digits where a factorisation does not.
        factorise = qr if c.requires_grad else plain_qr
        q, r = factorise(c) if c.shape[0] > c.shape[1] else (None, c)
        image, _ = split_scale(r @ factors[k])
        budget.measure(image)
        max_tail, max_rank = budget.allowance(min(image.shape))
        if image.requires_grad:
            u, _, tail = truncated_svd(image, max_tail, max_rank)
        else:
            u, tail = column_basis(image, max_tail, max_rank)
        budget.spend(tail)
        return u if q is None else q @ u, u.mH @ r

    cores, exponents = sweep(x, find_basis)
    return cores, exponents[-1] + x.exponent


def _right_factors(x: TrainSum) -> list[Tensor]:
    """Give, for each inner bond, an `f` of shape (R, q), of any scale, with `f f^H` that of what lies on its right."""
    factor = x.tail
    factors = []
    for k in range(x.order - 1, 0, -1):
        factor = x.times_right(k, factor).flatten(1)  # (R, n q)
        if factor.shape[0] < factor.shape[1]:
            factor = _triangle(factor.mH).mH
        factor, _ = split_scale(factor)
        factors.append(factor)
    return factors[::-1]


def _triangle(
    matrix: Tensor,  # (m, n)
) -> Tensor:  # (n, n)
    return r_factor(matrix) if matrix.requires_grad else triangular_factor(matrix)
