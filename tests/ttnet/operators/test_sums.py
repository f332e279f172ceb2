"""Sums of terms, spins, oscillators and reactions against dense sums of Kronecker products."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.operators.test_differences import least_ranks
from tests.ttnet.strategies import DTYPES, dense, draw_tensor, precision, relative_error, seeds, trains
from ttnet import TTShapeError, TTTypeError, TTValueError, operators
from ttnet.operators import Reaction

EXACT = 1e-13


def product(sizes, factors):
    """The Kronecker product of matrices on some modes, the identity on the others."""
    result = torch.ones(1, 1, dtype=torch.float64)
    for k, size in enumerate(sizes):
        result = torch.kron(result, factors.get(k, torch.eye(size, dtype=torch.float64)))
    return result


def chain(sites, size, single, pairs, *, strength=lambda r: float(r == 1), periodic=False):
    """A chain's operator, term by term; what is alone stands at each site."""
    sizes = [size] * sites
    total = sum(product(sizes, {k: alone}) for k, alone in enumerate(single))
    for a, b in pairs:
        for i in range(sites):
            for j in range(i + 1, sites):
                total = total + strength(j - i) * product(sizes, {i: a, j: b})
        if periodic and sites > 2:
            total = total + product(sizes, {sites - 1: a, 0: b})
    return total


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.booleans(), seeds)
def test_neighbours(sites, size, count, many, periodic, seed):
    matrices = draw_tensor((2 * count + sites, size, size), torch.float64, seed)
    pairs = list(zip(matrices[:count], matrices[count : 2 * count], strict=True))
    single = list(matrices[2 * count :]) if many else [matrices[2 * count]] * sites
    a = operators.local_sum(sites, single=single if many else single[0], pairs=pairs, periodic=periodic)
    assert relative_error(dense(a), chain(sites, size, single, pairs, periodic=periodic)) < EXACT
    assert a.ranks == least_ranks(a)
    assert max(a.ranks) <= 2 + count * (2 if periodic else 1)


@given(st.integers(1, 6), st.lists(st.tuples(st.floats(0.5, 2), st.floats(-1, 1)), max_size=2), seeds)
def test_long_ranges(sites, decay, seed):
    single, a, b = draw_tensor((3, 2, 2), torch.float64, seed)
    operator = operators.local_sum(sites, single=single, pairs=[(a, b)], decay=decay)
    expected = chain(
        sites, 2, [single] * sites, [(a, b)], strength=lambda r: sum(c * base ** (r - 1) for c, base in decay)
    )
    assert relative_error(dense(operator), expected) < EXACT
    assert max(operator.ranks) <= 2 + len(decay)


def test_exponentials_of_a_power_law():
    """The error falls with each term, is told truly, and the operator has it."""
    errors = []
    for terms in (2, 4, 8, 12):
        decay, error = operators.exponentials(lambda r: 1 / r**2, 99, terms)
        r = torch.arange(1, 100, dtype=torch.float64)
        told = (sum(c * b ** (r - 1) for c, b in decay) - 1 / r**2).abs().max()
        assert math.isclose(error, told, rel_tol=1e-6, abs_tol=1e-14)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8
    z = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    decay, error = operators.exponentials(lambda r: 1 / r**2, 5, 3)
    a = operators.local_sum(6, pairs=[(z, z)], decay=decay)
    expected = chain(6, 2, [], [(z, z)], strength=lambda r: 1 / r**2)
    assert float((dense(a) - expected).abs().max()) <= 15 * error + 1e-13


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_exponentials_of_few_distances_are_exact(reach):
    assert operators.exponentials(lambda r: 0.5**r, reach, 3)[1] < 1e-14


@pytest.mark.parametrize("reach", range(1, 12))
@pytest.mark.parametrize("terms", [1, 2, 3, 6])
def test_exponentials_are_no_more_than_the_distances_tell(reach, terms):
    """Half as many as there are distances go through all of them; fewer are no worse than one."""
    decay, error = operators.exponentials(lambda r: 1 / r, reach, terms)
    assert len(decay) <= terms
    assert error < (1e-12 if 2 * terms >= reach and reach % 2 == 0 else 0.2)


