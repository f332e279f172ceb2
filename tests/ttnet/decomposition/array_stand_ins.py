"""Arrays that tell of their storage as those of other libraries do, and count what is read of them."""

import itertools
import math
import types

import numpy as np


class Sliced:
    """An array with shape and slicing alone; chunks, if any, as h5py, zarr or dask tell them."""

    def __init__(self, x, chunks=None):
        self._x = x
        self.shape = x.shape
        self.sizes = []  # of what was read
        self.chunks_read = 0
        if chunks is not None:
            self._edges = [
                [0, *itertools.accumulate(chunk)] if isinstance(chunk, tuple) else [*range(0, size, chunk), size]
                for size, chunk in zip(x.shape, chunks, strict=True)
            ]
            self.tell(chunks)

    def tell(self, chunks):
        self.chunks = chunks

    @property
    def all_chunks(self):
        return list(itertools.product(*(itertools.pairwise(edges) for edges in self._edges)))

    def __getitem__(self, ranges):
        starts = [r.indices(size)[:2] for r, size in zip(ranges, self.shape, strict=True)]
        self.sizes.append(math.prod(stop - start for start, stop in starts))
        if hasattr(self, "_edges"):
            self.chunks_read += math.prod(
                sum(a < stop and start < b for a, b in itertools.pairwise(edges))
                for edges, (start, stop) in zip(self._edges, starts, strict=True)
            )
        return self._x[ranges]


class Several(Sliced):
    """An array of several attributes, as TileDB has them."""

    def __getitem__(self, ranges):
        return {"a": self._x[ranges], "b": self._x[ranges]}


class NetCDF(Sliced):
    """A `netCDF4.Variable`: any other attribute may be one of the file's."""

    dtype = np.dtype("i2")
    mask = True

    def tell(self, chunks):
        self.chunking = lambda: list(chunks)


class Xarray(Sliced):
    """A lazy `xarray.DataArray`, whose slices are read when they become arrays; `chunks` is for those of dask."""

    chunks = None
    dims = ("time", "lat", "lon")

    def tell(self, chunks):
        self.encoding = {"preferred_chunks": dict(zip(self.dims, chunks, strict=True)), "chunksizes": chunks[::-1]}

    def __getitem__(self, ranges):
        part = super().__getitem__(ranges)
        return types.SimpleNamespace(__array__=None) if part is None else _Lazy(part)


class _Lazy:
    def __init__(self, part):
        self._part = part

    def __array__(self, dtype=None, copy=None):
        return self._part


class _FromOrigin(Sliced):
    """An array whose indices begin elsewhere."""

    def __init__(self, x, chunks, origin):
        self._origin = origin
        super().__init__(x, chunks)

    def __getitem__(self, ranges):
        parts = []
        for part, size, origin in zip(ranges, self.shape, self._origin, strict=True):
            if not origin <= part.start < part.stop <= origin + size:
                raise IndexError(f"{part} is not contained in [{origin}, {origin + size})")
            parts.append(slice(part.start - origin, part.stop - origin))
        return super().__getitem__(tuple(parts))


class Tensorstore(_FromOrigin):
    """A `tensorstore.TensorStore`, whose dtype is one of its own."""

    dtype = 'dtype("float64")'

    def __init__(self, x, chunks, origin, grid):
        self._grid = grid
        super().__init__(x, chunks, origin)
        self.domain = types.SimpleNamespace(origin=origin)

    def tell(self, chunks):
        self.chunk_layout = types.SimpleNamespace(
            read_chunk=types.SimpleNamespace(shape=chunks), grid_origin=self._grid
        )
        offsets = [(a - b) % c for a, b, c in zip(self._grid, self._origin, chunks, strict=True)]
        self._edges = [
            sorted({0, *range(offset, size, chunk), size})
            for size, chunk, offset in zip(self.shape, chunks, offsets, strict=True)
        ]

    def __getitem__(self, ranges):
        return _Lazy(super().__getitem__(ranges))


class TileDB(_FromOrigin):
    """A `tiledb.DenseArray`, some of whose versions fail to tell a dtype."""

    @property
    def dtype(self):
        raise NotImplementedError("no single dtype")

    def tell(self, chunks):
        self.domain = types.SimpleNamespace(
            dim=lambda k: types.SimpleNamespace(
                tile=chunks[k], domain=(self._origin[k], self._origin[k] + self.shape[k] - 1)
            )
        )


class Nibabel:
    """A `nibabel.arrayproxy.ArrayProxy` of a file in either order, which may be compressed."""

    def __init__(self, x, file="x.nii", order="F"):
        self._x = np.asarray(x, order=order)
        self.shape, self.dtype = x.shape, x.dtype
        self.file_like, self.order = file, order
        self.runs = []  # the lengths of the pieces that each part read consists of on disk
        self.decompressed = 0  # entries, from the start of the file to the last one read

    def __getitem__(self, ranges):
        part = self._x[ranges]
        axes = range(self._x.ndim) if self.order == "F" else range(self._x.ndim - 1, -1, -1)
        run = 1
        for axis in axes:
            run *= part.shape[axis]
            if part.shape[axis] < self.shape[axis]:
                break
        self.runs.append(run)
        last = [r.indices(size)[1] - 1 for r, size in zip(ranges, self.shape, strict=True)]
        self.decompressed += int(np.ravel_multi_index(last, self.shape, order=self.order)) + 1
        return part
