"""Tensors completed from some of their entries."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import split_scale
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import check_method
from ttnet.solvers.adaptation import Adaptation
from ttnet.solvers.arguments import check_bounds, check_callback, check_count, check_seed, check_tol, check_train
from ttnet.solvers.entries import IndexSamples
from ttnet.solvers.gauss_newton import conjugate_gradients
from ttnet.solvers.means import begin_with_means
from ttnet.solvers.products import product_without_means
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.solvers.sampled import Measurements, least_squares
from ttnet.trains.chain import check_shape, shorten
from ttnet.trains.construct import zeros
from ttnet.trains.evaluation import check_indices
from ttnet.trains.tensor_train import TensorTrain

SMALL_RANK = 4  # up to where alternating least squares cost less than steps of Gauss and Newton
METHODS = {"als": least_squares, "rcg": conjugate_gradients}


def complete(
    indices: Tensor | npt.NDArray[Any],  # (samples, d)
    values: Tensor | npt.NDArray[Any],  # (samples,)
    shape: Sequence[int],
    tol: float = 1e-6,
    *,
    method: str = "rcg",
    held_out: float = 0.1,
    max_sweeps: int = 500,
    max_rank: int | Sequence[int] | None = None,
    x0: TensorTrain | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> SolverResult[TensorTrain]:
    """Find a train of small ranks that has given entries, and with them all the others.

    Some samples are held out. A train of rank 1 is fitted to the rest; its ranks then grow, together and one by one, as
    long as that brings it closer to those that it has not seen. Where a sum of one vector for each mode, which means
    over slices tell, comes about as close as a product of them, the search goes on from this sum, of rank 2. Where such
    means are as good as zero, it begins with the product that the samples' logarithms and signs tell, if they tell one.
    Sums of several products of zero means may stay hidden, mostly in many modes: then the result says `DATA_SPENT`.
    Before it says so of an error above 100 times `tol`, other searches begin from random numbers, five at most and none
    after two that come to about the same error, as they do where samples are noisy; the best counts. Source:
    Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion"; Grasedyck, Kluge, Krämer 2015,
    "Variants of alternating least squares tensor completion in the tensor train format".

    Args:
        indices: Where the samples are, ints of shape (samples, d), each from 0 to the size of its mode less 1. Entries
            should be chosen at random; every index of every mode needs some, and all together several times as many as
            the train has parameters.
        values: The numbers there, of shape (samples,). Entries given more than once count as their mean.
        shape: The mode sizes, at least one.
        tol: The error on the held-out samples to reach, relative to their norm; at least 4 machine epsilons.
        method: "rcg" for steps of Gauss and Newton on the manifold, each by conjugate gradients whose steps cost
            O(samples * d * r**2); "als" for alternating least squares, in O(samples * d * r**4), which is quicker at
            small ranks and needs more sweeps towards small errors.
        held_out: The share of samples that are held out, above 0 and below 1.
        max_sweeps: The largest number of half sweeps, or of steps by up to five of conjugate gradients, at least 1.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        x0: Where to begin; None for what is told above.
        seed: The seed of the choice of held-out samples and of new directions.
        callback: Called with a `SolverProgress` after each sweep; if it returns True, the search stops.

    Returns:
        The result: its `value` is the train, of the dtype of `values`, that does best on the held-out samples, and
        `residual` its relative error there, computed from it. That is an estimate of its error elsewhere. An exception
        on the way carries the best train so far in its attribute `result`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If `indices`, `values`, `shape`, `max_rank` or `x0` do not fit each other.
        TTIndexError: If an index is out of range.
        TTValueError: If an argument is out of range, values are NaN or infinite, there are fewer than two different
            samples, or a slice has none to be fitted to.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((10, 10, 10, 10), 2, dtype=torch.float64, seed=0)
        >>> indices = torch.randint(10, (3000, 4), generator=torch.Generator().manual_seed(0))
        >>> result = complete(indices, ttnet.evaluate(x, indices), x.shape, tol=1e-8)
        >>> result.converged, result.residual <= 1e-8
        (True, True)
        >>> bool((result.value - x).norm() < 1e-6 * x.norm())
        True
    """
    shape = check_shape(shape, "shape")
    if not shape:
        raise TTShapeError("shape is (); expected at least one mode.")
    numbers_there = as_dense(values, "values").detach()
    device, dtype = numbers_there.device, numbers_there.dtype
    where = check_indices(indices, zeros(shape, device=device))
    if numbers_there.shape != where.shape[:1]:
        raise TTShapeError(
            f"values has shape {tuple(numbers_there.shape)}; expected ({len(where)},), one for each row of indices."
        )
    if not torch.isfinite(numbers_there).all():
        raise TTValueError("values has entries that are NaN or infinite; leave these samples out.")
    bound = check_tol(tol, dtype)
    check_method(method, tuple(METHODS))
    share = check_share(held_out)
    sweeps = check_count(max_sweeps, "max_sweeps")
    bounds = check_bounds(max_rank, len(shape))
    generator = check_seed(seed)
    check_callback(callback)
    where, numbers_there = _without_repeats(where, numbers_there, shape)
    train, held = (part.to(device) for part in split(len(where), share, generator))
    _check_slices(where.index_select(0, train), shape)
    if not numbers_there.any():
        return SolverResult(zeros(shape, dtype=dtype, device=device), SolverStatus.CONVERGED, 0.0, 0, ())
    scaled, exponent = split_scale(numbers_there)
    fitted, others = ((where.index_select(0, part), scaled.index_select(0, part)) for part in (train, held))
    begin = wider = None
    if x0 is None:
        begin = product_without_means(*fitted, shape)
        if begin is None and all(most is None or most > 1 for most in bounds):
            begin, wider = begin_with_means(*fitted, *others, shape, bound) or (None, None)
    search = Adaptation(
        IndexSamples(fitted[0], shape),
        fitted[1],
        IndexSamples(others[0], shape),
        others[1],
        begin or start(shape, scaled, x0, -int(exponent), generator),
        bounds,
        bound,
        sweeps,
        generator,
        callback,
        METHODS[method],
        _cheaper,
        wider,
    )

    def result(status: SolverStatus) -> SolverResult[TensorTrain]:
        value = TensorTrain(join_scale(search.cores, exponent, dtype))
        error = search.error
        if dtype != scaled.dtype:  # single precision leaves more
            error = search.held_error([core.to(scaled.dtype) for core in join_scale(search.cores, 0, dtype)])
        if status is SolverStatus.CONVERGED and error > bound:
            status = SolverStatus.DATA_SPENT
        return SolverResult(value, status, error, len(search.history), tuple(search.history))

    with torch.no_grad(), handing_back(lambda: result(SolverStatus.INTERRUPTED) if search.history else None):
        return result(search.run())


def check_share(held_out: object) -> float:
    """Give the share of samples that are held out.

    Args:
        held_out: A number above 0 and below 1.

    Returns:
        The share.

    Raises:
        TTTypeError: If it is not a real number.
        TTValueError: If it is out of range.

    Example:
        >>> check_share(0.1)
        0.1
    """
    if isinstance(held_out, bool) or not isinstance(held_out, numbers.Real):
        raise TTTypeError(f"held_out is a {type(held_out).__name__}; expected a number above 0 and below 1.")
    share = float(held_out)
    if not 0 < share < 1:
        raise TTValueError(f"held_out is {held_out}; expected a share of the samples, above 0 and below 1.")
    return share


def split(count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose which samples are fitted and which held out, at least one of each.

    Args:
        count: How many samples there are.
        share: The share to hold out.
        generator: Draws them.

    Returns:
        The numbers of those that are fitted, and of the others.

    Raises:
        TTValueError: If there are fewer than two.

    Example:
        >>> [len(part) for part in split(10, 0.2, torch.Generator())]
        [8, 2]
    """
    if count < 2:
        raise TTValueError(f"there are {count} different samples; expected at least 2, one to fit and one to hold out.")
    held = min(count - 1, max(1, round(share * count)))
    shuffled = torch.randperm(count, generator=generator)
    return shuffled[held:], shuffled[:held]


