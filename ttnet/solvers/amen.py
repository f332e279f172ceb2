"""Linear systems with trains for unknowns, by alternating minimal energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ttnet.errors import TTConvergenceError, TTValueError
from ttnet.numerics.scales import times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.solvers.amen_sweep import LEAST_KICK, AmenState
from ttnet.solvers.arguments import (
    check_bounds,
    check_callback,
    check_count,
    check_fit,
    check_operator,
    check_seed,
    check_tol,
    check_train,
    solver_dtype,
)
from ttnet.solvers.implicit import differentiable
from ttnet.solvers.interfaces import prepare_operator, prepare_train, trim
from ttnet.solvers.residuals import (
    is_hermitian,
    is_orthogonal_to_range,
    relative_residual,
)
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.trains.construct import zeros
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

PATIENCE = 5  # how many sweeps may pass before the residual must be lower by a quarter
START_RANK = 4  # of what is taken from b to begin with
HUGE = 1e-2  # times 1 / machine epsilon: the norm of an x for which A, scaled as it is, must be singular
TRUSTED = 1e-8  # likewise, below which a residual is free of rounding errors
CHEAP_RANK = 400  # of a residual that may be computed anew after every sweep


def solve(
    A: TTMatrix,
    b: TensorTrain,
    tol: float = 1e-8,
    *,
    max_sweeps: int = 50,
    max_rank: int | Sequence[int] | None = None,
    x0: TensorTrain | None = None,
    sites: int = 1,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[TensorTrain]:
    """Solve the linear system `A x = b` for a train x, its ranks found on the way.

    Sweeps go over the cores of x, there and back in turn, and solve a small system for each. It is factorised where
    that is quickest; otherwise conjugate gradients (Hermitian A) or GMRES solve it with blocks of its diagonal for a
    preconditioner. Bases grow by directions of the residual (AMEn). Source: Dolgov & Savostyanov 2014, "Alternating
    minimal energy methods for linear systems in higher dimensions".

    Args:
        A: The operator, of as many rows as columns in every mode. Convergence is proved for Hermitian positive definite
            ones, and usual for others.
        b: The right-hand side.
        tol: The relative residual `||b - A x|| / ||b||` to reach, at least 4 machine epsilons. The error of x can be
            larger by the condition number of A.
        max_sweeps: The largest number of sweeps over all cores, in either direction; at least 1.
        max_rank: Bound on the ranks of x, an int or one int per inner bond.
        x0: Where to begin; None for what is largest in b.
        sites: How many cores to solve for at a time: 1, or 2, which costs more and at times helps where 1 is stuck.
        seed: The seed of random directions, which are needed where the residual offers too few.
        callback: Called with a `SolverProgress` after each sweep; if it returns True, the search stops.

    Returns:
        The result: its `value` is x, of the dtype of A and b together, and `residual` is computed from it, whatever
        the status. A right-hand side of zero has the answer zero. An exception on the way carries the best x so far in
        its attribute `result`. Where cores of A or b require gradients, x has some: by the implicit function theorem,
        with one adjoint system, for losses that depend on the tensor alone, and as far as the space tangent to trains
        of x's ranks goes (the whole space, if these are full). Its ranks are doubled then, with zeros for what that
        space adds; `round` takes them out again.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If A is not square, or the modes of b or x0 are not those of A.
        TTValueError: If an argument is out of range, `tol` is below the precision of the dtype, a core has entries that
            are NaN or infinite, or devices differ.

    Example:
        >>> import ttnet
        >>> from ttnet import operators, solvers
        >>> result = solvers.solve(operators.laplace((16, 16, 16)), ttnet.ones((16, 16, 16)), tol=1e-6)
        >>> result.converged, result.residual <= 1e-6, max(result.value.ranks) < 12
        (True, True, True)
    """
    check_operator(A, "A")
    check_fit(A, check_train(b, "b"), "b")
    if x0 is not None:
        check_fit(A, check_train(x0, "x0"), "x0")
    dtype = solver_dtype(A, b, *([] if x0 is None else [x0]))
    bound = check_tol(tol, dtype)
    sweeps = check_count(max_sweeps, "max_sweeps")
    max_ranks = check_bounds(max_rank, b.ndim)
    if check_count(sites, "sites") > 2:
        raise TTValueError(f"sites is {sites}; expected 1 or 2.")
    generator = check_seed(seed)
    check_callback(callback)
    with torch.no_grad():
        result = _Search(A, b, x0, dtype, bound, max_ranks, sites, generator).run(sweeps, callback)
    leaves = [*A.cores, *b.cores]
    if not torch.is_grad_enabled() or not any(core.requires_grad for core in leaves):
        return result
    # b = A x, so for a change of A or b that of a loss with gradient g is <A**-H g, db - dA x>.
    x, order = result.value, len(A.cores)

    def adjoint(gradient: TensorTrain) -> TensorTrain:
        found = solve(A.H.detach(), gradient, tol, max_sweeps=max_sweeps, sites=sites, seed=seed)
        if not found.converged:
            raise TTConvergenceError(f"The adjoint system of a gradient: {found.status.value}", found)
        return found.value

    def pairing(multiplier: TensorTrain, cores: list[Tensor]) -> Tensor:
        return multiplier.dot(TensorTrain(cores[order:]) - TTMatrix(cores[:order]) @ x).real

    return replace(result, value=differentiable(x, leaves, adjoint=adjoint, pairing=pairing))


class _Search:
    """One search: operands of scales near one, what is known of x, and what the sweeps have shown so far."""

    def __init__(
        self,
        a: TTMatrix,
        b: TensorTrain,
        x0: TensorTrain | None,
        dtype: torch.dtype,
        tol: float,
        max_ranks: list[int | None],
        sites: int,
        generator: torch.Generator,
    ) -> None:
        self._dtype = torch.promote_types(a.dtype, b.dtype)
        self._tol, self._max_ranks = tol, max_ranks
        self._a, a_exponent = prepare_operator(a, dtype)
        self._b, b_exponent = prepare_train(b, dtype)
        self._exponent = b_exponent - a_exponent  # x is what is solved for times 2 to this power
        self._shape, self._device = b.shape, b.device
        self._sites, self._generator = sites, generator
        self._hermitian = is_hermitian(self._a)
        self._precision = torch.finfo(dtype).eps
        self._inner = tol / (2 * math.sqrt(b.ndim))
        self._x = self._last = self._start(x0)
        self._residual = math.inf  # of x, where it has been computed
        self._met = math.inf  # what a sweep has seen of that
        self._met_singular = False
        self._size = 0.0  # of the largest x so far
        self._history: list[SolverProgress] = []

    def _start(self, x0: TensorTrain | None) -> list[Tensor]:
        """Give right-orthogonal cores to begin with."""
        if x0 is None:
            bounds = [min(START_RANK, rank or START_RANK) for rank in self._max_ranks]
            if all(core.shape[2] <= bound for core, bound in zip(self._b, bounds, strict=False)):
                return self._b
            cores, exponent = prepare_train(TensorTrain(self._b).round(max_rank=bounds), self._b[0].dtype)
            return [times_power_of_two(cores[0], exponent), *cores[1:]]
        bounds = [rank or given for rank, given in zip(self._max_ranks, x0.ranks[1:-1], strict=True)]
        first = x0.round(max_rank=bounds) if any(self._max_ranks) else x0
        cores, exponent = prepare_train(first, self._b[0].dtype)
        cores[0] = times_power_of_two(cores[0], exponent - self._exponent)
        return cores

    def run(self, max_sweeps: int, callback: Callable[[SolverProgress], object] | None) -> SolverResult[TensorTrain]:
        """Sweep until the residual is small enough or there is no hope for it."""
        if not float(torch.linalg.vector_norm(self._b[0])):
            zero = zeros(self._shape, dtype=self._dtype, device=self._device)
            return SolverResult(zero, SolverStatus.CONVERGED, 0.0, 0, ())
        self._residual = relative_residual(self._a, self._b, self._x)
        if self._residual <= self._tol:
            return self._result(SolverStatus.CONVERGED)
        with handing_back(lambda: self._result(SolverStatus.INTERRUPTED)):
            status = self._sweeps(max_sweeps, callback)
            if status in (SolverStatus.STALLED, SolverStatus.MAX_SWEEPS) and self._is_singular():
                status = SolverStatus.SINGULAR
        return self._result(status)

    def _is_singular(self) -> bool:
        """Say whether A cannot bring the residual down any further, or some x has grown beyond all bounds.

        Where A is Hermitian, what sweeps see of it is singular only if A is, or if it is indefinite.
        """
        seen = self._hermitian and self._met_singular
        return seen or self._size > HUGE / self._precision or is_orthogonal_to_range(self._a, self._b, self._x)

    def _sweeps(self, max_sweeps: int, callback: Callable[[SolverProgress], object] | None) -> SolverStatus:
        state = AmenState(
            self._a,
            self._b,
            self._x,
            self._first_z(),
            hermitian=self._hermitian,
            max_ranks=self._max_ranks,
            sites=self._sites,
            generator=self._generator,
        )
        lowest: list[float] = []
        for sweep in range(1, max_sweeps + 1):
            met, change, seen = state.sweep(tol=self._inner, loose=0.01)
            state.turn()
            self._met_singular = state.met_singular
            cores = state.cores
            residual = self._look(cores, met, seen, is_last=sweep == max_sweeps)
            ranks = (1, *(core.shape[2] for core in cores))
            self._history.append(SolverProgress(sweep, ranks, residual=residual, change=change))
            stopped = callback is not None and bool(callback(self._history[-1]))
            if self._residual <= self._tol:
                return SolverStatus.CONVERGED
            if stopped:
                return SolverStatus.STOPPED
            lowest.append(min([residual, *lowest[-1:]]))
            if len(lowest) > PATIENCE and lowest[-1] > 0.75 * lowest[-1 - PATIENCE]:
                is_full = any(rank == most for rank, most in zip(ranks[1:-1], self._max_ranks, strict=True))
                return SolverStatus.MAX_RANK if is_full else SolverStatus.STALLED
        return SolverStatus.MAX_SWEEPS

    def _first_z(self) -> list[Tensor]:
        """Give random directions: residuals seen through them are sketches of the whole, until a sweep finds better."""
        ranks = [1, *[LEAST_KICK] * (len(self._shape) - 1), 1]
        sizes = zip(ranks, self._shape, ranks[1:], strict=False)
        draws = [torch.randn(size, dtype=self._b[0].dtype, generator=self._generator) for size in sizes]
        return prepare_train(TensorTrain([draw.to(self._device) for draw in draws]), self._b[0].dtype)[0]

    def _look(self, cores: list[Tensor], met: float, seen: float, *, is_last: bool) -> float:
        """Keep the cores if they are the best so far, and say how good they are.

        The residual that a sweep meets is seen through its bases alone, and what z sees in the end is part of it. Once
        one of them is small, the true one is computed.
        """
        if met < self._met and _size(self._last) < TRUSTED / self._precision:  # the best so far is what it began with
            self._met, self._x, self._residual = met, self._last, math.inf
        self._last = cores
        self._size = max(self._size, _size(cores))
        product = max(a.shape[3] * x.shape[2] for a, x in zip(self._a, cores, strict=True))
        if not is_last and met > self._tol and (seen > self._tol or product > CHEAP_RANK):
            return met
        cores, residual = self._trimmed(cores)
        # What sweeps meet is less than the true residual, though not by much.
        if residual <= self._tol or residual < min(10 * self._met, self._residual):
            self._met, self._x, self._residual = min(self._met, residual), cores, residual
        if met <= 2 * self._inner and residual > self._tol:  # the sweeps are content too early
            self._inner = max(self._inner / 4, self._precision)
        return residual

    def _trimmed(self, cores: list[Tensor]) -> tuple[list[Tensor], float]:
        """Take out directions that were taken in and not used, if that does no harm; give the residual, too."""
        trimmed = trim(cores)
        residual = relative_residual(self._a, self._b, trimmed)
        if residual > self._tol and (whole := relative_residual(self._a, self._b, cores)) < 0.9 * residual:
            return cores, whole
        return trimmed, residual

    def _result(self, status: SolverStatus) -> SolverResult[TensorTrain]:
        if not math.isfinite(self._residual):
            self._x, self._residual = self._trimmed(self._x)
        value = TensorTrain(join_scale(self._x, self._exponent, self._dtype))
        return SolverResult(value, status, self._residual, len(self._history), tuple(self._history))


def _size(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> float:
    """Give the norm of a train with its centre at one end."""
    return max(float(torch.linalg.vector_norm(core)) for core in (cores[0], cores[-1]))
