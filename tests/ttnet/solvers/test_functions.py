"""Functions as trains: bases against numerical calculus, integrals and interpolants that are known, and regression."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import draw_train, seeds
from ttnet import TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.solvers import (
    BSpline,
    Chebyshev,
    Fourier,
    Functions,
    FunctionTrain,
    Legendre,
    SolverStatus,
    fit,
    gauss,
    integrate,
    interpolate,
)


@st.composite
def bases(draw, kinds=(Chebyshev, Legendre, Fourier, BSpline)):
    kind = draw(st.sampled_from(kinds))
    low = draw(st.floats(-3, 3))
    high = low + draw(st.floats(0.1, 5))
    size = draw(st.integers(1, 7))
    if kind is BSpline:
        degree = draw(st.integers(0, 3))
        return BSpline(size + degree, low, high, degree)
    return kind(2 * size - 1 if kind is Fourier else size, low, high)


def inside(basis, count=9, margin=0.05):
    return torch.linspace(margin, 1 - margin, count, dtype=torch.float64) * (basis.high - basis.low) + basis.low


@given(bases())
def test_integrals(basis):
    """Against Gauss's rule between the knots of splines, and many points of it for cosines."""
    pieces = torch.linspace(basis.low, basis.high, 1 + (basis.size - basis.degree if isinstance(basis, BSpline) else 6))
    total = torch.zeros(basis.size, dtype=torch.float64)
    for a, b in zip(pieces.double().tolist(), pieces.double()[1:].tolist(), strict=False):
        points, weights = gauss([(max(a, basis.low), min(b, basis.high))], 20)
        total += weights.full() @ basis(points[0])
    assert torch.allclose(basis.integrals(), total, atol=1e-5)


@given(bases())
def test_derivatives(basis):
    if isinstance(basis, BSpline) and not basis.degree:
        with pytest.raises(TTValueError, match=r"has no derivatives; expected a degree >= 1"):
            basis.derivative()
        return
    new, matrix = basis.derivative()
    x = inside(basis) + 0.01 * (basis.high - basis.low) * math.pi / 3
    step = 1e-6 * (basis.high - basis.low)
    expected = (basis(x + step) - basis(x - step)) / (2 * step)
    if isinstance(basis, BSpline) and basis.degree == 1:  # has corners
        return
    assert torch.allclose(new(x) @ matrix, expected, atol=1e-4 * (1 + float(expected.abs().max())))


@given(bases(kinds=(Chebyshev, Legendre)))
def test_antiderivatives_are_undone_by_derivatives(basis):
    higher, matrix = basis.antiderivative()
    back, other = higher.derivative()
    x = inside(basis)
    assert torch.allclose(back(x) @ other @ matrix, basis(x), atol=1e-10)
    start = torch.tensor([basis.low], dtype=torch.float64)
    assert float((higher(start) @ matrix).abs().max()) < 1e-10
    end = torch.tensor([basis.high], dtype=torch.float64)
    assert torch.allclose((higher(end) @ matrix)[0], basis.integrals(), atol=1e-10)


@given(bases(kinds=(BSpline,)))
def test_splines_sum_to_one(basis):
    x = torch.linspace(basis.low, basis.high, 33, dtype=torch.float64).clamp(basis.low, basis.high)
    assert torch.allclose(basis(x).sum(1), torch.ones(33, dtype=torch.float64))
    assert float(basis(x).min()) > -1e-12


@given(st.integers(1, 5), st.integers(0, 9))
def test_polynomials_are_numpys(size, seed):
    x = np.linspace(-1, 1, 7)
    t = torch.from_numpy(x)
    assert np.allclose(Chebyshev(size)(t).numpy(), np.polynomial.chebyshev.chebvander(x, size - 1))
    assert np.allclose(Legendre(size)(t).numpy(), np.polynomial.legendre.legvander(x, size - 1))


