"""Differences on grids against their matrices, and their ranks against those of the unfoldings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ttnet.strategies import DTYPES, dense
from ttnet import TTMatrix, TTShapeError, TTTypeError, TTValueError, operators

BOUNDARIES = ["dirichlet", "neumann", "periodic"]
SCHEMES = ["central", "forward", "backward"]
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
binary = st.lists(st.sampled_from([2, 4, 8, 16]), min_size=1, max_size=2).map(tuple)
boundaries = st.sampled_from(BOUNDARIES)


def moved(size, step, boundary):
    """The matrix of `y[i] = x[i + step]`, by looking at every point."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        j = i + step
        j = j % size if boundary == "periodic" else min(max(j, 0), size - 1) if boundary == "neumann" else j
        if 0 <= j < size:
            matrix[i, j] += 1
    return matrix


def along(matrix, k, shape):
    """A matrix that acts on dimension k alone."""
    before, after = (torch.eye(math.prod(part), dtype=torch.float64) for part in (shape[:k], shape[k + 1 :]))
    return torch.kron(torch.kron(before, matrix), after)


def second(size, boundary):
    return 2 * torch.eye(size, dtype=torch.float64) - moved(size, 1, boundary) - moved(size, -1, boundary)


def first(size, boundary, scheme):
    eye, after, before = (moved(size, step, boundary) for step in (0, 1, -1))
    return {"central": (after - before) / 2, "forward": after - eye, "backward": eye - before}[scheme]


def least_ranks(a: TTMatrix) -> tuple[int, ...]:
    """The ranks of the unfoldings."""
    train = a.to_train()
    tensor = dense(train)
    cuts = [math.prod(train.shape[:k]) for k in range(1, train.ndim)]
    return (1, *(max(1, int(torch.linalg.matrix_rank(tensor.reshape(cut, -1)))) for cut in cuts), 1)


@given(shapes, boundaries)
def test_laplace(shape, boundary):
    a = operators.laplace(shape, boundary=boundary)
    assert torch.equal(dense(a), sum(along(second(n, boundary), k, shape) for k, n in enumerate(shape)))
    assert a.ranks == least_ranks(a)
    assert max(a.ranks) <= 2


@given(binary, boundaries)
def test_laplace_on_quantised_modes(shape, boundary):
    a = operators.laplace(shape, boundary=boundary, quantised=True)
    assert torch.equal(dense(a), sum(along(second(n, boundary), k, shape) for k, n in enumerate(shape)))
    assert set(a.row_shape) == {2}
    assert a.ranks == least_ranks(a)


@pytest.mark.parametrize(("boundary", "inner", "between"), [("dirichlet", 3, 2), ("periodic", 3, 2), ("neumann", 5, 2)])
def test_the_stated_ranks_of_quantised_laplacians(boundary, inner, between):
    ranks = operators.laplace((2**10,) * 3, boundary=boundary, quantised=True).ranks
    assert max(ranks[1:10]) == inner
    assert ranks[10] == ranks[20] == between
    assert max(ranks[11:20]) == max(ranks[21:30]) == inner + 1


@given(shapes, boundaries, st.sampled_from(SCHEMES))
def test_gradient(shape, boundary, scheme):
    for k, a in enumerate(operators.gradient(shape, boundary=boundary, scheme=scheme)):
        assert torch.equal(dense(a), along(first(shape[k], boundary, scheme), k, shape))
        assert set(a.ranks) == {1}


@given(binary, boundaries, st.sampled_from(SCHEMES))
def test_gradient_on_quantised_modes(shape, boundary, scheme):
    for k, a in enumerate(operators.gradient(shape, boundary=boundary, scheme=scheme, quantised=True)):
        assert torch.equal(dense(a), along(first(shape[k], boundary, scheme), k, shape))
        assert a.ranks == least_ranks(a)
        assert max(a.ranks) <= {"central": 5, "forward": 4, "backward": 4}[scheme]
        assert boundary == "neumann" or max(a.ranks) <= {"central": 3, "forward": 2, "backward": 2}[scheme]


@given(st.data(), st.booleans(), boundaries, st.sampled_from(["central", "upwind"]))
def test_convection(data, quantised, boundary, scheme):
    shape = data.draw(binary if quantised else shapes)
    velocity = [data.draw(st.sampled_from([-2.0, -0.5, 0.0, 1.0, 3.0])) for _ in shape]
    a = operators.convection(shape, velocity, boundary=boundary, scheme=scheme, quantised=quantised)
    ways = [scheme if scheme == "central" else "backward" if v >= 0 else "forward" for v in velocity]
    parts = [v * first(n, boundary, way) for v, n, way in zip(velocity, shape, ways, strict=True)]
    assert torch.equal(dense(a), sum(along(part, k, shape) for k, part in enumerate(parts)))
    assert a.ranks == least_ranks(a)