def start(
    shape: Sequence[int], like: Tensor, x0: TensorTrain | None, exponent: int, generator: torch.Generator
) -> list[Tensor]:
    """Give the cores to begin with.

    Args:
        shape: The mode sizes.
        like: A tensor of the dtype and device.
        x0: The user's train, or None for one of rank 1 near a constant.
        exponent: The user's train is multiplied by 2 to this power.
        generator: Draws what is not constant.

    Returns:
        The cores.

    Raises:
        TTTypeError: If `x0` is something else.
        TTShapeError: If `x0` is of another shape.
        TTValueError: If `x0` has NaN or infinite entries.

    Example:
        >>> [core.shape for core in start((2, 3), torch.ones(1), None, 0, torch.Generator())]
        [torch.Size([1, 2, 1]), torch.Size([1, 3, 1])]
    """
    dtype = torch.complex128 if like.is_complex() else torch.float64
    if x0 is None:
        noise = (torch.randn(1, size, 1, dtype=dtype, generator=generator) for size in shape)
        return [(1 + each / 10).to(like.device) for each in noise]
    check_train(x0, "x0")
    if x0.shape != tuple(shape):
        raise TTShapeError(f"x0 has shape {shorten(x0.shape)}; expected {shorten(shape)}.")
    moved = x0.detach().to(device=like.device, dtype=dtype).round()
    return join_scale(moved.cores, exponent, dtype)


def _cheaper(samples: Measurements, values: Tensor, cores: list[Tensor]) -> Iterator[tuple[list[Tensor], float]]:
    """Fit cores in the way that costs less at their ranks; see `Level`. The other one may not be led astray, too."""
    is_small = max(core.shape[2] for core in cores) <= SMALL_RANK
    return (least_squares if is_small else conjugate_gradients)(samples, values, cores)


def _without_repeats(indices: Tensor, values: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Give different entries, and the means of what they are said to be, in double precision."""
    wide = values.to(torch.complex128 if values.is_complex() else torch.float64)
    key, most = indices.new_zeros(len(indices)), 1  # one number for each entry, which sorts faster than a row
    for column, size in zip(indices.T, shape, strict=True):
        if most * size > 2**62:
            key, most = _distinct(key)[0], len(indices)
        key, most = key * size + column, most * size
    places, counts = _distinct(key)
    unique = indices.new_empty(len(counts), len(shape)).index_copy_(0, places, indices)
    return unique, wide.new_zeros(len(unique)).index_add_(0, places, wide / counts.index_select(0, places))


def _distinct(key: Tensor) -> tuple[Tensor, Tensor]:
    """Number different keys in their order; give the number of each key, and how many have it."""
    if not key.is_cpu:
        return key.unique(return_inverse=True, return_counts=True)[1:]
    _, places, counts = np.unique(key.numpy(), return_inverse=True, return_counts=True)  # a third of torch's time
    return torch.from_numpy(places), torch.from_numpy(counts)


def _check_slices(indices: Tensor, shape: Sequence[int]) -> None:
    for mode, (column, size) in enumerate(zip(indices.T, shape, strict=True)):
        counts = column.bincount(minlength=size)
        if not counts.all():
            missing = int((counts == 0).nonzero()[0])
            raise TTValueError(
                f"of the samples that are not held out, none has index {missing} of mode {mode}, so nothing is known "
                "of that slice; expected some: add samples there, or leave the index out of the tensor."
            )
