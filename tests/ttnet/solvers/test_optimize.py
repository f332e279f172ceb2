"""Extremal entries against those of dense tensors, known ones, and what optimize refuses."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import dense, draw_train, seeds, shapes
from ttnet import TensorTrain, TTShapeError, TTTypeError, TTValueError
from ttnet.solvers import SolverStatus, optimize
from ttnet.solvers.beam import Scaled

goals = st.sampled_from(["max", "min"])
reals = st.sampled_from([torch.float32, torch.float64])


def extreme(tensor, goal):
    return float(tensor.max() if goal == "max" else tensor.min())


@given(shapes, st.integers(1, 4), reals, seeds, goals)
def test_against_dense_trains(shape, rank, dtype, seed, goal):
    x = draw_train(shape, [rank] * (len(shape) - 1), dtype, seed)
    result = optimize(x, goal, tol=1e-5)
    tensor, eps = dense(x), 100 * torch.finfo(dtype).eps * float(dense(x).norm())
    assert result.status is SolverStatus.CONVERGED  # all candidates fit in the beam, or are ruled out
    assert result.value.dtype == dtype
    assert torch.equal(
        result.value, ttnet.evaluate(x, torch.tensor([result.index], dtype=torch.int64).reshape(1, -1))[0]
    )
    assert abs(float(result.value) - extreme(tensor, goal)) <= eps + 1e-5 * abs(extreme(tensor, goal))
    assert abs(result.bound - float(result.value)) <= eps + 1e-5 * abs(float(result.value))


@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=6).map(tuple), seeds, goals, st.integers(1, 6), st.integers(1, 3)
)
def test_the_bound_holds_however_narrow_the_beam(shape, seed, goal, beam, rounds):
    x = draw_train(shape, [4] * (len(shape) - 1), torch.float64, seed)
    result = optimize(x, goal, beam=beam, max_sweeps=rounds)
    tensor = dense(x)
    exact, slack = extreme(tensor, goal), 1e-12 * float(tensor.norm())
    sign = 1 if goal == "max" else -1
    assert sign * float(result.value) <= sign * exact + slack
    assert sign * exact <= sign * result.bound + slack
    assert float(tensor[result.index]) == pytest.approx(float(result.value), abs=slack)
    gap = abs(float(result.value) - result.bound) / max(abs(float(result.value)), abs(result.bound), 1e-300)
    assert result.residual == pytest.approx(gap, rel=1e-6, abs=1e-11)


@given(st.integers(0, 10**6), goals)
def test_black_box_functions_of_few_indices(seed, goal):
    tensor = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = optimize(lambda i: tensor[tuple(i.T)], goal, tensor.shape)
    assert result.converged
    assert result.bound == float(result.value) == float(tensor[result.index]) == extreme(tensor, goal)
    assert result.evaluations == tensor.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_functions_have_known_extremes(dtype):
    """Rastrigin's function in 40 dimensions has 11**40 local minima and one global one."""
    grid = torch.linspace(-5.12, 5.12, 101, dtype=dtype)
    terms = grid**2 - 10 * torch.cos(2 * math.pi * grid) + 10
    d = 40
    one = torch.ones_like(terms)
    first, last = torch.stack([terms, one], 1)[None], torch.stack([one, terms])[:, :, None]
    middle = torch.zeros(2, 101, 2, dtype=dtype)
    middle[0, :, 0] = middle[1, :, 1] = one
    middle[1, :, 0] = terms
    train = TensorTrain([first, *[middle] * (d - 2), last])
    assert float(train[(50,) * d]) == pytest.approx(d * float(terms[50]), abs=1e-3)
    result = optimize(train, "min", tol=1e-4)
    assert result.index == (50,) * d
    result = optimize(train, "max", tol=1e-5)
    assert result.converged
    assert float(result.value) == pytest.approx(d * float(terms.max()), rel=1e-5)
    result = optimize(lambda x: (x**2 - 10 * torch.cos(2 * math.pi * x) + 10).sum(1), "min", grids=[grid] * 12)
    assert result.index == (50,) * 12
    assert result.status is SolverStatus.UNPROVED
    assert result.bound == -math.inf
    assert result.residual == math.inf
    assert result.evaluations < 1e-15 * 101.0**12


def test_functions_whose_modes_hang_together():
    """Rosenbrock's valley: the least is at (1, ..., 1), and no mode can be moved alone to get there."""
    grid = torch.linspace(-2, 2, 81, dtype=torch.float64)
    result = optimize(
        lambda x: (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1),
        "min",
        grids=[grid] * 6,
        beam=32,
    )
    assert result.index == (60,) * 6


def test_the_same_call_gives_the_same_answer():
    before = torch.random.get_rng_state()
    one, two = (optimize(lambda i: torch.sin(i.double() ** 2).prod(1), "max", (30,) * 5, seed=3) for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("goal", ["max", "min"])
@pytest.mark.parametrize("order", [3, 300])
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_numbers_beyond_floats(goal, order, scale):
    """A product of equal vectors, of an extreme of which no float can hold the size."""
    vector = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) * scale
    result = optimize(TensorTrain([vector[None, :, None]] * order), goal)
    assert result.converged
    places = [result.index.count(k) for k in range(3)]
    if goal == "max":
        assert places == ([0, order, 0] if order % 2 == 0 else [1, order - 1, 0])
    else:
        assert places == ([1, order - 1, 0] if order % 2 == 0 else [0, order, 0])


