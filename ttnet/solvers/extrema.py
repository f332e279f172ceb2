"""Extremal entries: of trains, with a bound that no entry exceeds, and of functions of indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.black_box import BlackBox, BudgetSpentError, Values, all_indices
from ttnet.errors import TTTypeError, TTValueError
from ttnet.solvers.arguments import check_callback, check_count, check_seed, check_tol, check_train
from ttnet.solvers.beam import BeamSearch, Scaled
from ttnet.solvers.pivot_search import PivotSearch
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.trains.chain import check_shape
from ttnet.trains.evaluation import evaluate
from ttnet.trains.tensor_train import TensorTrain

FIRST_BEAM = 32  # of the first round on a train; each has twice that of the one before
WHOLE = 2048  # entries of a function that are all evaluated
PATIENCE = 3  # how many sweeps may pass without a better entry of a function


@dataclass(frozen=True, repr=False)
class Extremum(SolverResult[Tensor]):
    """An extremal entry, as far as it was found.

    Attributes:
        value: The entry, of shape (). For a train, gradients flow to its cores.
        status: How the search ended, as a sentence.
        residual: The gap between `value` and `bound`, relative to the larger of their sizes.
        sweeps: How many rounds there were.
        history: One record per round; its `ranks` are the numbers of candidates at each bond.
        index: Where the entry is.
        bound: No entry of a train is beyond it, up to rounding errors; infinite where there is none.
        evaluations: How often a function was evaluated; 0 for a train.

    Example:
        >>> import ttnet
        >>> result = optimize(ttnet.arange((2, 4)), "max")
        >>> result.index, float(result.value), round(result.bound, 9)
        ((1, 3), 7.0, 7.0)
    """

    index: tuple[int, ...]
    bound: float
    evaluations: int


def optimize(
    f: TensorTrain | Callable[[Tensor], Any],
    goal: str,
    shape: Sequence[int] | None = None,
    *,
    grids: Sequence[Tensor] | None = None,
    tol: float = 1e-8,
    beam: int | None = None,
    max_sweeps: int = 50,
    max_evaluations: int | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> Extremum:
    """Find the largest or smallest entry of a train, or value of a function of indices or of points on grids.

    In a train the search goes from either end, with more and more candidates a bond, and also says how large the
    entries can be at most: it has converged when that is proved to be what was found. A function is asked at some
    `beam**2 * sum(shape)` indices a sweep, until some sweeps find nothing better; nothing vouches for its other values.
    Source: Chertkov et al. 2022, "Optimization of functions given in the tensor train format"; Sozykin et al. 2022,
    "TTOpt: A maximum volume quantized tensor train-based optimization and its application to reinforcement learning".

    Args:
        f: A real train, or a function. That is given an int64 tensor of indices of shape (batch, d), or points of shape
            (batch, d) if there are `grids`, and returns a real tensor or numpy array of shape (batch,).
        goal: "max" or "min".
        shape: The mode sizes of a function; None for a train, or if there are `grids`.
        grids: The points of each mode of a function, one tensor of shape (n,) each, all of one dtype.
        tol: The gap between the entry and the bound to reach, relative to the larger, at least 4 machine epsilons.
        beam: The largest number of candidates at each bond; None for 1024 in trains, and for 8 in functions.
        max_sweeps: The largest number of rounds, each over all bonds, there and back; at least 1.
        max_evaluations: The largest number of times that a function is evaluated; None for no bound. At least `beam`.
        seed: The seed of random candidates; only functions need them.
        callback: Called with a `SolverProgress` after each round; if it returns True, the search stops.

    Returns:
        The entry, its index and the bound. An exception on the way carries the best so far in its attribute `result`.

    Raises:
        TTTypeError: If an argument is of the wrong type, or entries are complex, which have no order.
        TTShapeError: If a mode or grid is empty.
        TTValueError: If an argument is out of range, or a train or a value of a function is not finite.

    Example:
        >>> import ttnet
        >>> x, y = ttnet.meshgrid(torch.linspace(-2, 2, 401), torch.linspace(-2, 2, 401))
        >>> result = optimize(x * x + y * y + x * y - 3 * y, "min")
        >>> result.converged, result.index, float(result.value)
        (True, (100, 400), -3.0)
        >>> grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
        >>> result = optimize(lambda x: ((x - 0.5) ** 2).sum(1), "min", grids=[grid] * 10)
        >>> float(result.value), set(result.index)
        (0.0, {150})
    """
    if goal not in ("max", "min"):
        raise TTValueError(f"goal is {goal!r}; expected 'max' or 'min'.")
    sign = 1 if goal == "max" else -1
    sweeps = check_count(max_sweeps, "max_sweeps")
    generator = check_seed(seed)
    check_callback(callback)
    tolerance = check_tol(tol, torch.float64)  # what all computations are in
    is_train = isinstance(f, TensorTrain)
    width = check_count((1024 if is_train else 8) if beam is None else beam, "beam")
    search: _Trains | _Functions
    if isinstance(f, TensorTrain):
        if shape is not None or grids is not None:
            raise TTTypeError("f is a train, which has a shape of its own; expected no shape and no grids.")
        if check_train(f, "f").dtype.is_complex:
            raise TTTypeError(f"f has dtype {f.dtype}, and complex numbers have no order; expected a real train.")
        search = _Trains(f, sign, tolerance, width)
    else:
        if not callable(f):
            raise TTTypeError(f"f is a {type(f).__name__}; expected a TensorTrain, or a function of indices.")
        box, sizes, device = _black_box(f, shape, grids, max_evaluations, width)
        search = _Functions(box, sizes, sign, tolerance, width, generator, device)
    with handing_back(lambda: search.result(SolverStatus.INTERRUPTED)), torch.no_grad():
        status = _rounds(search, sweeps, callback)
    result = search.result(status)
    assert result is not None
    return result


def _black_box(
    f: Callable[[Tensor], Any],
    shape: Sequence[int] | None,
    grids: Sequence[Tensor] | None,
    max_evaluations: int | None,
    beam: int,
) -> tuple[BlackBox, tuple[int, ...], torch.device]:
    """Make a function of indices of whatever was given."""
    if (shape is None) == (grids is None):
        raise TTTypeError("f is a function; expected either its shape or its grids, to know what it is a function of.")
    device = torch.get_default_device()
    of_indices = f
    if grids is not None:
        for k, grid in enumerate(grids):
            if not isinstance(grid, Tensor) or grid.ndim != 1 or grid.dtype != grids[0].dtype:
                raise TTTypeError(f"grids[{k}] is {grid!r}; expected tensors of shape (n,), all of one dtype.")
        points, shape = list(grids), [len(grid) for grid in grids]
        device = points[0].device if points else device

        def of_indices(indices: Tensor) -> Any:
            columns = [grid[at] for grid, at in zip(points, indices.T, strict=True)]
            return f(torch.stack(columns, dim=1) if columns else torch.empty(len(indices), 0))

    assert shape is not None
    sizes = check_shape(shape, "shape")
    if max_evaluations is not None and check_count(max_evaluations, "max_evaluations") < beam:
        raise TTValueError(
            f"max_evaluations is {max_evaluations}, less than the {beam} of the first candidates; raise it, or lower "
            f"beam."
        )
    return BlackBox(of_indices, sizes, device=device, max_evaluations=max_evaluations), sizes, device


def _rounds(
    search: _Trains | _Functions, max_sweeps: int, callback: Callable[[SolverProgress], object] | None
) -> SolverStatus:
    """Go on until there is a status."""
    status = search.begin()
    for sweep in range(1, max_sweeps + 1):
        if status is not None:
            return status
        before = search.value
        try:
            counts, status = search.round()
        except BudgetSpentError:
            return SolverStatus.MAX_EVALUATIONS
        change = _gap(search.value, before) if before is not None and search.value is not None else math.inf
        search.history.append(SolverProgress(sweep, counts, residual=search.gap, change=change))
        if callback is not None and bool(callback(search.history[-1])) and status is None:
            return SolverStatus.STOPPED
    return SolverStatus.MAX_SWEEPS if status is None else status


def _gap(a: Scaled, b: Scaled) -> float:
    """Give the distance of two numbers, relative to the larger."""
    sizes = [Scaled(abs(x.mantissa), x.exponent) for x in (a, b)]
    largest = sizes[0].larger(sizes[1])
    return abs(a.over(largest) - b.over(largest)) if largest.mantissa else 0.0


class _Trains:
    """The search in a train, of the largest entry or of the largest one of its negative."""

    def __init__(self, train: TensorTrain, sign: int, tol: float, beam: int) -> None:
        self._train, self._sign, self._tol, self._beam = train, sign, tol, beam
        self._width = min(FIRST_BEAM, beam)
        self._searches: list[BeamSearch] = []
        self._index: tuple[int, ...] = ()
        self._bound: Scaled | None = None
        self.value: Scaled | None = None
        self.history: list[SolverProgress] = []

    @property
    def gap(self) -> float:
        return math.inf if self.value is None or self._bound is None else _gap(self.value, self._bound)

    def begin(self) -> SolverStatus | None:
        cores = [core.detach() for core in self._train.cores]
        if not self._train.ndim:
            self._bound = self.value = Scaled(self._sign * float(cores[0]), 0)
            return SolverStatus.CONVERGED
        cores[0] = self._sign * cores[0]
        backwards = [core.permute(2, 1, 0) for core in reversed(cores)]
        self._searches = [BeamSearch(cores), BeamSearch(backwards)]
        return None

    def round(self) -> tuple[tuple[int, ...], SolverStatus | None]:
        """Go from either end with as many candidates as it is the turn of, then with twice as many."""
        counts: tuple[int, ...] = ()
        for backward, search in enumerate(self._searches):
            index, value, bound, kept = search.run(self._width, self.value)
            counts = kept if not backward else tuple(map(max, counts, kept[::-1]))
            if self.value is None or self.value.larger(value) is not self.value:
                self._index, self.value = index[::-1] if backward else index, value
            # What is left out below a known entry has that one for a bound.
            bound = bound.larger(self.value)
            self._bound = bound if self._bound is None or bound.larger(self._bound) is self._bound else self._bound
            self._bound = self._bound.larger(self.value)
        if self.gap <= self._tol:
            return counts, SolverStatus.CONVERGED
        if self._width >= self._beam:
            return counts, SolverStatus.UNPROVED
        self._width = min(2 * self._width, self._beam)
        return counts, None

    def result(self, status: SolverStatus) -> Extremum:
        value = evaluate(self._train, torch.tensor([self._index], dtype=torch.int64).reshape(1, -1))[0]
        bound = math.inf if self._bound is None else self._bound.to_float()
        bound = max(
            bound, self._sign * float(value.detach())
        )  # which is rounded, where the train is of single precision
        history = tuple(self.history)
        return Extremum(value, status, self.gap, len(history), history, self._index, self._sign * bound, 0)


class _Functions:
    """The search among the values of a function."""

    def __init__(
        self,
        box: BlackBox,
        shape: tuple[int, ...],
        sign: int,
        tol: float,
        beam: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._box, self._shape, self._sign, self._tol, self._beam = box, shape, sign, tol, beam
        self._generator, self._device = generator, device
        self._search: PivotSearch | None = None
        self._patience = PATIENCE
        self._index: tuple[int, ...] = ()
        self.gap = math.inf
        self.value: Scaled | None = None
        self.history: list[SolverProgress] = []

    def begin(self) -> SolverStatus | None:
        count = math.prod(self._shape)
        try:
            if count <= WHOLE:
                indices = all_indices(self._shape)
                values = self._sign * self._real(self._box.entries(indices))
                at = int(values.argmax())
                self._index, self.value = tuple(indices[at].tolist()), Scaled(float(values[at]), 0)
                self.gap = 0.0
                return SolverStatus.CONVERGED
        except BudgetSpentError:
            pass
        self._real(self._box.entries(np.zeros((1, len(self._shape)), dtype=np.int64)))
        self._search = PivotSearch(self._box, self._shape, self._sign, self._beam, self._generator)
        self._take()
        return None

    def _real(self, values: Values) -> Values:
        if np.iscomplexobj(values):
            raise TTTypeError(
                f"f returned the dtype {values.dtype}, and complex numbers have no order; expected reals."
            )
        return values

    def _take(self) -> None:
        assert self._search is not None
        self._index, self.value = self._search.index, Scaled(self._sign * self._search.value, 0)

    def round(self) -> tuple[tuple[int, ...], SolverStatus | None]:
        assert self._search is not None
        before = self._search.value
        try:
            self._search.sweep()
        finally:
            self._take()
        self._patience = self._patience - 1 if self._search.value == before else PATIENCE
        counts = (1, *[self._beam] * (len(self._shape) - 1), 1)
        return counts, None if self._patience else SolverStatus.UNPROVED

    def result(self, status: SolverStatus) -> Extremum | None:
        if self.value is None:
            return None
        value = self._sign * self.value.to_float()
        bound = value if not self.gap else self._sign * math.inf
        history = tuple(self.history)
        found = torch.tensor(value, dtype=torch.float64, device=self._device)
        return Extremum(found, status, self.gap, len(history), history, self._index, bound, self._box.evaluations)
