"""The exponential of a matrix, given by its products, times a vector: the local problems of time evolution.

Source: Saad 1992, "Analysis of some Krylov subspace approximations to the matrix exponential operator", whose first
error estimate decides on the size of the space, and on the substeps where it would be too large.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LARGEST_SPACE = 30


def exponential_times(
    product: Callable[[Tensor], Tensor],
    v: Tensor,  # (n,)
    time: float,
    *,
    tol: float,
) -> Tensor:  # (n,)
    """Give `exp(time * A) v`.

    Args:
        product: A, as a function of a vector (n,).
        v: The vector.
        time: Any real number.
        tol: The error that is allowed, relative to the norm of `v`, as far as an estimate can tell.

    Returns:
        The vector at that time.

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> v = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> exponential_times(lambda x: a @ x, v, torch.pi / 4, tol=1e-9)
        tensor([ 0.7071, -0.7071], dtype=torch.float64)
    """
    done, step = 0.0, 1.0  # shares of the time
    while done < 1 - 1e-12:
        size = torch.linalg.vector_norm(v)
        if not float(size) > 0:
            return v
        basis = v.new_zeros(min(LARGEST_SPACE, len(v)) + 1, len(v))
        basis[0] = v / size
        length = len(basis) - 1
        hessenberg = torch.zeros(length + 2, length + 2, dtype=v.dtype)
        small = exponential = torch.zeros(())
        accepted = False
        step = min(step, 1 - done)
        for j in range(length):
            w = product(basis[j])
            known = basis[: j + 1]
            h = known.conj() @ w
            w = torch.addmv(w, known.mT, h, alpha=-1)
            again = known.conj() @ w
            w = torch.addmv(w, known.mT, again, alpha=-1)
            norm = float(torch.linalg.vector_norm(w))
            hessenberg[: j + 1, j] = (h + again).cpu()
            hessenberg[j + 1, j] = norm
            exhausted = norm <= 1e-14 * float(torch.linalg.vector_norm(hessenberg[: j + 1, j])) or j + 1 == len(v)
            if exhausted or j % 3 == 2 or j == length - 1:
                # One column more integrates what flows out of the space, which estimates the error.
                small = torch.zeros(j + 2, j + 2, dtype=v.dtype)
                small[: j + 1, : j + 1] = hessenberg[: j + 1, : j + 1]
                small[j + 1, j] = 0 if exhausted else norm
                exponential = torch.linalg.matrix_exp(small * (step * time))
                while not exhausted and j == length - 1 and float(exponential[j + 1, 0].abs()) > tol * step:
                    step /= 2
                    exponential = torch.linalg.matrix_exp(small * (step * time))
                if exhausted or float(exponential[j + 1, 0].abs()) <= tol * step:
                    accepted = True
            if accepted:
                break
            basis[j + 1] = w / norm
        v = size * (exponential[: j + 1, 0].to(v.device) @ basis[: j + 1])
        done += step
        step *= 2
    return v
