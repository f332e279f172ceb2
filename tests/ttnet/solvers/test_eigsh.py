"""Eigenpairs against dense ones, known ones, and all that can be wrong with them."""

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ttnet
from tests.ttnet.solvers.systems import draw_operator, vector
from tests.ttnet.strategies import dense, draw_train, dtypes, relative_error, same, seeds
from ttnet import TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError, operators, solvers
from ttnet.solvers import SolverStatus, dmrg_sweep
from ttnet.solvers.interfaces import mirrored, split, trim
from ttnet.solvers.residuals import eigen_residual
from ttnet.solvers.ritz import lowest_pairs
from ttnet.trains.orthogonal import right_orthogonalise

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def hermitian(shape, rank, dtype, seed) -> TTMatrix:
    a = draw_operator(shape, rank, dtype, seed)
    return (a + a.H) / float(a.norm()) * math.sqrt(math.prod(shape))


def residuals_of(a, result):
    """The norms of A v - value v, of dense tensors in double precision."""
    matrix = dense(a)
    found = []
    for value, v in zip(result.values.tolist(), result.vectors, strict=True):
        v = vector(v).to(matrix.dtype)
        assert math.isclose(float(v.norm()), 1, rel_tol=1e-5)
        found.append(float((matrix @ v - value * v).norm()))
    return found


@settings(deadline=None)
@given(
    st.data(), shapes, st.integers(1, 3), dtypes, seeds, st.sampled_from([1, 2, None]), st.sampled_from(["SA", "LA"])
)
def test_against_dense_eigenpairs(data, shape, rank, dtype, seed, sites, which):
    a = hermitian(shape, rank, dtype, seed)
    k = data.draw(st.integers(1, min(3, math.prod(shape))))
    tol = 1e-6 if torch.finfo(dtype).eps < 1e-10 else 1e-3
    result = solvers.eigsh(a, k, which, tol, sites=sites)
    assert result.converged
    expected = torch.linalg.eigvalsh(dense(a))
    expected = expected[:k] if which == "SA" else expected.flip(0)[:k]
    scale = float(dense(a).norm()) / math.sqrt(math.prod(shape))
    assert result.values.shape == result.residuals.shape == (k,)
    assert float((result.values - expected).abs().max()) <= 2 * tol * max(scale, float(expected.abs().max()))
    for found, value, told in zip(residuals_of(a, result), expected.tolist(), result.residuals.tolist(), strict=True):
        assert found <= 1.5 * tol * max(scale, abs(value))
        assert math.isclose(found / max(scale, abs(value)), told, rel_tol=0.1, abs_tol=100 * torch.finfo(dtype).eps)
    assert all(v.dtype == dtype for v in result.vectors)
    overlaps = (
        torch.stack([vector(v) for v in result.vectors]).conj() @ torch.stack([vector(v) for v in result.vectors]).T
    )
    assert relative_error(overlaps.abs(), torch.eye(k, dtype=torch.float64)) < 10 * tol


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("dense_size", [0, 1000])
def test_local_problems_may_be_solved_in_any_way(monkeypatch, sites, dense_size):
    monkeypatch.setattr(dmrg_sweep, "DENSE_SIZE", dense_size)
    for dtype in (torch.float64, torch.complex128):
        a = hermitian((3, 4, 3, 4), 2, dtype, 1)
        result = solvers.eigsh(a, 2, sites=sites)
        assert torch.allclose(result.values, torch.linalg.eigvalsh(dense(a))[:2], atol=1e-9)


@pytest.mark.parametrize("n", [2, 5, 9, 40, 100])
def test_a_critical_chain_of_free_fermions(n):
    """Pfeuty 1970: the open critical Ising chain has modes of energy `4 sin(k / 2)`, k = (2 j + 1) pi / (2 n + 1)."""
    result = solvers.eigsh(operators.ising(n), k=2)
    ground = 1 - 1 / math.sin(math.pi / (2 * (2 * n + 1)))
    gap = 4 * math.sin(math.pi / (2 * (2 * n + 1)))
    assert math.isclose(float(result.values[0]), ground, rel_tol=1e-10)
    assert math.isclose(float(result.values[1]), ground + gap, rel_tol=1e-9)


@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
def test_the_laplacian_on_large_modes(boundary):
    """Here one core is solved for at a time. The lowest three but one are degenerate."""
    n = 14
    a = operators.laplace((n,) * 3, boundary=boundary)
    single = torch.linalg.eigvalsh(dense(operators.laplace((n,), boundary=boundary)))
    expected = (single[:, None, None] + single[:, None] + single).flatten().sort().values
    result = solvers.eigsh(a, k=4)
    assert torch.allclose(result.values, expected[:4], atol=1e-9)
    assert math.isclose(float(solvers.eigsh(a, 1, "LA").values), float(expected[-1]), rel_tol=1e-9)


