"""Rows of a tall matrix that represent all the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
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
    count = matrix.shape[1]
    order, rest = _eliminate(matrix)
    # In numpy, since a step is a few numbers, and most of its time the calls.
    table = rest.cpu().numpy()  # (m - r, r): what the chosen rows make up the others with
    # Every step multiplies the determinant by more than `bound`, so there are few of them; the limit is for bad input.
    for _ in range(100 + 10 * count if len(table) else 0):
        row, column = divmod(int(np.abs(table).argmax()), count)
        pivot = table[row, column]
        if not abs(pivot) > bound:
            break
        order[column], order[count + row] = order[count + row], order[column]
        leaving, entering = table[:, column] / pivot, table[row].copy()
        table -= leaving[:, None] * entering
        table[:, column] = leaving
        table[row] = entering / -pivot
        table[row, column] = 1 / pivot
    coefficients = np.empty(matrix.shape, dtype=table.dtype)
    coefficients[order[:count]] = np.eye(count)
    coefficients[order[count:]] = table
    rows = torch.from_numpy(order[:count]).to(matrix.device)
    return rows, torch.from_numpy(coefficients).to(matrix.device)


def _eliminate(
    matrix: Tensor,  # (m, r)
) -> tuple[npt.NDArray[np.int64], Tensor]:  # (m,) and (m - r, r)
    """Order the rows as LU pivots do, and give the coefficients of those after the first r in terms of these."""
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    swaps = pivots.tolist()
    order = np.arange(len(matrix))
    for k, swap in enumerate(swaps):
        order[k], order[swap - 1] = order[swap - 1], order[k]
    upper, lower = factors[: len(swaps)], factors[len(swaps) :]
    return order, torch.linalg.solve_triangular(upper, lower, upper=False, left=False, unitriangular=True)
