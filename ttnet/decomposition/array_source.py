"""Passes over an array, a slab at a time: on disk, compressed, or spread over the machines of a cluster.

A slab holds the axes that make the columns of an unfolding as a whole and a range of every other axis, so what a pass
computes of a slab needs nothing of another one. Slabs follow the chunks and the order of axes that the array is stored
in. Where chunks are larger than a slab, a block of them is read at a time, and slabs are cut from it in memory.
"""

from __future__ import annotations

import itertools
import math
import numbers
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.storage import ArrayLike, Ranges, Storage, is_dask, read, read_raw, release
from ttnet.decomposition.unfolding import Unfolding
from ttnet.decomposition.unfolding_kernels import gram_and_lost, project, triangle
from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import compute_dtype, count_nonfinite, max_exponent

DEFAULT_MEMORY = 2**30
_LEAST_MEMORY = 2**20
_DASK_BATCH = 8  # slabs that are asked of a cluster at a time


@dataclass(frozen=True)
class PassProgress:
    """How far a pass over an array larger than memory has come.

    Args:
        name: What the pass computes: "gram", "triangle", "projection" or "scale".
        step: The number of the step that it belongs to, from 1.
        done: The entries read.
        total: The entries to read.

    Example:
        >>> PassProgress("gram", step=1, done=250, total=1000)
        PassProgress(name='gram', step=1, done=250, total=1000)
    """

    name: str
    step: int
    done: int
    total: int


def check_memory_limit(memory: int | None) -> int:
    """Give the bytes that a decomposition may use.

    Args:
        memory: A number of bytes, at least 2**20, or None for 2**30.

    Returns:
        The number.

    Raises:
        TTTypeError: If it is not an int.
        TTValueError: If it is too small.

    Example:
        >>> check_memory_limit(None)
        1073741824
    """
    if memory is None:
        return DEFAULT_MEMORY
    if isinstance(memory, bool) or not isinstance(memory, numbers.Integral):
        raise TTTypeError(f"memory is {memory!r}; expected a number of bytes, an int.")
    if memory < _LEAST_MEMORY:
        raise TTValueError(f"memory is {memory} bytes; expected at least {_LEAST_MEMORY}.")
    return int(memory)