@given(
    st.sampled_from([3, 8, 16, 32, 64]), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from([1, 2])
)
def test_another_eigenvector_to_begin_with_is_left(n, numbers, sites):
    """Products of sines are the Laplacian's eigenvectors, and what it makes of one is no new direction."""
    points = torch.arange(1, n + 1, dtype=torch.float64)
    x0 = TensorTrain([torch.sin(math.pi * k * points / (n + 1)).reshape(1, -1, 1) for k in numbers])
    result = solvers.eigsh(operators.laplace((n,) * len(numbers)), x0=x0, sites=sites if n < 32 else None)
    lowest = len(numbers) * (2 - 2 * math.cos(math.pi / (n + 1)))
    assert not result.converged or math.isclose(float(result.values[0]), lowest, rel_tol=1e-8)
    if n < 64:
        assert result.converged


@pytest.mark.parametrize("which", ["SA", "LA"])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_every_eigenvector_of_a_chain_to_begin_with(number, which):
    H = operators.heisenberg(8)
    values, vectors = torch.linalg.eigh(H.full())
    values, vectors = (values, vectors) if which == "SA" else (values.flip(0), vectors.flip(1))
    x0 = ttnet.tt_svd(vectors[:, number].reshape((2,) * 8), eps=1e-14)
    result = solvers.eigsh(H, which=which, x0=x0)
    assert result.converged
    assert math.isclose(float(result.values[0]), float(values[0]), rel_tol=1e-9)


def test_oscillators():
    a = operators.oscillators(4, 9, coupling=0.1)
    modes = [math.sqrt(1 + 0.2 * math.cos(j * math.pi / 5)) for j in range(1, 5)]
    result = solvers.eigsh(a, k=2, tol=1e-6)
    assert math.isclose(float(result.values[0]), sum(modes) / 2, rel_tol=1e-8)
    assert math.isclose(float(result.values[1] - result.values[0]), min(modes), rel_tol=1e-5)


@pytest.mark.parametrize("scale", [1e-290, 1e290])
def test_scales(scale):
    a = operators.heisenberg(6)
    plain, scaled = solvers.eigsh(a), solvers.eigsh(a * scale)
    assert math.isclose(float(scaled.values), float(plain.values) * scale, rel_tol=1e-9)


def test_a_zero_operator_and_one_row():
    result = solvers.eigsh(operators.heisenberg(3) * 0.0, k=2)
    assert result.converged
    assert result.values.tolist() == [0, 0]
    result = solvers.eigsh(ttnet.eye((1, 1), dtype=torch.float64) * 3.0)
    assert result.values.tolist() == [3]


