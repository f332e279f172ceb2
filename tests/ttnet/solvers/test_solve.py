"""Linear systems against dense solutions, known ones, and all that can be wrong with them."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ttnet
from tests.ttnet.solvers.systems import definite, draw_operator, general, noise_of, residual_of, sine, tolerance, vector
from tests.ttnet.strategies import dense, draw_train, dtypes, relative_error, same, seeds
from ttnet import TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError, operators, solvers
from ttnet.solvers import SolverStatus, local_system, preconditioners
from ttnet.solvers.amen_sweep import AmenState
from ttnet.solvers.interfaces import OperatorCore, prepare_operator, prepare_train
from ttnet.solvers.krylov import conjugate_gradients, gmres
from ttnet.solvers.preconditioners import kronecker_sum_inverse
from ttnet.solvers.residuals import relative_residual

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
sites = st.sampled_from([1, 2])


@given(shapes, st.integers(1, 3), dtypes, seeds, sites, st.sampled_from([definite, general]))
def test_against_dense_solutions(shape, rank, dtype, seed, sites, kind):
    a = kind(shape, rank, dtype, seed)
    b = draw_train(shape, [rank] * (len(shape) - 1), dtype, seed + 1)
    tol = tolerance(dtype)
    result = solvers.solve(a, b, tol=tol, sites=sites)
    noise = noise_of(a, b, result.value)
    assume(noise <= 10 * tol)  # one entry may be the small sum of large products of cores
    assert result.status is SolverStatus.CONVERGED
    assert result.value.dtype == dtype
    residual = residual_of(a, b, result.value)
    assert residual <= tol * 1.01 + noise
    assert abs(residual - result.residual) <= 0.1 * result.residual + noise
    expected = torch.linalg.solve(dense(a), vector(b))
    assert relative_error(vector(result.value), expected) <= 10 * (tol + noise)


@pytest.mark.parametrize("dense_size", [0, 10**6], ids=["iterative", "direct"])
@pytest.mark.parametrize("kind", [definite, general])
@pytest.mark.parametrize("block", [1, 4, 10**6])
@pytest.mark.parametrize("close", [-1, 100], ids=["blocks", "sum"])
def test_local_systems_may_be_solved_in_any_way(monkeypatch, kind, dense_size, block, close):
    monkeypatch.setattr(local_system, "DENSE_SIZE", dense_size)
    monkeypatch.setattr(local_system, "LARGEST_DENSE_SIZE", dense_size)
    monkeypatch.setattr(preconditioners, "BLOCK_SIZE", block)
    monkeypatch.setattr(preconditioners, "CLOSE", close)
    shape = (3, 4, 2, 3)
    for dtype in (torch.float64, torch.complex128):
        a, b = kind(shape, 2, dtype, 0), draw_train(shape, [2, 2, 2], dtype, 1)
        result = solvers.solve(a, b, tol=1e-10)
        assert residual_of(a, b, result.value) <= 1e-10


def test_operators_that_are_hermitian_and_not_definite():
    shape = (3, 4, 3)
    a = definite(shape, 2, torch.float64, 0)
    sign = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    signs = TTMatrix([sign[None, :, :, None], *ttnet.eye(shape[1:], dtype=torch.float64).cores])
    a = signs + 0.1 * a
    b = draw_train(shape, [2, 2], torch.float64, 1)
    result = solvers.solve(a, b, tol=1e-9)
    assert residual_of(a, b, result.value) <= 1e-9


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("boundary", ["dirichlet", ("periodic", "dirichlet", "neumann")])
def test_poisson_with_a_known_solution(sites, boundary):
    n = 12
    a = operators.laplace((n,) * 3, boundary=boundary)
    x = draw_train((n,) * 3, [2, 2], torch.float64, 0)
    b = a @ x
    result = solvers.solve(a, b, tol=1e-10, sites=sites)
    assert residual_of(a, b, result.value) <= 1e-10
    assert relative_error(dense(result.value), dense(x)) < 1e-7
    assert max(result.value.round(eps=1e-7).ranks) == 2


@pytest.mark.parametrize("scheme", ["central", "upwind"])
def test_convection_and_diffusion_on_quantised_modes(scheme):
    shape = (16, 16)
    flow = operators.convection(shape, [5.0, -3.0], scheme=scheme, quantised=True)
    a = operators.laplace(shape, quantised=True) * 17.0 + flow
    b = ttnet.ones((2,) * 8, dtype=torch.float64)
    result = solvers.solve(a, b, tol=1e-10)
    assert residual_of(a, b, result.value) <= 1e-10


def test_many_dimensions():
    """The slowest sine is an eigenvector, so the solution is known at any order."""
    n, d = 8, 60
    a = operators.laplace((n,) * d)
    b = TensorTrain([sine(n)[None, :, None]] * d)
    result = solvers.solve(a, b, tol=1e-10)
    expected = b / (d * (2 - 2 * math.cos(math.pi / (n + 1))))
    assert float((result.value - expected).log_norm() - expected.log_norm()) < math.log(1e-9)
    ones = ttnet.ones((n,) * d, dtype=torch.float64)
    result = solvers.solve(a, ones, tol=1e-8)
    left = ones - a @ result.value
    assert math.exp(float(left.log_norm() - ones.log_norm())) <= 1.01e-8
    assert math.isclose(math.exp(float(left.log_norm() - ones.log_norm())), result.residual, rel_tol=1e-3)


def test_the_same_call_gives_the_same_answer():
    a, b = general((3, 4, 3), 2, torch.float64, 0), draw_train((3, 4, 3), [2, 2], torch.float64, 1)
    before = torch.random.get_rng_state()
    assert same(solvers.solve(a, b).value, solvers.solve(a, b).value)
    assert torch.equal(before, torch.random.get_rng_state())


@given(dtypes, shapes)
def test_a_right_hand_side_of_zero_has_the_answer_zero(dtype, shape):
    a = definite(shape, 2, dtype, 0)
    zero = draw_train(shape, [2] * (len(shape) - 1), dtype, 0) * 0
    result = solvers.solve(a, zero, tol=1e-4)
    assert result.converged
    assert result.residual == 0
    assert not dense(result.value).any()
    assert set(result.value.ranks) == {1}


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_scales(scale):
    shape = (3, 4, 3)
    a, b = general(shape, 2, torch.float64, 0), draw_train(shape, [2, 2], torch.float64, 1)
    expected = vector(solvers.solve(a, b, tol=1e-10).value)
    assert relative_error(vector(solvers.solve(a, b * scale, tol=1e-10).value) / scale, expected) < 1e-9
    assert relative_error(vector(solvers.solve(a * scale, b, tol=1e-10).value * scale), expected) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_beyond_floats(dtype):
    shape = (4,) * 300
    a = ttnet.eye(shape, dtype=dtype) * 3e30
    a = TTMatrix([core * 1e2 for core in a.cores])  # 1e630
    b = TensorTrain([core * 1e3 for core in ttnet.ones(shape, dtype=dtype).cores])
    result = solvers.solve(a, b, tol=1e-5)
    assert result.converged
    expected = 300 * math.log(1e3) + 300 * math.log(2) - 300 * math.log(1e2) - math.log(3e30)
    assert math.isclose(float(result.value.log_norm()), expected, rel_tol=1e-5)


def test_mixed_dtypes_are_promoted():
    a, b = definite((3, 4), 2, torch.float32, 0), draw_train((3, 4), [2], torch.complex128, 1)
    result = solvers.solve(a, b, tol=1e-10)
    assert result.value.dtype == torch.complex128
    assert residual_of(a, b, result.value) <= 1e-10
    half = solvers.solve(a.to(torch.bfloat16), draw_train((3, 4), [2], torch.float32, 1).to(torch.bfloat16), tol=1e-2)
    assert half.value.dtype == torch.bfloat16


class TestSingular:
    a = operators.laplace((8, 8, 8), boundary="periodic")

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_in_the_range_is_solved(self, seed):
        b = self.a @ draw_train((8, 8, 8), [2, 2], torch.float64, seed)
        result = solvers.solve(self.a, b, tol=1e-8)
        assert result.converged
        assert residual_of(self.a, b, result.value) <= 1e-8

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_not_is_told(self, seed):
        b = draw_train((8, 8, 8), [2, 2], torch.float64, seed)
        result = solvers.solve(self.a, b)
        assert result.status is SolverStatus.SINGULAR
        assert not result.converged
        assert math.isclose(residual_of(self.a, b, result.value), result.residual, rel_tol=1e-6)
        assert result.residual >= abs(float(vector(b).mean())) * 8**1.5 / float(vector(b).norm()) * (1 - 1e-9)

    def test_nothing_but_what_is_not(self):
        result = solvers.solve(self.a, ttnet.ones((8, 8, 8)))
        assert result.status is SolverStatus.SINGULAR
        assert math.isclose(result.residual, 1)

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_a_zero_operator(self, order):
        shape = (3,) * order
        result = solvers.solve(
            ttnet.eye(shape, dtype=torch.float64) * 0.0, draw_train(shape, [2] * (order - 1), torch.float64, 0)
        )
        assert result.status is SolverStatus.SINGULAR
        assert math.isclose(result.residual, 1)


class TestStatus:
    a = operators.laplace((8,) * 4)
    b = ttnet.ones((8,) * 4, dtype=torch.float64)

    def test_max_rank(self):
        result = solvers.solve(self.a, self.b, max_rank=[2, 3, 2])
        assert result.status is SolverStatus.MAX_RANK
        assert all(rank <= most for rank, most in zip(result.value.ranks[1:-1], [2, 3, 2], strict=True))
        assert math.isclose(residual_of(self.a, self.b, result.value), result.residual, rel_tol=1e-6)
        free = solvers.solve(self.a, self.b).value.round(max_rank=[2, 3, 2])
        assert result.residual < 3 * residual_of(self.a, self.b, free)

    def test_max_sweeps(self):
        result = solvers.solve(self.a, self.b, max_sweeps=2)
        assert result.status is SolverStatus.MAX_SWEEPS
        assert result.sweeps == len(result.history) == 2
        assert math.isclose(residual_of(self.a, self.b, result.value), result.residual, rel_tol=1e-6)

    def test_beyond_what_rounding_errors_allow(self):
        a = operators.laplace((2**10,), quantised=True)
        result = solvers.solve(a, ttnet.ones((2,) * 10, dtype=torch.float64), tol=1e-15, max_sweeps=30)
        assert result.status is SolverStatus.STALLED
        assert residual_of(a, ttnet.ones((2,) * 10, dtype=torch.float64), result.value) < 1e-8

    def test_the_callback_sees_each_sweep_and_may_stop(self):
        seen = []
        result = solvers.solve(self.a, self.b, callback=seen.append)
        assert tuple(seen) == result.history
        assert [progress.sweep for progress in seen] == list(range(1, result.sweeps + 1))
        assert seen[-1].residual <= 1e-8
        result = solvers.solve(self.a, self.b, callback=lambda progress: progress.sweep == 2)
        assert result.status is SolverStatus.STOPPED
        assert math.isclose(residual_of(self.a, self.b, result.value), result.residual, rel_tol=1e-6)

    def test_an_exception_hands_back_the_best_so_far(self):
        def interrupt(progress):
            if progress.sweep == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            solvers.solve(self.a, self.b, callback=interrupt)
        result = caught.value.result
        assert result.status is SolverStatus.INTERRUPTED
        assert result.residual < 0.1
        # The residual of an answer of double precision, 1e-12 here, has errors of rounding of some 1e-16.
        assert math.isclose(residual_of(self.a, self.b, result.value), result.residual, rel_tol=1e-6, abs_tol=1e-14)

    def test_the_answer_at_hand(self):
        x = solvers.solve(self.a, self.b, tol=1e-9).value
        result = solvers.solve(self.a, self.b, x0=x)
        assert result.converged
        assert result.sweeps == 0

    @pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
    def test_a_good_start_saves_sweeps(self, scale):
        cold = solvers.solve(self.a, self.b * scale)
        warm = solvers.solve(self.a, self.b * scale, x0=cold.value.round(eps=1e-5))
        assert warm.sweeps < cold.sweeps
        assert warm.converged

    def test_a_start_of_zero(self):
        assert solvers.solve(self.a, self.b, x0=self.b * 0.0).converged


A, B = ttnet.eye((2, 3), dtype=torch.float64), ttnet.ones((2, 3), dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: solvers.solve(B, B), TTTypeError, "A is a TensorTrain; expected a TTMatrix."),
        (lambda: solvers.solve(A, A), TTTypeError, "b is a TTMatrix; expected a TensorTrain, as its to_train() gives."),
        (lambda: solvers.solve(A, ttnet.ones((3, 2))), TTShapeError, "b has shape (3, 2) but A has modes (2, 3)"),
        (lambda: solvers.solve(A, ttnet.ones((2,))), TTShapeError, "b has shape (2,) but A has modes (2, 3)"),
        (lambda: solvers.solve(A, ttnet.ones(())), TTShapeError, "b has shape () but A has modes (2, 3)"),
        (lambda: solvers.solve(A, B, x0=ttnet.ones((2,))), TTShapeError, "x0 has shape (2,) but A has modes (2, 3)"),
        (lambda: solvers.solve(A, B, x0=3), TTTypeError, "x0 is a int; expected a TensorTrain."),
        (lambda: solvers.solve(A, B * math.nan), TTValueError, "b.cores[1] holds NaN"),
        (lambda: solvers.solve(A * math.nan, B), TTValueError, "A.cores[1] holds NaN or infinite entries"),
        (lambda: solvers.solve(A.to(torch.float32), B.to(torch.float32)), TTValueError, "below the precision of"),
        (lambda: solvers.solve(A, B, tol=0), TTValueError, "tol is 0; expected a number above 0 and below 1"),
        (lambda: solvers.solve(A, B, max_sweeps=0), TTValueError, "max_sweeps is 0; expected an int >= 1."),
        (lambda: solvers.solve(A, B, max_rank=0), TTValueError, "max_rank holds 0; every rank must be at least 1."),
        (lambda: solvers.solve(A, B, sites=3), TTValueError, "sites is 3; expected 1 or 2."),
        (lambda: solvers.solve(A, B, seed=-1), TTValueError, "seed is -1; expected"),
        (lambda: solvers.solve(A, B, callback=1), TTTypeError, "callback is a int; expected a function"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@settings(max_examples=20)
@given(st.integers(1, 60), seeds, st.booleans())
def test_gmres_and_conjugate_gradients(n, seed, is_complex):
    dtype = torch.complex128 if is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, dtype=dtype, generator=generator) / n**0.5 + 2 * torch.eye(n, dtype=dtype)
    b = torch.randn(n, dtype=dtype, generator=generator)
    start = torch.randn(n, dtype=dtype, generator=generator)
    scaling = 1 / a.diagonal()
    bound = 1e-9 * float(b.norm())
    arguments = {"bound": bound, "steps": 500}
    x, size = gmres(lambda v: a @ v, b, start, precondition=lambda v: scaling * v, **arguments)
    assert float((a @ x - b).norm()) <= 1.01 * bound + 1e-13
    assert math.isclose(size, float((a @ x - b).norm()), rel_tol=0.5, abs_tol=bound)
    h = a.mH @ a
    scaling = 1 / h.diagonal()
    x, size, definite = conjugate_gradients(lambda v: h @ v, b, start, precondition=lambda v: scaling * v, **arguments)
    assert definite
    assert float((h @ x - b).norm()) <= 1.01 * bound + 1e-12
    assert not conjugate_gradients(lambda v: -(h @ v), b, start, precondition=lambda v: v, **arguments)[2]


@given(st.integers(1, 12), seeds, st.booleans())
def test_gmres_where_the_matrix_is_singular(n, seed, is_complex):
    """A projection's Krylov space ends after two vectors, and holds the best solution there is."""
    dtype = torch.complex128 if is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, (n + 1) // 2, dtype=dtype, generator=generator))
    b = torch.randn(n, dtype=dtype, generator=generator)
    x, size = gmres(
        lambda v: q @ (q.mH @ v), b, torch.zeros_like(b), bound=0.0, steps=50, precondition=lambda v: v.clone()
    )
    best = float((b - q @ (q.mH @ b)).norm())
    assert math.isclose(size, best, rel_tol=1e-9, abs_tol=1e-12 * float(b.norm()))
    assert math.isclose(float((b - q @ (q.mH @ x)).norm()), best, rel_tol=1e-9, abs_tol=1e-12 * float(b.norm()))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple), st.integers(1, 3), dtypes, seeds, sites)
