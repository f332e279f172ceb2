"""Steps in time of linear evolution: by TDVP sweeps, and implicit ones by `solve`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from ttnet.errors import TTValueError
from ttnet.numerics.scales import times_power_of_two
from ttnet.solvers.amen import solve
from ttnet.solvers.arguments import check_bounds
from ttnet.solvers.interfaces import prepare_train
from ttnet.solvers.manifold import project
from ttnet.solvers.tdvp_sweep import TdvpState
from ttnet.trains.construct import eye, ones
from ttnet.trains.joining import outer
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

STAGES = 6  # of the implicit steps, which are of order 11
CUT = 0.02  # of the error that a step may make, for each bond that is cut
CLEAR = 300  # machine epsilons, from which a difference of squares shows above its rounding errors
WIDENED = 1e-2  # the relative error of what bonds are widened by


class Stepper(Protocol):
    """Something that makes steps in time, and stays as it is."""

    order: int

    @property
    def train(self) -> TensorTrain:
        """The train at its time."""

    def after(self, time: float, tol: float) -> Stepper:
        """Give what is a step later, with a relative error of about `tol` at most besides that of its length."""

    def normalised(self) -> tuple[Stepper, float]:
        """Divide the train by its norm; give that, too."""

    def missed(self) -> float:
        """Give the size of what A does to the train that bounded ranks cannot follow, per unit of time."""

    def widened(self, tol: float) -> Stepper | None:
        """Give the same train, but for `tol`, from which steps reach what A makes of it; None where they do already."""


class Tdvp:
    """Steps by sweeps there and back."""

    order = 2

    def __init__(self, state: TdvpState, operator: TTMatrix, most: Sequence[int | None] | None) -> None:
        self._state, self._operator = state, operator
        self._most = most  # the largest rank of each bond; `None` for ranks that stay

    @property
    def train(self) -> TensorTrain:
        """The train at its time."""
        return TensorTrain(self._state.cores)

    def after(self, time: float, tol: float) -> Tdvp:
        """Give what is a step later."""
        state = self._state.copy()
        state.step(time, tol=tol, cut=CUT * tol)
        return Tdvp(state, self._operator, self._most)

    def missed(self) -> float:
        """Give the size of what bounded ranks cannot follow, per unit of time."""
        return _missed(self._operator, self.train, self._most)

    def widened(self, tol: float) -> Tdvp | None:
        """Give the same train, but for `tol`, with what A makes of it in its bonds, as far as ranks may grow.

        Two cores follow A no farther than their own bond widens. Where A moves three at once, the error of a first step
        falls no faster than its length, unless the bonds hold these directions before. Source: Yang & White 2020,
        "Time-dependent variational principle with ancillary Krylov subspace".
        """
        if self._most is None:
            return None
        train, moved = self.train, self._operator @ self.train
        full = [min(math.prod(train.shape[:k]), math.prod(train.shape[k:])) for k in range(1, train.ndim)]
        most = [most if bound is None else min(bound, most) for bound, most in zip(self._most, full, strict=True)]
        size = float(moved.norm())
        if not size or list(train.ranks[1:-1]) == most:
            return None
        wider = train + moved.round(eps=WIDENED) * (tol * float(train.norm()) / size)
        if any(rank > bound for rank, bound in zip(wider.ranks[1:-1], most, strict=True)):
            wider = wider.round(max_rank=most)
        cores, exponent = prepare_train(wider, train.dtype)
        cores[0] = times_power_of_two(cores[0], exponent)
        return Tdvp(TdvpState(self._operator.cores, cores, self._most, 2), self._operator, self._most)

    def normalised(self) -> tuple[Tdvp, float]:
        """Divide the train by its norm; give that, too."""
        state = self._state.copy()
        size = float(torch.linalg.vector_norm(state.cores[0]))
        state.scale(1 / size if size else 1.0)
        return Tdvp(state, self._operator, self._most), size


class Implicit:
    """Steps of collocation at Radau points: `(I - time A x R) y = x x 1`, whose last time is the step's end."""

    order = 2 * STAGES - 1

    def __init__(self, a: TTMatrix, x: TensorTrain, max_rank: int | Sequence[int] | None, seed: int) -> None:
        self._a, self._x, self._max_rank, self._seed = a, x, max_rank, seed

    @property
    def train(self) -> TensorTrain:
        """The train at its time."""
        return self._x

    def after(self, time: float, tol: float) -> Implicit:
        """Give what is a step later."""
        stages = torch.from_numpy(radau_matrix(STAGES)).to(self._a.dtype).to(self._a.device)
        modes = self._a.col_shape
        both = TTMatrix([*self._a.cores, stages[None, :, :, None]]) * -time
        both = both + eye((*modes, STAGES), dtype=self._a.dtype, device=self._a.device)
        rhs = outer(self._x, ones((STAGES,), dtype=self._a.dtype, device=self._a.device))
        precise = max(CUT * tol, 10 * torch.finfo(self._a.dtype).eps)
        most = self._max_rank
        bounds = [*most, STAGES] if isinstance(most, Sequence) else most
        found = solve(both, rhs, precise, max_rank=bounds, x0=rhs, seed=self._seed)
        end = found.value[(slice(None),) * len(modes) + (-1,)]
        assert isinstance(end, TensorTrain)
        end = end.round(eps=precise, max_rank=most) if end.ndim > 1 else end
        return Implicit(self._a, end, most, self._seed)

    def normalised(self) -> tuple[Implicit, float]:
        """Divide the train by its norm; give that, too."""
        size = float(self._x.norm())
        x = self._x / size if size else self._x
        return Implicit(self._a, x, self._max_rank, self._seed), size

    def missed(self) -> float:
        """Give the size of what bounded ranks cannot follow, per unit of time."""
        return _missed(self._a, self._x, check_bounds(self._max_rank, self._x.ndim))

    def widened(self, tol: float) -> None:
        """Give nothing, as `solve` finds its directions itself."""


