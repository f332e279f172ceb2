"""The lowest eigenpairs of a Hermitian matrix given by its products: Lanczos for one vector or a block of them.

Source: Saad 2011, "Numerical methods for large eigenvalue problems", sections 6.3 and 6.4, with full orthogonalisation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr

CANCELLED = 0.01  # what is left of an image, relative to what was subtracted, below which that is done once more
BLOCKS = 12  # how many blocks of vectors a space has before it begins anew from its best ones


def lowest_pairs(
    product: Callable[[Tensor], Tensor],
    v: Tensor,  # (k, n)
    *,
    bound: float,
    gain: float,
    steps: int,
) -> tuple[Tensor, Tensor, float]:
    """Give the k lowest eigenvalues and their vectors, and how far the steps have come.

    Args:
        product: The matrix, as a function of k vectors, the rows of a matrix (k, n).
        v: Vectors to begin with, linearly independent; at most n / 2.
        bound: The norm of the largest residual at which to end.
        gain: Or the factor by which it has come down.
        steps: The largest number of products with k vectors.

    Returns:
        The eigenvalues (k,), ascending, orthonormal vectors, the rows of a matrix (k, n), and the share that is left of
        the largest residual; 0 where it is within the bound.

    Example:
        >>> a = torch.arange(50.0)
        >>> values, vectors, _ = lowest_pairs(lambda x: x * a, torch.ones(1, 50), bound=1e-4, gain=0.0, steps=100)
        >>> abs(float(values[0])) < 1e-3, float(vectors[0, 0].abs()) > 0.999
        (True, True)
    """
    k, n = v.shape
    if k == 1:
        return _lowest_pair(product, v[0], bound, gain, steps)
    first = -1.0  # the residual of v itself, once it is known
    blocks = min(BLOCKS, n // k, steps)
    basis = v.new_empty(blocks * k, n)
    basis[:k] = _orthonormal(v)[0]
    while True:
        projected = torch.zeros(blocks * k, blocks * k, dtype=v.dtype)  # its lower triangle, on the CPU
        for end in range(k, blocks * k + 1, k):
            known = basis[:end]
            image = product(known[-k:])
            steps -= 1
            # With what is largest taken off first, basis vectors that are not quite orthogonal do not get ever less so.
            own = image @ known[-k:].mH
            image = torch.addmm(image, own, known[-k:], alpha=-1)
            weights = image @ known.mH
            image = torch.addmm(image, weights, known, alpha=-1)
            weights[:, -k:] += own
            new, factor = _orthonormal(image)
            least = float(factor.diagonal().abs().min())
            if least < CANCELLED * float(torch.linalg.vector_norm(weights)):
                # What was subtracted has left rounding errors, which may point anywhere.
                again = image @ known.mH
                image = torch.addmm(image, again, known, alpha=-1)
                new, factor = _orthonormal(image)
                weights, least = weights + again, float(factor.diagonal().abs().min())
            projected[end - k : end, :end] = weights.conj()
            values, y = torch.linalg.eigh(projected[:end, :end])
            size = float(torch.linalg.vector_norm(factor.cpu().mT @ y[-k:, :k], dim=0).max())
            first = size if first < 0 else first
            if size <= max(bound, gain * first) or steps <= 0 or end == len(basis):
                break
            if least < 1e-6 * float(values[:k].abs().max()):
                # Some vectors have nothing left but rounding errors.
                new = _orthonormal(torch.addmm(new, new @ known.mH, known, alpha=-1))[0]
                new = _orthonormal(torch.addmm(new, new @ known.mH, known, alpha=-1))[0]
            basis[end : end + k] = new
        vectors = y[:, :k].to(v.device).mT @ known
        if size <= max(bound, gain * first) or steps <= 0 or len(known) >= n:
            return values[:k].to(v.device), vectors, size / first if size > bound else 0.0
        basis[:k] = _orthonormal(vectors)[0]


def _lowest_pair(
    product: Callable[[Tensor], Tensor], v: Tensor, bound: float, gain: float, steps: int
) -> tuple[Tensor, Tensor, float]:
    """Do as `lowest_pairs` for one vector, with numbers in the place of small matrices."""
    first, tiny = -1.0, torch.finfo(v.dtype).tiny
    basis = v.new_empty(min(BLOCKS, len(v), steps), len(v))
    torch.div(v, max(float(torch.linalg.vector_norm(v)), tiny), out=basis[0])
    while True:
        projected = np.zeros((len(basis),) * 2, dtype=complex if v.is_complex() else float)  # its lower triangle
        for j in range(len(basis)):
            known = basis[: j + 1]
            image = product(known[j:])[0]
            steps -= 1
            # With what is largest taken off first, basis vectors that are not quite orthogonal do not get ever less so.
            own = known[j:].conj() @ image
            image = torch.addmv(image, known[j:].mT, own, alpha=-1)
            weights = known.conj() @ image
            image = torch.addmv(image, known.mT, weights, alpha=-1)
            weights[j:] += own
            left, lost = float(torch.linalg.vector_norm(image)), float(torch.linalg.vector_norm(weights))
            if left < CANCELLED * lost:
                # What was subtracted has left rounding errors, which may point anywhere.
                again = known.conj() @ image
                image = torch.addmv(image, known.mT, again, alpha=-1)
                weights, left = weights + again, float(torch.linalg.vector_norm(image))
            projected[j, : j + 1] = weights.conj().tolist()
            values, y = np.linalg.eigh(projected[: j + 1, : j + 1]) if j else (projected[0, :1].real, np.ones((1, 1)))
            size = left * abs(y[-1, 0].item())
            first = size if first < 0 else first
            if size <= max(bound, gain * first) or steps <= 0 or j + 1 == len(basis):
                break
            torch.div(image, max(left, tiny), out=basis[j + 1])
            if left < 1e-6 * lost:
                # There is nothing left but rounding errors.
                for _ in range(2):
                    new = torch.addmv(basis[j + 1], known.mT, known.conj() @ basis[j + 1], alpha=-1)
                    torch.div(
                        new, max(float(torch.linalg.vector_norm(new)), torch.finfo(v.dtype).tiny), out=basis[j + 1]
                    )
        vector = torch.from_numpy(y[:, 0]).to(v) @ known
        if size <= max(bound, gain * first) or steps <= 0 or len(known) == len(v):
            return basis.real.new_tensor(values[:1]), vector[None], size / first if size > bound else 0.0
        torch.div(vector, float(torch.linalg.vector_norm(vector)), out=basis[0])


def _orthonormal(
    rows: Tensor,  # (k, n)
) -> tuple[Tensor, Tensor]:
    """Give orthonormal rows q and the factor (k, k) of `rows = factor @ q`."""
    q, r = plain_qr(rows.mT)
    return q.mT, r.mT
