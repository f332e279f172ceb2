"""Exponentials of Kronecker sums `A_1 x I + I x A_2`, which are products of one exponential for each mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttnet.operators.building import kronecker_sum
from ttnet.solvers.result import SolverResult, SolverStatus
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

LARGEST_MODE = 1000  # whose exponential is still formed
CLOSE = 100  # machine epsilons for each mode, by which an operator may differ from a Kronecker sum


def exponential_of_sum(a: TTMatrix, x: TensorTrain, t: float, tol: float) -> SolverResult[TensorTrain] | None:
    """Apply the exponential of a Kronecker sum to a train.

    Source: Higham 2008, "Functions of Matrices", theorem 10.9.

    Args:
        a: The operator, of finite numbers.
        x: The train, of its modes.
        t: A factor.
        tol: The largest error.

    Returns:
        The result, of the ranks of `x`; None if the operator is no Kronecker sum, or the error, estimated by going
        half of the way twice, is larger.

    Example:
        >>> import ttnet
        >>> a, x = ttnet.eye((2, 3), dtype=torch.float64), ttnet.ones((2, 3), dtype=torch.float64)
        >>> exponential_of_sum(a, x, 1.0, 1e-9).value.full()[0, 0]
        tensor(2.7183, dtype=torch.float64)
    """
    parts = summands(a)
    if parts is None or not x.ndim:
        return None
    target = torch.promote_types(a.dtype, x.dtype)
    dtype = torch.complex128 if target.is_complex else torch.float64
    whole, halves = (_applied([part.to(dtype) for part in parts], x.to(dtype), t, count) for count in (1, 2))
    if not all(torch.isfinite(core).all() for core in (*whole.cores, *halves.cores)):
        return None
    size = float(whole.norm())
    error = float((whole - halves).norm()) / size if size else 0.0
    if not math.isfinite(error) or error > tol / 10:
        return None
    return SolverResult(whole.to(target), SolverStatus.REACHED, error, 0, ())


def summands(a: TTMatrix) -> list[Tensor] | None:
    """Take a Kronecker sum apart.

    Args:
        a: An operator.

    Returns:
        One matrix for each mode, in double precision, whose Kronecker sum the operator is; None if there are none.

    Example:
        >>> from ttnet import operators
        >>> [part.shape for part in summands(operators.laplace((2, 3)))], summands(operators.heisenberg(3))
        ([torch.Size([2, 2]), torch.Size([3, 3])], None)
    """
    if not a.cores or max(a.col_shape) > LARGEST_MODE or max(a.ranks) > LARGEST_MODE:
        return None
    dtype = torch.complex128 if a.dtype.is_complex else torch.float64
    cores = [core.detach().to(dtype) for core in a.cores]
    sizes = [core.shape[1] for core in cores]
    # Means over the diagonals of all other modes give each matrix but for a multiple of one.
    means = [core.diagonal(dim1=1, dim2=2).mean(-1) for core in cores]
    lefts, rights = [cores[0].new_ones(1, 1)], [cores[0].new_ones(1, 1)]
    for mean in means:
        lefts.append(lefts[-1] @ mean)
    for mean in reversed(means):
        rights.append(mean @ rights[-1])
    rights.reverse()
    overall = lefts[-1][0, 0]
    parts = []
    for k, core in enumerate(cores):
        part = torch.einsum("a,amnb,b->mn", lefts[k][0], core, rights[k + 1][:, 0])
        unit = torch.eye(sizes[k], dtype=dtype, device=core.device)
        parts.append(part - unit * (overall * (len(cores) - 1) / len(cores)))
    found = TTMatrix(kronecker_sum([[part[None, :, :, None]] for part in parts]))
    size, precision = float(a.norm()), torch.finfo(a.dtype).eps
    if not math.isfinite(size) or not all(bool(torch.isfinite(part).all()) for part in parts):
        return None
    return parts if float((TTMatrix(cores) - found).norm()) <= CLOSE * len(cores) * precision * size else None


def _applied(parts: list[Tensor], x: TensorTrain, t: float, count: int) -> TensorTrain:
    """Multiply each core by the exponential of its matrix, in so many steps."""
    cores = list(x.cores)
    for k, part in enumerate(parts):
        exponential = torch.linalg.matrix_exp(part * (t / count))
        for _ in range(count):
            cores[k] = torch.einsum("mn,rns->rms", exponential, cores[k])
    return TensorTrain(cores)
