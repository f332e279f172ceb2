"""Arrays read in slabs: the same trains as from memory, in bounded memory, and resumable."""

import itertools
import math
import subprocess
import sys

import dask.array
import h5py
import numpy as np
import pytest
import torch
import zarr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.examples import examples
from tests.ttnet.strategies import dense, dtypes, relative_error, seeds
from ttnet import TTFileError, TTShapeError, TTTypeError, TTValueError
from ttnet.decomposition import out_of_core, spectrum
from ttnet.decomposition.array_source import plan_slabs
from ttnet.decomposition.storage import Storage

LEAST = 2**20  # bytes; what is smaller than a third of it is read as a whole


def decaying(shape, dtype=torch.float64, seed=0):
    """A tensor whose unfoldings have singular values from 1 down to 1e-12 or so."""
    generator = torch.Generator().manual_seed(seed)
    axes = [torch.linspace(1, 2, size, dtype=torch.float64) for size in shape]
    total = sum(axis.reshape([-1 if k == j else 1 for j in range(len(shape))]) for k, axis in enumerate(axes))
    x = 1 / total
    if dtype.is_complex:
        x = x * torch.exp(1j * total)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (x + 1e-9 * x.abs().mean() * noise).to(dtype)


@examples(0.4)
@given(
    st.sampled_from([(40, 30, 20, 9), (2,) * 18, (9, 40, 9, 60), (300, 7, 100), (100, 7, 300)]),
    dtypes,
    seeds,
    st.sampled_from(["auto", "qr", "gram"]),
    st.sampled_from([(0.3, None), (1e-2, None), (1e-5, None), (None, 3), (1e-3, 4)]),
)
def test_the_promises_hold(shape, dtype, seed, method, bounds):
    eps, max_rank = bounds
    x = decaying(shape, dtype, seed)
    passes = []
    slabs = ttnet.tt_svd(
        x.numpy(), eps=eps, max_rank=max_rank, method=method, memory=8 * LEAST, callback=lambda p: passes.append(p.name)
    )
    whole = ttnet.tt_svd(x, eps=eps, max_rank=max_rank, method="svd")
    assert slabs.dtype == dtype
    assert slabs.shape == shape
    error = relative_error(dense(slabs), x)
    if max_rank is None:
        assert error <= eps
        assert sum(slabs.ranks) <= sum(whole.ranks) + len(shape)
    else:
        assert max(slabs.ranks) <= max_rank
        best = relative_error(dense(whole), x)
        assert error <= max(1.5 * best, eps or 0)


def test_it_does_read_in_slabs_and_each_twice_a_step():
    x = decaying((80, 60, 50))
    seen = []
    ttnet.tt_svd(x.numpy(), eps=1e-3, memory=LEAST, callback=seen.append)
    first = [p for p in seen if p.step == 1]
    assert {p.name for p in first} == {"gram", "projection"}
    assert len(first) > 20
    assert all(p.total == x.numel() and p.done <= p.total for p in first)
    assert [p.done for p in first].count(x.numel()) == 2


@pytest.mark.parametrize("scale", [1e-170, 1e170, 1e-300, 1e300])
def test_any_scale(scale):
    x = decaying((80, 60, 50))
    passes = []
    tt = ttnet.tt_svd(x.numpy() * scale, eps=1e-3, memory=LEAST, callback=lambda p: passes.append(p.name))
    assert "scale" in passes
    assert tt.ranks == ttnet.tt_svd(x.numpy(), eps=1e-3, memory=LEAST).ranks
    assert relative_error(tt.full() / scale, x) <= 1e-3


def test_degenerate_arrays():
    zeros = ttnet.tt_svd(np.zeros((80, 60, 50), np.float32), memory=LEAST)
    assert zeros.ranks == (1, 1, 1, 1)
    assert not zeros.full().any()
    assert zeros.dtype == torch.float32
    integers = np.arange(240_000).reshape(80, 60, 50)
    tt = ttnet.tt_svd(integers, memory=LEAST)
    assert tt.dtype == torch.float64
    assert relative_error(tt.full(), torch.tensor(integers).double()) <= 1e-12
    assert ttnet.tt_svd(np.ones(200_000), memory=LEAST).shape == (200_000,)
    assert ttnet.tt_svd(np.float64(3) * np.ones(()), memory=LEAST).shape == ()
    flat = np.random.default_rng(0).standard_normal((80, 50, 60))  # whose first bonds are not cut
    assert relative_error(ttnet.tt_svd(flat, memory=LEAST).full(), torch.tensor(flat)) <= 1e-12


def test_tensors_and_half_precision():
    x = decaying((80, 60, 50))
    assert ttnet.tt_svd(x, eps=1e-3, memory=LEAST).ranks == ttnet.tt_svd(x.numpy(), eps=1e-3, memory=LEAST).ranks
    half = x.to(torch.bfloat16)
    tt = ttnet.tt_svd(half, eps=0.1, memory=LEAST)
    assert tt.dtype == torch.bfloat16
    assert relative_error(dense(tt), half) <= 0.1


