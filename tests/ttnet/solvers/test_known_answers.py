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


def simulated_switch(production, paths, end, seed):
    """Gillespie's direct method for two genes that repress each other: the counts of all paths at the end of the time.

    Source: Gillespie 1977, "Exact stochastic simulation of coupled chemical reactions".
    """
    generator = torch.Generator().manual_seed(seed)
    counts, time = torch.zeros(paths, 2, dtype=torch.float64), torch.zeros(paths, dtype=torch.float64)
    moves = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    running = torch.ones(paths, dtype=torch.bool)
    while running.any():
        rates = torch.cat([production / (1 + (counts.flip(1) / 2) ** 2), counts], 1)  # (paths, reactions)
        total = rates.sum(1)
        waits, choices = torch.rand(2, paths, dtype=torch.float64, generator=generator)
        time = time - torch.log1p(-waits) / total
        running &= time <= end
        chosen = (rates.cumsum(1) <= (choices * total)[:, None]).sum(1).clamp_max(3)
        counts = counts + moves[chosen] * running[:, None]
    return counts.long()


@pytest.mark.slow
@pytest.mark.parametrize("time", [1.0, 4.0])
def test_a_toggle_switch_against_a_histogram_of_simulated_paths(time):
    """They differ by no more than sampling does: Pearson's statistic over all cells that five paths are expected in."""
    size, production, paths = 32, 12.0, 20_000
    repress = [operators.Reaction({k: 1}, production, {1 - k: lambda n: 1 / (1 + (n / 2) ** 2)}) for k in (0, 1)]
    decay = [operators.Reaction.mass_action({k: 1}, {}) for k in (0, 1)]
    start = torch.zeros(1, size, 1, dtype=torch.float64)
    start[0, 0, 0] = 1
    a = operators.reaction_network((size, size), [*repress, *decay])
    p = solvers.expm_apply(a, TensorTrain([start, start]), time, 1e-6).value.full()
    counts = simulated_switch(production, paths, time, seed=0)
    assert int(counts.max()) < size
    seen = (counts[:, 0] * size + counts[:, 1]).bincount(minlength=size * size).double()
    expected = p.flatten() * paths
    often = expected >= 5
    cells = int(often.sum())
    assert cells > 50
    statistic = float(((seen - expected)[often].square() / expected[often]).sum())
    assert abs(statistic - cells) < 5 * math.sqrt(2 * cells)  # its mean and standard deviation
    rest = float(expected[~often].sum())
    assert abs(float(seen[~often].sum()) - rest) < 5 * math.sqrt(rest)
    # It would tell other rates: those of genes that repress each other a little less.
    wrong = simulated_switch(production * 1.05, paths, time, seed=0)
    seen = (wrong[:, 0] * 99 + wrong[:, 1]).bincount(minlength=99 * 99).double().reshape(99, 99)[:size, :size].flatten()
    assert float(((seen - expected)[often].square() / expected[often]).sum()) - cells > 5 * math.sqrt(2 * cells)
