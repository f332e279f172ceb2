"""Tensors completed from some of their entries."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from ttnet.solvers.products import product_without_means
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.solvers.sampled import Measurements, conjugate_gradients, least_squares, solve_normal
from ttnet.trains.chain import check_shape, shorten
from ttnet.trains.construct import zeros
from ttnet.trains.evaluation import check_indices
from ttnet.trains.tensor_train import TensorTrain

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
    long as that brings it closer to those that it has not seen. It begins near a constant, or, where means over slices
    are as good as zero, with the product that the samples' logarithms and signs tell, if they tell one. Sums of several
    products of zero means may stay hidden, mostly in many modes: then the result says `DATA_SPENT`. Source:
    Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion"; Grasedyck, Kluge, Krämer 2015,
    "Variants of alternating least squares tensor completion in the tensor train format".

    Args:
        indices: Where the samples are, ints of shape (samples, d), each from 0 to the size of its mode less 1. Entries
            should be chosen at random; every index of every mode needs some, and all together several times as many as
            the train has parameters.
        values: The numbers there, of shape (samples,). Entries given more than once count as their mean.
        shape: The mode sizes, at least one.
        tol: The error on the held-out samples to reach, relative to their norm; at least 4 machine epsilons.
        method: "rcg" for Riemannian conjugate gradients, whose steps cost O(samples * d * r**2); "als" for alternating
            least squares, in O(samples * d * r**4), which needs fewer sweeps at small ranks and more towards small
            errors.
        held_out: The share of samples that are held out, above 0 and below 1.
        max_sweeps: The largest number of half sweeps, or of rounds of five steps of conjugate gradients, at least 1.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        x0: Where to begin; None for a train of rank 1, as told above.
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
    _check_slices(where[train], shape)
    if not numbers_there.any():
        return SolverResult(zeros(shape, dtype=dtype, device=device), SolverStatus.CONVERGED, 0.0, 0, ())
    scaled, exponent = split_scale(numbers_there)
    product = product_without_means(where[train], scaled[train], shape) if x0 is None else None
    search = Adaptation(
        IndexSamples(where[train], shape),
        scaled[train],
        IndexSamples(where[held], shape),
        scaled[held],
        product or start(shape, scaled, x0, -int(exponent), generator),
        bounds,
        bound,
        sweeps,
        generator,
        callback,
        METHODS[method],
    )

    def result(status: SolverStatus) -> SolverResult[TensorTrain]:
        value = TensorTrain(join_scale(search.cores, exponent, dtype))
        near_one = TensorTrain(join_scale(search.cores, 0, scaled.dtype)).to(dtype).to(scaled.dtype)
        size = float(torch.linalg.vector_norm(search.held_values))
        error = float(torch.linalg.vector_norm(search.held.values(near_one.cores) - search.held_values)) / (size or 1.0)
        if status is SolverStatus.CONVERGED and error > bound:
            status = SolverStatus.DATA_SPENT
        return SolverResult(value, status, error, len(search.history), tuple(search.history))

    with torch.no_grad(), handing_back(lambda: result(SolverStatus.INTERRUPTED) if search.history else None):
        return result(search.run())


class IndexSamples(Measurements):
    """Entries of a tensor.

    Args:
        indices: Where they are, (samples, d).
        sizes: The mode sizes.

    Example:
        >>> samples = IndexSamples(torch.tensor([[0, 2], [1, 0]]), (2, 3))
        >>> samples.contract(0, torch.tensor([[[3.0], [4.0]]]), torch.ones(2, 1))
        tensor([[3.],
                [4.]])
    """

    def __init__(self, indices: Tensor, sizes: Sequence[int]) -> None:
        self._indices, self.sizes, self.count = indices, tuple(sizes), len(indices)
        self._mirrored: IndexSamples | None = None
        self._sorted = [_Sorted(column, size) for column, size in zip(indices.T, sizes, strict=True)]

    def contract(self, mode: int, core: Tensor, left: Tensor) -> Tensor:
        """Carry vectors from the left of a core to its right, (samples, r')."""
        there, slices = self._sorted[mode], core.transpose(0, 1)
        return there.back([there.take(block, left) @ slices[block.slices] for block in there.blocks], core.shape[2:])

    def correct(self, mode: int, left: Tensor, right: Tensor, missed: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Give what to add to a core, (r, n, r'), for the samples to miss least, and what they see of it."""
        there, shape = self._sorted[mode], (self.sizes[mode], left.shape[1], right.shape[1])
        step, seen = left.new_zeros(shape), []
        for block in there.blocks:
            # Products of vectors as short as ranks are quick where the samples come last.
            before, after = (there.take(block, each).permute(2, 0, 1).contiguous() for each in (left, right))
            products = ((before * block.there)[:, None] * after).flatten(0, 1)  # (r r', slices, samples of each)
            rows = products.permute(1, 2, 0)
            found = solve_normal(rows, there.take(block, missed[:, None]), ridge)
            step[block.slices] = found.reshape(-1, *shape[1:])
            seen.append(rows @ found)
        return step.transpose(0, 1), there.back(seen, (1,))[:, 0]

    def scatter(self, mode: int, left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
        """Sum the derivatives of the samples by a core, each times a weight, (r, n, r')."""
        there, weighted = self._sorted[mode], left.conj() * weights[:, None]
        total = left.new_zeros(self.sizes[mode], left.shape[1], right.shape[1])
        for block in there.blocks:
            before, after = there.take(block, weighted) * block.there[..., None], there.take(block, right)
            total[block.slices] = before.mT @ after.conj()
        return total.transpose(0, 1)

    def take(self, which: Tensor) -> IndexSamples:
        """Give some of the samples, by their numbers."""
        return IndexSamples(self._indices[which], self.sizes)

    def mirrored(self) -> IndexSamples:
        """Give the samples with the order of modes turned round."""
        if self._mirrored is None:
            self._mirrored = copy.copy(self)
            self._mirrored._indices, self._mirrored.sizes = self._indices.flip(1), self.sizes[::-1]
            self._mirrored._sorted = self._sorted[::-1]
        return self._mirrored


class _Block(NamedTuple):
    """Slices with about as many samples each, the shorter ones filled up."""

    slices: Tensor  # (g,)
    numbers: Tensor  # of the samples, slice by slice, (g c,)
    there: Tensor  # True for a sample and False for what fills up, (g, c)


class _Sorted:
    """Samples sorted by the slices that they are in, for all slices of about the same size in one product.

    Args:
        column: The slice of each sample, (samples,).
        size: How many slices there are.
    """

    def __init__(self, column: Tensor, size: int) -> None:
        counts = column.bincount(minlength=size)
        by_count = counts.argsort(descending=True)
        sizes = counts[by_count].tolist()
        first = torch.zeros_like(counts)  # the place of each slice's first sample
        parts: list[tuple[Tensor, int, int]] = []
        begin, filled = 0, 0
        while begin < size and sizes[begin]:
            end = next((k for k in range(begin, size) if 2 * sizes[k] < sizes[begin]), size)
            slices, most = by_count[begin:end], sizes[begin]
            first[slices] = filled + most * torch.arange(end - begin, device=column.device)
            parts.append((slices, filled, filled + most * (end - begin)))
            begin, filled = end, parts[-1][2]
        order = column.argsort()
        along = torch.arange(len(column), device=column.device) + (first - counts.cumsum(0) + counts)[column[order]]
        self._places = torch.empty_like(column)  # of the samples, among those of all blocks
        self._places[order] = along
        numbers, there = column.new_zeros(filled), torch.zeros(filled, dtype=torch.bool, device=column.device)
        numbers[along], there[along] = order, True
        self.blocks = [
            _Block(slices, numbers[start:stop], there[start:stop].reshape(len(slices), -1))
            for slices, start, stop in parts
        ]

    def take(
        self,
        block: _Block,
        each: Tensor,  # (samples, r)
    ) -> Tensor:  # (g, c, r)
        """Give what belongs to the samples of a block, and anything where it is filled up."""
        return each.index_select(0, block.numbers).view(*block.there.shape, -1)

    def back(
        self,
        found: Sequence[Tensor],  # each (g, c, r)
        shape: Sequence[int],
    ) -> Tensor:  # (samples, r)
        """Give what was found for all blocks, in the order of the samples."""
        rows = [each.view(-1, *shape) for each in found]
        if not rows:
            return torch.empty(0, *shape, dtype=torch.float64, device=self._places.device)
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).index_select(0, self._places)


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


def _without_repeats(indices: Tensor, values: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Give different entries, and the means of what they are said to be, in double precision."""
    wide = values.to(torch.complex128 if values.is_complex() else torch.float64)
    key, most = indices.new_zeros(len(indices)), 1  # one number for each entry, which sorts faster than a row
    for column, size in zip(indices.T, shape, strict=True):
        if most * size > 2**62:
            key, most = key.unique(return_inverse=True)[1], len(indices)
        key, most = key * size + column, most * size
    _, places, counts = key.unique(return_inverse=True, return_counts=True)
    unique = indices.new_empty(len(counts), len(shape))
    unique[places] = indices
    return unique, wide.new_zeros(len(unique)).index_add(0, places, wide / counts[places])


def _check_slices(indices: Tensor, shape: Sequence[int]) -> None:
    for mode, (column, size) in enumerate(zip(indices.T, shape, strict=True)):
        counts = column.bincount(minlength=size)
        if not counts.all():
            missing = int((counts == 0).nonzero()[0])
            raise TTValueError(
                f"of the samples that are not held out, none has index {missing} of mode {mode}, so nothing is known "
                "of that slice; expected some: add samples there, or leave the index out of the tensor."
            )