def test_the_same_call_gives_the_same_answer():
    a = operators.heisenberg(8)
    before = torch.random.get_rng_state()
    assert same(solvers.eigsh(a).vectors[0], solvers.eigsh(a).vectors[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_gradients_of_values():
    """Hellmann and Feynman: the derivative of an eigenvalue, against finite differences."""
    a = hermitian((3, 2), 2, torch.float64, 3)
    cores = [core.clone().requires_grad_() for core in a.cores]

    def values(*cores):
        given = TTMatrix(cores)
        return solvers.eigsh((given + given.H) * 0.5, k=2, tol=1e-12).values

    assert torch.autograd.gradcheck(values, cores, eps=1e-5, atol=1e-5)


def test_modes_of_size_one_leave_room_for_vectors():
    a = hermitian((1, 1, 3, 1, 2, 1), 2, torch.float64, 0)
    result = solvers.eigsh(a, k=5, max_rank=[1, 1, 3, 3, 1])
    assert torch.allclose(result.values, torch.linalg.eigvalsh(dense(a))[:5])
    assert result.vectors[0].shape == (1, 1, 3, 1, 2, 1)
    assert result.history[-1].ranks[0] == result.history[-1].ranks[-1] == 1
    assert len(result.history[-1].ranks) == 7
    assert float(solvers.eigsh(a, x0=result.vectors[0]).values) == pytest.approx(float(result.values[0]))


def test_bounds_on_ranks_may_differ_from_bond_to_bond():
    a = operators.heisenberg(6)
    result = solvers.eigsh(a, k=3, max_rank=[2, 1, 8, 4, 2])
    assert all(rank <= most for v in result.vectors for rank, most in zip(v.ranks[1:-1], [2, 1, 8, 4, 2], strict=True))
    assert result.status is SolverStatus.MAX_RANK


class TestStatus:
    a = operators.heisenberg(12)

    def test_max_rank(self):
        result = solvers.eigsh(self.a, max_rank=4)
        assert result.status is SolverStatus.MAX_RANK
        assert max(result.vectors[0].ranks) <= 4
        assert result.residual > 1e-6
        expected = torch.linalg.eigvalsh(dense(self.a))[0]
        assert expected < result.values[0] < expected + 0.05

    def test_max_sweeps_callback_and_interruption(self):
        result = solvers.eigsh(self.a, max_sweeps=1)
        assert result.status is SolverStatus.MAX_SWEEPS
        assert math.isclose(result.residual * abs(float(result.values)), residuals_of(self.a, result)[0], rel_tol=1e-6)
        seen = []
        assert solvers.eigsh(self.a, max_sweeps=2, callback=seen.append).history == tuple(seen)
        assert [p.sweep for p in seen] == [1, 2]
        result = solvers.eigsh(self.a, callback=lambda p: p.sweep == 2)
        assert result.status is SolverStatus.STOPPED
        assert math.isclose(result.residual * abs(float(result.values)), residuals_of(self.a, result)[0], rel_tol=1e-6)

        def interrupt(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            solvers.eigsh(self.a, callback=interrupt)
        assert caught.value.result.status is SolverStatus.INTERRUPTED

    def test_a_good_start_saves_sweeps(self):
        cold = solvers.eigsh(self.a)
        warm = solvers.eigsh(self.a, x0=cold.vectors[0])
        assert warm.sweeps < cold.sweeps
        assert math.isclose(float(warm.values), float(cold.values), rel_tol=1e-9)

    def test_it_explains_itself(self):
        lines = str(solvers.eigsh(self.a, k=2)).splitlines()
        assert lines[0].startswith("CONVERGED: ")
        assert lines[1].startswith("eigenvalues: -5.14209")


@example((1, 1, 2, 1, 2), 1, torch.float32, 0)  # nothing has begun at the second bond, and there are no channels
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5).map(tuple), st.integers(1, 3), dtypes, seeds)
def test_residuals_are_the_same_in_either_way(shape, rank, dtype, seed):
    a = hermitian(shape, rank, dtype, seed)
    v = draw_train(shape, [rank] * (len(shape) - 1), dtype, seed)
    cores = [*v.cores[:-1], v.cores[-1] / float(v.norm())]
    whole = vector(TensorTrain(cores))
    expected = float((dense(a).to(whole.dtype) @ whole - 0.3 * whole).norm())
    for exact_rank, sketch, tolerance in ((100, 64, 1e-2), (0, 64, 0.6), (0, 4096, 0.1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ttnet.solvers.residuals.EXACT_RANK", exact_rank)
            patch.setattr("ttnet.solvers.residuals.SKETCH", sketch)
            found = eigen_residual(a.cores, cores, 0.3)
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("exact_rank", [100, 0])
@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-7, 1e-9, 1e-12])
def test_small_residuals_are_those_of_dense_vectors(monkeypatch, size, exact_rank):
    """The square of a residual of 1e-9 is nothing but rounding errors. Terms of neighbours leave nothing to chance."""
    monkeypatch.setattr("ttnet.solvers.residuals.EXACT_RANK", exact_rank)
    a = operators.heisenberg(8)
    values, vectors = torch.linalg.eigh(a.full())
    v = vectors[:, 0] + size * vectors[:, 1]
    train = ttnet.tt_svd((v / v.norm()).reshape((2,) * 8), eps=1e-15)
    expected = float((a.full() @ v - values[0] * v).norm() / v.norm())
    turned, exponent = right_orthogonalise(mirrored(train.cores))
    turned[0] = turned[0] * 2.0 ** int(exponent)
    for cores in (train.cores, mirrored(turned)):  # wherever the norm is
        found = eigen_residual(a.cores, cores, float(values[0]))
        assert math.isclose(found, expected, rel_tol=0.05, abs_tol=1e-13)


@pytest.mark.parametrize("rank", [3, 12, 40])
def test_residuals_of_terms_of_neighbours_leave_nothing_to_chance(monkeypatch, rank):
    """With a field and a multiple of the identity, and the vectors' bases not orthonormal yet."""
    a = (operators.ising(9, field=0.7) + ttnet.eye((2,) * 9, dtype=torch.float64) * 2.0).cores
    v = draw_train((2,) * 9, [rank] * 8, torch.float64, rank)
    cores = [*v.cores[:-1], v.cores[-1] / float(v.norm())]
    expected = eigen_residual(a, cores, 0.3)
    whole = vector(TensorTrain(cores))
    assert math.isclose(expected, float((dense(TTMatrix(a)) @ whole - 0.3 * whole).norm()), rel_tol=1e-12)
    monkeypatch.setattr("ttnet.solvers.residuals.EXACT_RANK", 0)
    monkeypatch.setattr("ttnet.solvers.residuals._combined", None)  # random combinations of rows
    assert math.isclose(eigen_residual(a, cores, 0.3), expected, rel_tol=1e-12)


@pytest.mark.parametrize("tol", [1e-6, 1e-8])
@pytest.mark.parametrize(("shape", "quantised"), [((1024, 1024), True), ((256, 256, 256), True), ((64, 64, 64), False)])
def test_narrow_gaps_below_a_wide_spectrum(shape, quantised, tol):
    """An iteration comes down to these by thousands of steps, and what it left over filled the bonds with noise."""
    result = solvers.eigsh(operators.laplace(shape, quantised=quantised), tol=tol)
    exact = sum(2 - 2 * math.cos(math.pi / (n + 1)) for n in shape)
    assert result.status is SolverStatus.CONVERGED
    assert math.isclose(float(result.values), exact, rel_tol=1e-4 if tol > 1e-7 else 1e-6)
    assert max(result.vectors[0].ranks) <= 6
    assert result.sweeps <= 8


def test_several_vectors_of_large_ranks_converge():
    """Residuals of some 1e-8 of these were errors of rounding, which no sweep makes smaller."""
    result = solvers.eigsh(operators.heisenberg(12), k=3, tol=1e-8)
    assert result.status is SolverStatus.CONVERGED
    assert result.sweeps <= 7
    whole = operators.heisenberg(12)
    for value, v in zip(result.values, result.vectors, strict=True):
        assert float((whole @ v - v * float(value)).norm()) <= 2e-8 * abs(float(value))


@given(
    st.integers(1, 120),
    st.integers(1, 120),
    dtypes,
    seeds,
    st.sampled_from([1e-1, 1e-4, 1e-6, 1e-12]),
    st.integers(1, 9),
)
def test_splits_have_the_smallest_rank_that_loses_no_more_than_it_may(rows, columns, dtype, seed, tail, decades):
    generator = torch.Generator().manual_seed(seed)
    least = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, least, dtype=dtype, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(columns, least, dtype=dtype, generator=generator))[0]
    values = torch.logspace(0, -decades, least, dtype=torch.float64)
    matrix = (u * values.to(u.real.dtype)) @ v.mH
    basis, rest = split(matrix, tail)
    precision = torch.finfo(dtype).eps
    assert relative_error(basis.mH @ basis, torch.eye(basis.shape[1], dtype=dtype)) < 100 * precision
    assert float((basis @ rest - matrix).norm()) <= tail + 100 * precision
    lost = [float(values[rank:].square().sum().sqrt()) for rank in range(least + 1)]
    closest = next(rank for rank in range(1, least + 1) if lost[rank] <= tail + 100 * precision)
    assert closest <= basis.shape[1]
    assert basis.shape[1] == 1 or lost[basis.shape[1] - 1] > tail - max(100 * precision, 0.01 * tail)
    assert split(matrix, tail, 2)[0].shape[1] == min(2, basis.shape[1])


