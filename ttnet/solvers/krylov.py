"""Conjugate gradients and GMRES for vectors and matrices given by their products: the local systems of the sweeps.

A space that has grown to what the memory bears begins anew from its best vector (restarts). Sources: Saad 2003,
"Iterative methods for sparse linear systems", algorithms 9.1 and 6.9.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

RESTART = 40  # how large a space GMRES builds up


def conjugate_gradients(
    product: Product,
    b: Tensor,  # (n,)
    x: Tensor,  # (n,)
    *,
    bound: float,
    steps: int,
    precondition: Product,
) -> tuple[Tensor, float, bool]:
    """Solve `product(x) = b` for a Hermitian positive definite matrix.

    Args:
        product: The matrix, as a function of a vector (n,).
        b: The right-hand side.
        x: Where to begin.
        bound: The norm of the residual at which to end.
        steps: The largest number of products.
        precondition: An approximate inverse, Hermitian and positive definite.

    Returns:
        The solution, the norm of its residual, and whether the matrix looked positive definite.

    Example:
        >>> a = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> conjugate_gradients(lambda v: a @ v, torch.ones(2), torch.zeros(2), bound=1e-6, steps=5,
        ...                     precondition=lambda v: v)
        (tensor([0.3333, 0.3333]), ..., True)
    """
    r = b - product(x)
    size = float(torch.linalg.vector_norm(r))
    p = z = precondition(r)
    rz = float(torch.vdot(r, z).real)
    for _ in range(steps):
        if size <= bound:
            break
        q = product(p)
        curvature = float(torch.vdot(p, q).real)
        if not curvature > 0 or not rz > 0:
            return x, size, False
        x = torch.add(x, p, alpha=rz / curvature)
        r = torch.add(r, q, alpha=-rz / curvature)
        size = float(torch.linalg.vector_norm(r))
        z = precondition(r)
        rz, before = float(torch.vdot(r, z).real), rz
        p = torch.add(z, p, alpha=rz / before)
    return x, size, True


def gmres(
    product: Product,
    b: Tensor,  # (n,)
    x: Tensor,  # (n,)
    *,
    bound: float,
    steps: int,
    precondition: Product,
) -> tuple[Tensor, float]:
    """Solve `product(x) = b` for any matrix, with a preconditioner on the right, so that residuals are true.

    Args:
        product: The matrix, as a function of a vector (n,).
        b: The right-hand side.
        x: Where to begin.
        bound: The norm of the residual at which to end.
        steps: The largest number of products.
        precondition: An approximate inverse.

    Returns:
        The solution, and the norm of its residual.

    Example:
        >>> a = torch.tensor([[2.0, 1.0], [0.0, 2.0]])
        >>> x, size = gmres(lambda v: a @ v, torch.ones(2), torch.zeros(2), bound=1e-6, steps=5,
        ...                 precondition=lambda v: v)
        >>> x, size < 1e-6
        (tensor([0.2500, 0.5000]), True)
    """
    while True:
        r = b - product(x)
        size = float(torch.linalg.vector_norm(r))
        steps -= 1
        if size <= bound or steps <= 0 or not math.isfinite(size):
            return x, size
        length = min(RESTART, steps, len(b))
        basis = r.new_zeros(length + 1, len(b))
        basis[0] = r / size
        triangle = _Triangle(size, 50 * torch.finfo(b.dtype).eps)
        before = left = size
        for j in range(length):
            w = product(precondition(basis[j]))
            steps -= 1
            known = basis[: j + 1]
            h = known.conj() @ w
            w = w - h @ known
            again = known.conj() @ w  # once more, for orthogonality down to machine precision
            w = w - again @ known
            norm = float(torch.linalg.vector_norm(w))
            left = triangle.append((h + again).tolist(), norm)
            if left <= bound or not norm > 1e-14 * size or not math.isfinite(left):
                break
            basis[j + 1] = w / norm
        y = torch.tensor(triangle.solution(), dtype=b.dtype, device=b.device)
        x = x + precondition(y @ basis[: len(y)])
        if left > 0.9 * before and length == RESTART:  # another round would not do much
            return x, float(torch.linalg.vector_norm(b - product(x)))


class _Triangle:
    """Least squares for a Hessenberg matrix that grows by columns, brought to a triangle by rotations."""

    def __init__(self, size: float, precision: float) -> None:
        self._columns: list[list[complex]] = []
        self._rotations: list[tuple[float, complex]] = []
        self._rhs: list[complex] = [size]
        self._precision, self._largest = precision, 0.0

    def append(self, column: list[complex], last: float) -> float:
        """Take in a column and the number below it; give the norm of the residual."""
        for j, (c, s) in enumerate(self._rotations):
            above, below = column[j], column[j + 1]
            column[j], column[j + 1] = c * above + s * below, c * below - s.conjugate() * above
        given = column[-1]
        corner = abs(given)
        size = math.hypot(corner, last)
        self._largest = max(self._largest, size, *map(abs, column))
        # A pivot of rounding errors says nothing: its column is left alone.
        column[-1], c, s = 0.0, 0.0, 1.0
        if size > self._precision * self._largest:
            turn = given / corner if corner else 1.0
            column[-1], c, s = turn * size, corner / size, turn * (last / size)
        self._columns.append(column)
        self._rotations.append((c, s))
        self._rhs[-1:] = [c * self._rhs[-1], -s.conjugate() * self._rhs[-1]]
        return abs(self._rhs[-1])

    def solution(self) -> list[complex]:
        """Solve the triangle; what a pivot of zero leaves open is zero."""
        y = self._rhs[:-1]
        for j in reversed(range(len(y))):
            column = self._columns[j]
            y[j] = y[j] / column[j] if column[j] else 0.0
            for i in range(j):
                y[i] -= column[i] * y[j]
        return y