def test_what_the_search_sees_of_a_residual_is_part_of_it(shape, rank, dtype, seed, sites):
    a, _ = prepare_operator(general(shape, rank, dtype, seed), dtype)
    b, _ = prepare_train(draw_train(shape, [rank] * (len(shape) - 1), dtype, seed + 1), dtype)
    x, _ = prepare_train(draw_train(shape, [1] * (len(shape) - 1), dtype, seed + 2), dtype)
    z, _ = prepare_train(draw_train(shape, [2] * (len(shape) - 1), dtype, seed + 3), dtype)
    generator = torch.Generator().manual_seed(seed)
    state = AmenState(a, b, x, z, hermitian=False, max_ranks=[2] * (len(shape) - 1), sites=sites, generator=generator)
    for _ in range(3):
        seen = state.sweep(tol=1e-3, loose=0.5)[2]
        state.turn()
        expected = vector(TensorTrain(b)) - dense(TTMatrix(a)) @ vector(TensorTrain(state.cores))
        assert seen <= float(expected.norm()) * (1 + 1e-4) + 1e3 * torch.finfo(dtype).eps
        residual = relative_residual(a, b, state.cores) * float(vector(TensorTrain(b)).norm())
        assert math.isclose(residual, float(expected.norm()), rel_tol=1e-4, abs_tol=1e3 * torch.finfo(dtype).eps)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), seeds, st.booleans(), st.booleans())