def test_exponentials_go_further_than_their_points():
    decay, error = operators.exponentials(lambda r: 1 / r**3, 3000, 10, points=300)
    assert len(decay) <= 10
    assert error < 1e-6


@given(st.data(), st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple), seeds)
def test_sums_of_products(data, shape, seed):
    places = st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=len(shape))
    terms = [
        {k: draw_tensor((shape[k],) * 2, torch.float64, seed + 10 * t + k) for k in data.draw(places)}
        for t in range(data.draw(st.integers(1, 3)))
    ]
    a = operators.product_sum(shape, terms)
    expected = sum(product(shape, term) for term in terms)
    assert float((dense(a) - expected).norm()) <= EXACT * sum(float(product(shape, term).norm()) for term in terms)
    assert max(a.ranks) <= len(terms)


@given(trains(shape=(3, 2, 4)))
def test_diagonal(x):
    assert relative_error(operators.diagonal(x).full(), dense(x).flatten().diag()) < precision(x.dtype)


@pytest.mark.parametrize("spin", [0.5, 1, 1.5])
def test_spin_matrices(spin):
    z, up, down = operators.spin_matrices(spin)
    x, y = (up + down) / 2 + 0j, (up - down) / 2j
    assert relative_error(z @ up - up @ z, up) < EXACT
    assert relative_error(x @ y - y @ x, 1j * z) < EXACT
    squares = x @ x + y @ y + z @ z + 0j
    assert relative_error(squares, spin * (spin + 1) * torch.eye(len(z), dtype=torch.complex128)) < EXACT


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("spin", [0.5, 1])
def test_spin_chains(spin, periodic):
    z, up, down = operators.spin_matrices(spin)
    x, y = (up + down) / 2, (up - down) / 2  # y without its 1 / i, which comes in squares alone
    sites, size = 4, len(z)
    flips = chain(sites, size, [], [(x, x)], periodic=periodic) - chain(sites, size, [], [(y, y)], periodic=periodic)
    fields = chain(sites, size, [z] * sites, [])
    expected = 2 * (flips + 0.7 * chain(sites, size, [], [(z, z)], periodic=periodic)) - 0.3 * fields
    a = operators.heisenberg(sites, spin=spin, coupling=2.0, anisotropy=0.7, field=0.3, periodic=periodic)
    assert relative_error(dense(a), expected) < EXACT
    a = operators.xx(sites, spin=spin, periodic=periodic)
    assert relative_error(dense(a), flips) < EXACT
    expected = chain(sites, size, [-0.9 * x / spin] * sites, [(-1.5 * z / spin, z / spin)], periodic=periodic)
    a = operators.ising(sites, spin=spin, coupling=1.5, field=0.9, periodic=periodic)
    assert relative_error(dense(a), expected) < EXACT


@pytest.mark.parametrize(
    ("operator", "rank"),
    [
        (operators.heisenberg(12), 5),
        (operators.heisenberg(12, periodic=True), 8),
        (operators.xx(12), 4),
        (operators.xx(12, periodic=True), 6),
        (operators.ising(12), 3),
        (operators.ising(12, periodic=True), 4),
        (operators.ising(12, decay=[(1.0, 0.5), (0.3, 0.2)]), 4),
        (operators.oscillators(12, 4, coupling=0.1), 3),
        (operators.oscillators(12, 4), 2),
    ],
)
def test_the_stated_ranks_of_models(operator, rank):
    assert max(operator.ranks) == rank
    assert operator.ranks == tuple(reversed(operator.ranks))


def test_oscillators_have_the_energies_of_their_normal_modes():
    a = operators.oscillators(2, 14, frequency=1.0, coupling=0.3)
    modes = [math.sqrt(1 + 0.3), math.sqrt(1 - 0.3)]
    energies = sorted((i + 0.5) * modes[0] + (j + 0.5) * modes[1] for i in range(4) for j in range(4))
    found = torch.linalg.eigvalsh(dense(a))
    assert torch.allclose(found[:4], torch.tensor(energies[:4], dtype=torch.float64), atol=1e-6)


