"""The passes over unfoldings, the spectra made of them, and the products beneath, against dense matrices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.decomposition.passes import PASSES, choose_passes
from tests.ttnet.strategies import DTYPES, dense, draw_tensor, dtypes, relative_error, seeds, wide
from ttnet.decomposition import compiled_passes, unfolding
from ttnet.decomposition.randomized import by_sketch
from ttnet.decomposition.spectrum import Spectrum, by_gram, by_qr, gram_bound
from ttnet.decomposition.unfolding import Unfolding, double
from ttnet.decomposition.unfolding_kernels import (
    gram_and_lost,
    gram_matrix,
    project,
    sketch,
    sum_of_squares,
    triangle,
)
from ttnet.numerics import blas

sides = st.sampled_from(["left", "right"])
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)


@pytest.fixture(scope="module", autouse=True, params=PASSES)
def _small_blocks(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unfolding.BLOCK_NUMEL, "cpu", 64)
        choose_passes(patch, request.param)
        yield


@st.composite
def unfoldings(draw):
    """An unfolding of a tensor of any strides, and the matrix that it stands for."""
    shape, dtype = draw(shapes), draw(dtypes)
    order = draw(st.permutations(range(len(shape))))
    x = draw_tensor(shape, dtype, draw(seeds)).permute(order)
    if dtype.is_complex and draw(st.booleans()):
        x = x.conj()
    axes = draw(st.integers(1, len(shape) - 1))
    side, exponent = draw(sides), draw(st.sampled_from([0, 0, 3]))
    u = Unfolding(x, axes, dtype, side=side, exponent=exponent)
    dense = wide(x.resolve_conj()) * 2.0**-exponent
    if side == "right":
        return u, dense.reshape(u.shape)
    return u, dense.reshape(u.shape[1], u.shape[0]).mT


def eps(dtype):
    return 50 * torch.finfo(dtype).eps


@given(unfoldings(), st.integers(1, 9))
def test_blocks_are_the_rows_of_the_matrix(pair, rows):
    u, matrix = pair
    blocks = [block.clone() for block in u.blocks(rows)]
    assert all(1 <= len(block) <= rows for block in blocks)
    assert torch.equal(wide(torch.cat(blocks)), matrix)
    assert torch.equal(torch.cat([block.clone() for block in u.blocks(rows, double(u.dtype))]), matrix)
    some = [block.clone() for block in u.blocks(rows, chosen=lambda place: place % 2 == 1)]
    assert len(some) == len(blocks) // 2
    assert all(torch.equal(a, b) for a, b in zip(some, blocks[1::2], strict=True))


@given(unfoldings())
def test_sum_of_squares(pair):
    u, matrix = pair
    assert sum_of_squares(u) == pytest.approx(float(matrix.norm()) ** 2, rel=eps(u.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_of_many_equal_squares_keeps_its_digits(dtype, monkeypatch):
    monkeypatch.setitem(unfolding.BLOCK_NUMEL, "cpu", 2**16)
    value = torch.tensor(0.7, dtype=dtype)
    for side in ("left", "right"):
        u = Unfolding(value.expand(2, 3, 2**17).contiguous(), 1 if side == "right" else 2, dtype, side=side)
        expected = 6 * 2**17 * float(value) ** 2
        assert sum_of_squares(u) == pytest.approx(expected, rel=10 * torch.finfo(dtype).eps)


@given(unfoldings())
def test_gram_matrix(pair):
    u, matrix = pair
    for dtype in (u.dtype, double(u.dtype)):
        gram = gram_matrix(u, dtype)
        assert gram.dtype == double(u.dtype)
        assert float((gram - matrix.mH @ matrix).norm()) <= eps(dtype) * float(matrix.norm()) ** 2
        assert torch.equal(gram, gram.mH)


@given(unfoldings())
def test_triangle_has_the_gram_matrix_of_the_unfolding(pair):
    u, matrix = pair
    r = triangle(u)
    assert r.shape == (min(u.shape), u.shape[1])
    assert float((r.mH @ r - matrix.mH @ matrix).norm()) <= eps(torch.float64) * float(matrix.norm()) ** 2


def test_triangle_of_many_blocks_keeps_small_singular_values():
    s = 10.0 ** -torch.arange(8, dtype=torch.float64)
    q, _ = torch.linalg.qr(draw_tensor((20_000, 8), torch.float64, 0))
    v, _ = torch.linalg.qr(draw_tensor((8, 8), torch.float64, 1))
    torch.testing.assert_close(
        torch.linalg.svdvals(triangle(Unfolding((q * s) @ v, 1, torch.float64))), s, rtol=1e-8, atol=0
    )


@given(unfoldings(), st.integers(1, 4), st.sampled_from([None, "product", "norms", "entries"]))
def test_project(pair, rank, measure):
    u, matrix = pair
    v, _ = torch.linalg.qr(draw_tensor((u.shape[1], min(rank, u.shape[1])), double(u.dtype), 0))
    for dtype in (u.dtype, double(u.dtype)):
        out = u.new_product(v.shape[1])
        squares, found = project(u, v, out, dtype, measure=measure)
        norm = float(matrix.norm())
        assert squares == pytest.approx(0.0 if measure in (None, "product") else norm**2, rel=eps(dtype))
        assert float((wide(out) - matrix @ v).norm()) <= eps(u.dtype) * norm
        outside = matrix - matrix @ v @ v.mH
        measured = {None: 0.0, "product": float((matrix @ v).norm()), "norms": float(outside.norm())}
        expected = measured.get(measure, float(outside.norm())) ** 2
        assert found == pytest.approx(expected, abs=eps(dtype) * norm**2)
        assert u.fold(out).numel() == out.numel()


def test_entries_see_what_norms_do_not():
    matrix = draw_tensor((500, 8), torch.float64, 0) * 10.0 ** -torch.arange(0, 16, 2)
    v = torch.eye(8, dtype=torch.float64)[:, :6]
    u = Unfolding(matrix, 1, torch.float64)
    expected = float(matrix[:, 6:].norm())
    assert math.sqrt(project(u, v, u.new_product(6), torch.float64, measure="entries")[1]) == pytest.approx(
        expected, rel=1e-9
    )


@given(unfoldings(), st.integers(1, 3), st.sampled_from([1, 2]))
def test_sketch_lies_in_the_row_space(pair, size, every):
    u, matrix = pair
    drawn = sketch(u, size, double(u.dtype), torch.Generator().manual_seed(0), every)
    assert drawn.shape == (size, u.shape[1])
    outside = drawn - drawn @ torch.linalg.pinv(matrix) @ matrix
    assert float(outside.norm()) <= eps(torch.float64) * float(drawn.norm())


@pytest.mark.parametrize("every", [1, 4])
def test_a_row_of_a_sketch_has_the_norm_of_the_matrix_on_average(every):
    u = Unfolding(draw_tensor((40_000, 16), torch.float64, 0), 1, torch.float64)
    drawn = sketch(u, 50, torch.float64, torch.Generator().manual_seed(1), every)
    assert float(drawn.square().sum()) / 50 == pytest.approx(40_000 * 16, rel=0.15)


@given(unfoldings())
def test_spectra_agree_with_the_svd(pair):
    u, matrix = pair
    norm = float(matrix.norm())
    s = torch.linalg.svdvals(matrix)
    for spectrum in (by_qr(u), by_gram(u, norm, double(u.dtype)), by_gram(u, norm, u.dtype)):
        energies = spectrum.energies[: len(s)]
        assert float((energies - s.square()).abs().max()) <= spectrum.bound + eps(torch.float64) * norm**2
        identity = torch.eye(spectrum.v.shape[1])
        assert float((spectrum.v.mH @ spectrum.v - identity).abs().max()) <= eps(torch.float64)
        assert spectrum.full_rank == min(u.shape)


DATA = {
    "random": lambda n: draw_tensor((4000, n), torch.float64, 0),
    "ones": lambda n: torch.full((4000, n), 0.7, dtype=torch.float64),
    "positive": lambda n: draw_tensor((4000, n), torch.float64, 1).abs(),
    "smooth": lambda n: 1 / (1 + torch.linspace(0, 1, 4000)[:, None].double() + torch.linspace(0, 1, n).double()),
    "decaying": lambda n: draw_tensor((4000, n), torch.float64, 2) * 2.0 ** -torch.arange(n),
    "low rank": lambda n: draw_tensor((4000, 4), torch.float64, 3) @ draw_tensor((4, n), torch.float64, 4),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_gram_matrix_is_wrong_by_less_than_its_bound(kind, n, precision, monkeypatch):
    monkeypatch.setitem(unfolding.BLOCK_NUMEL, "cpu", 2**16)
    x = DATA[kind](n).float().double()
    norm = float(x.norm())
    spectrum = by_gram(Unfolding(x, 1, torch.float64), norm, precision)
    exact = x.numpy().astype(np.longdouble)
    # What a cut to each rank loses in truth, in more digits than are in question.
    energies = ((exact @ spectrum.v.numpy().astype(np.longdouble)) ** 2).sum(0)
    lost = np.cumsum(energies[::-1])[::-1]
    told = spectrum.energies.flip(0).cumsum(0).flip(0).clamp(min=0).numpy()
    # Never more than is told; and not so much less that ranks would grow.
    assert float((lost - told)[1:].max()) <= gram_bound(n, norm, precision)
    assert float((told - lost)[1:].max()) <= 3 * gram_bound(n, norm, precision)


def test_a_cut_is_certified_only_where_the_bound_leaves_no_doubt():
    energies, v = torch.tensor([4.0, 1.0, 1e-6, 1e-15]), torch.eye(4)
    spectrum = Spectrum(energies, v, full_rank=4, bound=1e-13, squares=5.0)
    assert spectrum.cut(3.0, None) == (1, pytest.approx(1.0, rel=1e-6))
    assert spectrum.cut(0.1, None) == (2, pytest.approx(1e-3))
    assert spectrum.cut(1e-6, None) == (3, pytest.approx(1e-15**0.5))
    assert spectrum.cut(1e-7, None) is None  # the allowance is as small as the bound
    assert spectrum.cut(1e-7, 2) == (2, pytest.approx(1e-3))  # forced, and far above the bound
    assert spectrum.cut(1e-7, 3) is None  # forced, but who knows which direction is the third
    assert Spectrum(energies, v, 4, 0.0, 5.0).cut(1e-7, 3) == (3, pytest.approx(1e-15**0.5))
    # All are kept: certain if the last one is there for sure.
    assert Spectrum(energies[:3], v[:, :3], 3, 1e-13, 5.0).cut(1e-8, None) == (3, 0.0)
    assert Spectrum(energies[:3], v[:, :3], 3, 1e-7, 5.0).cut(1e-8, None) is None
    # A sketch of three columns cannot tell that there are no more.
    assert Spectrum(energies[:3], v[:, :3], 4, 1e-13, 5.0).cut(1e-8, None) is None
    assert Spectrum(energies, v, 4, 1e-13, 5.0).cut(10.0, None)[0] == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sketch_finds_a_decaying_spectrum(dtype):
    s = 0.2 ** torch.arange(60, dtype=torch.float64)
    u, _ = torch.linalg.qr(draw_tensor((2000, 60), double(dtype), 0))
    v, _ = torch.linalg.qr(draw_tensor((80, 60), double(dtype), 1))
    matrix = ((u * s) @ v.mH).to(dtype)
    norm = float(matrix.norm())
    for allowed in (1e-2, 1e-5):
        for products in {dtype, double(dtype)} if allowed == 1e-2 else {double(dtype)}:
            found = by_sketch(Unfolding(matrix, 1, dtype), norm, allowed * norm, 12, 40, products)
            rank, tail = found.cut(allowed * norm, None)
            assert rank == max(1, int((s.square().flip(0).cumsum(0).flip(0).sqrt() > allowed * norm).sum()))
            assert math.sqrt(tail**2 + found.bound) <= allowed * norm
            basis, seen = found.seen
            torch.testing.assert_close(wide(seen), wide(matrix) @ basis, atol=eps(dtype), rtol=0)


def test_a_sketch_grows_up_to_the_end_of_a_flat_spectrum():
    x = draw_tensor((900, 50), torch.float64, 0) @ draw_tensor((50, 300), torch.float64, 1)
    norm = float(x.norm())
    found = by_sketch(Unfolding(x, 1, torch.float64), norm, 1e-9 * norm, 12, 80, torch.float64)
    assert found.cut(1e-9 * norm, None)[0] == 50
    basis, _ = found.seen
    torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-13, rtol=0)
    assert by_sketch(Unfolding(x, 1, torch.float64), norm, 1e-9 * norm, 12, 50, torch.float64) is None


def test_a_sketch_gives_up_on_a_flat_spectrum():
    x = draw_tensor((3000, 64), torch.float64, 0)
    assert (
        by_sketch(Unfolding(x, 1, torch.float64), float(x.norm()), 0.1 * float(x.norm()), 12, 60, torch.float64) is None
    )


def test_what_a_sample_of_the_rows_does_not_show_is_found_all_the_same():
    x = torch.zeros(50_000, 40, dtype=torch.float64)
    x[:, :3] = draw_tensor((50_000, 3), torch.float64, 0)
    x[777, 30] = 500.0  # in one block of hundreds
    norm = float(x.norm())
    found = by_sketch(Unfolding(x, 1, torch.float64), norm, 1e-6 * norm, 12, 20, torch.float64)
    assert found.cut(1e-6 * norm, None)[0] == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("choice", ["numpy", "torch", None])
def test_products_are_the_same_by_either_library(dtype, choice, monkeypatch):
    if choice is None:
        monkeypatch.delenv("TTNET_BLAS", raising=False)
    else:
        monkeypatch.setenv("TTNET_BLAS", choice)
    matmul = blas.matmul_for(torch.device("cpu"), dtype)
    if choice is not None:
        assert choice in matmul.__name__
    assert matmul is blas.matmul_for(torch.device("cpu"), dtype)
    a, b = draw_tensor((30, 20), dtype, 0), draw_tensor((20, 10), dtype, 1)
    tall, thin = draw_tensor((3000, 64), dtype, 2), draw_tensor((64, 16), dtype, 3)  # which are taken in pieces
    for x, y in ((a, b), (b.mT, a.mT), (a.mT, a), (tall, thin), (tall, thin.mT.contiguous().mT)):
        for out in (torch.empty(len(x), y.shape[1], dtype=dtype), torch.empty(y.shape[1], len(x), dtype=dtype).mT):
            matmul(x, y, out)
            torch.testing.assert_close(out, x @ y)


def test_other_devices_keep_to_torch(monkeypatch):
    monkeypatch.setenv("TTNET_BLAS", "numpy")
    assert "torch" in blas.matmul_for(torch.device("meta"), torch.float32).__name__


def test_numpy_is_left_alone_where_its_threads_cannot_be_set(monkeypatch):
    monkeypatch.delenv("TTNET_BLAS", raising=False)
    monkeypatch.setattr(blas, "_controller", lambda: None)
    threads = torch.get_num_threads()
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads + 1))
    assert "torch" in blas.matmul_for(torch.device("cpu"), torch.float64).__name__
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(blas, "_numpy_is_faster", lambda dtype, threads, symmetric: True)
    assert "numpy" in blas.matmul_for(torch.device("cpu"), torch.float64).__name__
    with blas.torch_threads():
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_that_is_dropped_from_large_sums_counts_as_lost(dtype, monkeypatch):
    """One row in 2,048 is large, and the squares of the others are below half a unit in the last place of its own."""
    monkeypatch.setattr(compiled_passes, "BLOCK_NUMEL", 2**15)
    x = draw_tensor((2**15, 16), torch.float64, 0).sign() * torch.finfo(dtype).eps ** 0.5 / 8
    x[::2048] = 0.25
    u, norm = Unfolding(x, 1, torch.float64), float(x.norm())
    gram, lost = gram_and_lost(u, dtype)
    exact = math.fsum(x.square().flatten().tolist())  # torch's norm drops it, too
    assert float(gram.diagonal().sum()) + lost == pytest.approx(exact, rel=1e-6 if dtype == torch.float32 else 1e-14)
    found = by_gram(u, norm, dtype)
    v = found.v[:, :1]
    missed = float((x - x @ v @ v.mT).square().sum())
    assert missed <= float(found.energies[1:].clamp(min=0).sum()) + found.bound
    for part in (0.5, 0.7, 0.9):
        bound = part * missed**0.5 / norm
        train = ttnet.tt_svd(x.reshape(32, 1024, 16), eps=bound)
        assert relative_error(dense(train), x.reshape(32, 1024, 16)) <= bound
