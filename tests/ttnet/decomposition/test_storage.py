"""Arrays of other libraries: what their entries are, what is refused, and that they are read along their storage."""

import gzip
import types

import dask.array
import h5py
import numpy as np
import pytest
import torch
import zarr

import ttnet
from tests.ttnet.decomposition import array_stand_ins as stand_ins
from tests.ttnet.strategies import dense, relative_error
from ttnet import TTFileError, TTShapeError, TTTypeError, TTValueError
from ttnet.decomposition.in_memory import along_storage
from ttnet.decomposition.storage import Storage, mirrored

LEAST = 2**20  # bytes of memory
SHAPE = (80, 60, 50)


def smooth(shape=SHAPE, dtype=np.float64):
    axes = np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij", sparse=True)
    return (1 / (1 + sum(axes))).astype(dtype)


def masked(x, count=1):
    mask = np.zeros(x.shape, bool)
    mask.reshape(-1)[x.size - count :] = True
    return np.ma.masked_array(x, mask)


class Flagged(np.ndarray):
    """An array with a mask that is not one of numpy's, as astropy has them."""

    @property
    def mask(self):
        return np.asarray(self) == 2


# --- what the entries are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        masked(smooth(), 3),
        np.where(masked(smooth(), 3).mask, 2, smooth()).view(Flagged),
        stand_ins.Sliced(masked(smooth(), 3)),
        stand_ins.NetCDF(masked(smooth(), 3), chunks=(20, 20, 50)),
        dask.array.from_array(masked(smooth(), 3), chunks=(20, 60, 50)),
        dask.array.ma.masked_array(dask.array.from_array(smooth(), chunks=40), masked(smooth(), 3).mask),
    ],
    ids=["numpy", "another mask", "slices", "netCDF4", "dask of numpy", "dask"],
)
@pytest.mark.parametrize("arguments", [{}, {"memory": LEAST}, {"max_rank": 2}])
def test_masked_entries_are_refused(array, arguments, tmp_path):
    with pytest.raises(TTTypeError, match=r"x.* has masked entries, 3 of \d+; expected none: fill them before"):
        ttnet.tt_svd(array, **arguments)
    with pytest.raises(TTTypeError, match="has masked entries"):
        ttnet.tt_svd(array, memory=LEAST, checkpoint=tmp_path)


def test_a_slab_with_masked_entries_is_named():
    with pytest.raises(TTTypeError, match=r"x\[40:80, 0:60, 0:50\] has masked entries, 3 of 120000"):
        ttnet.tt_svd(stand_ins.NetCDF(masked(smooth(), 3), chunks=(20, 60, 50)), memory=2**22)


def test_masked_arrays_without_masked_entries_are_arrays():
    x = smooth()
    expected = ttnet.tt_svd(x, eps=1e-6)
    for array in (np.ma.masked_array(x), masked(x, 0), stand_ins.NetCDF(masked(x, 0), chunks=(20, 20, 50))):
        for memory in (None, LEAST):
            tt = ttnet.tt_svd(array, eps=1e-6, memory=memory)
            assert tt.ranks == expected.ranks
            assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-6


def test_fill_values_of_a_storage_without_masks_are_data(tmp_path):
    array = zarr.create_array(store=tmp_path / "x.zarr", shape=SHAPE, chunks=(40, 60, 50), dtype="f8", fill_value=7.0)
    array[:40] = 1.0
    tt = ttnet.tt_svd(array, memory=LEAST)
    assert tt.full()[-1].allclose(torch.tensor(7.0, dtype=torch.float64))
    with pytest.raises(
        TTValueError, match="NaN or infinite entries, 1 of 240000"
    ):  # what xarray has in place of a mask
        ttnet.tt_svd(stand_ins.Sliced(masked(smooth()).filled(np.nan)), memory=LEAST)