def generator_by_hand(shape, reactions):
    """The generator, state by state."""
    states = list(torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist())
    place = {tuple(state): k for k, state in enumerate(states)}
    a = torch.zeros(len(states), len(states), dtype=torch.float64)
    for state in place:
        for reaction in reactions:
            after = tuple(n + reaction.change.get(k, 0) for k, n in enumerate(state))
            rate = reaction.rate
            for k, factor in reaction.factors.items():
                rate *= float(factor(torch.tensor([state[k]], dtype=torch.float64))[0])
            if after in place:
                a[place[after], place[state]] += rate
                a[place[state], place[state]] -= rate
    return a


NETWORKS = {
    "toggle": (
        (5, 4),
        [
            Reaction({0: 1}, 5.0, {1: lambda n: 1 / (1 + n**2)}),
            Reaction({1: 1}, 4.0, {0: lambda n: 1 / (1 + n)}),
            Reaction.mass_action({0: 1}, {}),
            Reaction.mass_action({1: 1}, {}),
        ],
    ),
    "dimers": ((6, 3), [Reaction.mass_action({0: 2}, {1: 1}, rate=0.3), Reaction.mass_action({1: 1}, {0: 2})]),
    "three": ((3, 2, 3), [Reaction.mass_action({0: 1, 1: 1}, {1: 1, 2: 1}, rate=2.0), Reaction({2: -1, 0: 1}, 0.1)]),
    "none": ((3,), [Reaction({}, 2.0), Reaction({0: 5})]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_reaction_networks(name):
    shape, reactions = NETWORKS[name]
    a = operators.reaction_network(shape, reactions)
    expected = generator_by_hand(shape, reactions)
    assert float((dense(a) - expected).abs().max()) <= 1e-13
    assert float(dense(a).sum(0).abs().max()) <= 1e-13
    assert max(a.ranks) <= 2 * len(reactions)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    assert operators.heisenberg(3, dtype=dtype).dtype == dtype
    y = torch.tensor([[0, -1j], [1j, 0]])
    a = operators.local_sum(3, pairs=[(y, y)])
    assert a.dtype == torch.complex128
    assert torch.equal(dense(a).conj().T, dense(a))


EYE = torch.eye(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: operators.diagonal(EYE), TTTypeError, "x is a Tensor; expected a TensorTrain, as ttnet"),
        (lambda: operators.diagonal(ttnet.ones(())), TTShapeError, "x is a train of order 0"),
        (lambda: operators.local_sum(2.0, single=EYE), TTTypeError, "sites is 2.0; expected an int >= 1."),
        (lambda: operators.local_sum(0, single=EYE), TTValueError, "sites is 0; expected an int >= 1."),
        (lambda: operators.local_sum(3), TTValueError, "single is None and pairs is empty"),
        (lambda: operators.local_sum(3, single=[EYE]), TTShapeError, "single has 1 matrices; expected 3"),
        (lambda: operators.local_sum(2, single=1.0), TTTypeError, "single is a float; expected a torch.Tensor"),
        (lambda: operators.local_sum(2, pairs=[(EYE, EYE[:1])]), TTShapeError, "pairs[0][1] has shape (1, 2)"),
        (lambda: operators.local_sum(2, single=EYE * math.nan), TTValueError, "single holds NaN"),
        (
            lambda: operators.local_sum(3, pairs=[(EYE, EYE)], decay=[(1.0, 0.5)], periodic=True),
            TTValueError,
            "periodic and decay are given both",
        ),
        (lambda: operators.local_sum(2, single=EYE * 1j, dtype=torch.float32), TTTypeError, "dtype is torch.float32"),
        (lambda: operators.local_sum(2, pairs=[(EYE, EYE, EYE)]), TTTypeError, "pairs[0] is no pair"),
        (lambda: operators.local_sum(2, pairs=(EYE, EYE)), TTTypeError, "expected two matrices (A, B), as in pairs="),
        (
            lambda: operators.local_sum(3, pairs=[(EYE, EYE)], decay=[(math.nan, 0.5)]),
            TTValueError,
            "decay[0] is (nan, 0.5); expected a pair (c, b) of finite real numbers.",
        ),
        (lambda: operators.ising(3, decay=[(1.0, math.inf)]), TTValueError, "decay[0] is (1.0, inf)"),
        (lambda: operators.ising(3, decay=[1.0]), TTValueError, "decay[0] is 1.0; expected a pair"),
        (lambda: operators.exponentials(lambda r: 1.0, 5, 1), TTTypeError, "f gives a float; expected a real tensor"),
        (lambda: operators.exponentials(lambda r: r * 1j, 5, 1), TTTypeError, "f gives a torch.complex128 tensor"),
        (lambda: operators.product_sum((2,), [EYE]), TTTypeError, "terms[0] is a Tensor; expected a dict"),
        (lambda: operators.exponentials(lambda r: r, 0, 1), TTValueError, "reach is 0; expected an int >= 1."),
        (lambda: operators.exponentials(lambda r: r, 5, 1.0), TTTypeError, "terms is 1.0; expected an int >= 1."),
        (lambda: operators.exponentials(lambda r: r[:2], 5, 1), TTShapeError, "f gives values of shape (2,)"),
        (lambda: operators.exponentials(lambda r: r * math.inf, 5, 1), TTValueError, "f gives NaN or infinite"),
        (lambda: operators.product_sum((), [{}]), TTShapeError, "shape is (); expected at least one mode."),
        (lambda: operators.product_sum((2,), []), TTValueError, "terms is empty; expected at least one product."),
        (lambda: operators.product_sum((2,), [{1: EYE}]), TTValueError, "terms[0] acts on mode 1; expected 0 to 0."),
        (lambda: operators.product_sum((2,), [{0: 1}]), TTTypeError, "terms[0][0] is a int; expected a torch.Tensor."),
        (lambda: operators.product_sum((3,), [{0: EYE}]), TTShapeError, "terms[0][0] has shape (2, 2); expected"),
        (lambda: operators.product_sum((2,), [{0: EYE / 0}]), TTValueError, "terms[0][0] holds NaN or infinite"),
        (lambda: operators.heisenberg(3, spin=0.7), TTValueError, "spin is 0.7; expected 1/2, 1, 3/2"),
        (lambda: operators.heisenberg(3, coupling=math.nan), TTValueError, "coupling is nan; expected a finite"),
        (lambda: operators.ising(3, field="x"), TTValueError, "field is 'x'; expected a finite real number."),
        (lambda: operators.oscillators(3, 2.0), TTTypeError, "levels is 2.0; expected an int >= 1."),
        (lambda: operators.oscillators(3, 0), TTValueError, "levels is 0; expected an int >= 1."),
        (lambda: operators.reaction_network((3,), []), TTValueError, "reactions is empty"),
        (
            lambda: operators.reaction_network((), [Reaction({})]),
            TTShapeError,
            "shape is (); expected at least one spec",
        ),
        (
            lambda: operators.reaction_network((3,), [Reaction({"a": 1})]),
            TTTypeError,
            "names species 'a'; expected ints",
        ),
        (lambda: operators.reaction_network((3,), [Reaction({0: 0.5})]), TTTypeError, "reactions[0].change[0] is 0.5"),
        (lambda: operators.reaction_network((3,), [1]), TTTypeError, "reactions[0] is a int; expected a Reaction."),
        (lambda: operators.reaction_network((3,), [Reaction({}, -1)]), TTValueError, "reactions[0].rate is -1"),
        (lambda: operators.reaction_network((3,), [Reaction({1: 1})]), TTValueError, "reactions[0] names species 1"),
        (
            lambda: operators.reaction_network((3,), [Reaction({0: 1}, 1.0, {0: lambda n: -n})]),
            TTValueError,
            "reactions[0].factors[0] gives negative",
        ),
        (
            lambda: operators.reaction_network((3,), [Reaction({0: 1}, 1.0, {0: lambda n: n[:1]})]),
            TTTypeError,
            "reactions[0].factors[0] gives (1,); expected a tensor of shape (3,).",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