@given(st.integers(2, 60), st.integers(1, 3), dtypes, seeds, st.booleans())
def test_new_directions_are_orthogonal_to_old_ones(rows, count, dtype, seed, is_inside):
    """Also where what they are made of has nothing new."""
    count = min(count, rows - 1)
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(rows, rows - count, dtype=dtype, generator=generator))[0]
    new = torch.randn(rows, count, dtype=dtype, generator=generator)
    new = u @ (u.mH @ new) if is_inside else new
    both = torch.cat([u, dmrg_sweep.beside(u, new)], 1)
    assert relative_error(both.mH @ both, torch.eye(rows, dtype=dtype)) < 100 * torch.finfo(dtype).eps


@given(st.integers(1, 4), st.integers(8, 60), seeds, st.booleans())
def test_lanczos(k, n, seed, is_complex):
    dtype = torch.complex128 if is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, dtype=dtype, generator=generator)
    a = (a + a.mH) / 2
    start = torch.randn(k, n, dtype=dtype, generator=generator)
    values, vectors, left = lowest_pairs(lambda x: x @ a.mT, start, bound=1e-9, gain=0.0, steps=1000)
    assert left == 0
    assert torch.allclose(values, torch.linalg.eigvalsh(a)[:k], atol=1e-7)
    assert float((a @ vectors.mT - vectors.mT * values).norm()) < 1e-7
    assert relative_error(vectors.conj() @ vectors.mT, torch.eye(k, dtype=dtype)) < 1e-10


