"""Cross approximation: a train from a function of indices, by looking at a small part of its values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttnet.chain import check_shape, shorten
from ttnet.decomposition.black_box import BlackBox, BudgetSpentError, log_norm
from ttnet.decomposition.cross_result import CrossProgress, CrossResult, CrossStatus
from ttnet.decomposition.cross_sweep import Fibres, half_sweep, mirrored
from ttnet.decomposition.tt_svd import tt_svd
from ttnet.errors import TTConvergenceError, TTShapeError, TTTypeError, TTValueError
from ttnet.evaluation import scaled_entries
from ttnet.rounding import round
from ttnet.scales import max_exponent, times_power_of_two
from ttnet.sweeps import balance
from ttnet.tensor_train import TensorTrain
from ttnet.truncation import check_eps, check_max_rank

PATIENCE = 3  # how many half sweeps may pass without halving the error
NEW_PIVOTS = 2  # how many of the samples with the largest errors become pivots after each half sweep


def tt_cross(
    f: Callable[[Tensor], Any],
    shape: Sequence[int],
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
    needs; after each half sweep the train is compared with the function on fresh random samples, of which the worst
    become pivots. It has converged when these samples and the half sweep before agree with it to within `eps`. This is
    an estimate, not a guarantee: what no sample shows stays unseen (see `CrossResult.caveat`). A tensor of no more
    entries than `samples` is evaluated whole and decomposed by `tt_svd`. Source: Oseledets & Tyrtyshnikov 2010,
    "TT-cross approximation for multidimensional arrays"; Savostyanov & Oseledets 2011, "Fast adaptive interpolation of
    multi-dimensional arrays in tensor train format"; Goreinov et al. 2010, "How to find a good submatrix".

    Args:
        f: The function. It is given an int64 tensor of indices of shape (batch, d) and returns a tensor or numpy array
            of shape (batch,), floating, complex, integer or bool; the last two are taken as float64. Its errors
            propagate unchanged. No gradients flow through it.
        shape: The mode sizes, each at least 1.
        eps: The relative Frobenius error to aim at, at least 0. Half of it is left to the final rounding. A bound below
            the precision of the values, some `8 * sqrt(d)` machine epsilons, counts as that.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        seed: The seed of all random choices. The result depends on nothing else, and torch's global generator is left
            alone.
        max_sweeps: The largest number of sweeps, each there and back; at least 1.
        max_evaluations: The largest number of times that `f` is evaluated; None for no bound. At least `samples`.
        samples: How many fresh samples the train is compared with after each half sweep; at least 1.
        batch_size: The largest batch that `f` is given; at least 1.
        dtype: The dtype of the train; None for that of the values.
        device: The device on which the indices are given and the train is made; None for torch's default.
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
    """
    shape, bound, samples = _check_arguments(
        f, shape, eps, max_rank, seed, max_sweeps, max_evaluations, samples, batch_size, dtype
    )
    device = torch.get_default_device() if device is None else torch.device(device)
    box = BlackBox(
        f, shape, dtype=dtype, device=device, batch_size=batch_size, max_evaluations=max_evaluations, reserve=samples
    )
    if samples == math.prod(shape):
        return _whole(box, shape, bound, max_rank, device)
    search = _Search(box, shape, eps=bound, max_rank=max_rank, samples=samples, seed=int(seed), device=device)
    status = search.run(max_sweeps, callback)
    return CrossResult(
        value=search.value,
        status=status,
        evaluations=box.evaluations,
        sweeps=search.history[-1].sweep if search.history else 0,
        error_estimate=search.error,
        samples=samples,
        history=tuple(search.history),
    )