@given(st.data(), st.booleans(), st.booleans())
def test_shift(data, quantised, periodic):
    shape = data.draw(binary if quantised else shapes)
    steps = [data.draw(st.integers(-2 * n, 2 * n)) for n in shape]
    a = operators.shift(shape, steps, periodic=periodic, quantised=quantised)
    expected = torch.ones(1, 1, dtype=torch.float64)
    for n, step in zip(shape, steps, strict=True):
        expected = torch.kron(expected, moved(n, -step, "periodic" if periodic else "dirichlet"))
    assert torch.equal(dense(a), expected)
    assert max(a.ranks) <= 2
    assert a.ranks == least_ranks(a)


@pytest.mark.parametrize(("steps", "periodic"), [(10**30, False), (-(10**30), False), (10**30 + 1, True)])
def test_shifts_beyond_any_index(steps, periodic):
    for quantised in (False, True):
        a = operators.shift((4,), steps, periodic=periodic, quantised=quantised)
        expected = moved(4, -(steps % 4), "periodic") if periodic else torch.zeros(4, 4, dtype=torch.float64)
        assert torch.equal(dense(a), expected)


def test_arrays_and_numbers_of_numpy_are_taken():
    expected = operators.convection((3, 4), [1.0, -2.0])
    for velocity in (np.array([1, -2]), torch.tensor([1.0, -2.0]), [torch.tensor(1.0), np.float64(-2)]):
        assert torch.equal(dense(operators.convection((3, 4), velocity)), dense(expected))
    assert torch.equal(dense(operators.shift((4,), np.int64(2))), dense(operators.shift((4,), 2)))


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_the_stated_ranks_of_first_differences(boundary):
    """In every dimension of three, each of 32 points in binary."""
    neumann = boundary == "neumann"
    shape = (32, 32, 32)
    within = {"central": 5 if neumann else 3, "forward": 3 if neumann else 2, "backward": 3 if neumann else 2}
    for scheme, rank in within.items():
        assert max(max(a.ranks) for a in gradient(shape, boundary, scheme)) == rank
    for scheme, likewise in (("central", "central"), ("upwind", "forward")):
        a = operators.convection(shape, [1.0, -2.0, 3.0], boundary=boundary, scheme=scheme, quantised=True)
        assert max(a.ranks) == within[likewise] + 1
        assert a.ranks[5] == a.ranks[10] == 2


def gradient(shape, boundary, scheme):
    return operators.gradient(shape, boundary=boundary, scheme=scheme, quantised=True)


def test_each_dimension_may_have_a_boundary_of_its_own():
    a = operators.laplace((3, 4), boundary=("neumann", "periodic"))
    expected = along(second(3, "neumann"), 0, (3, 4)) + along(second(4, "periodic"), 1, (3, 4))
    assert torch.equal(dense(a), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    assert operators.laplace((3, 3), dtype=dtype).dtype == dtype
    assert operators.laplace((3, 3)).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: operators.laplace(()), TTShapeError, "shape is (); expected at least one dimension."),
        (lambda: operators.laplace((3, 0)), TTShapeError, "every mode must have size at least 1"),
        (lambda: operators.laplace((6,), quantised=True), TTShapeError, "shape is (6,); expected powers of two"),
        (
            lambda: operators.laplace((2**24,)),
            TTValueError,
            "the operator of a dimension of 16777216 points, made of 6 dense matrices, has",
        ),
        (
            lambda: operators.laplace((2**24, 4)),
            TTValueError,
            "take modes of size 2 instead (quantised=True), for which",
        ),
        (lambda: operators.gradient((2**24,)), TTValueError, "than this machine's memory of"),
        (lambda: operators.laplace((3,), boundary="open"), TTValueError, "boundary is 'open'; expected 'dirichlet' or"),
        (lambda: operators.laplace((3,), boundary=["neumann"] * 2), TTShapeError, "boundary has 2 entries; expected 1"),
        (lambda: operators.laplace((3,), dtype=torch.int64), TTTypeError, "dtype is torch.int64"),
        (lambda: operators.gradient((3,), scheme="best"), TTValueError, "scheme is 'best'; expected 'central' or"),
        (lambda: operators.convection((3,), 1.0), TTTypeError, "velocity is 1.0; expected a sequence"),
        (lambda: operators.convection((3,), [1.0, 2.0]), TTShapeError, "velocity has 2 entries; expected 1"),
        (lambda: operators.convection((3,), [1j]), TTTypeError, "velocity holds 1j; expected real numbers."),
        (lambda: operators.convection((3,), [torch.tensor(1j)]), TTTypeError, "expected real numbers."),
        (lambda: operators.laplace((3,), boundary=None), TTTypeError, "boundary is None; expected one of 'dirichlet'"),
        (lambda: operators.convection((3,), [math.inf]), TTValueError, "velocity holds inf; expected finite"),
        (lambda: operators.convection((3,), [1.0], scheme="x"), TTValueError, "scheme is 'x'; expected 'central'"),
        (lambda: operators.shift((3,), 1.5), TTTypeError, "steps is 1.5; expected an int"),
        (lambda: operators.shift((3,), [1, 2]), TTShapeError, "steps has 2 entries; expected 1"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