@pytest.mark.parametrize(
    ("declared", "entries", "expected"),
    [
        ("i2", "f8", torch.float64),  # packed, with a scale in double precision
        ("f4", "f8", torch.float64),
        ("i2", "f4", torch.float32),
        ("f8", "f4", torch.float32),
        ("f4", "c8", torch.complex64),
        (None, ">f4", torch.float32),  # scipy's netCDF has no dtype
        (None, "i4", torch.float64),
        ("f4", "f2", torch.float16),
    ],
)
def test_the_dtype_is_that_of_the_entries(declared, entries, expected):
    x = (1000 * smooth()).astype(entries)
    array = stand_ins.Sliced(x)
    if declared is not None:
        array.dtype = np.dtype(declared)
    exact = torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))
    for memory in (None, LEAST):
        tt = ttnet.tt_svd(array, memory=memory, eps=1e-2)
        assert tt.dtype == expected
        assert relative_error(dense(tt), exact) <= 1e-2
    if expected == torch.float64:
        for memory in (None, LEAST):
            assert relative_error(ttnet.tt_svd(array, memory=memory, eps=1e-12).full(), exact) <= 1e-12


def test_entries_of_a_wider_dtype_than_the_first_are_not_rounded():
    class Mixed(stand_ins.Sliced):
        def __getitem__(self, ranges):
            return super().__getitem__(ranges).astype("f4" if ranges[0].stop in (1, 40) else "f8")

    for memory in (LEAST, 2**22, None):
        with pytest.raises(TTTypeError, match=r"entries of torch\.float64, but its first entry is of a narrower"):
            ttnet.tt_svd(Mixed(smooth(dtype=np.float32), chunks=(40, 60, 50)), memory=memory)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 1000])
def test_half_precision_gives_way_to_a_bound_that_it_cannot_hold(dtype, scale):
    x = (torch.from_numpy(smooth()) * scale).to(dtype)
    least = 3 * torch.finfo(dtype).eps / 2
    sources = [{"x": x}, {"x": x, "memory": LEAST}]
    if dtype == torch.float16:
        sources.append({"x": stand_ins.Sliced(x.numpy()), "memory": LEAST})
    for eps in (1.5 * least, least, least / 100, 1e-6):
        for source in sources:
            tt = ttnet.tt_svd(**source, eps=eps)
            assert tt.dtype == (dtype if eps > least else torch.float32)
            assert relative_error(dense(tt), x) <= eps
    for source in sources:  # no bound, no other dtype
        assert ttnet.tt_svd(**source).dtype == ttnet.tt_svd(**source, max_rank=2).dtype == dtype
    small = x[:4, :4, :4]
    assert ttnet.tt_svd(small, eps=1e-6).dtype == torch.float32
    assert ttnet.tt_svd(0 * small, eps=1e-6).dtype == ttnet.tt_svd(0 * x, eps=1e-6).dtype == torch.float32
    assert ttnet.tt_svd(small[0, 0], eps=1e-6).dtype == dtype  # nothing is cut
    w = ttnet.TTMatrix.from_dense(x[0], (6, 10), (5, 10), eps=1e-4)
    assert w.dtype == torch.float32
    assert relative_error(dense(w), x[0]) <= 1e-4


# --- what is refused ----------------------------------------------------------------------------------------------


class Raising(stand_ins.Sliced):
    def __getitem__(self, ranges):
        raise RuntimeError("NetCDF: Not a valid ID")


class Unreadable(stand_ins.Sliced):
    def __getitem__(self, ranges):
        raise OSError("the disk is gone")


def test_refusals(tmp_path):
    x = smooth((4, 3))
    for array, error, message in [
        ([[1.0]], TTTypeError, "x is a list; expected a torch.Tensor, a numpy.ndarray, or an array with shape"),
        (types.SimpleNamespace(shape=(2, 2)), TTTypeError, "x is a SimpleNamespace; expected"),
        (Raising(x), TTTypeError, "x is a Raising that cannot be read: RuntimeError: NetCDF: Not a valid ID; expected"),
        (Unreadable(x), OSError, "the disk is gone"),
        (stand_ins.Sliced(x.astype("U3")), TTTypeError, r"x\[0:1, 0:1\] has dtype <U3; expected a floating"),
        (stand_ins.Sliced(np.ones((3, 0))), TTShapeError, r"x has shape \(3, 0\); every mode must have size at least"),
        (
            stand_ins.Several(x),
            TTTypeError,
            r"x\[0:1, 0:1\] is a dict of 'a', 'b'; expected an array: choose one of them as x is opened",
        ),
        (h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=h5py.Empty("f8")), TTTypeError, "cannot be read"),
        (dask.array.from_array(np.arange(4)), None, ""),
    ]:
        if error is None:
            assert ttnet.tt_svd(array).shape == (4,)
            continue
        with pytest.raises(error, match=message):
            ttnet.tt_svd(array)


