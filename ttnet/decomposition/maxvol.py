"""Rows of a tall matrix that represent all the others."""

from __future__ import annotations

import torch
from torch import Tensor


def maxvol(
    matrix: Tensor,  # (m, r)
    *,
    bound: float = 1.05,
) -> tuple[Tensor, Tensor]:
    """Choose r rows of nearly the largest determinant, in which every row has small coefficients.

    Pivots of an LU factorisation are the start; then the row of the largest coefficient takes the place of the one it
    is a multiple of, which multiplies the determinant by that coefficient. Source: Goreinov et al. 2010, "How to find
    a good submatrix".

    Args:
        matrix: A matrix of full column rank, m >= r, such as the left singular vectors of some unfolding; float64 or
            complex128.
        bound: The largest coefficient allowed, above 1.

    Returns:
        The rows' positions, of shape (r,), and the coefficients, of shape (m, r) and of size at most `bound`:
        `matrix = coefficients @ matrix[rows]`.

    Example:
        >>> x = torch.tensor([[1.0], [-4.0], [2.0]], dtype=torch.float64)
        >>> rows, coefficients = maxvol(x)
        >>> rows, coefficients[:, 0]
        (tensor([1]), tensor([-0.2500,  1.0000, -0.5000], dtype=torch.float64))
    """
    rows = _lu_rows(matrix)
    coefficients = _coefficients(matrix, rows)
    count = len(rows)
    # Every step multiplies the determinant by more than `bound`, so there are few of them; the limit is for bad input.
    for _ in range(100 + 10 * count):
        row, column = divmod(int(coefficients.abs().argmax()), count)
        pivot = coefficients[row, column].clone()
        if not abs(pivot) > bound:
            break
        rows[column] = row
        change = coefficients[row].clone()
        change[column] -= 1
        coefficients = coefficients - torch.outer(coefficients[:, column], change / pivot)
    return rows, _coefficients(matrix, rows)  # afresh: the updates pile up rounding errors


def _lu_rows(
    matrix: Tensor,  # (m, r)
) -> Tensor:
    swaps = torch.linalg.lu_factor(matrix)[1].tolist()
    order = list(range(len(matrix)))
    for k, swap in enumerate(swaps):
        order[k], order[swap - 1] = order[swap - 1], order[k]
    return torch.tensor(order[: len(swaps)], device=matrix.device)


def _coefficients(
    matrix: Tensor,  # (m, r)
    rows: Tensor,  # (r,)
) -> Tensor:
    return torch.linalg.solve(matrix[rows], matrix, left=False)
