"""Inverses of operators and quotients of trains: linear systems whose unknown is the inverse or the quotient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch

from ttnet.errors import TTShapeError, TTValueError
from ttnet.solvers.amen import solve
from ttnet.solvers.arguments import check_fit, check_operator, check_train
from ttnet.solvers.result import SolverProgress, SolverResult
from ttnet.trains.chain import shorten
from ttnet.trains.construct import eye
from ttnet.trains.joining import diag
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def inverse(
    A: TTMatrix,
    tol: float = 1e-8,
    *,
    max_sweeps: int = 50,
    max_rank: int | Sequence[int] | None = None,
    x0: TTMatrix | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[TTMatrix]:
    """Invert an operator: solve `A X = I` for a TT-matrix X.

    Args:
        A: The operator, of as many rows as columns in every mode.
        tol: The relative residual `||I - A X|| / ||I||` to reach, in the Frobenius norm.
        max_sweeps: As for `solve`.
        max_rank: Bound on the ranks of X.
        x0: Where to begin; None for the identity.
        seed: As for `solve`.
        callback: As for `solve`.

    Returns:
        The result, with X for its `value`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If A is not square, or x0 not of its modes.
        TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

    Example:
        >>> from ttnet import operators, solvers
        >>> result = solvers.inverse(operators.laplace((4, 4)))
        >>> result.converged, round(float((operators.laplace((4, 4)) @ result.value).trace()), 6)
        (True, 16.0)
    """
    check_operator(A, "A")
    if x0 is not None:
        check_operator(x0, "x0")
        if x0.col_shape != A.col_shape:
            raise TTShapeError(
                f"x0 has modes {shorten(x0.col_shape)} but A has modes {shorten(A.col_shape)}; expected the same."
            )
    # `A X = I` for all columns at once: A acts on the rows of X, the identity on its columns.
    cores = []
    for core in A.cores:
        a, m, n, b = core.shape
        unit = torch.eye(n, dtype=core.dtype, device=core.device)
        cores.append(torch.einsum("amnb,pq->ampnqb", core, unit).reshape(a, m * n, n * n, b))
    unit_train = eye(A.col_shape, dtype=A.dtype, device=A.device).to_train()
    start = None if x0 is None else x0.to_train()
    found = solve(
        TTMatrix(cores),
        unit_train,
        tol,
        max_sweeps=max_sweeps,
        max_rank=max_rank,
        x0=start,
        seed=seed,
        callback=callback,
    )
    parts = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "value"}
    return SolverResult(value=TTMatrix.from_train(found.value, A.row_shape, A.col_shape), **parts)


def divide(
    x: TensorTrain,
    y: TensorTrain,
    tol: float = 1e-8,
    *,
    max_sweeps: int = 50,
    max_rank: int | Sequence[int] | None = None,
    x0: TensorTrain | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[TensorTrain]:
    """Divide a train by another, entry by entry: solve `y * z = x` for z.

    Other functions of one train or several, square roots and the like, are for `ttnet.apply`.

    Args:
        x: The train that is divided, of order 1 or more.
        y: The divisor, of the same shape, without zeros.
        tol: The relative residual `||x - y z|| / ||x||` to reach.
        max_sweeps: As for `solve`.
        max_rank: Bound on the ranks of z.
        x0: Where to begin; None for what is largest in x.
        seed: As for `solve`.
        callback: As for `solve`.

    Returns:
        The result, with z for its `value`; of status `SINGULAR` where y has zeros and x has none there.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If the shapes differ.
        TTValueError: If the trains are of order 0, an argument is out of range, or a core has entries that are NaN or
            infinite.

    Example:
        >>> import ttnet
        >>> from ttnet import solvers
        >>> y = ttnet.arange((4, 4), dtype=torch.float64) + ttnet.ones((4, 4))
        >>> solvers.divide(ttnet.ones((4, 4)), y).value.full()[0]
        tensor([1.0000, 0.5000, 0.3333, 0.2500], dtype=torch.float64)
    """
    check_train(x, "x")
    if not check_train(y, "y").ndim:
        raise TTValueError("y is a train of order 0; expected order 1 or more: divide numbers with /.")
    operator = diag(y)
    check_fit(operator, x, "x")
    return solve(operator, x, tol, max_sweeps=max_sweeps, max_rank=max_rank, x0=x0, seed=seed, callback=callback)