# --- how it is read -----------------------------------------------------------------------------------------------

WAYS = {
    "chunks": lambda x: stand_ins.Sliced(x, chunks=(16, 30, 50)),
    "chunks told one by one": lambda x: stand_ins.Sliced(x, chunks=((16,) * 5, (30, 30), (50,))),
    "netCDF4": lambda x: stand_ins.NetCDF(x, chunks=(16, 30, 50)),
    "xarray": lambda x: stand_ins.Xarray(x, chunks=(16, 30, 50)),
    "tensorstore": lambda x: stand_ins.Tensorstore(x, chunks=(16, 30, 50), origin=(7, -3, 0), grid=(2, -3, 0)),
    "TileDB": lambda x: stand_ins.TileDB(x, chunks=(16, 30, 50), origin=(5, 0, 1)),
}


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("memory", [LEAST, 2**22])
def test_chunks_are_read_once_a_pass_whatever_they_are_called(kind, memory):
    x = smooth()
    array = WAYS[kind](x)
    passes = set()
    tt = ttnet.tt_svd(array, eps=1e-6, memory=memory, callback=lambda p: passes.add((p.step, p.name)))
    assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-6
    assert passes
    first = sum(step == 1 for step, _ in passes)
    # A first step of two passes, and an entry to learn the dtype.
    assert array.chunks_read <= first * len(array.all_chunks) + 1


def test_chunks_too_large_for_memory_are_cut_evenly():
    x = smooth((64, 64, 50))
    array = stand_ins.Sliced(x, chunks=(64, 64, 50))
    array.chunks = (64, 64, 25)  # so that it is not of one piece
    tt = ttnet.tt_svd(array, eps=1e-6, memory=LEAST)
    assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-6
    assert max(array.sizes) <= LEAST // 32
    assert min(array.sizes[3:]) >= LEAST // 128


def test_hints_that_make_no_sense_are_ignored():
    x = smooth()
    for chunks in [(0, 1, 1), (1, 2), "contiguous", 3, None, ("a", "b", "c"), ((1, 2), (60,), (50,)), (-1, -1, -1)]:
        array = stand_ins.Sliced(x)
        array.chunks = chunks
        assert Storage.of(array).edges == (range(81), range(61), range(51))
    array.encoding, array.dims, array.domain, array.order, array.dask = "utf-8", "x y", "EUR-11", "F", "no"
    assert Storage.of(array) == Storage((range(81), range(61), range(51)), (0, 1, 2))
    assert ttnet.tt_svd(array, eps=1e-3, memory=LEAST).shape == SHAPE


@pytest.mark.parametrize("method", ["auto", "gram", "qr", "randomized"])
@pytest.mark.parametrize("memory", [None, LEAST])
@pytest.mark.parametrize("kind", [np.float32, np.complex128])
@pytest.mark.parametrize("scale", [1, 1e-30])
def test_fortran_order_gives_the_same_train(method, memory, kind, scale):
    x = smooth((30, 80, 60)) * scale
    x = (x * np.exp(1j * x / scale) if kind is np.complex128 else x).astype(kind)
    arrays = [np.asfortranarray(x), torch.from_numpy(np.ascontiguousarray(x.T)).permute(2, 1, 0)]
    for bounds in ({"eps": 1e-4}, {"max_rank": [6, 2]}, {"eps": 1e-2, "max_rank": 4}):
        expected = ttnet.tt_svd(x, method=method, memory=memory, **bounds)
        for array in arrays:
            tt = ttnet.tt_svd(array, method=method, memory=memory, **bounds)
            assert tt.shape == x.shape
            assert tt.dtype == expected.dtype
            assert all(a <= b + 1 for a, b in zip(tt.ranks, expected.ranks, strict=True))
            assert bounds.get("max_rank") != [6, 2] or tt.ranks[2] <= 2
            error, least = (
                relative_error(dense(train) / scale, torch.from_numpy(x) / scale) for train in (tt, expected)
            )
            assert error <= (bounds["eps"] if "max_rank" not in bounds else max(1.5 * least, bounds.get("eps", 0)))
            for core in tt.cores[:-1]:
                unfolding = core.flatten(0, 1)
                gram = unfolding.mH @ unfolding
                assert gram.allclose(torch.eye(len(gram), dtype=gram.dtype), atol=1e-5)


