"""Arrays that are read a slab at a time: on disk, compressed, or spread over the machines of a cluster.

All that is asked of an array is `shape`, `dtype` and slicing, which numpy's memory maps, h5py, zarr and dask have. A
slab holds the axes that make the columns of an unfolding as a whole and a range of every other axis, so what a pass
computes of a slab needs nothing of another one. Slabs follow the chunks that the array is stored in, and each is read
once a pass.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.unfolding_kernels import Unfolding, gram_matrix, project, sum_of_squares, triangle
from ttnet.errors import TTShapeError, TTTypeError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import compute_dtype, count_nonfinite, max_exponent

Ranges = tuple[slice, ...]

_DASK_BATCH = 8  # slabs that are asked of a cluster at a time


class ArrayLike(Protocol):
    """What has `shape`, `dtype` and slicing."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""

    @property
    def dtype(self) -> Any:
        """The numpy or torch dtype."""

    def __getitem__(self, key: Any) -> Any:
        """Read a part."""


def entry_dtype(array: ArrayLike) -> torch.dtype:
    """Give the dtype of the train of an array.

    Args:
        array: The array.

    Returns:
        A floating or complex dtype.

    Raises:
        TTTypeError: If the array lacks an attribute, or its dtype is of no numbers.

    Example:
        >>> entry_dtype(np.zeros((2, 2), np.int8))
        torch.float64
    """
    for name in ("shape", "dtype", "__getitem__"):
        if not hasattr(array, name):
            raise TTTypeError(
                f"x is a {type(array).__name__}; expected a torch.Tensor, a numpy.ndarray, or an array with shape, "
                "dtype and slicing."
            )
    if isinstance(array.dtype, torch.dtype):
        return as_dense(torch.empty(0, dtype=array.dtype)).dtype
    try:
        dtype = np.dtype(array.dtype)
    except TypeError:
        raise TTTypeError(f"x has dtype {array.dtype}; expected a numeric numpy or torch dtype.") from None
    return as_dense(np.empty(0, dtype)).dtype


class Source:
    """The part of a tensor that is left to decompose, as an array with the modes of both its ends already merged.

    Args:
        array: The array.
        slab_numel: The most entries of a slab, unless a row of the unfolding has more.
        left: How many leading axes are merged; they make the first axis of `shape`, of size 1 if there are none.
        right: How many trailing axes are merged into the last axis of `shape`.

    Example:
        >>> source = Source(np.ones((2, 3, 4)), 12)
        >>> source.shape, source.merged(1, left=True).shape
        ((1, 2, 3, 4, 1), (2, 3, 4, 1))
    """

    def __init__(self, array: ArrayLike, slab_numel: int, left: int = 0, right: int = 0) -> None:
        self.array = array
        self.dtype = compute_dtype(entry_dtype(array))
        self._slab_numel = slab_numel
        self.left, self.right = left, right

    @property
    def shape(self) -> tuple[int, ...]:
        """The merged axes, the modes that are left, and the merged axes of the other end."""
        sizes = tuple(map(int, self.array.shape))
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
        return Source(self.array, self._slab_numel, self.left + more[0], self.right + more[1])

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
        return read(self.array, (slice(None),) * len(self.array.shape)).reshape(self.shape)

    def over_slabs(self, function: Callable[..., Any], axes: int, left: bool) -> Iterator[tuple[Ranges, Any]]:
        """Compute something of every slab, in order; on a cluster, where the slabs are.

        Args:
            function: Takes the slab as a tensor or numpy array.
            axes: The number of axes that make the columns.
            left: Whether these are the first axes or the last ones.

        Yields:
            The ranges of each slab, and what the function gives.
        """
        slabs = plan_slabs(self.array.shape, _edges(self.array), axes, left, self._slab_numel)
        if hasattr(self.array, "dask"):
            import dask

            task = dask.delayed(function, pure=False)
            while batch := tuple(itertools.islice(slabs, _DASK_BATCH)):
                yield from zip(batch, dask.compute(*(task(self.array[ranges]) for ranges in batch)), strict=True)
            return
        for ranges in slabs:
            yield ranges, function(read(self.array, ranges))
            release(self.array)


def read(array: ArrayLike, ranges: Ranges) -> Tensor:
    """Read a part of an array.

    Args:
        array: The array.
        ranges: A slice for each axis.

    Returns:
        A tensor of the dtype of the array, or in float64 for integers and bools.

    Example:
        >>> read(np.arange(4), (slice(1, 3),))
        tensor([1., 2.], dtype=torch.float64)
    """
    part = array[ranges]
    return as_dense(part if isinstance(part, Tensor) else np.asarray(part))