def apply(
    f: Callable[..., Any],
    *trains: TensorTrain,
    eps: float | None = 1e-6,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
    max_sweeps: int = 10,
    max_evaluations: int | None = None,
    samples: int = 1000,
    batch_size: int = 65536,
    dtype: torch.dtype | None = None,
) -> TensorTrain:
    """Apply a function to every entry of a train, or to corresponding entries of several, by cross approximation.

    No dense tensor is formed: `f` is given the trains' entries where `tt_cross` asks for them. The error is an
    estimate, as it is there. Sums and products need no approximation; `+` and `*` do them exactly.

    Args:
        f: The function. It is given one tensor of entries of shape (batch,) per train, each of its train's dtype, and
            returns a tensor or numpy array of that shape.
        *trains: At least one train, all of the same shape and on the same device.
        eps: The relative Frobenius error to aim at.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        seed: The seed of all random choices.
        max_sweeps: The largest number of sweeps.
        max_evaluations: The largest number of entries that `f` is evaluated at; None for no bound.
        samples: How many fresh samples the result is compared with after each half sweep.
        batch_size: The largest batch that `f` is given.
        dtype: The dtype of the result; None for that of the values.

    Returns:
        A train of the same shape, on the same device. No gradients flow to it.

    Raises:
        TTConvergenceError: If the error estimate does not come down to `eps`; its `result` is what there is.
        TTTypeError: If an argument, or what `f` returns, is of the wrong type.
        TTShapeError: If the trains' shapes differ, or what `f` returns has the wrong shape.
        TTValueError: If an argument is out of range, no train is given, the devices differ, or a value of `f` is NaN,
            infinite or beyond the dtype's range.

    Example:
        >>> import ttnet
        >>> grid = torch.linspace(0, 1, 10, dtype=torch.float64)
        >>> x = ttnet.round(sum(ttnet.meshgrid(*[grid] * 6)))  # of ranks 2
        >>> y = apply(torch.exp, x)
        >>> y.ranks
        (1, 1, 1, 1, 1, 1, 1)
        >>> bool((apply(torch.log, y) - x).norm() < 1e-5 * x.norm())
        True
    """
    for k, train in enumerate(trains):
        if not isinstance(train, TensorTrain):
            raise TTTypeError(f"trains[{k}] is a {type(train).__name__}; expected a TensorTrain.")
        if train.shape != trains[0].shape:
            raise TTShapeError(
                f"trains[{k}] has shape {shorten(train.shape)} but trains[0] has {shorten(trains[0].shape)}; expected "
                f"the same shape."
            )
        if train.device != trains[0].device:
            raise TTValueError(
                f"trains[{k}] is on {train.device} but trains[0] is on {trains[0].device}; move them to one device."
            )
    if not trains:
        raise TTValueError("trains is empty; expected at least one train.")
    if not callable(f):
        raise TTTypeError(f"f is a {type(f).__name__}; expected a function of tensors of shape (batch,).")
    trains = tuple(train.detach() for train in trains)
    result = tt_cross(
        lambda indices: f(*(scaled_entries(train, indices).to(train.dtype) for train in trains)),
        trains[0].shape,
        eps=eps,
        max_rank=max_rank,
        seed=seed,
        max_sweeps=max_sweeps,
        max_evaluations=max_evaluations,
        samples=samples,
        batch_size=batch_size,
        dtype=dtype,
        device=trains[0].device,
    )
    if not result.converged:
        raise TTConvergenceError(
            f"f of the trains is known to a relative error of about {result.error_estimate:.1e} only, where eps is "
            f"{eps}. {result.status.value} The train is the error's `result.value`.",
            result,
        )
    return result.value


def _check_arguments(
    f: object,
    shape: Sequence[int],
    eps: float | None,
    max_rank: int | Sequence[int] | None,
    seed: object,
    max_sweeps: int,
    max_evaluations: int | None,
    samples: int,
    batch_size: int,
    dtype: object,
) -> tuple[tuple[int, ...], float, int]:
    """Check what `tt_cross` is given; return the shape, the bound and how many samples there can be."""
    if not callable(f):
        raise TTTypeError(f"f is a {type(f).__name__}; expected a function of an int64 tensor of shape (batch, d).")
    shape = check_shape(shape, "shape")
    bound = check_eps(eps)
    check_max_rank(max_rank, max(0, len(shape) - 1))
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TTTypeError(f"seed is {seed!r}; expected an int.")
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
    return shape, bound, samples


def _whole(
    box: BlackBox, shape: tuple[int, ...], eps: float, max_rank: int | Sequence[int] | None, device: torch.device
) -> CrossResult:
    at = torch.arange(math.prod(shape), device=device)
    indices = torch.stack(torch.unravel_index(at, shape), dim=1) if shape else at.new_empty(1, 0)
    values = box.entries(indices)
    value = tt_svd(values.to(box.dtype).reshape(shape), eps=eps, max_rank=max_rank)
    error, _ = _compare(value, indices, values, -math.inf)
    reached = error <= max(eps, _noise(box, shape))
    return CrossResult(
        value=value,
        status=CrossStatus.CONVERGED if reached else CrossStatus.MAX_RANK,
        evaluations=box.evaluations,
        sweeps=0,
        error_estimate=error,
        samples=len(values),
        history=(),
    )


def _noise(box: BlackBox, shape: Sequence[int]) -> float:
    """The relative error below which there is nothing but rounding errors."""
    return 8 * math.sqrt(max(1, len(shape))) * box.precision


def _ratio(log_a: float, log_b: float) -> float:
    """Give a / b from the logarithms, with 0 / 0 = 0."""
    return 0.0 if log_a == -math.inf else math.exp(min(700.0, log_a - log_b))


