"""Cross approximation: a train from a function of indices, by looking at a small part of its values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.decomposition.black_box import BlackBox, BudgetSpentError, Indices, Values, all_indices, log_norm
from ttnet.decomposition.cross_result import CrossProgress, CrossResult, CrossStatus
from ttnet.decomposition.cross_sweep import Fibres, half_sweep, mirrored
from ttnet.decomposition.grids import as_grids, at_points
from ttnet.decomposition.interpolant import Interpolant
from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.scales import max_exponent, times_power_of_two
from ttnet.numerics.truncation import check_eps, check_max_rank
from ttnet.trains.chain import check_shape
from ttnet.trains.evaluation import scaled_entries, scaled_slices
from ttnet.trains.reshaping import reshape
from ttnet.trains.tensor_train import TensorTrain

PATIENCE = 3  # how many half sweeps may pass before the error must be lower by a quarter
KEPT = 4  # one in so many samples is looked at again
NEW_PIVOTS = 2  # how many samples become pivots after each half sweep, at least


def tt_cross(
    f: Callable[[Tensor], Any],
    shape: Sequence[int] | Sequence[Tensor | npt.NDArray[Any]],
    *,
    eps: float | None = 1e-6,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
    max_sweeps: int = 10,
    max_evaluations: int | None = None,
    samples: int = 1000,
    batch_size: int = 65536,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callable[[CrossProgress], object] | None = None,
) -> CrossResult:
    """Approximate a function of indices by a train, from some d n r**2 of its n**d values a half sweep.

    Sweeps over the bonds choose pivots by maximal volume in superblocks of two modes, and find the ranks that `eps`
    needs. After each half sweep the train is compared with the function on fresh random samples, and the samples that
    fit worst become pivots. The search has converged when these samples and the half sweep before agree with the train
    to within `eps`. This is an estimate, not a guarantee: what no sample shows stays unseen (see `CrossResult.caveat`).
    A tensor of no more entries than `samples` is evaluated whole and decomposed by truncated SVDs. Source: Oseledets &
    Tyrtyshnikov 2010, "TT-cross approximation for multidimensional arrays"; Savostyanov & Oseledets 2011, "Fast
    adaptive interpolation of multi-dimensional arrays in tensor train format"; Goreinov et al. 2010, "How to find a
    good submatrix".

    Args:
        f: The function. It is given an int64 tensor of indices of shape (batch, d), or points where there are grids,
            and returns a tensor or numpy array of shape (batch,), floating, complex, integer or bool; the last two are
            taken as float64. Its errors propagate unchanged. No gradients flow through it.
        shape: The mode sizes, each at least 1; or a grid of points for each mode, a floating vector of them, whose
            points `f` is given in the place of indices, as a tensor of shape (batch, d).
        eps: The relative Frobenius error to aim at, at least 0; up to half of it goes to rounding. A bound below the
            precision of the values, some `8 * sqrt(d)` machine epsilons, counts as that.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        seed: The seed of all random choices. The result depends on nothing else, and torch's global generator is left
            alone.
        max_sweeps: The largest number of sweeps, each there and back; at least 1.
        max_evaluations: The largest number of times that `f` is evaluated; None for no bound. At least `samples`.
        samples: How many fresh samples the train is compared with after each half sweep; at least 1.
        batch_size: The largest batch that `f` is given; at least 1.
        dtype: The dtype of the train; None for that of the values.
        device: The device on which `f` is given its indices and the train is put; None for torch's default. The search
            itself is on the CPU.
        callback: Called with a `CrossProgress` after each half sweep; if it returns True, the search stops.

    Returns:
        The result: its `value` is the train of the smallest error estimate so far, its `status` says whether that
        reached `eps` and what to do if not.

    Raises:
        TTTypeError: If an argument, or what `f` returns, is of the wrong type.
        TTShapeError: If a mode is empty, `max_rank` has the wrong number of entries, or what `f` returns the wrong
            shape.
        TTValueError: If an argument is out of range, or a value of `f` is NaN, infinite or beyond the dtype's range.

    Example:
        >>> grid = torch.linspace(0, 1, 32, dtype=torch.float64)
        >>> result = tt_cross(lambda i: grid[i].sum(1).sin(), (32,) * 20, eps=1e-8)
        >>> result.converged, set(result.value.ranks), result.evaluations < 1e-20 * 32**20
        (True, {1, 2}, True)
        >>> tt_cross(lambda x: x.sum(1).sin(), [grid] * 20, eps=1e-8).converged  # the same, by the grids' points
        True
    """
    if (grids := as_grids(shape)) is not None:
        f, shape = at_points(f, grids), [len(grid) for grid in grids]
    if callback is not None and not callable(callback):
        raise TTTypeError(f"callback is a {type(callback).__name__}; expected a function of a CrossProgress, or None.")
    shape, bound, samples, device = _check_arguments(
        f, shape, eps, max_rank, seed, max_sweeps, max_evaluations, samples, batch_size, dtype, device
    )
    box = BlackBox(
        f, shape, dtype=dtype, device=device, batch_size=batch_size, max_evaluations=max_evaluations, reserve=samples
    )
    if samples == math.prod(shape):
        return _whole(box, shape, bound, max_rank, device)
    search = _Search(box, shape, eps=bound, max_rank=max_rank, samples=samples, seed=int(seed))
    status = search.run(max_sweeps, callback)
    value, error = search.best()
    return CrossResult(
        value=TensorTrain([core.to(device) for core in value.cores]),
        status=status,
        evaluations=box.evaluations,
        sweeps=search.history[-1].sweep if search.history else 0,
        error_estimate=error,
        samples=samples,
        history=tuple(search.history),
    )


def _check_arguments(
    f: object,
    shape: Any,
    eps: float | None,
    max_rank: int | Sequence[int] | None,
    seed: object,
    max_sweeps: int,
    max_evaluations: int | None,
    samples: int,
    batch_size: int,
    dtype: object,
    device: torch.device | str | None,
) -> tuple[tuple[int, ...], float, int, torch.device]:
    """Check what `tt_cross` is given; return the shape, the bound, how many samples there can be, and the device."""
    if not callable(f):
        raise TTTypeError(f"f is a {type(f).__name__}; expected a function of an int64 tensor of shape (batch, d).")
    shape = check_shape(shape, "shape")
    bound = check_eps(eps)
    check_max_rank(max_rank, max(0, len(shape) - 1))
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TTTypeError(f"seed is {seed!r}; expected an int.")
    if not 0 <= int(seed) < 2**63:
        raise TTValueError(f"seed is {seed}; expected an int from 0 to 2**63 - 1.")
    counts = {"max_sweeps": max_sweeps, "samples": samples, "batch_size": batch_size}
    for name, count in (counts if max_evaluations is None else counts | {"max_evaluations": max_evaluations}).items():
        if isinstance(count, bool) or not isinstance(count, numbers.Integral):
            raise TTTypeError(f"{name} is {count!r}; expected an int >= 1.")
        if count < 1:
            raise TTValueError(f"{name} is {count}; expected an int >= 1.")
    samples = min(int(samples), math.prod(shape))
    if max_evaluations is not None and max_evaluations < samples:
        raise TTValueError(
            f"max_evaluations is {max_evaluations}, less than the {samples} samples of a single comparison; raise it, "
            f"or lower samples."
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)):
        raise TTTypeError(f"dtype is {dtype}; expected a floating or complex torch.dtype, or None for that of f.")
    try:
        return shape, bound, samples, torch.get_default_device() if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise TTValueError(f"device is {device!r}; expected a torch.device or its name, such as 'cpu'.") from error


def _whole(
    box: BlackBox, shape: tuple[int, ...], eps: float, max_rank: int | Sequence[int] | None, device: torch.device
) -> CrossResult:
    """Evaluate all entries and decompose them by truncated SVDs."""
    indices = all_indices(shape)
    values = box.entries(indices)
    vector = TensorTrain([torch.from_numpy(values).to(box.dtype).reshape(1, -1, 1)])
    value = reshape(vector, shape, eps=eps, max_rank=max_rank)
    slices, exponent = scaled_slices(value), int(max_exponent(torch.from_numpy(values)))
    errors = scaled_entries(slices, torch.from_numpy(indices), -exponent).numpy() - _scaled(values, -exponent)
    error = _ratio(log_norm(errors), log_norm(_scaled(values, -exponent)))
    return CrossResult(
        value=TensorTrain([core.to(device) for core in value.cores]),
        status=CrossStatus.CONVERGED if error <= max(eps, _noise(box, shape)) else CrossStatus.MAX_RANK,
        evaluations=box.evaluations,
        sweeps=0,
        error_estimate=error,
        samples=len(values),
        history=(),
    )


def _noise(box: BlackBox, shape: Sequence[int]) -> float:
    """The relative error below which there is nothing but rounding errors."""
    return 8 * math.sqrt(max(1, len(shape))) * box.precision


def _scaled(
    values: Values,  # (batch,)
    exponent: int,
) -> Values:
    """Multiply by 2**exponent."""
    scaled: Values = times_power_of_two(torch.from_numpy(values), exponent).numpy()
    return scaled


def _ratio(log_a: float, log_b: float) -> float:
    """Give a / b from the logarithms, with 0 / 0 = 0."""
    return 0.0 if log_a == -math.inf else math.exp(min(700.0, log_a - log_b))


class _Found(NamedTuple):
    """What a half sweep has found."""

    train: Interpolant
    is_rounded: bool  # to eps and to the largest ranks, in the dtype of the result
    error: float  # on the fresh samples
    indices: Indices  # of these, (samples, d)
    values: Values  # (samples,)


class _Search:
    """The state of one cross approximation: where its pivots are, and what the samples have shown so far."""

    def __init__(
        self,
        box: BlackBox,
        shape: tuple[int, ...],
        *,
        eps: float,
        max_rank: int | Sequence[int] | None,
        samples: int,
        seed: int,
    ) -> None:
        self._box, self._shape = box, shape
        self._max_ranks = check_max_rank(max_rank, max(0, len(shape) - 1))
        self._samples = samples
        self._generator = np.random.default_rng(seed)
        order = len(shape)
        # What is fixed on the far side of each inner bond, in the order in which the next half sweep goes.
        self._tails = [np.empty((0, order - k), dtype=np.int64) for k in range(1, order)]
        self.history: list[CrossProgress] = []
        self._best: _Found | None = None
        # The search begins at zero. The samples where this is most wrong, the largest ones, are the first pivots.
        self._indices = self._draw()
        # Two of them are corners of the grid, where functions have their extremes more often than elsewhere.
        self._indices[:1], self._indices[1:2] = 0, np.array(shape) - 1
        self._values = self._seen = box.entries(self._indices)
        self._choose(_scaled(self._seen, -int(max_exponent(torch.from_numpy(self._seen)))), NEW_PIVOTS)
        self._noise = _noise(box, shape)
        self._eps = max(eps, self._noise)
        self._tolerance = self._eps / 2  # what rounding may take; the superblocks get their share of as much

    def run(self, max_sweeps: int, callback: Callable[[CrossProgress], object] | None) -> CrossStatus:
        """Sweep until the train is good enough or there is no hope for it."""
        last: Interpolant | None = None
        distances: list[float] = []
        for step in range(2 * max_sweeps):
            backward = step % 2 == 1
            try:
                raw = self._half_sweep(backward)
            except BudgetSpentError:
                return CrossStatus.MAX_EVALUATIONS
            found, error_of_all = self._look(raw)
            change = raw.change_from(last) if last is not None else math.inf
            # Rounding to eps decides nothing unless the search may end. That to `max_rank` does.
            if any(self._max_ranks) or max(change, error_of_all) <= self._eps:
                found = self._rounded(found)
            distances.append(max(change, found.error, error_of_all))
            converged = distances[-1] <= self._eps
            if converged or self._best is None or found.error <= self._best.error:
                self._best = found
            order, ranks = len(self._shape), found.train.ranks
            bond = min(1, order - 1) if backward else order - 1
            self.history.append(
                CrossProgress(step // 2 + 1, bond, ranks, self._box.evaluations, change=change, error=found.error)
            )
            stopped = callback is not None and bool(callback(self.history[-1]))
            if converged:
                return CrossStatus.CONVERGED
            if stopped:
                return CrossStatus.STOPPED
            if _stalls(distances):
                full = any(rank == bound for rank, bound in zip(ranks[1:-1], self._max_ranks, strict=True))
                return CrossStatus.MAX_RANK if full else CrossStatus.STALLED
            if last is not None and sum(raw.ranks) <= sum(last.ranks):
                self._tolerance /= 4  # the superblocks are content, the samples are not: look more closely
            last = raw
        return CrossStatus.MAX_SWEEPS

    def best(self) -> tuple[TensorTrain, float]:
        """Give the best train so far, zero if there is none that is better, and its error on fresh samples."""
        error_of_zero = 1.0 if self._seen.any() else 0.0
        if self._best is not None and self._best.error <= error_of_zero:
            found = self._best if self._best.is_rounded else self._rounded(self._best)
            return found.train.train(), found.error
        zeros = [torch.zeros(1, size, 1, dtype=self._box.dtype, device="cpu") for size in self._shape]
        return TensorTrain(zeros), error_of_zero

    def _half_sweep(self, backward: bool) -> Interpolant:
        """Go over all bonds once; the way back is the way there, in the mirror."""
        fibres: Fibres = self._box.block
        shape, max_ranks, pivots = self._shape, self._max_ranks, self._pivots
        if backward:
            fibres, shape, max_ranks = mirrored(fibres, len(shape)), shape[::-1], max_ranks[::-1]
            pivots = pivots[:, ::-1]
        pairs = enumerate(self._tails, start=1)
        tails = [_distinct([*tails.tolist(), *pivots[:, k:].tolist()]) for k, tails in pairs]
        cores, heads = half_sweep(
            fibres,
            shape,
            [*tails, pivots[:1, :0]],
            cut=max(self._tolerance / (4 * math.sqrt(len(shape))), 2 * self._box.precision),
            # Some more than are asked for: rounding makes far better ranks of these than the pivots alone would be.
            max_ranks=[None if bound is None else bound + 2 + bound // 4 for bound in max_ranks],
            generator=self._generator,
        )
        self._tails = [head[:, ::-1] for head in reversed(heads)]
        if backward:
            return Interpolant.of([core.permute(2, 1, 0) for core in reversed(cores)], valued=0)
        return Interpolant.of(cores, valued=-1)

    def _draw(self) -> Indices:
        """Draw fresh samples."""
        return np.stack([self._generator.integers(0, n, self._samples) for n in self._shape], axis=1)

    def _look(self, raw: Interpolant) -> tuple[_Found, float]:
        """Compare a train before rounding with fresh samples, and with those of before that fitted worst.

        Gives the error on the fresh ones, and that on all: those not looked at again are taken to fit as these do.
        """
        indices = self._draw()
        values = self._box.entries(indices)
        self._indices = np.concatenate([self._indices, indices])
        self._values = np.concatenate([self._values, values])
        self._seen = np.concatenate([self._seen, values])
        errors, exponent = self._errors(raw, self._indices, self._values)
        fresh, kept = errors[-self._samples :], errors[: -self._samples]
        error = self._relative_error(fresh, values, exponent)
        others = math.sqrt((len(self._seen) - len(kept)) / len(fresh))
        error_of_all = self._relative_error(np.concatenate([kept, others * fresh]), self._seen, exponent)
        # The more is wrong, the more pivots are missing.
        self._choose(errors, NEW_PIVOTS + int(6 * min(1.0, error_of_all)))
        return _Found(raw, False, error, indices, values), error_of_all

    def _choose(
        self,
        errors: Values,  # of the samples
        count: int,
    ) -> None:
        """Make pivots of the samples that fit worst, and keep those and some more to be looked at again."""
        size = min(len(errors), max(count, self._samples // KEPT))
        worst = torch.from_numpy(np.abs(errors)).topk(size).indices.numpy()
        self._indices, self._values = self._indices[worst], self._values[worst]
        self._pivots = self._indices[:count]

    def _rounded(self, found: _Found) -> _Found:
        """Round what a half sweep has found, in the dtype of the result, and compare it with the same samples."""
        eps, dtype = max(self._tolerance, self._noise / 2), self._box.dtype
        train = found.train.rounded(eps=eps, max_ranks=self._max_ranks, dtype=dtype)
        errors, exponent = self._errors(train, found.indices, found.values)
        error = self._relative_error(errors, found.values, exponent)
        return found._replace(train=train, is_rounded=True, error=error)

    def _errors(
        self,
        train: Interpolant,
        indices: Indices,  # (batch, d)
        values: Values,  # (batch,)
    ) -> tuple[Values, int]:
        """Give its errors at some entries times a power of two which makes all samples near one, and the exponent."""
        exponent = -int(max_exponent(torch.from_numpy(self._seen)))
        return train.entries(indices, exponent) - _scaled(values, exponent), exponent

    def _relative_error(
        self,
        errors: Values,  # of any of the samples, times 2**exponent
        values: Values,  # of all of them
        exponent: int,
    ) -> float:
        """Give the norm of errors relative to that of the values.

        Or to what the norm of so many is known to be at least on average: a function with a narrow peak has nearly all
        of its norm where no sample falls, but the pivots have found it.
        """
        log_least = self._box.log_norm + (math.log(len(values)) - sum(map(math.log, self._shape))) / 2
        log_of_values = log_norm(_scaled(values, exponent))
        return _ratio(log_norm(errors), max(log_of_values, log_least + exponent * math.log(2)))


def _distinct(rows: list[list[int]]) -> Indices:
    """Give each row once, as it comes: sooner done with tuples than in numpy, since there are few."""
    return np.array(list(dict.fromkeys(map(tuple, rows))), dtype=np.int64)


def _stalls(distances: Sequence[float]) -> bool:
    """Whether they have not fallen by a quarter for some half sweeps."""
    return len(distances) > PATIENCE and min(distances[-PATIENCE:]) > 0.75 * min(distances[:-PATIENCE])
