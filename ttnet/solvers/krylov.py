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
        (tensor([0.3333, 0.3333]), 0.0, True)
    """
    r = b - product(x)
    size = float(torch.linalg.vector_norm(r))
    z = precondition(r)
    p = z
    rz = torch.vdot(r, z).real
    for _ in range(steps):
        if size <= bound:
            break
        q = product(p)
        curvature = torch.vdot(p, q).real
        if not float(curvature) > 0 or not float(rz) > 0:
            return x, size, False
        alpha = rz / curvature
        x = torch.add(x, alpha * p)
        r = torch.add(r, -alpha * q)
        size = float(torch.linalg.vector_norm(r))
        z = precondition(r)
        rz, before = torch.vdot(r, z).real, rz
        p = torch.add(z, (rz / before) * p)
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
        hessenberg = torch.zeros(length + 1, length, dtype=b.dtype, device="cpu")
        before = size
        for j in range(length):
            w = product(precondition(basis[j]))
            steps -= 1
            known = basis[: j + 1]
            h = known.conj() @ w
            w = w - h @ known
            again = known.conj() @ w  # once more, for orthogonality down to machine precision
            w = w - again @ known
            norm = torch.linalg.vector_norm(w)
            hessenberg[: j + 1, j] = (h + again).cpu()
            hessenberg[j + 1, j] = norm.cpu()
            space = hessenberg[: j + 2, : j + 1]
            rhs = torch.zeros(j + 2, 1, dtype=b.dtype)
            rhs[0] = size
            y = torch.linalg.lstsq(space, rhs).solution
            left = float(torch.linalg.vector_norm(rhs - space @ y))
            if left <= bound or not float(norm) > 1e-14 * size or not math.isfinite(left):
                break
            basis[j + 1] = w / norm
        x = x + precondition(y[:, 0].to(b.device) @ basis[: len(y)])
        if left > 0.9 * before and length == RESTART:  # another round would not do much
            return x, float(torch.linalg.vector_norm(b - product(x)))