def _compare(
    value: TensorTrain,
    indices: Tensor,  # (batch, d)
    values: Tensor,  # (batch,)
    log_least: float,
) -> tuple[float, Tensor]:
    """Give the error of a train at some entries of a tensor, and the size of each, up to a common factor.

    The error is relative to the norm of these entries, or to what the norm of as many average ones is known to be at
    least, where that is larger: a function with a narrow peak has nearly all of its norm where no sample falls.
    `log_least` is the logarithm of what the norm of the whole tensor is at least.
    """
    exponent = max_exponent(values)
    values = times_power_of_two(values, -exponent)
    differences = (scaled_entries(value, indices, -exponent) - values).abs()
    log_share = (math.log(len(values)) - sum(map(math.log, value.shape))) / 2
    log_scale = max(log_norm(values), log_least + log_share - exponent * math.log(2))
    return _ratio(log_norm(differences), log_scale), differences


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
        device: torch.device,
    ) -> None:
        self._box, self._shape = box, shape
        self._max_rank, self._max_ranks = max_rank, check_max_rank(max_rank, max(0, len(shape) - 1))
        self._samples = samples
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._device = device
        order = len(shape)
        self._indices = torch.empty(0, order, dtype=torch.int64, device=device)  # of all samples so far
        self._values = torch.empty(0, dtype=torch.float64, device=device)
        # What is fixed on the far side of each inner bond, in the order in which the next half sweep goes.
        self._tails = [torch.empty(0, order - k, dtype=torch.int64, device=device) for k in range(1, order)]
        self.history: list[CrossProgress] = []
        # The search begins at zero. The samples where this is most wrong, the largest ones, are the first pivots.
        zeros = [torch.zeros(1, size, 1, dtype=torch.float64, device=device) for size in shape]
        self.value = TensorTrain(zeros)
        self.error, _, self._pivots = self._look(self.value)
        self.value = self.value.to(box.dtype)
        self._eps = max(eps, _noise(box, shape))
        self._cut = self._eps / (8 * math.sqrt(order))

    def run(self, max_sweeps: int, callback: Callable[[CrossProgress], object] | None) -> CrossStatus:
        """Sweep until the train is good enough or there is no hope for it; `value` is the best one so far."""
        last: TensorTrain | None = None
        distances: list[float] = []
        for step in range(2 * max_sweeps):
            backward = step % 2 == 1
            try:
                raw = self._half_sweep(backward)
            except BudgetSpentError:
                return CrossStatus.MAX_EVALUATIONS
            value = TensorTrain(balance(round(raw, eps=self._eps / 2, max_rank=self._max_rank).cores, self._box.dtype))
            error, error_of_all, self._pivots = self._look(value)
            change = _ratio(float((raw - last).log_norm()), float(raw.log_norm())) if last is not None else math.inf
            distances.append(max(change, error, error_of_all))
            converged = distances[-1] <= self._eps
            if converged or error <= self.error:
                self.value, self.error = value, error
            bond = min(1, raw.ndim - 1) if backward else raw.ndim - 1
            self.history.append(
                CrossProgress(step // 2 + 1, bond, value.ranks, self._box.evaluations, change=change, error=error)
            )
            stopped = callback is not None and bool(callback(self.history[-1]))
            if converged:
                return CrossStatus.CONVERGED
            if stopped:
                return CrossStatus.STOPPED
            if _stalls(distances):
                full = any(rank == bound for rank, bound in zip(value.ranks[1:-1], self._max_ranks, strict=True))
                return CrossStatus.MAX_RANK if full else CrossStatus.STALLED
            if last is not None and sum(raw.ranks) <= sum(last.ranks):
                self._cut /= 4  # the superblocks are content, the samples are not: look more closely
            last = raw
        return CrossStatus.MAX_SWEEPS

    def _half_sweep(self, backward: bool) -> TensorTrain:
        """Go over all bonds once; the way back is the way there, in the mirror."""
        fibres: Fibres = self._box.block
        shape, max_ranks, pivots = self._shape, self._max_ranks, self._pivots
        if backward:
            fibres, shape, max_ranks = mirrored(fibres, len(shape)), shape[::-1], max_ranks[::-1]
            pivots = pivots.flip(1)
        tails = [torch.cat([tails, pivots[:, k:]]).unique(dim=0) for k, tails in enumerate(self._tails, start=1)]
        cores, heads = half_sweep(
            fibres,
            shape,
            [*tails, pivots[:1, :0]],
            cut=max(self._cut, 2 * self._box.precision),
            # Some more than are asked for: rounding makes far better ranks of these than the pivots alone would be.
            max_ranks=[None if bound is None else bound + 2 + bound // 4 for bound in max_ranks],
            generator=self._generator,
        )
        self._tails = [head.flip(1) for head in reversed(heads)]
        return TensorTrain([core.permute(2, 1, 0) for core in reversed(cores)] if backward else cores)

    def _look(self, value: TensorTrain) -> tuple[float, float, Tensor]:
        """Compare a train with fresh samples and with all of them; give both errors, and the samples that fit worst."""
        draws = [torch.randint(n, (self._samples,), generator=self._generator, device="cpu") for n in self._shape]
        fresh = torch.stack(draws, dim=1).to(self._device)
        values = self._box.entries(fresh)
        self._indices = torch.cat([self._indices, fresh])
        self._values = torch.cat([self._values, values])
        error, _ = _compare(value, fresh, values, self._box.log_norm)
        error_of_all, differences = _compare(value, self._indices, self._values, self._box.log_norm)
        worst = differences.topk(min(NEW_PIVOTS, len(differences))).indices
        return error, error_of_all, self._indices[worst]


def _stalls(distances: Sequence[float]) -> bool:
    """Whether they have not halved for some half sweeps."""
    return len(distances) > PATIENCE and min(distances[-PATIENCE:]) > min(distances[:-PATIENCE]) / 2