@given(shapes.filter(len), goals)
def test_constant_trains(shape, goal):
    for constant in (0.0, -3.0):
        result = optimize(ttnet.ones(shape, dtype=torch.float64) * constant, goal)
        assert result.converged
        assert float(result.value) == constant
        assert result.bound == pytest.approx(constant)


@pytest.mark.parametrize("goal", ["max", "min"])
def test_gradients(goal):
    cores = [core.requires_grad_() for core in draw_train((3, 4, 3), [2, 2], torch.float64, 0).cores]
    assert torch.autograd.gradcheck(lambda *cores: optimize(TensorTrain(cores), goal).value, cores)


def test_callbacks_and_interruptions():
    x = draw_train((10,) * 20, [6] * 19, torch.float64, 0)
    seen = []
    result = optimize(x, "max", callback=seen.append)
    assert tuple(seen) == result.history
    assert all(a.residual >= b.residual for a, b in itertools.pairwise(seen))
    assert optimize(x, "max", callback=lambda _: True).status is SolverStatus.STOPPED
    assert optimize(x, "max", max_sweeps=1).status is SolverStatus.MAX_SWEEPS
    assert optimize(x, "max", beam=4).status is SolverStatus.UNPROVED

    def interrupt(progress):
        raise KeyboardInterrupt

    for given_f in (x, lambda i: i.sum(1)):
        with pytest.raises(KeyboardInterrupt) as caught:
            optimize(given_f, "max", None if given_f is x else x.shape, callback=interrupt)
        assert caught.value.result.status is SolverStatus.INTERRUPTED
        assert caught.value.result.index


def test_evaluations_may_be_bounded():
    result = optimize(lambda i: i.sum(1), "max", (50,) * 10, max_evaluations=1000)
    assert result.status is SolverStatus.MAX_EVALUATIONS
    assert result.evaluations <= 1000
    assert float(result.value) == sum(result.index)
    result = optimize(lambda i: i.sum(1), "max", (50, 10), max_evaluations=100)
    assert result.evaluations <= 100


def test_no_mode_at_all():
    assert float(optimize(TensorTrain([torch.full((1, 1), 3.0)]), "max").value) == 3
    result = optimize(lambda i: torch.full((len(i),), 3.0), "min", ())
    assert (result.index, result.bound) == ((), 3.0)


def test_numbers_of_any_size():
    numbers = [Scaled(m, e) for m in (-2.0, -1.0, 0.0, 1.0, 2.0) for e in (-5000, 0, 5000)]
    for a in numbers:
        for b in numbers:
            exact = [int(x.mantissa) * 2 ** (x.exponent + 5000) for x in (a, b)]
            larger = a.larger(b)
            assert int(larger.mantissa) * 2 ** (larger.exponent + 5000) == max(exact)


ONES = ttnet.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optimize(ONES, "largest"), TTValueError, "goal is 'largest'; expected 'max' or 'min'."),
        (lambda: optimize(3, "max"), TTTypeError, "f is a int; expected a TensorTrain, or a function of indices."),
        (lambda: optimize(ONES, "max", (2, 3)), TTTypeError, "f is a train, which has a shape of its own"),
        (lambda: optimize(ONES.cores[0].sum, "max"), TTTypeError, "expected either its shape or its grids"),
        (lambda: optimize(ONES * 1j, "max"), TTTypeError, "complex64, and complex numbers have no order"),
        (lambda: optimize(ONES * math.nan, "max"), TTValueError, "f.cores[1] holds NaN"),
        (lambda: optimize(ONES, "max", tol=1e-17), TTValueError, "below the precision of float64"),
        (lambda: optimize(ONES, "max", beam=0), TTValueError, "beam is 0; expected an int >= 1."),
        (lambda: optimize(ONES, "max", max_sweeps=0), TTValueError, "max_sweeps is 0"),
        (lambda: optimize(ONES, "max", seed=-1), TTValueError, "seed is -1"),
        (lambda: optimize(ONES, "max", callback=3), TTTypeError, "callback is a int"),
        (lambda: optimize(len, "max", (2, 0)), TTShapeError, "shape"),
        (lambda: optimize(len, "max", grids=[[1.0]]), TTTypeError, "grids[0] is [1.0]; expected tensors of shape (n,)"),
        (lambda: optimize(len, "max", (2,) * 20, max_evaluations=3), TTValueError, "less than the 8 of the first"),
        (lambda: optimize(lambda i: i.sum(1) * 1j, "max", (2, 3)), TTTypeError, "complex128, and complex numbers"),
        (lambda: optimize(lambda i: i.sum(1) * 1j, "max", (2,) * 20), TTTypeError, "complex numbers have no order"),
        (lambda: optimize(lambda i: i / 0, "max", (2,)), TTShapeError, "f returned the shape"),
        (lambda: optimize(lambda i: i.sum(1) / 0, "max", (2,)), TTValueError, "f returned nan at the index (0,)"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