def stored(kind, x, folder):
    if kind == "memmap":
        np.save(folder / "x.npy", x)
        return np.load(folder / "x.npy", mmap_mode="r")
    if kind == "fortran":
        np.save(folder / "x.npy", np.asfortranarray(x))
        return np.load(folder / "x.npy", mmap_mode="r")
    if kind == "h5py":
        return h5py.File(folder / "x.h5", "w").create_dataset("x", data=x, chunks=(10, 20, 25))
    if kind == "zarr":
        array = zarr.create_array(store=folder / "x.zarr", shape=x.shape, chunks=(16, 60, 7), dtype=x.dtype)
        array[:] = x
        return array
    return dask.array.from_array(x, chunks=((30, 50), (25, 35), 50))


@pytest.mark.parametrize("kind", ["memmap", "fortran", "h5py", "zarr", "dask"])
def test_arrays_of_other_libraries(kind, tmp_path):
    x = decaying((80, 60, 50)).numpy()
    array = stored(kind, x, tmp_path)
    tt = ttnet.tt_svd(array, eps=1e-6, memory=LEAST)
    assert tt.ranks == ttnet.tt_svd(x, eps=1e-6, memory=LEAST).ranks
    assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-6


def test_on_a_cluster_the_passes_run_where_the_chunks_are():
    x = decaying((80, 60, 50)).numpy()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        array = dask.array.from_array(x, chunks=(20, 60, 50)).persist()
        tt = ttnet.tt_svd(array, eps=1e-6, memory=LEAST)
        prefixes = {key.rsplit("-", 5)[0] for log in client.cluster.scheduler.transition_log for key in [str(log[0])]}
        worked = [worker for worker in client.scheduler_info()["workers"].values() if worker["metrics"]]
    assert len(worked) == 2
    assert any("list_of_slabs" in prefix for prefix in prefixes)
    assert relative_error(tt.full(), torch.from_numpy(x)) <= 1e-6


@pytest.mark.parametrize("stop", range(4))
def test_an_interrupted_run_goes_on_after_the_finished_passes(stop, tmp_path):
    x = decaying((40, 30, 40, 30)).numpy()
    arguments = {"eps": 1e-6, "memory": LEAST, "checkpoint": tmp_path / "passes"}
    expected = ttnet.tt_svd(x, eps=1e-6, memory=LEAST)
    whole = []
    ttnet.tt_svd(x, **arguments, callback=lambda p: whole.append((p.step, p.name)))
    assert not (tmp_path / "passes").exists()
    order = list(dict.fromkeys(whole))
    assert len(order) >= 4

    def interrupt(progress):
        if (progress.step, progress.name) == order[stop] and progress.done > progress.total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ttnet.tt_svd(x, **arguments, callback=interrupt)
    again = []
    tt = ttnet.tt_svd(x, **arguments, callback=lambda p: again.append((p.step, p.name)))
    assert list(dict.fromkeys(again)) == order[stop:]
    assert tt.ranks == expected.ranks
    assert all(torch.equal(a, b) for a, b in zip(tt.cores, expected.cores, strict=True))
    assert not (tmp_path / "passes").exists()