class Source:
    """The part of a tensor that is left to decompose, as an array with the modes of both its ends already merged.

    Args:
        array: The array.
        dtype: The dtype of its entries.
        memory: The bytes that may be used: a 64th of them gives the most entries of a slab, unless a row of the
            unfolding has more, and a quarter of them the most bytes of a block of chunks.
        left: How many leading axes are merged; they make the first axis of `shape`, of size 1 if there are none.
        right: How many trailing axes are merged into the last axis of `shape`.

    Example:
        >>> source = Source(np.ones((2, 3, 4)), torch.float64, 2**20)
        >>> source.shape, source.merged(1, left=True).shape
        ((1, 2, 3, 4, 1), (2, 3, 4, 1))
    """

    def __init__(self, array: ArrayLike, dtype: torch.dtype, memory: int, left: int = 0, right: int = 0) -> None:
        self.array = array
        self.storage = Storage.of(array)
        self.left, self.right = left, right
        self.dtype = dtype
        self._memory = memory

    @property
    def shape(self) -> tuple[int, ...]:
        """The merged axes, the modes that are left, and the merged axes of the other end."""
        sizes = self.storage.shape
        stop = len(sizes) - self.right
        return math.prod(sizes[: self.left]), *sizes[self.left : stop], math.prod(sizes[stop:])

    @property
    def numel(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    def merged(self, count: int, *, left: bool) -> Source:
        """Merge more modes into one end.

        Args:
            count: How many.
            left: Into which end.

        Returns:
            The same array, seen so.
        """
        more = (count, 0) if left else (0, count)
        return Source(self.array, self.dtype, self._memory, self.left + more[0], self.right + more[1])

    def columns(self, modes: int, *, left: bool) -> int:
        """Give the number of axes of the array that make the columns of an unfolding.

        Args:
            modes: How many modes of one end make them.
            left: Which end.

        Returns:
            Their number.
        """
        return modes + (self.left if left else self.right)

    def read(self) -> Tensor:
        """Read all of it.

        Returns:
            A tensor of shape `shape`.
        """
        x = read(self.array, (slice(None),) * len(self.storage.shape))
        _check_precision(x, self.dtype)
        return x.reshape(self.shape)

    def over_slabs(self, function: Callable[..., Any], axes: int, left: bool) -> Iterator[tuple[Ranges, Any]]:
        """Compute something of every slab, in the order that they are stored in; on a cluster, where the slabs are.

        Args:
            function: Takes the slab as a tensor or numpy array.
            axes: The number of axes that make the columns.
            left: Whether these are the first axes or the last ones.

        Yields:
            The ranges of each slab, and what the function gives.
        """
        order = len(self.storage.shape)
        whole = range(axes) if left else range(order - axes, order)
        slab_numel = self._memory // 64
        if self._reads_slabs(whole, slab_numel):
            block_numel = slab_numel
        else:
            block_numel = max(slab_numel, self._memory // (4 * self.dtype.itemsize))
        blocks = plan_slabs(self.storage, whole, block_numel)
        if is_dask(self.array):
            import dask

            task = dask.delayed(partial(_list_of_slabs, function, whole=whole, numel=slab_numel), pure=False)
            while batch := tuple(itertools.islice(blocks, max(1, _DASK_BATCH * slab_numel // block_numel))):
                computed = dask.compute(*(task(self.array[ranges]) for ranges in batch))
                for ranges, results in zip(batch, computed, strict=True):
                    yield from ((_shifted(inner, ranges), result) for inner, result in results)
            return
        for ranges in blocks:
            for inner, result in _slabs_of_block(function, read_raw(self.array, ranges), whole, slab_numel):
                yield _shifted(inner, ranges), result
            release(self.array)

    def _reads_slabs(self, whole: range, slab_numel: int) -> bool:
        """Say whether to read slab by slab: where that costs no call of a library, or gives a cluster more tasks."""
        if is_dask(self.array):
            return smallest_slab(self.storage.edges, whole) <= slab_numel
        return isinstance(self.array, Tensor | np.ndarray)


def _slabs_of_block(function: Callable[..., Any], block: Any, whole: range, numel: int) -> Iterator[tuple[Ranges, Any]]:
    for ranges in plan_slabs(Storage.of(block), whole, numel):
        yield ranges, function(block[ranges])


def _list_of_slabs(function: Callable[..., Any], block: Any, whole: range, numel: int) -> list[tuple[Ranges, Any]]:
    return list(_slabs_of_block(function, block, whole, numel))


def _shifted(inner: Ranges, outer: Ranges) -> Ranges:
    return tuple(slice(a.start + b.start, a.stop + b.start) for a, b in zip(inner, outer, strict=True))


def plan_slabs(storage: Storage, whole: range, numel: int) -> Iterator[Ranges]:
    """Cut an array into slabs along its chunks, or through these where a slab of whole chunks would be too large.

    Args:
        storage: Where the chunks are, and which axes are the slowest.
        whole: The axes that no slab cuts.
        numel: The most entries of a slab, unless one entry of each other axis makes more.

    Yields:
        The ranges of each slab, along the storage.

    Example:
        >>> storage = Storage(([0, 2, 4], [0, 3], [0, 5]), (0, 1, 2))
        >>> [[(r.start, r.stop) for r in ranges] for ranges in plan_slabs(storage, range(2, 3), 40)]
        [[(0, 2), (0, 3), (0, 5)], [(2, 4), (0, 3), (0, 5)]]
    """
    cut = [axis for axis in storage.order if axis not in whole]
    edges = list(storage.edges)
    for axis in cut:
        widest, smallest = _widest(edges[axis]), smallest_slab(edges, whole)
        if smallest > numel and widest > 1:
            edges[axis] = _finer(edges[axis], max(1, numel * widest // smallest))
    yield from _slabs([slice(0, size) for size in storage.shape], cut, edges, numel)


def smallest_slab(edges: Sequence[Sequence[int]], whole: range) -> int:
    """Give the most entries that a slab of one chunk in each axis that is cut may have.

    Args:
        edges: For each axis where chunks begin and end.
        whole: The axes that no slab cuts.

    Returns:
        The number.

    Example:
        >>> smallest_slab([[0, 2, 4], [0, 3, 4]], range(0, 1))
        12
    """
    return math.prod(marks[-1] if axis in whole else _widest(marks) for axis, marks in enumerate(edges))


def _widest(marks: Sequence[int]) -> int:
    return marks.step if isinstance(marks, range) else max(b - a for a, b in itertools.pairwise(marks))


def _finer(marks: Sequence[int], most: int) -> Sequence[int]:
    """Cut chunks evenly into parts of no more than a number of entries."""
    steps = ((a, b, math.ceil((b - a) / math.ceil((b - a) / most))) for a, b in itertools.pairwise(marks))
    return [*itertools.chain.from_iterable(range(*step) for step in steps), marks[-1]]


def _slabs(ranges: list[slice], cut: Sequence[int], edges: Sequence[Sequence[int]], numel: int) -> Iterator[Ranges]:
    if not cut:
        yield tuple(ranges)
        return
    axis, *later = cut
    one = math.prod(part.stop - part.start for k, part in enumerate(ranges) if k != axis)
    marks = edges[axis]
    place = 0
    while place < len(marks) - 1:
        start = marks[place]
        place = max(place + 1, bisect_right(marks, start + numel // one) - 1)
        inner = [*ranges]
        inner[axis] = slice(start, marks[place])
        if (marks[place] - start) * one <= numel:
            yield tuple(inner)
        else:
            yield from _slabs(inner, later, edges, numel)


# --- what is computed of a slab; numpy in and out, so that it may travel -----------------------------------------


def slab_gram(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int) -> tuple[Any, float]:
    """Compute the Gram matrix of a slab's unfolding, in double precision; the columns as for `Unfolding`.

    Give the sum of all squares, too, of which the trace may have lost some.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # which the sum shows, and a scale or an error answers
        gram, lost = gram_and_lost(_unfolded(slab, axes, left, dtype, exponent), double_products(dtype))
    return gram.resolve_conj().numpy(), float(gram.diagonal().real.sum()) + lost


def slab_triangle(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int) -> tuple[Any, float]:
    """Compute the triangle of a slab's unfolding; give the sum of all squares, too."""
    r = triangle(_unfolded(slab, axes, left, dtype, exponent))
    return r.resolve_conj().numpy(), float(r.abs().square().sum())


def slab_projection(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int, basis: Any) -> Any:
    """Multiply a slab's unfolding by the adjoint of a basis `(rank, columns)`; give also the sum of squares."""
    u = _unfolded(slab, axes, left, dtype, exponent)
    product = u.new_product(len(basis))
    _, squares = project(u, torch.from_numpy(basis).mH, product, measure="product")
    return u.fold(product).resolve_conj().numpy(), squares


def _check_precision(x: Tensor, dtype: torch.dtype) -> None:
    """Refuse a part of an array whose entries do not fit the dtype that the first entry told."""
    if torch.promote_types(x.dtype, dtype) not in (dtype, compute_dtype(dtype)):
        raise TTTypeError(
            f"x has entries of {x.dtype}, but its first entry is of a narrower dtype; expected the same of all."
        )


def slab_size(slab: Any) -> tuple[int, int]:
    """Count the entries of a slab that are not finite, and give the exponent of its largest one."""
    x = as_dense(slab)
    return count_nonfinite(x), int(max_exponent(x))


def double_products(dtype: torch.dtype) -> torch.dtype:
    """Give the precision in which Gram matrices of slabs are computed: reading takes longer than multiplying."""
    return torch.complex128 if dtype.is_complex else torch.float64


def _unfolded(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int) -> Unfolding:
    x = as_dense(slab, "a slab of x")
    _check_precision(x, dtype)
    if not axes:  # a tensor of one column
        x, axes = (x[None], 1) if left else (x[..., None], 1)
    return Unfolding(x, axes, dtype, side="left" if left else "right", exponent=exponent)
