"""Functions of many variables from their values: Chebyshev interpolation, and integrals by Gauss's rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.cross_result import CrossResult, CrossStatus
from ttnet.decomposition.tt_cross import tt_cross
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.solvers.arguments import check_callback, check_count, check_seed, check_tol
from ttnet.solvers.bases import Chebyshev, check_interval
from ttnet.solvers.function_train import FunctionTrain
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.trains.orthogonal import orthogonalise
from ttnet.trains.tensor_train import TensorTrain

FIRST_SIZE = 9  # points of the first interpolation in every variable
CHECKS = 1000  # random points, of which the residual is the error there
_STATUSES = {
    CrossStatus.CONVERGED: SolverStatus.CONVERGED,
    CrossStatus.MAX_RANK: SolverStatus.MAX_RANK,
    CrossStatus.MAX_SWEEPS: SolverStatus.MAX_SWEEPS,
}


def interpolate(
    f: Callable[[Tensor], Any],
    domain: Sequence[tuple[float, float]],
    tol: float = 1e-8,
    *,
    max_size: int = 257,
    max_rank: int | Sequence[int] | None = None,
    max_sweeps: int = 10,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[FunctionTrain]:
    """Interpolate a function of many variables by Chebyshev polynomials, of the degrees and ranks that it needs.

    Cross approximation finds the values at a grid of Chebyshev points; cosine transforms of the cores make coefficients
    of them. Where those of a variable have not yet fallen below the tolerance at their end, it gets twice as many
    points. Source: Trefethen 2013, "Approximation Theory and Approximation Practice", chapters 3 and 4; Oseledets &
    Tyrtyshnikov 2010, "TT-cross approximation for multidimensional arrays".

    Args:
        f: The function. It is given float64 points of shape (batch, d) and returns as many values, as `tt_cross` takes
            them.
        domain: A pair of numbers for each variable, between which it lies.
        tol: The error to reach at random points, relative to the function's norm there; at least 4 machine epsilons.
        max_size: The largest number of points in a variable, at least 2.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        max_sweeps: The largest number of sweeps of each cross approximation.
        seed: The seed of all random choices.
        callback: Called with a `SolverProgress` after each interpolation; if it returns True, the search stops.

    Returns:
        The result: its `value` can be called, integrated and differentiated; `residual` is its error at fresh random
        points, an estimate. Where the function is not smooth, the status says so (STALLED). An exception on the way
        carries the best so far in its attribute `result`.

    Raises:
        TTTypeError: If an argument, or what `f` returns, is of the wrong type.
        TTShapeError: If there are no variables, or what `f` returns has the wrong shape.
        TTValueError: If an argument is out of range, or a value of `f` is NaN or infinite.

    Example:
        >>> from ttnet.solvers import interpolate
        >>> result = interpolate(lambda x: (x[:, 0] * x[:, 1]).exp() / (2 + x[:, 2]), [(-1, 1)] * 3)
        >>> result.converged, result.value.coefficients.shape
        (True, (17, 17, 33))
        >>> result.value.derivative(2)(torch.zeros(1, 3, dtype=torch.float64))
        tensor([-0.2500], dtype=torch.float64)
    """
    _check_function(f)
    intervals = check_domain(domain)
    bound = check_tol(tol, torch.float64)
    most = check_count(max_size, "max_size", 2)
    check_callback(callback)
    generator = check_seed(seed)
    points, expected = _at_random(f, intervals, generator)
    size = float(torch.linalg.vector_norm(expected)) or 1.0
    sizes = [min(FIRST_SIZE, most)] * len(intervals)
    history: list[SolverProgress] = []
    best: SolverResult[FunctionTrain] | None = None

    def result(status: SolverStatus) -> SolverResult[FunctionTrain] | None:
        return None if best is None else SolverResult(best.value, status, best.residual, len(history), tuple(history))

    with handing_back(lambda: result(SolverStatus.INTERRUPTED)):
        while True:
            cross, value = _at_nodes(f, intervals, sizes, bound, max_rank, max_sweeps, seed)
            error = float(torch.linalg.vector_norm(value(points) - expected)) / size
            history.append(SolverProgress(len(history) + 1, value.ranks, error, math.inf))
            if best is None or error <= best.residual:
                best = SolverResult(value, SolverStatus.STALLED, error, len(history), ())
            stopped = callback is not None and bool(callback(history[-1]))
            short = [tail > bound / 4 and n < most for tail, n in zip(_tails(value), sizes, strict=True)]
            if error <= bound and cross.converged and not any(short):
                status = SolverStatus.CONVERGED
            elif stopped:
                status = SolverStatus.STOPPED
            elif not any(short) or not cross.converged:
                status = SolverStatus.CONVERGED if error <= bound else _STATUSES.get(cross.status, SolverStatus.STALLED)
                status = SolverStatus.STALLED if status is SolverStatus.CONVERGED and error > bound else status
            else:
                sizes = [min(most, 2 * n - 1) if more else n for n, more in zip(sizes, short, strict=True)]
                continue
            found = result(status)
            assert found is not None
            return found


def integrate(
    f: Callable[[Tensor], Any],
    domain: Sequence[tuple[float, float]],
    tol: float = 1e-8,
    *,
    max_size: int = 256,
    max_rank: int | Sequence[int] | None = None,
    max_sweeps: int = 10,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[Tensor]:
    """Integrate a function of many variables over a box, by Gauss's rule in each of them.

    Cross approximation finds the values at the points of the rule, whose weights are a train of ranks 1. The points of
    all variables about double until the integral no longer changes. Source: Oseledets & Tyrtyshnikov 2010, "TT-cross
    approximation for multidimensional arrays", section 4; Trefethen 2013, "Approximation Theory and Approximation
    Practice", chapter 19.

    Args:
        f: The function. It is given float64 points of shape (batch, d) and returns as many values, as `tt_cross` takes
            them.
        domain: A pair of numbers for each variable, between which it lies.
        tol: The difference between two integrals, one of about twice as many points in each variable, relative to the
            integral of the function's size, `|f|`, as random points tell it, or to the integral if that is larger; at
            least 4 machine epsilons. Also the error that the cross approximations aim at, relative to the function.
        max_size: The largest number of points in a variable, at least 2.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        max_sweeps: The largest number of sweeps of each cross approximation.
        seed: The seed of all random choices.
        callback: Called with a `SolverProgress` after each integral; if it returns True, the search stops.

    Returns:
        The result: its `value` is the integral, a tensor of shape (), and `residual` an estimate of its error, relative
        as `tol` is: the last difference where differences shrink, and otherwise, as for functions that jump (STALLED),
        the largest of the last three. An exception on the way carries the last one in its attribute `result`.

    Raises:
        TTTypeError: If an argument, or what `f` returns, is of the wrong type.
        TTShapeError: If there are no variables, or what `f` returns has the wrong shape.
        TTValueError: If an argument is out of range, or a value of `f` is NaN or infinite.

    Example:
        >>> from ttnet.solvers import integrate
        >>> result = integrate(lambda x: x.sum(1).exp(), [(0, 1)] * 10)  # (e - 1)^10
        >>> result.converged, bool(abs(result.value / (torch.e - 1) ** 10 - 1) < 1e-8)
        (True, True)
    """
    _check_function(f)
    intervals = check_domain(domain)
    bound = check_tol(tol, torch.float64)
    most = check_count(max_size, "max_size", 2)
    check_callback(callback)
    typical = float(_at_random(f, intervals, check_seed(seed))[1].abs().mean())
    typical *= math.prod(high - low for low, high in intervals)
    history: list[SolverProgress] = []
    last: Tensor | None = None
    change, size = math.inf, min(8, most)
    changes: list[float] = []

    def result(status: SolverStatus) -> SolverResult[Tensor] | None:
        error = change if status is SolverStatus.CONVERGED else max(changes[-3:], default=math.inf)
        return None if last is None else SolverResult(last, status, error, len(history), tuple(history))

    with handing_back(lambda: result(SolverStatus.INTERRUPTED)):
        while True:
            points, weights = gauss(intervals, size)
            cross = tt_cross(
                _on_grid(f, points),
                weights.shape,
                eps=bound / 2,
                max_rank=max_rank,
                max_sweeps=max_sweeps,
                seed=seed,
            )
            value = weights.dot(cross.value)
            if last is not None:
                change = float((value - last).abs()) / (max(float(value.abs()), typical) or 1.0)
                changes.append(change)
            last = value
            history.append(SolverProgress(len(history) + 1, cross.value.ranks, change, change))
            stopped = callback is not None and bool(callback(history[-1]))
            # Where differences do not shrink, a small one may be chance.
            settled = change <= bound and (len(changes) < 2 or changes[-2] <= bound or change < changes[-2] / 10)
            if settled and cross.converged:
                status = SolverStatus.CONVERGED
            elif stopped:
                status = SolverStatus.STOPPED
            elif size == most or (not cross.converged and len(history) > 1):
                status = _STATUSES.get(cross.status, SolverStatus.STALLED)
                status = SolverStatus.STALLED if status is SolverStatus.CONVERGED else status
            else:
                # Odd sizes: rules of even ones agree on functions that jump near the middle, where none has a point.
                size = min(most, 2 * size + 1)
                continue
            found = result(status)
            assert found is not None
            return found


def _at_random(
    f: Callable[[Tensor], Any], intervals: Sequence[tuple[float, float]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give random points of a box, (CHECKS, d), and what a function is there, checked."""
    low, high = torch.tensor(intervals, dtype=torch.float64).T
    points = low + (high - low) * torch.rand(CHECKS, len(intervals), generator=generator, dtype=torch.float64)
    found = as_dense(f(points.clone()), "what f returned").detach()
    if found.shape != (CHECKS,):
        raise TTShapeError(f"f returned the shape {tuple(found.shape)} for {CHECKS} points; expected ({CHECKS},).")
    if not torch.isfinite(found).all():
        at = points[int((~torch.isfinite(found)).nonzero()[0])].tolist()
        raise TTValueError(f"f returned a number that is NaN or infinite at {at}; expected finite ones.")
    return points, found