def test_arrays_in_fortran_order_are_decomposed_in_their_mirror():
    x = np.asfortranarray(smooth((4, 5, 6)))
    for array in (x, torch.from_numpy(x), x[:, None], stand_ins.Nibabel(x), stand_ins.Nibabel(x, file="x.nii.bz2")):
        assert Storage.of(array).is_fortran
        assert not Storage.of(mirrored(array)).is_fortran
        seen = []
        along_storage(lambda part, max_ranks, seen=seen: seen.append((part.shape, max_ranks)) or ([], 0), array, [7, 8])
        assert seen == [(array.shape[::-1], [8, 7])]
    for array in (x.T, x.transpose(1, 0, 2), stand_ins.Nibabel(x, order="C"), stand_ins.Sliced(x), np.ones((5, 1, 1))):
        assert not Storage.of(array).is_fortran


@pytest.mark.parametrize("first", ["C", "F"])
def test_a_checkpoint_of_the_other_order_is_refused(first, tmp_path):
    x = smooth((60, 50, 60))
    x = x + x.T  # whose shape and entries tell nothing
    orders = [np.ascontiguousarray(x), np.asfortranarray(x)][:: 1 if first == "C" else -1]

    def interrupt(progress):
        if progress.name == "projection" and progress.done == progress.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ttnet.tt_svd(orders[0], eps=1e-6, memory=LEAST, checkpoint=tmp_path, callback=interrupt)
    with pytest.raises(TTFileError, match="holds the passes of another decomposition, which differs in order of modes"):
        ttnet.tt_svd(orders[1], eps=1e-6, memory=LEAST, checkpoint=tmp_path)
    seen = []
    tt = ttnet.tt_svd(orders[0], eps=1e-6, memory=LEAST, checkpoint=tmp_path, callback=lambda p: seen.append(p.name))
    assert seen[0] == "projection"
    assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-6


def test_fortran_order_is_read_along_the_disk():
    x = smooth((40, 60, 50, 8), np.float32)
    for memory in (LEAST, 2**22):
        array = stand_ins.Nibabel(x)
        tt = ttnet.tt_svd(array, eps=1e-4, memory=memory)
        assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-4
        assert tt.dtype == torch.float32
        entry, *runs = array.runs
        assert entry == 1
        assert min(runs) >= 40 * 50 if memory > LEAST else 40


@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("name", ["x.nii.gz", types.SimpleNamespace(name="x.nii.gz")])
def test_a_compressed_file_is_read_once(order, name, tmp_path):
    x = smooth(dtype=np.float32)
    fits, does_not = 2**22, LEAST  # the array has 960 kB
    array = stand_ins.Nibabel(x, file=name, order=order)
    tt = ttnet.tt_svd(array, eps=1e-5, memory=fits)
    assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-5
    assert array.decompressed == x.size + 1
    array = stand_ins.Nibabel(x, file=name, order=order)
    again = ttnet.tt_svd(array, eps=1e-5, memory=does_not, checkpoint=tmp_path / "passes")
    assert again.ranks == tt.ranks
    assert relative_error(again.full(), torch.from_numpy(x)) <= 1e-5
    assert not (tmp_path / "passes").exists()
    blocks = -(-x.nbytes // (does_not // 4))
    assert array.decompressed <= x.size * ((blocks + 1) / 2 + 1.6)  # 1.5 for the three entries of a fingerprint
    whole = ttnet.tt_svd(stand_ins.Nibabel(x, file=name, order=order), eps=1e-5)
    assert whole.ranks == tt.ranks


def test_a_single_chunk_is_read_once(tmp_path):
    x = smooth()
    array = stand_ins.Sliced(x, chunks=SHAPE)
    ttnet.tt_svd(array, eps=1e-6, memory=2**23)
    assert array.chunks_read == 2  # the first time for an entry


# --- the libraries themselves -------------------------------------------------------------------------------------


def write_netcdf(folder, x, **options):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(folder / "x.nc", "w", format=options.pop("format", "NETCDF4")) as file:
        for k, size in enumerate(x.shape):
            file.createDimension(f"d{k}", size)
        scale = options.pop("scale", None)
        variable = file.createVariable("x", x.dtype, tuple(f"d{k}" for k in range(x.ndim)), **options)
        if scale is not None:
            variable.scale_factor = scale
        variable[:] = x
    return folder / "x.nc"


def of_netcdf(folder, x):
    path = write_netcdf(folder, x, zlib=True, chunksizes=(16, 30, 50))
    return pytest.importorskip("netCDF4").Dataset(path)["x"]


def of_scipy(folder, x):
    scipy_io = pytest.importorskip("scipy.io")
    with scipy_io.netcdf_file(folder / "x.nc", "w") as file:
        for k, size in enumerate(x.shape):
            file.createDimension(f"d{k}", size)
        file.createVariable("x", x.dtype, [f"d{k}" for k in range(x.ndim)])[:] = x
    return scipy_io.netcdf_file(folder / "x.nc", mmap=False).variables["x"]


OPEN = []  # files of h5netcdf's, which closes what nothing refers to


@pytest.fixture(autouse=True)
def files():
    yield
    while OPEN:
        OPEN.pop().close()


def of_h5netcdf(folder, x):
    h5netcdf = pytest.importorskip("h5netcdf")
    with h5netcdf.File(folder / "x.nc", "w") as file:
        file.dimensions = {f"d{k}": size for k, size in enumerate(x.shape)}
        file.create_variable("x", tuple(file.dimensions), data=x, chunks=(16, 30, 50))
    OPEN.append(h5netcdf.File(folder / "x.nc", "r"))
    return OPEN[-1]["x"]


def of_xarray(folder, x, **options):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    data = xarray.DataArray(x, dims=["a", "b", "c"], name="x").to_dataset()
    data.to_netcdf(folder / "y.nc", engine="h5netcdf", encoding={"x": {"chunksizes": (16, 30, 50), "zlib": True}})
    return xarray.open_dataset(folder / "y.nc", engine="h5netcdf", **options)["x"]


def of_xarray_by_dask(folder, x):
    return of_xarray(folder, x, chunks={})


def of_nibabel(folder, x, name="x.nii"):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(x, np.eye(4)), folder / name)
    return nibabel.load(folder / name).dataobj


