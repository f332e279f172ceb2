"""Linear evolution in time, dx/dt = A x: TDVP on trains of fixed or adapted ranks, and implicit steps by `solve`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype, split_scale, times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import check_method
from ttnet.operators.sums import is_finite_number
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
from ttnet.solvers.interfaces import prepare_operator, prepare_train
from ttnet.solvers.kronecker import exponential_of_sum
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.solvers.tdvp_sweep import TdvpState
from ttnet.solvers.time_steps import CUT, Implicit, Stepper, Tdvp
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

METHODS = ("tdvp", "tdvp2", "implicit")
UNBOUNDED = 2**31  # a rank that no bond has
SHARE_MISSED = 0.1  # of what bounded ranks cannot follow, that a step may err by: shorter ones are no better
ROUNDING = 8  # machine epsilons a core: differences of steps that are no more than errors of rounding
SHORTEST = 1e-9  # share of the time
NEAR = 0.1  # the error of a step from which on that of half of it tells something


def evolve(
    A: TTMatrix,
    x0: TensorTrain,
    t: float,
    method: str = "tdvp2",
    tol: float = 1e-6,
    *,
    max_sweeps: int = 10_000,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[TensorTrain]:
    """Evolve a train by `dx/dt = A x`: give `exp(t A) x0`.

    For quantum dynamics let A be `-1j * H`, for imaginary time `-H`, for diffusion minus a Laplacian. Steps are as long
    as `tol` lets them be: each is compared with two of half its length. Sources: Haegeman et al. 2016, "Unifying time
    evolution and optimization with matrix product states"; Hairer & Wanner 1996, "Solving ordinary differential
    equations II", section IV.5; Dolgov 2019, "A tensor decomposition algorithm for large ODEs with conservation laws".

    Args:
        A: The operator.
        x0: The train at time 0.
        t: The time to reach, of either sign.
        method: "tdvp2", two cores at a time, whose ranks follow, and begin with what A makes of `x0` where it moves
            more than two at once; "tdvp", which keeps the ranks of `x0`, and norm and energy where A is skew-Hermitian,
            and whose error of projection onto these ranks no step can mend; or
            "implicit", collocation at Radau points with the times of a step as one more mode, for stiff A.
        tol: The error at time t, relative to x there, that the steps may add up to; at least 4 machine epsilons.
        max_sweeps: The largest number of steps, those that are taken back included; at least 1.
        max_rank: Bound on the ranks, for "tdvp2" and "implicit".
        seed: The seed of random choices of `solve`.
        callback: Called with a `SolverProgress` after each step, whose `sweep` counts steps, whose `change` is the
            share of the time that has passed and whose `residual` is the error so far; True stops the evolution.

    Returns:
        The result: its `value` is the train at time t, its `residual` the estimate of the error: the differences
        between long and short steps added up and, where ranks are bounded, the part of `A x` that trains of these ranks
        cannot follow. If that is above tol at the end, the status is IMPRECISE. An exception on the way carries the
        train of the time reached so far in its attribute `result`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If A is not square, or the modes of x0 are not those of A.
        TTValueError: If an argument is out of range, there is no such method, or a core has entries that are NaN or
            infinite.

    Example:
        >>> import ttnet
        >>> from ttnet import operators, solvers
        >>> up = ttnet.TensorTrain([torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)] * 6)
        >>> result = solvers.evolve(-1j * operators.ising(6), up, 0.5)
        >>> result.converged, round(float(result.value.norm()), 6)
        (True, 1.0)
    """
    check_operator(A, "A")
    check_fit(A, check_train(x0, "x0"), "x0")
    check_method(method, METHODS)
    dtype = solver_dtype(A, x0)
    bound = check_tol(tol, dtype)
    if isinstance(t, bool) or not isinstance(t, int | float):
        remedy = "let A be -1j * H for quantum dynamics" if isinstance(t, complex) else "float(t) may give one"
        raise TTTypeError(f"t is a {type(t).__name__}; expected a real number, an int or a float: {remedy}.")
    if not is_finite_number(t):
        raise TTValueError(f"t is {t}; expected a finite number.")
    steps = check_count(max_sweeps, "max_sweeps")
    max_ranks = check_bounds(max_rank, x0.ndim)
    check_seed(seed)
    check_callback(callback)
    kept = [k for k, size in enumerate(x0.shape) if size > 1]
    if method != "implicit" and 0 < len(kept) < x0.ndim:  # no rank can grow across two cores with such a mode
        return _without_ones(
            A,
            x0,
            kept,
            lambda a, x, most: evolve(
                a, x, t, method, tol, max_sweeps=max_sweeps, max_rank=most, seed=seed, callback=callback
            ),
            max_ranks,
        )
    with torch.no_grad():
        cores, exponent = prepare_train(x0, dtype)
        size = float(torch.linalg.vector_norm(cores[0]))
        target = torch.promote_types(A.dtype, x0.dtype)
        if not t or not size:
            value = TensorTrain(join_scale(cores, exponent, target))
            return SolverResult(value, SolverStatus.REACHED, 0.0, 0, ())
        operator, power = prepare_operator(A, dtype)
        operator[0] = times_power_of_two(operator[0], power)
        cores[0] = cores[0] / size
        stepper: Stepper
        if method == "implicit":
            stepper = Implicit(TTMatrix(operator), TensorTrain(cores), max_rank, seed)
        else:
            sites = 1 if method == "tdvp" else 2
            stepper = Tdvp(
                TdvpState(operator, cores, max_ranks, sites), TTMatrix(operator), None if sites == 1 else max_ranks
            )
        return _March(stepper, float(t), bound, exponent, size, target).run(steps, callback)


def _without_ones(
    a: TTMatrix,
    x: TensorTrain,
    kept: Sequence[int],
    run: Callable[[TTMatrix, TensorTrain, list[int]], SolverResult[TensorTrain]],
    max_ranks: Sequence[int | None],
) -> SolverResult[TensorTrain]:
    """Evolve what is left without the modes of size 1, and give the value these again."""
    key = tuple(slice(None) if k in kept else 0 for k in range(x.ndim))
    matrix, train = a.to_train()[key], x[key]
    assert isinstance(matrix, TensorTrain)
    assert isinstance(train, TensorTrain)
    bounds = [UNBOUNDED if rank is None else rank for rank in max_ranks]
    most = [min(bounds[k:j]) for k, j in itertools.pairwise(kept)]
    result = run(TTMatrix.from_train(matrix, train.shape, train.shape), train, most)
    value = result.value[tuple(slice(None) if k in kept else None for k in range(x.ndim))]
    assert isinstance(value, TensorTrain)
    return dataclasses.replace(result, value=value)


class _Point(NamedTuple):
    """How far the evolution has come."""

    stepper: Stepper
    passed: float  # the share of the time
    exponent: int
    size: float
    error: float


class _Comparison(NamedTuple):
    """A step beside two of half its length."""

    long: Stepper | None
    half: Stepper
    short: Stepper
    unit: Stepper  # the latter, divided by its norm
    grown: float
    difference: float  # infinite for what is beyond floats


class _March:
    """Steps from 0 to the end of the time, each compared with two halves."""

    def __init__(
        self, stepper: Stepper, time: float, tol: float, exponent: int, size: float, dtype: torch.dtype
    ) -> None:
        self._time, self._tol, self._dtype = time, tol, dtype
        self._precision = torch.finfo(compute_dtype(dtype)).eps
        self._now = _Point(stepper, 0.0, exponent, size, 0.0)
        self._history: list[SolverProgress] = []

    def run(self, max_steps: int, callback: Callable[[SolverProgress], object] | None) -> SolverResult[TensorTrain]:
        with handing_back(lambda: self._result(SolverStatus.INTERRUPTED)):
            status = self._steps(max_steps, callback)
        return self._result(status)

    def _steps(self, max_steps: int, callback: Callable[[SolverProgress], object] | None) -> SolverStatus:
        share = 1.0
        long: Stepper | None = None  # a step of that share from here, if it is known already
        before = math.inf  # the error of the step that was taken back, for its share of the time
        rounding = ROUNDING * self._precision * max(1, self._now.stepper.train.ndim)
        may_widen = True  # before the first step, once: later bonds are made by A
        missed = self._now.stepper.missed() * abs(self._time)  # were it as now for all of the time
        for step in range(1, max_steps + 1):
            now = self._now
            share = min(share, 1 - now.passed)
            allowed = max(self._tol, SHARE_MISSED * missed) * share
            long, half, _, unit, grown, difference = self._compare(long, share, allowed)
            if not math.isfinite(difference):  # numbers beyond floats: norms are taken out after each step
                if share < SHORTEST:
                    raise TTValueError(
                        "the norm of x leaves the range of floats in the shortest steps; expected A and t of smaller "
                        "product."
                    )
                long, share = None, share / 8
                self._record(step, now)
                continue
            # Not divided by 2**order - 1, as that holds for short steps alone: long ones would be told too good.
            error = difference / grown if grown else 0.0
            # Where half a step errs for its time as a whole one did, it is by what is cut off, not by its length, or by
            # rounding. Steps that are far too long tell nothing of the kind.
            floored = error < NEAR and error / share > 0.7 * before
            if allowed < error <= rounding:
                floored, error = True, rounding
            is_stuck = may_widen and floored and error > max(allowed, rounding)
            wider = now.stepper.widened(CUT * allowed) if is_stuck else None
            if wider is not None:
                self._now, long, may_widen = now._replace(stepper=wider), None, False
                self._record(step, self._now)
            elif error > allowed and share > SHORTEST and not floored:
                before = error / share if error < NEAR else math.inf
                # A step of half the length is known; if that is still far too long, begin anew.
                factor = (0.5 * allowed / error) ** (1 / now.stepper.order)
                long, share = (half, share / 2) if factor > 0.25 else (None, share * max(factor, 0.01))
                self._record(step, now)
            else:
                _, power = split_scale(torch.tensor([now.size * grown], dtype=torch.float64))
                size = math.ldexp(now.size * grown, -int(power)) if grown else 0.0
                passed = now.passed + share
                passed = 1.0 if passed > 1 - 1e-12 else passed
                last, missed = missed, unit.missed() * abs(self._time)
                error_there = now.error + error + max(last, missed) * share  # ranks may have met their bound meanwhile
                self._now = _Point(unit, passed, now.exponent + int(power), size, error_there)
                self._record(step, self._now)
                growth = 0.9 * (allowed / error) ** (1 / (now.stepper.order + 1)) if error else 4.0
                long, share, before = None, share * (2.0 if floored else min(4.0, max(0.5, growth))), math.inf
                may_widen = False
            stopped = callback is not None and bool(callback(self._history[-1]))
            if self._now.passed >= 1:
                return SolverStatus.REACHED if self._now.error <= self._tol else SolverStatus.IMPRECISE
            if stopped:
                return SolverStatus.STOPPED
        return SolverStatus.MAX_SWEEPS

    def _compare(self, long: Stepper | None, share: float, allowed: float) -> _Comparison:
        """Make a step, and the two halves of it."""
        stepper, time = self._now.stepper, share * self._time
        try:
            long = long or stepper.after(time, allowed)
            half = stepper.after(time / 2, allowed / 2)
            short = half.after(time / 2, allowed / 2)
            unit, grown = short.normalised()
            difference = float((long.train - short.train).norm())
        except RuntimeError:  # of LAPACK, for what is not finite
            return _Comparison(None, stepper, stepper, stepper, math.inf, math.inf)
        return _Comparison(long, half, short, unit, grown, difference if math.isfinite(grown) else math.inf)

    def _record(self, step: int, point: _Point) -> None:
        ranks = point.stepper.train.ranks
        self._history.append(SolverProgress(step, ranks, residual=point.error, change=point.passed))

    def _result(self, status: SolverStatus) -> SolverResult[TensorTrain]:
        now = self._now
        cores: list[Tensor] = list(now.stepper.train.cores)
        cores[0] = cores[0] * now.size
        value = TensorTrain(join_scale(cores, now.exponent, self._dtype))
        return SolverResult(value, status, now.error, len(self._history), tuple(self._history))


def expm_apply(
    A: TTMatrix,
    x: TensorTrain,
    t: float = 1.0,
    tol: float = 1e-6,
    *,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
) -> SolverResult[TensorTrain]:
    """Apply the exponential of an operator to a train, `exp(t A) x`.

    Where A is a Kronecker sum, as Laplacians on ordinary modes are, the exponentials of its matrices do it mode by
    mode; otherwise `evolve` by implicit steps of high order.

    Args:
        A: The operator.
        x: The train.
        t: A real factor, of either sign.
        tol: The relative error, as far as steps of two lengths can tell; at least 4 machine epsilons.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        seed: The seed of random choices.

    Returns:
        The result, as `evolve` gives it.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If A is not square, or the modes of x are not those of A.
        TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> from ttnet import solvers
        >>> x = ttnet.ones((2, 3), dtype=torch.float64)
        >>> round(float(solvers.expm_apply(ttnet.eye((2, 3), dtype=torch.float64), x).value.sum()), 6)
        16.309691
    """
    if isinstance(t, int | float) and not isinstance(t, bool) and is_finite_number(t) and max_rank is None:
        check_operator(A, "A")
        check_fit(A, check_train(x, "x"), "x")
        with torch.no_grad():
            found = exponential_of_sum(A, x, float(t), check_tol(tol, solver_dtype(A, x)))
        if found is not None:
            return found
    return evolve(A, x, t, "implicit", tol, max_rank=max_rank, seed=seed)