def test_a_checkpoint_of_another_decomposition_is_refused(tmp_path):
    x = decaying((80, 60, 50)).numpy()

    def interrupt(progress):
        if progress.name == "projection":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ttnet.tt_svd(x, eps=1e-3, memory=LEAST, checkpoint=tmp_path, callback=interrupt)
    with pytest.raises(TTFileError, match="another decomposition, which differs in eps; give another folder"):
        ttnet.tt_svd(x, eps=1e-2, memory=LEAST, checkpoint=tmp_path)
    with pytest.raises(TTFileError, match="differs in dtype and entries"):
        ttnet.tt_svd(x.astype(np.float32), eps=1e-3, memory=LEAST, checkpoint=tmp_path)
    with pytest.raises(TTFileError, match="differs in entries"):
        ttnet.tt_svd(2 * x, eps=1e-3, memory=LEAST, checkpoint=tmp_path)
    (tmp_path / "passes.safetensors").write_bytes(b"short")
    with pytest.raises(TTFileError, match="does not hold the passes of a decomposition"):
        ttnet.tt_svd(x, eps=1e-3, memory=LEAST, checkpoint=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(TTFileError, match="Cannot use the folder"):
        ttnet.tt_svd(x, memory=LEAST, checkpoint=tmp_path / "file")


@pytest.mark.parametrize(
    ("x", "arguments", "error", "message"),
    [
        ([[1.0]], {}, TTTypeError, "x is a list; expected a torch.Tensor, a numpy.ndarray, or an array with"),
        (np.ones((80, 60, 50)), {"memory": 10}, TTValueError, "memory is 10 bytes; expected at least"),
        (np.ones((80, 60, 50)), {"memory": 1.5}, TTTypeError, "memory is 1.5; expected a number of bytes"),
        (np.ones((0, 3)), {"memory": LEAST}, TTShapeError, "every mode must have size at least 1"),
        (np.ones((600, 700)), {"memory": LEAST}, TTValueError, "hold the Gram matrix of 181 columns"),
        (np.full((80, 60, 50), np.nan), {"memory": LEAST}, TTValueError, "NaN or infinite entries, 240000 of 240000"),
    ],
)
def test_refusals(x, arguments, error, message):
    with pytest.raises(error, match=message):
        ttnet.tt_svd(x, **arguments)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(1, 100),
    st.data(),
)
def test_slabs_cover_every_entry_once(sizes, left, limit, data):
    shape = [chunk * count for chunk, count in sizes]
    edges = [list(range(0, size + 1, chunk)) for size, (chunk, _) in zip(shape, sizes, strict=True)]
    axes = data.draw(st.integers(0, len(shape)))
    order = data.draw(st.permutations(range(len(shape))))
    count = np.zeros(shape, int)
    columns = range(axes) if left else range(len(shape) - axes, len(shape))
    for ranges in plan_slabs(Storage(tuple(edges), tuple(order)), columns, limit):
        count[ranges] += 1
        whole = ranges[:axes] if left else ranges[len(shape) - axes :]
        assert all(
            part == slice(0, size)
            for part, size in zip(whole, shape[:axes] if left else shape[len(shape) - axes :], strict=True)
        )
        extent = [part.stop - part.start for part in ranges]
        cut = [k for k in range(len(shape)) if (k >= axes if left else k < len(shape) - axes)]
        assert np.prod(extent) <= limit or all(extent[k] == 1 for k in cut)
        if cut:  # along the storage: nothing faster is cut while something slower could be
            slowest = next(k for k in order if k in cut)
            assert extent[slowest] <= max(b - a for a, b in itertools.pairwise(edges[slowest])) or all(
                extent[k] == shape[k] for k in cut if k != slowest
            )
    assert (count == 1).all()


MEASURE = """
import resource, sys
import numpy as np, torch, ttnet
torch.set_num_threads(1)
ttnet.tt_svd(np.ones((80, 60, 50)), eps=0.1, memory=2**20)  # what is loaded and measured once
x = np.load(sys.argv[1], mmap_mode="r")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tt = ttnet.tt_svd(x, eps=1e-6, memory=2**24)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, tt.ranks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems measure memory in other units")
def test_memory_is_bounded(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float64, shape=(160, 160, 40, 20))
    a, b = decaying((160, 160)).numpy(), decaying((40, 20)).numpy()
    for k in range(160):  # 164 MB
        x[k] = a[k][:, None, None] * b
    x.flush()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "x.npy"], capture_output=True, text=True, check=True
    )
    used = int(done.stdout.split()[0])
    assert used < 2**24 + 2**23  # the limit, and what the allocator keeps


@pytest.mark.parametrize("method", ["auto", "qr", "gram", "svd"])
@pytest.mark.parametrize("scale", [1e13, 1e-13, 1e150, 1e-200])
@pytest.mark.parametrize(("shape", "memory"), [((3, 100_000), 2**20), ((2, 3, 50_000), 2**21)])
def test_scaled_arrays_of_which_no_bond_is_cut(method, scale, shape, memory):
    x = np.random.default_rng(0).standard_normal(shape)
    train = ttnet.tt_svd(x * scale, eps=1e-3, memory=memory, method=method)
    assert np.linalg.norm(train.full().numpy() / scale - x) <= 1e-3 * np.linalg.norm(x)


def test_what_sums_over_slabs_drop_counts_as_lost(monkeypatch):
    """One row of each slab is large; the squares of the others are below half a unit in the last place of its own."""
    rows, columns = 2**15, 8
    x = torch.full((rows, columns), torch.finfo(torch.float64).eps ** 0.5 / 8, dtype=torch.float64)
    x[:: LEAST // 64 // columns] = 0.25
    seen = []

    def counted(gram, full_rank, norm, dtype, lost):
        seen.append((float(gram.diagonal().sum()), norm, lost))
        return spectrum.of_gram(gram, full_rank, norm, dtype, lost)

    monkeypatch.setattr(out_of_core, "of_gram", counted)
    x = x.reshape(2**12, 8, 8)
    ttnet.tt_svd(x.numpy(), eps=1e-3, memory=LEAST)
    exact = math.fsum(x.square().flatten().tolist())
    trace, norm, lost = seen[0]
    assert trace < exact * (1 - 1e-14)
    assert trace + lost == pytest.approx(exact, rel=2e-16)
    assert norm == pytest.approx(exact**0.5, rel=2e-16)
