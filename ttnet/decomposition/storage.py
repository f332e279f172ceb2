"""How an array is stored, by whatever names its library tells it, and how to read a part of it.

All that is asked of an array is `shape` and slicing. What its entries are is told by a slice, not by its `dtype`, which
may be that of the numbers on disk before they are scaled. Where chunks begin and which axis is the slowest only decides
how fast it is read, so what a library tells of that is a hint, and ignored if it makes no sense.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError
from ttnet.numerics.dense import as_dense, check_unmasked

Ranges = tuple[slice, ...]

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")  # files of which nothing can be read but from their start


class ArrayLike(Protocol):
    """What has `shape` and slicing."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""

    def __getitem__(self, key: Any) -> Any:
        """Read a part."""


def opened(x: object) -> tuple[ArrayLike, torch.dtype]:
    """Take an array of any library, and read an entry to see what its entries are.

    Args:
        x: The array.

    Returns:
        The same array, its indices beginning at 0, and as one of dask if xarray holds that; and the floating or complex
        dtype of its entries, float64 for integers and bools.

    Raises:
        TTTypeError: If it has no shape, its slices are no arrays of numbers or cannot be read, or entries are masked.
        TTShapeError: If a mode is empty.

    Example:
        >>> opened(np.ones((2, 3), np.int8))[1]
        torch.float64
    """
    kind = type(x).__name__
    if not hasattr(x, "__getitem__") or not (hasattr(type(x), "shape") or hasattr(x, "shape")):
        raise TTTypeError(
            f"x is a {kind}; expected a torch.Tensor, a numpy.ndarray, or an array with shape and slicing."
        )
    array: Any = x
    try:
        shape = tuple(map(int, array.shape))
        if 0 in shape:
            raise TTShapeError(f"x has shape {shape}; every mode must have size at least 1.")
        if hasattr(array, "dims") and is_dask(array):  # xarray
            array = array.data
        origin = _origin(array, len(shape))
        if any(origin):
            array = _FromOrigin(array, shape, origin)
        if isinstance(array, np.ndarray):
            check_unmasked(array, "x")  # all of it, since nothing need be read
        return array, read(array, (slice(0, 1),) * len(shape)).dtype
    except (TTTypeError, TTShapeError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a library raises
        raise TTTypeError(
            f"x is a {kind} that cannot be read: {type(error).__name__}: {error}; expected a torch.Tensor, a "
            "numpy.ndarray, or an array with shape, whose slices are arrays."
        ) from error


def read(array: ArrayLike, ranges: Ranges) -> Tensor:
    """Read a part of an array as a tensor.

    Args:
        array: The array.
        ranges: A slice for each axis.

    Returns:
        A tensor of the dtype of the entries, or in float64 for integers and bools.

    Raises:
        TTTypeError: If the part holds no numbers, or masked entries.

    Example:
        >>> read(np.arange(4), (slice(1, 3),))
        tensor([1., 2.], dtype=torch.float64)
    """
    return as_dense(read_raw(array, ranges), name_of(ranges))


def read_raw(array: ArrayLike, ranges: Ranges) -> Any:
    """Read a part of an array as it is.

    Args:
        array: The array.
        ranges: A slice for each axis.

    Returns:
        A tensor or numpy array.

    Raises:
        TTTypeError: If the part is neither, or has masked entries.

    Example:
        >>> read_raw(np.arange(4, dtype=np.int8), (slice(1, 3),))
        array([1, 2], dtype=int8)
    """
    part = array[ranges]
    if is_dask(part):
        part = part.compute()
    if isinstance(part, Mapping):
        raise TTTypeError(
            f"{name_of(ranges)} is a {type(part).__name__} of {', '.join(map(repr, part))}; expected an array: choose "
            "one of them as x is opened."
        )
    # `asarray` would lose a mask.
    part = part if isinstance(part, Tensor) else np.asanyarray(part)
    check_unmasked(part, name_of(ranges))
    return part


def name_of(ranges: Ranges) -> str:
    """Give the name of a part of an array for messages.

    Args:
        ranges: A slice for each axis.

    Returns:
        The name.

    Example:
        >>> name_of((slice(0, 2), slice(None)))
        'x[0:2, :]'
    """
    parts = (":" if part == slice(None) else f"{part.start}:{part.stop}" for part in ranges)
    return f"x[{', '.join(parts)}]" if ranges else "x"


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


def is_dask(array: object) -> bool:
    """Say whether something is computed by dask.

    Args:
        array: An array of any library.

    Returns:
        True or False.

    Example:
        >>> is_dask(np.ones(2))
        False
    """
    graph = getattr(array, "__dask_graph__", None)
    return callable(graph) and graph() is not None


class _FromOrigin:
    """An array whose indices begin elsewhere, as those of TileDB and tensorstore may, seen as one from 0."""

    def __init__(self, array: ArrayLike, shape: tuple[int, ...], origin: Sequence[int]) -> None:
        self.array, self.shape, self._origin = array, shape, origin

    def __getitem__(self, ranges: Ranges) -> Any:
        parts = zip(ranges, self.shape, self._origin, strict=True)
        return self.array[
            tuple(slice(start + o, stop + o) for (start, stop, _), o in ((p.indices(n), o) for p, n, o in parts))
        ]


def _origin(array: Any, order: int) -> list[int]:
    domain = getattr(array, "domain", None)
    if isinstance(origin := getattr(domain, "origin", None), Sequence):  # tensorstore
        return list(map(int, origin))
    if callable(dim := getattr(domain, "dim", None)):  # TileDB
        return [int(dim(k).domain[0]) for k in range(order)]
    return [0] * order


# --- chunks and the order of axes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """Where an array may be cut.

    Args:
        edges: For each axis where chunks begin and end, from 0 to its size.
        order: The axes from the slowest to the fastest in memory or on disk.
        is_one_piece: Whether nothing can be read but the whole, as in a compressed file.

    Example:
        >>> Storage.of(np.ones((2, 3)).T)
        Storage(edges=(range(0, 4), range(0, 3)), order=(1, 0), is_one_piece=False)
    """

    edges: tuple[Sequence[int], ...]
    order: tuple[int, ...]
    is_one_piece: bool = False

    @classmethod
    def of(cls, array: ArrayLike) -> Storage:
        """Find out how an array is stored.

        Args:
            array: An array as `opened` gives it.

        Returns:
            The storage; single entries as chunks and the last axis as the fastest if the array does not tell.
        """
        if isinstance(array, _Mirrored):
            inner = cls.of(array.array)
            last = len(inner.order) - 1
            return cls(inner.edges[::-1], tuple(last - axis for axis in inner.order), inner.is_one_piece)
        shape = tuple(map(int, array.shape))
        array = array.array if isinstance(array, _FromOrigin) else array
        if (edges := _chunk_edges(array, shape)) is not None:
            is_one_piece = len(shape) > 0 and all(len(marks) == 2 for marks in edges) and not is_dask(array)
            return cls(tuple(edges), _axis_order(array, shape), is_one_piece)
        return cls(tuple(range(size + 1) for size in shape), _axis_order(array, shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(marks[-1] for marks in self.edges)

    @property
    def is_fortran(self) -> bool:
        """Whether the first axis is the fastest and the last one the slowest."""
        axes = [axis for axis in self.order if self.edges[axis][-1] > 1]
        return len(axes) > 1 and axes == sorted(axes, reverse=True)


def mirrored(array: ArrayLike) -> ArrayLike:
    """Give an array with its axes in reverse order.

    Args:
        array: An array as `opened` gives it.

    Returns:
        The same entries.

    Example:
        >>> mirrored(np.ones((2, 3, 4))).shape
        (4, 3, 2)
    """
    if isinstance(array, Tensor | np.ndarray):
        return reversed_axes(array)
    return _Mirrored(array)


def reversed_axes(part: Any) -> Any:
    """Reverse the axes of a tensor or numpy array.

    Args:
        part: The tensor or array.

    Returns:
        A view of it.

    Example:
        >>> reversed_axes(torch.ones(2, 3)).shape
        torch.Size([3, 2])
    """
    return part.permute(*range(part.ndim - 1, -1, -1)) if isinstance(part, Tensor) else part.T


class _Mirrored:
    """An array read through another one, whose axes it has in reverse order."""

    def __init__(self, array: ArrayLike) -> None:
        self.array = array
        self.shape = tuple(map(int, array.shape))[::-1]

    def __getitem__(self, ranges: Ranges) -> Any:
        return reversed_axes(read_raw(self.array, ranges[::-1]))


def _axis_order(array: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = range(len(shape))
    if isinstance(array, Tensor | np.ndarray):
        strides = array.stride() if isinstance(array, Tensor) else array.strides
        return tuple(sorted(axes, key=lambda k: -abs(strides[k])))
    if hasattr(array, "file_like") and array.order == "F":  # nibabel
        return tuple(reversed(axes))
    return tuple(axes)


def _chunk_edges(array: Any, shape: tuple[int, ...]) -> list[Sequence[int]] | None:
    for find in (_netcdf, _tensorstore, _tiledb, _xarray, _compressed_file, _told):
        try:
            chunks, offsets = find(array, shape)
            edges = [_edges(*parts) for parts in zip(shape, chunks, offsets, strict=True)]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue
        return edges
    return None


def _edges(size: int, chunk: int | Sequence[int], offset: int) -> Sequence[int]:
    if isinstance(chunk, Sequence):  # the size of each
        edges = list(itertools.accumulate(map(int, chunk), initial=0))
    else:
        chunk = max(0, int(chunk))
        edges = [0, *range(offset % chunk or chunk, size, chunk), size]
    if any(a >= b for a, b in itertools.pairwise(edges)) or edges[-1] != size:
        raise ValueError("chunks that are none")
    return edges


_Chunks = tuple[Sequence[Any], Sequence[int]]  # the size or sizes of chunks for each axis, and where a chunk begins


def _netcdf(array: Any, shape: tuple[int, ...]) -> _Chunks:
    return array.chunking(), [0] * len(shape)


def _tensorstore(array: Any, shape: tuple[int, ...]) -> _Chunks:
    layout = array.chunk_layout
    return layout.read_chunk.shape, [a - b for a, b in zip(layout.grid_origin, array.domain.origin, strict=True)]


def _tiledb(array: Any, shape: tuple[int, ...]) -> _Chunks:
    return [array.domain.dim(k).tile for k in range(len(shape))], [0] * len(shape)


def _xarray(array: Any, shape: tuple[int, ...]) -> _Chunks:
    preferred = array.encoding["preferred_chunks"]
    return [preferred[name] for name in array.dims], [0] * len(shape)


def _compressed_file(array: Any, shape: tuple[int, ...]) -> _Chunks:
    file = array.file_like  # nibabel
    name = str(getattr(file, "name", file))
    if not name.endswith(_COMPRESSED):
        raise ValueError(name)
    return shape, [0] * len(shape)


def _told(array: Any, shape: tuple[int, ...]) -> _Chunks:
    return array.chunks, [0] * len(shape)  # h5py, h5netcdf, zarr and dask