def _missed(a: TTMatrix, train: TensorTrain, most: Sequence[int | None] | None) -> float:
    """Give the size of what A does to a train that no train of its ranks can follow, per unit of time.

    Nothing where ranks may grow: none of the bounds `most` is reached. None of them means that ranks stay as they are.
    """
    if most is not None and all(bound != rank for bound, rank in zip(most, train.ranks[1:-1], strict=True)):
        return 0.0
    moved = a @ train
    if not float(train.norm()) or not float(moved.norm()):
        return 0.0
    try:
        followed = project(train, moved)
    except TTValueError:  # ranks that the shape does not allow
        followed = project(train.round(), moved)
    square = 1 - (float(followed.norm()) / float(moved.norm())) ** 2
    if square > CLEAR * torch.finfo(train.dtype).eps:
        return float(moved.norm()) * math.sqrt(square)
    return float((moved - followed.train()).norm())  # the difference of squares is rounding


def radau_matrix(stages: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Give the matrix of the collocation method of Radau IIA: integrals of Lagrange's polynomials up to each point.

    Source: Hairer & Wanner 1996, "Solving ordinary differential equations II", section IV.5.

    Args:
        stages: How many points, the last of which is 1; at least 1.

    Returns:
        The matrix, of shape (stages, stages).

    Example:
        >>> radau_matrix(2).round(4)
        array([[ 0.4167, -0.0833],
               [ 0.75  ,  0.25  ]])
    """
    # The points are the zeros of P_s - P_(s-1) on [-1, 1], of which 1 is one.
    series = np.zeros(stages + 1)
    series[-1], series[-2] = 1.0, -1.0
    points = np.sort(np.polynomial.legendre.legroots(series).real)
    points[-1] = 1.0
    # In Legendre's basis both the values at the points and their integrals from -1 are well conditioned.
    values = np.polynomial.legendre.legvander(points, stages - 1)
    integrals = np.stack(
        [
            np.polynomial.legendre.legval(points, np.polynomial.legendre.legint(np.eye(stages)[j], lbnd=-1))
            for j in range(stages)
        ],
        axis=1,
    )
    return np.linalg.solve(values.T, integrals.T).T / 2
