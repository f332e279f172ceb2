"""Problems with published or analytic answers, at the sizes that trains are for."""

import math

import pytest
import torch

import ttnet
from tests.ttnet.solvers.systems import sine
from ttnet import TensorTrain, operators, solvers


def quantised_sine(levels, power=1):
    """sin(power pi h i) on the 2**levels inner points of a grid, of quantised ranks 2."""
    return ttnet.quantize(TensorTrain([sine(2**levels, power)[None, :, None]]), 2)


@pytest.mark.parametrize("levels", [5, 10])
def test_poisson_in_three_dimensions_to_its_discretisation_error(levels):
    """-laplace u = f on the unit cube, with u = product of sin(pi x), on 2**levels points a side."""
    n = 2**levels
    h = 1 / (n + 1)
    a = operators.laplace((n,) * 3, quantised=True) * h**-2
    single = quantised_sine(levels)
    u = ttnet.outer(ttnet.outer(single, single), single)
    result = solvers.solve(a, u * (3 * math.pi**2), 1e-8)
    assert result.converged
    f = u * (3 * math.pi**2)
    assert float((f - a @ result.value).norm() / f.norm()) <= 1.01e-8
    # The discrete eigenvalue is 12 / h**2 * sin(pi h / 2)**2 for 3 pi**2: that is the discretisation error.
    exact = 3 * math.pi**2 / (12 / h**2 * math.sin(math.pi * h / 2) ** 2)
    error = float((result.value - u).norm() / u.norm())
    assert math.isclose(error, exact - 1, rel_tol=1e-3)
    assert max(result.value.round(eps=1e-8).ranks) == 2


@pytest.mark.parametrize("levels", [6, pytest.param(10, marks=pytest.mark.slow)])
def test_poisson_with_a_right_hand_side_of_ones(levels):
    """The solution at the centre of the cube is a sum over all products of eigenvectors."""
    n, h = 2**levels, 1 / (2**levels + 1)
    a = operators.laplace((n,) * 3, quantised=True) * h**-2
    b = ttnet.ones((2,) * (3 * levels), dtype=torch.float64)
    result = solvers.solve(a, b, 1e-8)
    assert result.converged
    assert float((b - a @ result.value).norm() / b.norm()) <= 1.01e-8
    single = torch.linalg.eigh(operators.laplace((n,)).full() * h**-2)
    ones = single.eigenvectors.sum(0)
    values = single.eigenvalues
    weights = ones * single.eigenvectors[n // 2]
    plane = values[:, None] + values
    expected = sum(
        float(weight * (weights @ (1 / (plane + value)) @ weights))
        for weight, value in zip(weights, values, strict=True)
    )
    digits = [(n // 2 >> (levels - 1 - k)) & 1 for k in range(levels)]
    assert math.isclose(float(result.value[tuple(digits * 3)]), expected, rel_tol=1e-7)


@pytest.mark.slow
def test_the_heisenberg_chain_of_a_hundred_spins():
    """DMRG in the literature gives -44.1277398... for the open chain of 100 spins 1/2."""
    result = solvers.eigsh(operators.heisenberg(100))
    assert result.converged
    assert abs(float(result.values) + 44.12773989) < 1e-8


@pytest.mark.parametrize("n", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_the_critical_ising_chain(n):
    result = solvers.eigsh(operators.ising(n))
    assert math.isclose(float(result.values), 1 - 1 / math.sin(math.pi / (2 * (2 * n + 1))), rel_tol=1e-9)


def test_the_spin_one_chain_of_four():
    """The open Heisenberg chain of spins 1 by exact diagonalisation, and the ground state by imaginary time."""
    h = operators.heisenberg(4, spin=1)
    expected = float(torch.linalg.eigvalsh(h.full())[0])
    assert math.isclose(float(solvers.eigsh(h).values), expected, rel_tol=1e-9)
    start = ttnet.random((3,) * 4, 3, dtype=torch.float64, seed=0)
    x = solvers.evolve(-h, start, 20.0, "tdvp2", 1e-5).value
    assert math.isclose(float(x.dot(h @ x) / x.dot(x)), expected, rel_tol=1e-6)


def test_the_heat_equation_in_five_dimensions_against_its_series():
    """From a product of parabolas, whose sine series is known, on 15 points a side."""
    n, d, t = 15, 5, 0.02
    h = 1 / (n + 1)
    grid = torch.arange(1, n + 1, dtype=torch.float64) * h
    start = TensorTrain([(4 * grid * (1 - grid))[None, :, None]] * d)
    a = operators.laplace((n,) * d) * -(h**-2)
    result = solvers.evolve(a, start, t, "implicit", 1e-7)
    one = sum(
        sine(n, k) * (32 / (math.pi * k) ** 3) * math.exp(-4 / h**2 * math.sin(math.pi * k * h / 2) ** 2 * t)
        for k in range(1, n + 1, 2)
    )
    # The series of the grid: its coefficients are those of the discrete sine transform.
    rows = torch.stack([sine(n, k) for k in range(1, n + 1)])
    weights = rows @ (4 * grid * (1 - grid)) * 2 * h
    rates = torch.tensor([4 / h**2 * math.sin(math.pi * k * h / 2) ** 2 for k in range(1, n + 1)], dtype=torch.float64)
    exact = (weights * torch.exp(-rates * t)) @ rows
    assert float((exact - one).norm() / exact.norm()) < 1e-3  # and those of the continuous one, to the grid's error
    expected = TensorTrain([exact[None, :, None]] * d)
    assert float((result.value - expected).norm() / expected.norm()) <= 3e-7


def test_a_toggle_switch_keeps_probability_and_agrees_with_its_matrix():
    """The chemical master equation of two genes that repress each other, until it is nearly stationary."""
    size = 16
    repress = [operators.Reaction({k: 1}, 8.0, {1 - k: lambda n: 1 / (1 + (n / 2) ** 2)}) for k in (0, 1)]
    decay = [operators.Reaction.mass_action({k: 1}, {}) for k in (0, 1)]
    a = operators.reaction_network((size, size), [*repress, *decay])
    start = torch.zeros(1, size, 1, dtype=torch.float64)
    start[0, 0, 0] = 1
    result = solvers.evolve(a, TensorTrain([start, start]), 2.0, "implicit", 1e-7)
    p = result.value.full()
    assert math.isclose(float(p.sum()), 1, rel_tol=1e-6)
    expected = (torch.linalg.matrix_exp(a.full() * 2.0)[:, 0]).reshape(size, size)
    assert float((p - expected).abs().max()) < 1e-7
    assert float((p - p.T).abs().max()) < 1e-7  # the genes are alike