def test_kronecker_sums_are_inverted_exactly(i, n, j, seed, is_complex, hermitian):
    dtype = torch.complex128 if is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randn(size, size, dtype=dtype, generator=generator) for size in (i, n, j))
    x, y, z = (m @ m.mH + torch.eye(len(m)) if hermitian else m / 5 + 2 * torch.eye(len(m)) for m in (x, y, z))
    unit_i, unit_n, unit_j = (torch.eye(size, dtype=dtype) for size in (i, n, j))
    left, right = torch.stack([unit_i, x], 1), torch.stack([unit_j, z], 1)
    core = torch.stack([torch.stack([y, unit_n], -1), torch.stack([unit_n, torch.zeros_like(y)], -1)])
    whole = torch.einsum("iak,amnb,jbl->imjknl", left, core, right).reshape(i * n * j, -1)
    inverse = kronecker_sum_inverse(left, OperatorCore(core), right, hermitian=hermitian)
    if inverse is None:  # eigenvectors that are nearly dependent
        assert not hermitian
        return
    f = torch.randn(len(whole), dtype=dtype, generator=generator)
    assert relative_error(whole @ inverse(f), f) < 1e-8


def test_what_is_far_from_a_sum_is_told():
    sizes = (3, 2, 3), (2, 4, 4, 2), (3, 2, 3)
    left, core, right = (torch.randn(*size, generator=torch.Generator().manual_seed(0)) for size in sizes)
    assert kronecker_sum_inverse(left, OperatorCore(core), right, hermitian=False) is None


def test_draws_have_no_symmetry():
    a = draw_operator((3, 2), 2, torch.float64, 0)
    assert relative_error(dense(a).T, dense(a)) > 0.1


def test_single_precision_near_its_end():
    """Directions that are taken out must not take digits along: A is a hundred times as sensitive as x is precise."""
    a = operators.laplace((16, 16, 16), dtype=torch.float32)
    b = ttnet.ones((16, 16, 16))
    result = solvers.solve(a, b, tol=2e-6)
    assert result.converged
    assert residual_of(a, b, result.value) <= 2.2e-6