def gauss(domain: Sequence[tuple[float, float]], size: int) -> tuple[list[Tensor], TensorTrain]:
    """Give the points of the Gauss-Legendre rule in each variable, and the weights of all combinations as a train.

    Args:
        domain: A pair of numbers for each variable.
        size: The number of points in each variable, at least 1.

    Returns:
        A tensor of shape (size,) for each variable, and a train of ranks 1; its inner product with the values of a
        function on the grid of these points is the integral, exactly for polynomials of degree 2 size - 1.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no variables.
        TTValueError: If an argument is out of range.

    Example:
        >>> points, weights = gauss([(0.0, 1.0)], 2)
        >>> weights.full(), bool(abs((points[0] ** 3 * weights.full()).sum() - 1 / 4) < 1e-15)
        (tensor([0.5000, 0.5000], dtype=torch.float64), True)
    """
    intervals = check_domain(domain)
    raw = np.polynomial.legendre.leggauss(check_count(size, "size"))
    nodes, weights = (torch.from_numpy(each) for each in raw)
    points = [(low + high) / 2 + (high - low) / 2 * nodes for low, high in intervals]
    return points, TensorTrain([(weights * ((high - low) / 2)).reshape(1, -1, 1) for low, high in intervals])


def check_domain(domain: object) -> list[tuple[float, float]]:
    """Give a box as one pair of floats for each variable.

    Args:
        domain: The box.

    Returns:
        The intervals.

    Raises:
        TTTypeError: If it is no list of pairs of numbers.
        TTShapeError: If it is empty.
        TTValueError: If an interval is empty or infinite.

    Example:
        >>> check_domain([(0, 1)])
        [(0.0, 1.0)]
    """
    if isinstance(domain, str) or not isinstance(domain, Sequence):
        raise TTTypeError(f"domain is {domain!r}; expected a list of one pair of numbers for each variable.")
    if not domain:
        raise TTShapeError("domain is empty; expected one pair of numbers for each variable.")
    return [check_interval(interval, f"domain[{k}]") for k, interval in enumerate(domain)]