H = operators.heisenberg(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: solvers.eigsh(ttnet.ones((2,))), TTTypeError, "A is a TensorTrain; expected a TTMatrix."),
        (lambda: solvers.eigsh(TTMatrix([torch.ones(1, 2, 3, 1)])), TTShapeError, "A has row modes (2,) and column"),
        (lambda: solvers.eigsh(operators.shift((4, 4))), TTValueError, "A is not Hermitian: the norm of A - A.H is"),
        (lambda: solvers.eigsh(H * math.nan), TTValueError, "holds NaN or infinite entries"),
        (lambda: solvers.eigsh(H, 0), TTValueError, "k is 0; expected an int >= 1."),
        (lambda: solvers.eigsh(H, 17), TTValueError, "k is 17; expected at most 16, the number of rows of A."),
        (lambda: solvers.eigsh(H, 5, max_rank=1), TTValueError, "there is room for 4 vectors at most"),
        (
            lambda: solvers.eigsh(H, which="LM"),
            TTValueError,
            "which is 'LM'; expected 'SA' (lowest) or 'LA' (highest).",
        ),
        (lambda: solvers.eigsh(H, sites=3), TTValueError, "sites is 3; expected 1, 2 or None."),
        (lambda: solvers.eigsh(H, tol=1e-20), TTValueError, "tol is 1e-20, below the precision of float64"),
        (lambda: solvers.eigsh(H, x0=ttnet.ones((2,))), TTShapeError, "x0 has shape (2,) but A has modes"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("breaks_at", [1, 9, 12, 16])
def test_what_breaks_a_sweep_off_keeps_what_the_last_one_found(breaks_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven bonds a sweep: in the first one there is nothing yet."""
    matrix, original, calls = operators.heisenberg(8), dmrg_sweep.split, itertools.count(1)

    def breaking(*args):
        if next(calls) == breaks_at:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(dmrg_sweep, "split", breaking)
    with pytest.raises(KeyboardInterrupt) as caught:
        solvers.eigsh(matrix)
    result = getattr(caught.value, "result", None)
    assert (result is None) == (breaks_at <= 7)
    if result is not None:
        v, dense = result.value[0].full().flatten(), matrix.full().reshape(2**8, 2**8)
        residual = float(torch.linalg.vector_norm(dense @ v - result.values[0] * v))
        assert residual / max(1.0, abs(float(result.values[0]))) == pytest.approx(result.residual, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("shift", [0.0, 10.0, 1000.0])
def test_lanczos_vectors_stay_orthonormal(k, dtype, shift):
    """From good vectors, far from zero: rounding errors might grow by the shift over the width at each step."""
    matrix = torch.diag(torch.linspace(0, 10, 400, dtype=torch.float64) - shift).to(dtype)
    v = torch.eye(k, 400, dtype=dtype) + 1e-4 * torch.randn(k, 400, generator=torch.Generator().manual_seed(0)).to(
        dtype
    )
    values, vectors, left = lowest_pairs(lambda x: x @ matrix.mT, v, bound=0.0, gain=0.0, steps=24)
    precision = torch.finfo(dtype).eps
    assert float((vectors @ vectors.mH - torch.eye(k)).abs().max()) < 100 * precision
    quotients = ((vectors @ matrix.mT) * vectors.conj()).sum(1).real
    assert float((quotients - values).abs().max()) < 100 * precision * max(10.0, shift)
    assert left < 1


def test_ranks_that_hold_noise_alone_are_trimmed():
    """Where the smallest singular value is seen to be none, no singular vectors are computed."""
    generator = torch.Generator().manual_seed(0)
    x = TensorTrain(
        [torch.randn(r, 3, s, dtype=torch.float64, generator=generator) for r, s in ((1, 2), (2, 3), (3, 1))]
    )
    x = x / x.norm()
    whole = trim(x.cores)
    assert [core.shape[2] for core in whole] == [2, 3, 1]
    padded = trim((x + x * 1e-17).cores)
    assert [core.shape[2] for core in padded] == [2, 3, 1]
    for cores in (whole, padded):
        assert relative_error(TensorTrain(cores).full(), x.full()) < 1e-14
    zero = trim([core * 0.0 for core in x.cores])
    assert [core.shape[2] for core in zero] == [1, 1, 1]
