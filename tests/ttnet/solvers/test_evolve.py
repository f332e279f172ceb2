"""Evolution in time against matrix exponentials, known solutions and laws of conservation; inverses and quotients."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ttnet
from tests.ttnet.solvers.systems import definite, draw_operator, sine, vector
from tests.ttnet.strategies import dense, draw_train, dtypes, relative_error, seeds
from ttnet import TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError, operators, solvers
from ttnet.operators.building import kronecker_sum
from ttnet.solvers import SolverStatus
from ttnet.solvers.exponentials import exponential_times
from ttnet.solvers.kronecker import summands
from ttnet.solvers.time_steps import radau_matrix

METHODS = ["tdvp2", "implicit"]
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


def exact(a, x, t):
    dtype = torch.promote_types(dense(a).dtype, vector(x).dtype)
    return torch.linalg.matrix_exp(dense(a).to(dtype) * t) @ vector(x).to(dtype)


@settings(max_examples=15)
@given(shapes, st.integers(1, 2), dtypes, seeds, st.sampled_from(METHODS), st.sampled_from([-0.7, 0.5]))
@example((3, 3, 1, 2), 1, torch.float32, 1, "tdvp2", 0.5)  # moves three cores at once
@example((2, 3, 2), 1, torch.float32, 20, "tdvp2", 0.5)
def test_against_matrix_exponentials(shape, rank, dtype, seed, method, t):
    a = draw_operator(shape, rank, dtype, seed)
    a = a * (math.sqrt(math.prod(shape)) / float(a.norm()))
    x = draw_train(shape, [rank] * (len(shape) - 1), dtype, seed + 1)
    tol = 1e-6 if torch.finfo(dtype).eps < 1e-10 else 1e-3
    result = solvers.evolve(a, x, t, method, tol)
    assert result.status is SolverStatus.REACHED
    assert result.converged
    assert result.value.dtype == dtype
    assert relative_error(vector(result.value), exact(a, x, t)) <= 2 * tol
    assert result.residual <= tol


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("bound", [None, 2, 4])
def test_two_cores_follow_what_moves_more_of_them_at_once(tol, bound):
    shape = (2, 3, 2, 2, 3)
    a = draw_operator(shape, 1, torch.float64, 3)  # a product of five matrices, which no two cores can follow
    a = a * (math.sqrt(math.prod(shape)) / float(a.norm()))
    x = draw_train(shape, [1] * 4, torch.float64, 4)
    result = solvers.evolve(a, x, 0.5, "tdvp2", tol, max_rank=bound)
    error = relative_error(vector(result.value), exact(a, x, 0.5))
    assert error <= 2 * max(tol, result.residual)
    assert result.converged or bound
    assert max(result.value.ranks) <= (bound or 6)


@pytest.mark.parametrize("imaginary", [False, True])
def test_tdvp_is_exact_on_full_ranks(imaginary):
    n = 6
    a = operators.heisenberg(n, field=0.3) * (-1.0 if imaginary else -1j)
    x = draw_train((2,) * n, [2, 4, 8, 4, 2], torch.complex128, 0)
    result = solvers.evolve(a, x, 0.8, "tdvp", 1e-7)
    assert result.value.ranks == (1, 2, 4, 8, 4, 2, 1)
    assert relative_error(vector(result.value), exact(a, x, 0.8)) < 1e-6


def test_tdvp_keeps_ranks_norm_and_energy():
    n = 6
    h = operators.ising(n, field=0.7)
    x = draw_train((2,) * n, [3] * (n - 1), torch.complex128, 0)
    x = x / x.norm()
    energy = float(x.dot(h @ x).real)
    result = solvers.evolve(-1j * h, x, 0.3, "tdvp", 1e-4)
    assert max(result.value.ranks) == 3
    assert math.isclose(float(result.value.norm()), 1, rel_tol=1e-9)
    assert math.isclose(float(result.value.dot(h @ result.value).real), energy, rel_tol=1e-4)


def test_the_error_falls_with_the_tolerance():
    n = 6
    a = operators.heisenberg(n) * -1j
    x = TensorTrain([torch.tensor([[[1.0, 0.0], [0.0, 1.0]][k % 2]], dtype=torch.float64)[..., None] for k in range(n)])
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        result = solvers.evolve(a, x, 1.0, "tdvp2", tol)
        errors.append(relative_error(vector(result.value), exact(a, x, 1.0)))
        assert errors[-1] <= 3 * tol
    assert errors[2] < errors[1] < errors[0]


def test_imaginary_time_leads_to_the_ground_state():
    n = 10
    h = operators.ising(n, field=1.5)  # with a gap, so that it is soon there
    start = ttnet.random((2,) * n, 2, dtype=torch.float64, seed=0)
    result = solvers.evolve(-h, start, 8.0, "tdvp2", 1e-5)
    x = result.value / result.value.norm()
    expected = solvers.eigsh(h)
    assert math.isclose(float(x.dot(h @ x)), float(expected.values), rel_tol=1e-7)
    assert math.isclose(abs(float(x.dot(expected.vectors[0]))), 1, rel_tol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_heat_equation_in_five_dimensions(method):
    """The series of the exact solution has two terms, each a product of sines."""
    n, d, t = 9, 5, 0.8
    a = -operators.laplace((n,) * d)
    rates = [d * (2 - 2 * math.cos(math.pi * k / (n + 1))) for k in (1, 2)]
    terms = [TensorTrain([sine(n, k)[None, :, None]] * d) for k in (1, 2)]
    result = solvers.evolve(a, terms[0] + terms[1], t, method, 1e-7)
    expected = terms[0] * math.exp(-rates[0] * t) + terms[1] * math.exp(-rates[1] * t)
    assert float((result.value - expected).norm() / expected.norm()) <= 3e-7
    assert max(result.value.round(eps=1e-7).ranks) <= 2


def test_decay_and_growth_beyond_floats():
    x = ttnet.ones((3,) * 4, dtype=torch.float64)
    for rate in (-50.0, 50.0):
        result = solvers.evolve(ttnet.eye((3,) * 4, dtype=torch.float64) * rate, x, 3.0, "tdvp2", 1e-6)
        assert math.isclose(float(result.value.log_norm()), 3 * rate + 2 * math.log(9) / 2, rel_tol=1e-6)


@pytest.mark.parametrize("method", ["tdvp", "tdvp2", "implicit"])
def test_no_time_and_nothing_to_evolve(method):
    a, x = definite((2, 3), 2, torch.float64, 0), draw_train((2, 3), [2], torch.float64, 0)
    assert relative_error(vector(solvers.evolve(a, x, 0, method).value), vector(x)) < 1e-14
    assert not vector(solvers.evolve(a, x * 0.0, 1, method).value).any()


def test_probability_is_kept():
    birth, death = operators.Reaction({0: 1}, 2.0), operators.Reaction.mass_action({0: 1}, {})
    switch = operators.Reaction({1: 1}, 1.0, {0: lambda n: 1 / (1 + n)})
    a = operators.reaction_network((12, 6), [birth, death, switch, operators.Reaction.mass_action({1: 1}, {})])
    start = torch.zeros(1, 12, 1, dtype=torch.float64), torch.zeros(1, 6, 1, dtype=torch.float64)
    for core in start:
        core[0, 0, 0] = 1
    result = solvers.expm_apply(a, TensorTrain(start), 1.5, 1e-8)
    assert math.isclose(float(result.value.sum()), 1, rel_tol=1e-7)
    assert relative_error(vector(result.value), exact(a, TensorTrain(start), 1.5)) < 1e-7


def test_status_callback_and_interruption():
    a = operators.heisenberg(6) * -1j
    x = draw_train((2,) * 6, [2] * 5, torch.complex128, 0)
    seen = []
    result = solvers.evolve(a, x, 1.0, callback=seen.append)
    assert tuple(seen) == result.history
    assert seen[-1].change == 1
    result = solvers.evolve(a, x, 1.0, max_sweeps=2)
    assert result.status is SolverStatus.MAX_SWEEPS
    passed = result.history[-1].change
    assert 0 <= passed < 1
    assert relative_error(vector(result.value), exact(a, x, passed)) < 1e-6
    assert solvers.evolve(a, x, 1.0, callback=lambda p: True).status is SolverStatus.STOPPED

    def interrupt(progress):
        if progress.change > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        solvers.evolve(a, x, 1.0, callback=interrupt)
    assert caught.value.result.status is SolverStatus.INTERRUPTED


def test_max_rank_bounds_ranks():
    a = operators.heisenberg(6) * -1j
    x = draw_train((2,) * 6, [2] * 5, torch.complex128, 0)
    assert max(solvers.evolve(a, x, 0.2, "tdvp2", 1e-2, max_rank=3).value.ranks) <= 3


@pytest.mark.parametrize(("method", "max_rank"), [("tdvp2", 2), ("tdvp2", 4), ("implicit", 2), ("tdvp", None)])
def test_ranks_that_cannot_follow_are_told_in_few_steps(method, max_rank):
    a = operators.heisenberg(6) * -1j
    x = draw_train((2,) * 6, [2] * 5, torch.complex128, 0)
    result = solvers.evolve(a, x, 0.5, method, 1e-8, max_rank=max_rank)
    assert result.status is SolverStatus.IMPRECISE
    assert result.sweeps <= 60
    assert relative_error(vector(result.value), exact(a, x, 0.5)) <= 1.5 * result.residual


@pytest.mark.parametrize("method", ["tdvp", "tdvp2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_steps_do_not_chase_errors_of_rounding(method, seed):
    a = -operators.laplace((4, 4, 4), dtype=torch.float32)
    x = draw_train((4, 4, 4), [4, 4], torch.float32, seed)
    tol = 5 * torch.finfo(torch.float32).eps
    result = solvers.evolve(a, x, 1.0, method, tol)
    assert result.sweeps <= 20
    assert result.status in (SolverStatus.REACHED, SolverStatus.IMPRECISE)
    assert relative_error(vector(result.value), exact(a, x, 1.0)) <= max(tol, 2 * result.residual)


@settings(max_examples=15)
@given(shapes, dtypes, seeds, st.sampled_from([-1.0, 0.3, 20.0]))
def test_exponentials_of_kronecker_sums(shape, dtype, seed, t):
    parts = [draw_operator((size,), 1, dtype, seed + k) for k, size in enumerate(shape)]
    a = TTMatrix(kronecker_sum([[part.cores[0] / max(float(part.norm()), 1)] for part in parts]))
    x = draw_train(shape, [2] * (len(shape) - 1), dtype, seed + 9)
    found = summands(a)
    assert found is not None
    wide = torch.complex128 if dtype.is_complex else torch.float64
    assert torch.allclose(
        dense(TTMatrix(kronecker_sum([[p[None, :, :, None]] for p in found]))), dense(a).to(wide), atol=1e-5
    )
    tol = 1e-4 if torch.finfo(dtype).eps > 1e-10 else 1e-9
    result = solvers.expm_apply(a, x, t, tol)
    expected = torch.linalg.matrix_exp(dense(a).to(wide) * t) @ vector(x).to(wide)
    assert result.status is SolverStatus.REACHED
    assert result.value.dtype == dtype
    assert relative_error(vector(result.value).to(wide), expected) <= 2 * tol


@pytest.mark.parametrize("shape", [(16, 16), (6, 5, 4)])
def test_stiff_diffusion_is_exact_mode_by_mode(shape):
    a = operators.laplace(shape) * -100
    x = draw_train(shape, [2] * (len(shape) - 1), torch.float64, 1)
    result = solvers.expm_apply(a, x, 1.0, 1e-9)
    assert result.sweeps == 0
    assert result.value.ranks == x.ranks
    assert relative_error(vector(result.value), exact(a, x, 1.0)) < 1e-8


@given(st.lists(st.integers(2, 4), min_size=2, max_size=3), seeds)
def test_what_is_no_kronecker_sum_is_none(shape, seed):
    a = draw_operator(tuple(shape), 2, torch.float64, seed)
    noise = draw_operator(tuple(shape), 1, torch.float64, seed + 1)
    a = a + noise * (1e-6 * float(a.norm()) / float(noise.norm()))
    assert summands(a) is None


def test_implicit_steps_of_stiff_operators_are_no_shorter_than_needed_and_no_longer():
    a = operators.laplace((6, 6)) * -100
    x = draw_train((6, 6), [2], torch.float64, 1)
    result = solvers.evolve(a, x, 0.2, "implicit", 1e-6)
    assert result.status is SolverStatus.REACHED
    assert relative_error(vector(result.value), exact(a, x, 0.2)) <= 1e-6


@settings(max_examples=15)
@given(st.integers(1, 60), seeds, st.booleans(), st.sampled_from([-2.0, 0.1, 30.0]))
def test_exponentials_of_matrices(n, seed, is_complex, time):
    dtype = torch.complex128 if is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, dtype=dtype, generator=generator) / n
    a = a - a.mH if time > 1 else a  # of norm-preserving flow where the time is long
    v = torch.randn(n, dtype=dtype, generator=generator)
    expected = torch.linalg.matrix_exp(time * a) @ v
    assert relative_error(exponential_times(lambda x: a @ x, v, time, tol=1e-9), expected) < 1e-7
    assert not exponential_times(lambda x: a @ x, 0 * v, time, tol=1e-9).any()


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
def test_collocation_integrates_polynomials(stages):
    """Radau IIA: row sums are the points, the last of which is 1, and powers are integrated exactly."""
    matrix = torch.from_numpy(radau_matrix(stages))
    points = matrix.sum(1)
    assert math.isclose(float(points[-1]), 1, rel_tol=1e-12)
    for power in range(stages):
        assert torch.allclose(matrix @ points**power, points ** (power + 1) / (power + 1), atol=1e-12)
    for power in range(2 * stages - 1):
        assert math.isclose(float(matrix[-1] @ points**power), 1 / (power + 1), rel_tol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
def test_inverse(dtype):
    a = definite((3, 2, 4), 2, dtype, 0)
    tol = 1e-4 if dtype == torch.float32 else 1e-9
    result = solvers.inverse(a, tol)
    assert result.converged
    assert relative_error(dense(result.value), torch.linalg.inv(dense(a))) < 10 * tol
    left = torch.eye(24, dtype=dense(a).dtype) - dense(a) @ dense(result.value)
    assert float(left.norm()) / math.sqrt(24) <= 1.01 * tol
    assert solvers.inverse(a, tol, x0=result.value).sweeps == 0


def test_the_inverse_of_a_laplacian_has_small_ranks():
    """Kazeev & Khoromskij 2012: the inverse of the one-dimensional Dirichlet Laplacian has quantised ranks of 5."""
    result = solvers.inverse(operators.laplace((64,), quantised=True), 1e-11)
    assert max(result.value.round(eps=1e-9).ranks) == 5


@settings(max_examples=15)
@given(shapes, dtypes, seeds)
def test_divide(shape, dtype, seed):
    x = draw_train(shape, [2] * (len(shape) - 1), dtype, seed)
    y = draw_train(shape, [2] * (len(shape) - 1), dtype, seed + 1)
    y = ttnet.ones(shape, dtype=dtype) + y * (0.5 / float(y.full().abs().max()))
    tol = 1e-4 if torch.finfo(dtype).eps > 1e-10 else 1e-9
    result = solvers.divide(x, y, tol)
    assert result.converged
    assert relative_error(dense(result.value), dense(x) / dense(y)) < 10 * tol


def test_dividing_by_zero_is_told():
    y = ttnet.arange((3, 4), dtype=torch.float64)
    assert solvers.divide(ttnet.ones((3, 4)), y).status is SolverStatus.SINGULAR
    assert solvers.divide(y * 2.0, y).converged


A, X = ttnet.eye((2, 3), dtype=torch.float64), ttnet.ones((2, 3), dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: solvers.evolve(A, ttnet.ones((3, 2)), 1.0), TTShapeError, "x0 has shape (3, 2) but A has modes"),
        (
            lambda: solvers.evolve(A, X, 1j),
            TTTypeError,
            "t is a complex; expected a real number, an int or a float: let A b",
        ),
        (
            lambda: solvers.evolve(A, X, torch.tensor(0.1)),
            TTTypeError,
            "t is a Tensor; expected a real number, an int or a",
        ),
        (lambda: solvers.evolve(A, X, math.inf), TTValueError, "t is inf; expected a finite number."),
        (lambda: solvers.evolve(A, X, 1.0, "euler"), TTValueError, "method is 'euler'; expected 'tdvp' or 'tdvp2'"),
        (lambda: solvers.evolve(A, X, 1.0, tol=1e-30), TTValueError, "below the precision of float64"),
        (lambda: solvers.evolve(A * math.nan, X, 1.0), TTValueError, "A.cores[1] holds NaN"),
        (lambda: solvers.evolve(A, X, 1.0, max_sweeps=0), TTValueError, "max_sweeps is 0; expected an int >= 1."),
        (lambda: solvers.inverse(X), TTTypeError, "A is a TensorTrain; expected a TTMatrix."),
        (lambda: solvers.inverse(A, x0=ttnet.eye((3, 2))), TTShapeError, "x0 has modes (3, 2) but A has modes (2, 3)"),
        (lambda: solvers.divide(X, ttnet.ones((3, 2))), TTShapeError, "x has shape (2, 3) but A has modes (3, 2)"),
        (lambda: solvers.divide(ttnet.ones(()), ttnet.ones(())), TTValueError, "y is a train of order 0"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_what_fixed_ranks_cannot_follow_is_told():
    hamiltonian = operators.heisenberg(6)
    x = ttnet.random((2,) * 6, 2, dtype=torch.float64, seed=0)
    exact = torch.matrix_exp(-1j * hamiltonian.full()) @ x.full().reshape(-1).to(torch.complex128)
    for options in ({"method": "tdvp"}, {"max_rank": 2, "max_sweeps": 200}):
        result = solvers.evolve(-1j * hamiltonian, x, 1.0, tol=1e-3, **options)
        error = float((result.value.full().reshape(-1) - exact).norm() / exact.norm())
        assert error > 0.1
        assert not result.converged
        assert result.residual > 0.1
    assert result.status in (solvers.SolverStatus.IMPRECISE, solvers.SolverStatus.MAX_SWEEPS)
    free = solvers.evolve(-1j * hamiltonian, x, 1.0, tol=1e-6)
    assert free.converged


def test_norms_beyond_floats_are_reached_by_shorter_steps():
    laplace = operators.laplace((4, 4)) * 20.0
    x = ttnet.random((4, 4), 2, dtype=torch.float64, seed=0)
    result = solvers.evolve(laplace, x, 5.0)
    assert result.converged
    largest = float(torch.linalg.eigvalsh(laplace.full())[-1])
    shifted = laplace - largest * ttnet.eye((4, 4), dtype=torch.float64)
    expected = torch.matrix_exp(5.0 * shifted.full()) @ x.full().reshape(-1)
    assert float(result.value.log_norm()) == pytest.approx(5.0 * largest + float(expected.norm().log()), rel=1e-9)
    first, second = (core / core.abs().max() for core in result.value.cores)
    found = torch.tensordot(first, second, 1).flatten()
    torch.testing.assert_close((found / found.norm()).abs(), (expected / expected.norm()).abs(), rtol=1e-5, atol=1e-7)