def _check_function(f: object) -> None:
    if not callable(f):
        raise TTTypeError(f"f is a {type(f).__name__}; expected a function of points of shape (batch, d).")


def _on_grid(f: Callable[[Tensor], Any], points: Sequence[Tensor]) -> Callable[[Tensor], Any]:
    """Give a function of points as one of indices."""
    return lambda indices: f(torch.stack([x[at] for x, at in zip(points, indices.unbind(1), strict=True)], 1))


def _at_nodes(
    f: Callable[[Tensor], Any],
    intervals: Sequence[tuple[float, float]],
    sizes: Sequence[int],
    tol: float,
    max_rank: int | Sequence[int] | None,
    max_sweeps: int,
    seed: int,
) -> tuple[CrossResult, FunctionTrain]:
    """Interpolate at Chebyshev points of the first kind, of given numbers."""
    unit = [torch.cos(math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n) for n in sizes]
    points = [(a + b) / 2 + (b - a) / 2 * x for (a, b), x in zip(intervals, unit, strict=True)]
    cross = tt_cross(_on_grid(f, points), sizes, eps=tol / 4, max_rank=max_rank, max_sweeps=max_sweeps, seed=seed)
    cores = []
    for core, x, n in zip(cross.value.cores, unit, sizes, strict=True):
        # The discrete orthogonality of Chebyshev polynomials at their points.
        transform = 2 / n * Chebyshev(n)(x).mT
        transform[0] /= 2
        cores.append(torch.einsum("kn,rns->rks", transform.to(core.dtype), core))
    bases = [Chebyshev(n, a, b) for n, (a, b) in zip(sizes, intervals, strict=True)]
    return cross, FunctionTrain(TensorTrain(cores), bases)


def _tails(value: FunctionTrain) -> list[float]:
    """Give for each variable the norm of the last quarter of its coefficients, relative to that of all."""
    tails = []
    for k, size in enumerate(value.coefficients.shape):
        centre = orthogonalise(value.coefficients, k).cores[k]
        last = max(1, size // 4)
        tails.append(float(centre[:, size - last :].norm() / (centre.norm() or 1)))
    return tails