@given(st.lists(bases(), min_size=1, max_size=4), seeds)
def test_function_trains_are_sums_of_products(chosen, seed):
    shape = tuple(basis.size for basis in chosen)
    train = draw_train(shape, [2] * (len(shape) - 1), torch.float64, seed)
    f = FunctionTrain(train, chosen)
    x = torch.stack([inside(basis, 5) for basis in chosen], 1)
    tables = [basis(column) for basis, column in zip(chosen, x.unbind(1), strict=True)]
    for p in range(5):
        value = train.full()
        for table in tables:
            value = torch.tensordot(table[p], value, 1)
        assert math.isclose(float(f(x)[p]), float(value), rel_tol=1e-9, abs_tol=1e-9)
    grid = f.on_grid(*x.unbind(1))
    assert grid.shape == (5,) * len(chosen)
    assert torch.allclose(ttnet.evaluate(grid, torch.arange(5)[:, None].expand(5, len(chosen))), f(x))
    value = train.full()
    for basis in chosen:
        value = torch.tensordot(basis.integrals(), value, 1)
    assert math.isclose(float(f.integrate()), float(value), rel_tol=1e-9, abs_tol=1e-9)
    if len(chosen) > 1:
        assert math.isclose(float(f.integrate(0).integrate()), float(value), rel_tol=1e-9, abs_tol=1e-9)
        assert f.integrate(-1).ndim == len(chosen) - 1