def of_nibabel_compressed(folder, x):
    return of_nibabel(folder, x, "x.nii.gz")


def of_tensorstore(folder, x):
    tensorstore = pytest.importorskip("tensorstore")
    zarr.create_array(store=folder / "x.zarr", shape=x.shape, chunks=(16, 30, 50), dtype=x.dtype)[:] = x
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "x.zarr")}}
    return tensorstore.open(spec).result().translate_by[5, -3, 0]


def of_tiledb(folder, x):
    tiledb = pytest.importorskip("tiledb")
    dims = [
        tiledb.Dim(name=f"d{k}", domain=(k, k + size - 1), tile=tile, dtype=np.int32)
        for k, (size, tile) in enumerate(zip(x.shape, (16, 30, 50), strict=True))
    ]
    schema = tiledb.ArraySchema(domain=tiledb.Domain(*dims), attrs=[tiledb.Attr(dtype=x.dtype)])
    tiledb.Array.create(str(folder / "x.tdb"), schema)
    with tiledb.open(str(folder / "x.tdb"), "w") as array:
        array[:] = x
    return tiledb.open(str(folder / "x.tdb"))


LIBRARIES = {
    "netCDF4": of_netcdf,
    "scipy": of_scipy,
    "h5netcdf": of_h5netcdf,
    "xarray": of_xarray,
    "xarray, dask": of_xarray_by_dask,
    "nibabel": of_nibabel,
    "nibabel, compressed": of_nibabel_compressed,
    "tensorstore": of_tensorstore,
    "TileDB": of_tiledb,
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_libraries(library, dtype, tmp_path):
    x = smooth(dtype=dtype)
    array = LIBRARIES[library](tmp_path, x)
    expected = ttnet.tt_svd(x, eps=1e-4)
    for memory in (None, LEAST, 2**22):
        tt = ttnet.tt_svd(array, eps=1e-4, memory=memory)
        assert tt.dtype == expected.dtype
        assert tt.ranks == expected.ranks
        assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-4
    storage = Storage.of(array)
    if library == "nibabel":
        assert storage.is_fortran
    elif library == "nibabel, compressed":
        assert storage.is_fortran
        assert storage.is_one_piece
    elif library != "scipy":
        assert [list(edges) for edges in storage.edges] == [[0, 16, 32, 48, 64, 80], [0, 30, 60], [0, 50]]


def test_netcdf_of_masks_and_scales(tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    x = masked(smooth(dtype=np.float32))
    variable = netcdf.Dataset(write_netcdf(tmp_path, x, fill_value=9.97e36))["x"]
    for memory in (None, LEAST):
        with pytest.raises(TTTypeError, match="has masked entries, 1 of"):
            ttnet.tt_svd(variable, memory=memory)
    variable.set_auto_mask(False)  # asked for as they are
    assert float(ttnet.tt_svd(variable, eps=1e-12)[79, 59, 49]) == pytest.approx(9.97e36)
    for dtype in ("i2", "f4"):
        (tmp_path / dtype).mkdir()
        path = write_netcdf(tmp_path / dtype, (1000 * smooth()).astype(dtype), scale=np.float64(1 / 3))
        scaled = netcdf.Dataset(path)["x"]
        tt = ttnet.tt_svd(scaled, eps=1e-10, memory=LEAST)
        assert tt.dtype == torch.float64
        assert relative_error(tt.full(), torch.from_numpy(np.asarray(scaled[:]))) <= 1e-10


def test_scipys_netcdf_with_masks_and_scales(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    with scipy_io.netcdf_file(tmp_path / "x.nc", "w") as file:
        file.createDimension("a", 4)
        file.createDimension("b", 3)
        for name in ("whole", "masked"):
            variable = file.createVariable(name, "i2", ["a", "b"])
            variable[:] = np.arange(12).reshape(4, 3) + (name == "whole")
            variable.scale_factor, variable.missing_value = 0.5, np.int16(0)
    with scipy_io.netcdf_file(tmp_path / "x.nc", mmap=False, maskandscale=True) as file:
        tt = ttnet.tt_svd(file.variables["whole"])
        with pytest.raises(TTTypeError, match="has masked entries, 1 of 1"):
            ttnet.tt_svd(file.variables["masked"])
    assert tt.full().allclose(torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3) / 2)


def test_nibabel_of_scales_and_of_gzip_streams(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image((1000 * smooth()).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(1 / 3, 2)
    nibabel.save(image, tmp_path / "x.nii.gz")
    with gzip.open(tmp_path / "x.nii.gz") as stream:
        image = nibabel.Nifti1Image.from_stream(stream)
        exact = torch.from_numpy(nibabel.load(tmp_path / "x.nii.gz").get_fdata())
        tt = ttnet.tt_svd(image.dataobj, eps=1e-10, memory=2**22)
    assert tt.dtype == torch.float64
    assert relative_error(tt.full(), exact) <= 1e-10
    with pytest.raises(TTTypeError, match="x is a Nifti1Image that cannot be read: TypeError: Cannot slice image"):
        ttnet.tt_svd(image)


def test_tiledb_with_attributes(tmp_path):
    tiledb = pytest.importorskip("tiledb")
    dims = [tiledb.Dim(name=name, domain=(0, 7), tile=4, dtype=np.int32) for name in "ab"]
    attributes = [tiledb.Attr(name=name, dtype=np.float64) for name in ("wind", "rain")]
    tiledb.Array.create(str(tmp_path / "x"), tiledb.ArraySchema(domain=tiledb.Domain(*dims), attrs=attributes))
    with tiledb.open(str(tmp_path / "x"), "w") as array:
        array[:] = {"wind": np.eye(8), "rain": np.ones((8, 8))}
    with pytest.raises(TTTypeError, match="is a OrderedDict of 'wind', 'rain'; expected an array: choose one"):
        ttnet.tt_svd(tiledb.open(str(tmp_path / "x")))
    assert ttnet.tt_svd(tiledb.open(str(tmp_path / "x"), attr="wind")).ranks == (1, 8, 1)


def test_xarray_of_masks(tmp_path):
    xarray = pytest.importorskip("xarray")
    with pytest.raises(TTValueError, match="NaN or infinite entries, 1 of 240000"):
        ttnet.tt_svd(xarray.DataArray(masked(smooth())), memory=LEAST)
    lazy = dask.array.ma.masked_array(dask.array.from_array(smooth(), chunks=40), masked(smooth()).mask)
    # xarray takes the mask for NaN or hands it on, depending on its version.
    with pytest.raises((TTTypeError, TTValueError), match=r"masked entries, 1 of|NaN or infinite entries, 1 of"):
        ttnet.tt_svd(xarray.DataArray(lazy), memory=LEAST)