def release(array: ArrayLike) -> None:
    """Give back the pages of a memory map that were read or written, so that they do not count as this process's.

    Args:
        array: The array; nothing is done if it is no memory map of a file's own contents.

    Example:
        >>> release(np.ones(2))
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and isinstance(array, np.memmap) and array.mode != "c" and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)  # what was written stays with the system, on its way to the disk


def _edges(array: ArrayLike) -> list[list[int]]:
    """Give for each axis where chunks begin and end; single entries for an array that tells of no chunks."""
    chunks = getattr(array, "chunks", None) or [1] * len(array.shape)
    edges = []
    for size, chunk in zip(array.shape, chunks, strict=True):
        if isinstance(chunk, Sequence):  # dask tells the size of each
            edges.append([0, *itertools.accumulate(chunk)])
        else:
            edges.append([*range(0, size, chunk), size])
    return edges


def plan_slabs(
    shape: Sequence[int], edges: Sequence[Sequence[int]], axes: int, left: bool, slab_numel: int
) -> Iterator[Ranges]:
    """Cut an array into slabs along its chunks, or finer where a slab of whole chunks would be too large.

    Args:
        shape: The sizes of the axes.
        edges: For each axis where chunks begin and end.
        axes: The number of axes that no slab cuts.
        left: Whether these are the first axes or the last ones.
        slab_numel: The most entries of a slab.

    Yields:
        The ranges of each slab.

    Example:
        >>> edges = [[0, 2, 4], [0, 3], [0, 5]]
        >>> [[(r.start, r.stop) for r in ranges] for ranges in plan_slabs((4, 3, 5), edges, 1, False, 40)]
        [[(0, 2), (0, 3), (0, 5)], [(2, 4), (0, 3), (0, 5)]]
    """
    whole = range(axes) if left else range(len(shape) - axes, len(shape))
    ranges = [slice(0, size) for size in shape]
    cut = [k for k in range(len(shape)) if k not in whole]
    smallest = math.prod(shape[k] for k in whole) * math.prod(
        max(stop - start for start, stop in itertools.pairwise(edges[k])) for k in cut
    )
    if smallest > slab_numel:
        edges = [range(size + 1) for size in shape]
    yield from _slabs(ranges, cut, edges, slab_numel)


def _slabs(
    ranges: list[slice], cut: Sequence[int], edges: Sequence[Sequence[int]], slab_numel: int
) -> Iterator[Ranges]:
    if not cut:
        yield tuple(ranges)
        return
    axis, *later = cut
    one = math.prod(part.stop - part.start for k, part in enumerate(ranges) if k != axis)
    start, *stops = edges[axis]
    for stop, after in itertools.zip_longest(stops, stops[1:]):
        if after is not None and (after - start) * one <= slab_numel:
            continue
        inner = [*ranges]
        inner[axis] = slice(start, stop)
        if (stop - start) * one <= slab_numel:
            yield tuple(inner)
        else:
            yield from _slabs(inner, later, edges, slab_numel)
        start = stop


# --- what is computed of a slab; numpy in and out, so that it may travel -----------------------------------------


def slab_gram(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int) -> Any:
    """Compute the Gram matrix of a slab's unfolding, in double precision; the columns as for `Unfolding`."""
    with np.errstate(over="ignore", invalid="ignore"):  # which the sum shows, and a scale or an error answers
        gram = gram_matrix(_unfolded(slab, axes, left, dtype, exponent), double_products(dtype))
    return gram.resolve_conj().numpy()


def slab_triangle(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int) -> Any:
    """Compute the triangle of a slab's unfolding."""
    return triangle(_unfolded(slab, axes, left, dtype, exponent)).resolve_conj().numpy()


def slab_projection(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int, basis: Any) -> Any:
    """Multiply a slab's unfolding by the adjoint of a basis `(rank, columns)`; give also the sum of squares."""
    u = _unfolded(slab, axes, left, dtype, exponent)
    product = u.new_product(len(basis))
    project(u, torch.from_numpy(basis).mH, product)
    return u.fold(product).resolve_conj().numpy(), sum_of_squares(Unfolding(product, 1, dtype))


def slab_size(slab: Any) -> tuple[int, int]:
    """Count the entries of a slab that are not finite, and give the exponent of its largest one."""
    x = as_dense(slab)
    return count_nonfinite(x), int(max_exponent(x))


def double_products(dtype: torch.dtype) -> torch.dtype:
    """Give the precision in which Gram matrices of slabs are computed: reading takes longer than multiplying."""
    return torch.complex128 if dtype.is_complex else torch.float64


def _unfolded(slab: Any, axes: int, left: bool, dtype: torch.dtype, exponent: int) -> Unfolding:
    x = as_dense(slab)
    if not axes:  # a tensor of one column
        x, axes = (x[None], 1) if left else (x[..., None], 1)
    return Unfolding(x, axes, dtype, side="left" if left else "right", exponent=exponent)


def check_array(array: ArrayLike) -> None:
    """Refuse an array with an empty mode.

    Args:
        array: The array.

    Raises:
        TTShapeError: If there is one.

    Example:
        >>> check_array(np.ones((2, 2)))
    """
    if 0 in array.shape:
        raise TTShapeError(f"x has shape {tuple(array.shape)}; every mode must have size at least 1.")