def test_function_trains_have_gradients():
    f = FunctionTrain(ttnet.random((3, 4), 2, dtype=torch.float64, seed=0), [Legendre(3), Chebyshev(4)])
    x = torch.tensor([[0.2, -0.3], [0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, x)
    (found,) = torch.autograd.grad(f(x).sum(), x)
    assert torch.allclose(found[:, 1], f.derivative(1)(x.detach()))


def test_interpolation_of_ten_variables():
    """exp(-|x|^2 / 2) has rank 1; a function of the sum has one that grows with the accuracy."""
    result = interpolate(lambda x: 1 / (4 + x.sum(1)), [(0, 1)] * 10, tol=1e-8)
    assert result.status is SolverStatus.CONVERGED
    points = torch.rand(2000, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = 1 / (4 + points.sum(1))
    assert float((result.value(points) - expected).norm() / expected.norm()) < 3e-8
    slope = result.value.derivative(3)(points)
    assert float((slope + expected.square()).norm() / expected.square().norm()) < 1e-5
    area = result.value.antiderivative(0)(points)
    assert float((area - ((4 + points.sum(1)) / (4 + points[:, 1:].sum(1))).log()).norm() / area.norm()) < 1e-6


def test_degrees_are_those_that_each_variable_needs():
    result = interpolate(lambda x: (20 * x[:, 0]).cos() + x[:, 1], [(-1, 1), (2, 5)], tol=1e-10)
    assert result.converged
    assert result.value.coefficients.shape[0] > 4 * result.value.coefficients.shape[1]


def test_a_kink_is_told_of():
    result = interpolate(lambda x: (x[:, 0] - 0.3).abs() + x[:, 1], [(-1, 1)] * 2, max_size=33)
    assert result.status is SolverStatus.STALLED
    assert result.residual > 1e-4


def test_integrals_that_are_known():
    """A Gaussian of twenty variables, the oscillatory function of Genz, and one of dimension one."""
    d = 20
    result = integrate(lambda x: torch.exp(-x.square().sum(1)), [(-1, 2)] * d)
    one = math.sqrt(math.pi) / 2 * (math.erf(2) + math.erf(1))
    assert result.converged
    assert math.isclose(float(result.value), one**d, rel_tol=1e-7)
    result = integrate(lambda x: torch.cos(x.sum(1)), [(0, 1)] * 5)
    factor = (np.exp(1j) - 1) / 1j
    assert math.isclose(float(result.value), (factor**5).real, rel_tol=1e-7)
    assert math.isclose(float(integrate(lambda x: x[:, 0].sqrt(), [(1, 4)]).value), 14 / 3, rel_tol=1e-8)


def test_complex_functions():
    result = integrate(lambda x: torch.exp(1j * x.sum(1)), [(0, 1)] * 3)
    assert abs(complex(result.value) - ((np.exp(1j) - 1) / 1j) ** 3) < 1e-8
    assert interpolate(lambda x: torch.exp(1j * x.sum(1)), [(0, 1)] * 3).converged


@given(st.integers(1, 4), st.floats(0.1, 10), st.floats(-5, 5), st.integers(1, 3))
def test_integrals_of_zero(d, width, low, waves):
    """Relative to the integral of the function's size, which zero is not."""
    domain = [(low, low + width)] * d
    result = integrate(lambda x: torch.sin(2 * math.pi * waves * (x - low) / width).prod(1), domain, 1e-9)
    assert result.converged
    assert abs(float(result.value)) < 1e-8 * width**d
    assert result.residual <= 1e-9


@given(st.integers(1, 2), st.floats(0.05, 0.95), st.sampled_from([1e-2, 1e-6]))
def test_integrals_of_jumps_say_how_far_off_they_are(d, place, tol):
    result = integrate(lambda x: (x[:, 0] > place).double(), [(0, 1)] * d, tol)
    error = abs(float(result.value) - (1 - place)) / max(float(result.value), 1 - place)
    assert error <= 3 * result.residual or (result.converged and error <= 10 * tol)


@pytest.mark.parametrize("call", [interpolate, integrate])
def test_limits_callbacks_and_exceptions(call):
    def f(x):
        return (30 * x.sum(1)).cos()

    result = call(f, [(-1, 1)] * 2, callback=lambda progress: True)
    assert result.status is SolverStatus.STOPPED
    assert result.sweeps == len(result.history) == 1
    assert call(f, [(-1, 1)] * 2, max_size=9).status is SolverStatus.STALLED
    assert call(lambda x: 1 / (1.1 + x.prod(1)), [(-1, 1)] * 2, max_rank=1).status is SolverStatus.MAX_RANK

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as info:
        call(f, [(-1, 1)] * 2, callback=interrupt)
    assert info.value.result.status is SolverStatus.INTERRUPTED


def draw_points(count, low=-1.0, high=1.0, d=3, seed=0):
    return low + (high - low) * torch.rand(count, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["als", "rcg"])
@pytest.mark.parametrize(
    "basis",
    [
        Legendre(4),
        Chebyshev(4),
        BSpline(6),
        Functions(lambda x: torch.stack([torch.ones_like(x), x, x**2, x**3], 1), 4),
    ],
)
def test_polynomials_come_back_from_points(method, basis):
    def f(x):
        return (x[:, 0] + 0.5 * x[:, 1]) * x[:, 2] + x[:, 0] ** 3

    x = draw_points(800)
    result = fit(x, f(x), [basis] * 3, tol=1e-7, method=method)
    assert result.converged
    other = draw_points(500, seed=1)
    assert float((result.value(other) - f(other)).norm() / f(other).norm()) < 1e-5


def test_waves_come_back_with_derivatives():
    x = draw_points(1500, 0.0, 1.0)

    def f(x):
        return (2 * math.pi * x.sum(1)).sin()

    result = fit(x, f(x), [Fourier(5, 0.0, 1.0)] * 3, tol=1e-8)
    assert result.converged
    assert set(result.value.ranks) == {1, 2}
    slope = 2 * math.pi * (2 * math.pi * x.sum(1)).cos()
    assert float((result.value.derivative(1)(x) - slope).norm() / slope.norm()) < 1e-6


def test_noise_is_not_fitted():
    x = draw_points(1000)
    clean = x[:, 0] * x[:, 1] * x[:, 2]
    noise = 0.1 * clean.std() * torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = fit(x, clean + noise, [Legendre(5)] * 3)
    assert result.status is SolverStatus.DATA_SPENT
    other = draw_points(1000, seed=2)
    expected = other.prod(1)
    assert float((result.value(other) - expected).norm() / expected.norm()) < 0.07


def test_single_precision_zeros_and_scales():
    x = draw_points(300).float()
    result = fit(x, x.sum(1), [Legendre(2)] * 3, tol=1e-4)
    assert result.converged
    assert result.value(x).dtype == torch.float32
    assert fit(x, torch.zeros(300), [Legendre(2)] * 3).value.integrate() == 0
    huge = fit(x.double(), 1e300 * x.double().prod(1), [Legendre(2)] * 3)
    assert huge.converged


def test_fits_stop_and_are_interrupted():
    x = draw_points(100)
    assert fit(x, x.sum(1), [Legendre(3)] * 3, callback=lambda p: True).status is SolverStatus.STOPPED
    assert fit(x, x.sum(1), [Legendre(3)] * 3, max_sweeps=1, tol=1e-14).status is SolverStatus.MAX_SWEEPS

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as info:
        fit(x, x.sum(1), [Legendre(3)] * 3, callback=interrupt)
    assert isinstance(info.value.result.value, FunctionTrain)


X = draw_points(50)
TWO = [Legendre(2), Legendre(2)]
F = FunctionTrain(ttnet.ones((2, 2)), TWO)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Legendre(0), TTValueError, "size is 0; expected an int >= 1"),
        (lambda: Legendre(2.5), TTTypeError, r"size is 2\.5; expected an int"),
        (lambda: Legendre(2, 1, 0), TTValueError, r"the interval is \(1, 0\); expected finite"),
        (lambda: Legendre(2, "a", 0), TTTypeError, "expected two real numbers"),
        (lambda: Fourier(4), TTValueError, "size is 4; expected an odd number"),
        (lambda: BSpline(3, degree=3), TTValueError, "size is 3 and degree 3"),
        (lambda: Functions(3, 2), TTTypeError, "f is a int; expected a function of points"),
        (lambda: Functions(lambda x: x, 2)(torch.ones(3)), TTShapeError, r"gave the shape \(3,\) for 3 points"),
        (lambda: Functions(torch.sin, 2).integrals(), TTValueError, "knows no integrals"),
        (lambda: Functions(torch.sin, 2).derivative(), TTValueError, "knows no derivatives"),
        (lambda: Fourier(3).antiderivative(), TTValueError, "knows no antiderivatives"),
        (lambda: FunctionTrain(3, TWO), TTTypeError, "coefficients is a int; expected a TensorTrain"),
        (lambda: FunctionTrain(ttnet.ones((2, 3)), TWO), TTShapeError, r"the bases have sizes \(2, 2\)"),
        (lambda: FunctionTrain(ttnet.ones((2,)), Legendre(2)), TTTypeError, "bases is a Legendre; expected a list"),
        (lambda: FunctionTrain(ttnet.ones((2,)), [3]), TTTypeError, r"bases\[0\] is a int; expected a basis"),
        (lambda: FunctionTrain(ttnet.ones((2,)), []), TTShapeError, "bases is empty"),
        (lambda: F(torch.ones(3)), TTShapeError, r"points has shape \(3,\); expected \(points, 2\)"),
        (lambda: F(torch.full((1, 2), 2.0)), TTValueError, r"points\[0\] has 2\.0 for variable 0"),
        (lambda: F(torch.full((1, 2), 1j)), TTTypeError, r"points has dtype torch\.complex64; expected real"),
        (lambda: F.on_grid(torch.ones(1)), TTShapeError, "on_grid got 1 vectors; expected 2"),
        (lambda: F.derivative(2), TTIndexError, "2"),
        (lambda: interpolate(3, [(0, 1)]), TTTypeError, "f is a int; expected a function of points"),
        (lambda: interpolate(lambda x: x, [(0, 1)]), TTShapeError, r"f returned the shape \(1000, 1\)"),
        (lambda: interpolate(lambda x: x[:, 0] / 0, [(0, 1)]), TTValueError, "f returned a number that is NaN or inf"),
        (lambda: interpolate(torch.sum, []), TTShapeError, "domain is empty"),
        (lambda: integrate(torch.sum, "box"), TTTypeError, "domain is 'box'; expected a list"),
        (lambda: integrate(torch.sum, [(1, 0)]), TTValueError, r"domain\[0\] is \(1, 0\)"),
        (lambda: integrate(torch.sum, [3]), TTTypeError, r"domain\[0\] is 3; expected two numbers"),
        (lambda: integrate(torch.sum, [(0, 1)], max_size=1), TTValueError, "max_size is 1; expected an int >= 2"),
        (lambda: fit(X, torch.ones(49), [Legendre(2)] * 3), TTShapeError, r"y has shape \(49,\); expected \(50,\)"),
        (lambda: fit(X, torch.full((50,), math.nan), [Legendre(2)] * 3), TTValueError, "y has entries that are NaN"),
        (lambda: fit(3 * X, torch.ones(50), [Legendre(2)] * 3), TTValueError, r"features\[.*the interval of its basis"),
        (lambda: fit(X, torch.ones(50), TWO), TTShapeError, r"features has shape \(50, 3\); expected \(points, 2\)"),
        (lambda: fit(X, torch.ones(50), [Functions(lambda x: x[:, None] / 0, 1)] * 3), TTValueError, "has values"),
        (lambda: fit(X, torch.ones(50), [Legendre(2)] * 3, method="newton"), TTValueError, "method is 'newton'"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
