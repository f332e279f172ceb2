"""The lowest eigenpairs of a Hermitian matrix given by its products: Lanczos for one vector or a block of them.

Source: Saad 2011, "Numerical methods for large eigenvalue problems", sections 6.3 and 6.4, with full orthogonalisation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCKS = 12  # how many blocks of vectors a space has before it begins anew from its best ones


def lowest_pairs(
    product: Callable[[Tensor], Tensor],
    v: Tensor,  # (k, n)
    *,
    bound: float,
    gain: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Give the k lowest eigenvalues and their vectors.

    Args:
        product: The matrix, as a function of k vectors, the rows of a matrix (k, n).
        v: Vectors to begin with, linearly independent; at most n / 2.
        bound: The norm of the largest residual at which to end.
        gain: Or the factor by which it has come down.
        steps: The largest number of products with k vectors.

    Returns:
        The eigenvalues (k,), ascending, and orthonormal vectors, the rows of a matrix (k, n).

    Example:
        >>> a = torch.arange(50.0)
        >>> values, vectors = lowest_pairs(lambda x: x * a, torch.ones(1, 50), bound=1e-4, gain=0.0, steps=100)
        >>> abs(float(values[0])) < 1e-3, float(vectors[0, 0].abs()) > 0.999
        (True, True)
    """
    k, n = v.shape
    first = -1.0  # the residual of v itself, once it is known
    blocks = min(BLOCKS, n // k, steps)
    basis = v.new_empty(blocks * k, n)
    basis[:k] = _orthonormal(v)[0]
    while True:
        projected = torch.zeros(blocks * k, blocks * k, dtype=v.dtype)
        for block in range(blocks):
            known = basis[: (block + 1) * k]
            image = product(known[-k:])
            steps -= 1
            weights = image @ known.mH
            image = torch.addmm(image, weights, known, alpha=-1)
            again = image @ known.mH  # once more, for orthogonality down to machine precision
            image = torch.addmm(image, again, known, alpha=-1)
            new, factor = _orthonormal(image)
            projected[block * k : (block + 1) * k, : (block + 1) * k] = (weights + again).conj().cpu()
            values, y = torch.linalg.eigh(projected[: (block + 1) * k, : (block + 1) * k])
            values, y = values[:k], y[:, :k].to(v.device)
            size = float(torch.linalg.vector_norm(factor.mT @ y[-k:], dim=0).max())
            first = size if first < 0 else first
            if size <= max(bound, gain * first) or steps <= 0 or block == blocks - 1:
                break
            if float(factor.diagonal().abs().min()) < 1e-6 * float(values.abs().max()):
                # What is left of some vectors is rounding errors, which may point anywhere.
                new = _orthonormal(torch.addmm(new, new @ known.mH, known, alpha=-1))[0]
                new = _orthonormal(torch.addmm(new, new @ known.mH, known, alpha=-1))[0]
            basis[(block + 1) * k : (block + 2) * k] = new
            projected[block * k : (block + 1) * k, (block + 1) * k : (block + 2) * k] = factor.conj().cpu()
        vectors = y.mT @ known
        if size <= max(bound, gain * first) or steps <= 0 or len(known) >= n:
            return values.to(v.device), vectors
        basis[:k] = _orthonormal(vectors)[0]


def _orthonormal(
    rows: Tensor,  # (k, n)
) -> tuple[Tensor, Tensor]:
    """Give orthonormal rows q and the factor (k, k) of `rows = factor @ q`."""
    if len(rows) == 1:
        norm = torch.linalg.vector_norm(rows)
        return rows / norm.clamp_min(torch.finfo(norm.dtype).tiny), norm.to(rows.dtype).reshape(1, 1)
    q, r = torch.linalg.qr(rows.mT)
    return q.mT, r.mT
