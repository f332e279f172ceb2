"""Rows of a tall matrix that represent all the others."""

from __future__ import annotations

import numpy as np
import torch

from ttnet.decomposition.black_box import Indices, Values


def maxvol(
    matrix: Values,  # (m, r)
    *,
    bound: float = 1.05,
) -> tuple[Indices, Values]:
    """Choose r rows of nearly the largest determinant, in which every row has small coefficients.

    Pivots of an LU factorisation are the start; then the row of the largest coefficient takes the place of the one it
    is a multiple of, which multiplies the determinant by that coefficient. Source: Goreinov et al. 2010, "How to find
    a good submatrix".

    Args:
        matrix: A matrix of full column rank, m >= r, such as the left singular vectors of some unfolding; of float64
            or complex128.
        bound: The largest coefficient allowed, above 1.

    Returns:
        The rows' positions, of shape (r,), and the coefficients, of shape (m, r) and of size at most `bound`:
        `matrix = coefficients @ matrix[rows]`.

    Example:
        >>> rows, coefficients = maxvol(np.array([[1.0], [-4.0], [2.0]]))
        >>> rows, coefficients[:, 0]
        (array([1]), array([-0.25,  1.  , -0.5 ]))
    """
    rows = _pivots(matrix)
    count = len(rows)
    table = matrix @ np.linalg.inv(matrix[rows])  # (m, r): what the chosen rows make up all of them with
    # Every step multiplies the determinant by more than `bound`, so there are few of them; the limit is for bad input.
    for _ in range(100 + 10 * count):
        row, column = divmod(int(np.abs(table).argmax()), count)
        pivot = table[row, column]
        if not abs(pivot) > bound:
            break
        change = table[row] / pivot
        change[column] -= 1 / pivot
        table -= table[:, column, None] * change
        rows[column] = row
    return np.array(rows), table


def _pivots(
    matrix: Values,  # (m, r)
) -> list[int]:
    """Give the rows that are first after the exchanges of an LU factorisation."""
    _, swaps, _ = torch.linalg.lu_factor_ex(torch.from_numpy(matrix))
    rows: list[int] = []
    moved: dict[int, int] = {}  # which row is at a place now, where it is another one
    for place, swap in enumerate(swaps.tolist()):
        rows.append(moved.get(swap - 1, swap - 1))
        moved[swap - 1] = moved.get(place, place)
    return rows
