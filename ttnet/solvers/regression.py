"""Functions of many variables from noisy values at given points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import split_scale
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import check_method
from ttnet.solvers.adaptation import Adaptation
from ttnet.solvers.arguments import check_bounds, check_callback, check_count, check_seed, check_tol
from ttnet.solvers.bases import Basis
from ttnet.solvers.completion import METHODS, check_share, split, start
from ttnet.solvers.function_train import FunctionTrain, check_bases, check_points
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.solvers.sampled import Measurements, solve_normal
from ttnet.trains.construct import zeros
from ttnet.trains.tensor_train import TensorTrain

NOISE = 1e-12  # of the largest mean square of a combination of basis functions: those below are left out


def fit(
    features: Tensor | npt.NDArray[Any],  # (samples, d)
    y: Tensor | npt.NDArray[Any],  # (samples,)
    bases: Sequence[Basis],
    tol: float = 1e-6,
    *,
    method: str = "rcg",
    held_out: float = 0.1,
    max_sweeps: int = 500,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[FunctionTrain]:
    """Fit a function of many variables to its values at some points: regression whose coefficients are a train.

    Some samples are held out, and ranks grow as long as that brings the function closer to these. Within each variable
    the basis functions are first made orthogonal on the samples. Source: Gorodetsky & Jakeman 2018, "Gradient-based
    optimization for regression in the functional tensor-train format".

    Args:
        features: The points, of shape (samples, d), within the bases' intervals.
        y: The values there, of shape (samples,).
        bases: One basis for each variable: `Legendre`, `Chebyshev`, `Fourier`, `BSpline` or `Functions`.
        tol: The error on the held-out samples to reach, relative to their norm; at least 4 machine epsilons. With noisy
            values it is never reached; the function is then the one that does best on what it has not seen.
        method: "rcg" for steps of Gauss and Newton by Riemannian conjugate gradients, "als" for alternating least
            squares, whose steps cost O(samples * d * (size * r**2)**2).
        held_out: The share of samples that are held out, above 0 and below 1.
        max_sweeps: The largest number of half sweeps, or of steps by up to five of conjugate gradients, at least 1.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        seed: The seed of the choice of held-out samples and of new directions.
        callback: Called with a `SolverProgress` after each sweep; if it returns True, the search stops.

    Returns:
        The result: its `value` can be called, integrated and differentiated, and `residual` is its relative error on
        the held-out samples. An exception on the way carries the best so far in its attribute `result`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If `features`, `y` and `bases` do not fit each other.
        TTValueError: If an argument is out of range, a point is outside of an interval, values are NaN or infinite, or
            there are fewer than two samples.

    Example:
        >>> from ttnet.solvers import Legendre
        >>> x = 2 * torch.rand(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
        >>> result = fit(x, (x[:, 0] + x[:, 1]) * x[:, 2], [Legendre(3)] * 3, tol=1e-8)
        >>> result.converged, result.value(torch.tensor([[0.5, 0.25, 0.5]], dtype=torch.float64))
        (True, tensor([0.3750], dtype=torch.float64))
    """
    bases = check_bases(bases)
    points = check_points(features, bases, "features").detach()
    numbers = as_dense(y, "y").detach()
    if numbers.shape != points.shape[:1]:
        raise TTShapeError(
            f"y has shape {tuple(numbers.shape)}; expected ({len(points)},), one for each row of features."
        )
    if not torch.isfinite(numbers).all():
        raise TTValueError("y has entries that are NaN or infinite; leave these samples out.")
    if numbers.device != points.device:
        raise TTValueError(f"features is on {points.device} and y on {numbers.device}; move them to one device.")
    dtype = numbers.dtype
    bound = check_tol(tol, dtype)
    check_method(method, tuple(METHODS))
    share = check_share(held_out)
    sweeps = check_count(max_sweeps, "max_sweeps")
    bounds = check_bounds(max_rank, len(bases))
    generator = check_seed(seed)
    check_callback(callback)
    train, held = (part.to(points.device) for part in split(len(points), share, generator))
    shape = tuple(basis.size for basis in bases)
    if not numbers.any():
        nothing = FunctionTrain(zeros(shape, dtype=dtype, device=points.device), bases)
        return SolverResult(nothing, SolverStatus.CONVERGED, 0.0, 0, ())
    wide = torch.complex128 if dtype.is_complex else torch.float64
    scaled, exponent = split_scale(numbers.to(wide))
    raw = [basis(x).to(wide) for basis, x in zip(bases, points.double().unbind(1), strict=True)]
    for basis, columns in zip(bases, raw, strict=True):
        if not torch.isfinite(columns).all():
            raise TTValueError(f"{basis!r} has values that are NaN or infinite on features; expected finite ones.")
    changes = [_orthogonaliser(columns[train]) for columns in raw]
    samples = FeatureSamples([(columns @ change).mT.contiguous() for columns, change in zip(raw, changes, strict=True)])
    search = Adaptation(
        samples.take(train),
        scaled[train],
        samples.take(held),
        scaled[held],
        start(shape, scaled, None, 0, generator),
        bounds,
        bound,
        sweeps,
        generator,
        callback,
        METHODS[method],
    )

    def result(status: SolverStatus) -> SolverResult[FunctionTrain]:
        cores = [torch.einsum("mn,rns->rms", change, core) for change, core in zip(changes, search.cores, strict=True)]
        rounded = FunctionTrain(TensorTrain(join_scale(cores, exponent, dtype)), bases)
        error, size = rounded(points[held]) - numbers[held], torch.linalg.vector_norm(numbers[held])
        relative = float(torch.linalg.vector_norm(error) / (size if size > 0 else 1))
        if status is SolverStatus.CONVERGED and relative > bound:
            status = SolverStatus.DATA_SPENT
        return SolverResult(rounded, status, relative, len(search.history), tuple(search.history))

    with torch.no_grad(), handing_back(lambda: result(SolverStatus.INTERRUPTED) if search.history else None):
        return result(search.run())


def _orthogonaliser(
    columns: Tensor,  # (samples, n)
) -> Tensor:  # (n, n)
    """Give combinations of basis functions that are orthonormal on samples; zero for what the samples do not show."""
    values, vectors = torch.linalg.eigh(columns.mH @ columns / len(columns))
    return vectors * torch.where(values > NOISE * values[-1], values, torch.inf).rsqrt()


class FeatureSamples(Measurements):
    """Points of a space, as the values of basis functions in each variable.

    Args:
        features: For each variable the values, (n, samples).

    Example:
        >>> samples = FeatureSamples([torch.tensor([[1.0], [2.0]])])
        >>> samples.contract(0, torch.ones(1, 2, 1), torch.ones(1, 1))
        tensor([[3.]])
    """

    def __init__(self, features: Sequence[Tensor]) -> None:
        self._features = list(features)
        self.sizes, self.count = tuple(len(each) for each in features), features[0].shape[1]

    def _columns(self, mode: int, left: Tensor) -> Tensor:
        """Give the products of what lies left and the features, (r n, samples)."""
        return (left[:, None] * self._features[mode]).flatten(0, 1)

    def arrange(self, mode: int, numbers: Tensor) -> Tensor:
        """Leave numbers as they are: every mode takes samples in their own order."""
        return numbers

    def pass_on(self, mode: int, columns: Tensor) -> Tensor:
        """Leave columns as they are."""
        return columns

    def contract(self, mode: int, core: Tensor, left: Tensor) -> Tensor:
        """Carry vectors from the left of a core to its right, (r', samples)."""
        return core.flatten(0, 1).mT @ self._columns(mode, left)

    def see(self, mode: int, core: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Give what the samples see of a core between vectors, (1, samples)."""
        return (self.contract(mode, core, left) * right).sum(0, keepdim=True)

    def correct(self, mode: int, left: Tensor, right: Tensor, missed: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Give what to add to a core, (r, n, r'), for the samples to miss least, and what they miss then."""
        columns = (self._columns(mode, left)[:, None] * right).flatten(0, 1)
        step = solve_normal(columns, missed.mT, ridge)
        return step.reshape(len(left), -1, len(right)), missed - step.mT @ columns

    def scatter(self, mode: int, left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
        """Sum the derivatives of the samples by a core, each times a weight, (r, n, r')."""
        columns = self._columns(mode, left).conj() * weights
        return (columns @ right.mH).reshape(len(left), -1, len(right))

    def take(self, which: Tensor) -> FeatureSamples:
        """Give some of the samples, by their numbers."""
        return FeatureSamples([each[:, which] for each in self._features])

    def mirrored(self) -> FeatureSamples:
        """Give the samples with the order of modes turned round."""
        return FeatureSamples(self._features[::-1])
