"""The manifold of fixed ranks, against projections of dense tensors in double precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import dense, draw_train, dtypes, precision, relative_error, seeds
from ttnet import TensorTrain, TTShapeError, TTTypeError, TTValueError
from ttnet.solvers import gradient, project, retract, tangent, transport


@st.composite
def points(draw, dtype=None):
    """Trains of ranks that their shapes allow."""
    shape = draw(st.lists(st.integers(1, 4), min_size=0, max_size=5).map(tuple))
    ranks: list[int] = []
    for k in range(1, len(shape)):
        before = ranks[-1] if ranks else 1
        ranks.append(min(before * shape[k - 1], math.prod(shape[k:]), draw(st.integers(1, 3))))
    for k in range(len(ranks) - 1, 0, -1):
        ranks[k - 1] = min(ranks[k - 1], ranks[k] * shape[k])
    return draw_train(shape, ranks, draw(dtypes) if dtype is None else dtype, draw(seeds))


def basis(x):
    """An orthonormal basis of the tangent space, from all directions of all cores."""
    columns = []
    for k, core in enumerate(x.cores):
        for unit in torch.eye(core.numel(), dtype=core.dtype):
            cores = [*x.cores[:k], unit.reshape(core.shape), *x.cores[k + 1 :]]
            columns.append(dense(TensorTrain(cores)).flatten())
    u, s, _ = torch.linalg.svd(torch.stack(columns, 1), full_matrices=False)
    return u[:, s > 1e-9 * s[0]]


@given(points(), seeds)
def test_projections_are_those_onto_a_basis(x, seed):
    z = draw_train(x.shape, [2] * max(0, x.ndim - 1), x.dtype, seed)
    found = project(x, z)
    b = basis(x.to(torch.complex128 if x.dtype.is_complex else torch.float64))
    expected = (b @ (b.mH @ dense(z).flatten())).reshape(x.shape)
    scale = float(dense(z).norm())
    condition = max([1.0] + [float(s[0] / s[-1]) for s in x.singular_values()])
    assert float((dense(found.train()) - expected).norm()) <= precision(x.dtype) * scale * condition
    assert found.space.dimension == b.shape[1]
    assert math.isclose(
        float(found.norm()), float(found.train().norm()), rel_tol=100 * precision(x.dtype), abs_tol=1e-30
    )


@given(points(torch.float64), seeds)
def test_vectors_of_one_space_are_a_linear_space(x, seed):
    y, z = (project(x, draw_train(x.shape, [2] * max(0, x.ndim - 1), x.dtype, seed + k)) for k in (0, 1))
    a, b = dense(y.train()), dense(z.train())
    assert relative_error(dense((2 * y - z).train()), 2 * a - b) < 1e-10
    assert math.isclose(float(y.dot(z)), float((a * b).sum()), rel_tol=1e-9, abs_tol=1e-9 * float(a.norm() * b.norm()))


@given(points(torch.float64), seeds)
def test_tangents_are_derivatives_of_products(x, seed):
    moved = [torch.randn(c.shape, dtype=c.dtype, generator=torch.Generator().manual_seed(seed)) for c in x.cores]

    def at(t):
        return dense(TensorTrain([c + t * m for c, m in zip(x.cores, moved, strict=True)]))

    step = 1e-6
    expected = (at(step) - at(-step)) / (2 * step)
    assert float((dense(tangent(x, moved).train()) - expected).norm()) < 1e-6 * float(1 + expected.norm())


@given(points(torch.float64), seeds)
def test_retractions_agree_to_second_order(x, seed):
    z = draw_train(x.shape, [2] * max(0, x.ndim - 1), x.dtype, seed)
    v = project(x, z)
    v = v * (float(x.norm()) / max(float(v.norm()), 1e-300))
    smallest = min([float(s[-1]) for s in x.singular_values()] + [float(x.norm())]) / float(x.norm())
    for step in (1e-2 * smallest, 1e-3 * smallest):
        y = retract(v, step)
        assert y.ranks == x.ranks
        error = float((dense(y) - dense(x) - step * dense(v.train())).norm())
        assert error <= 10 * step**2 * float(x.norm()) / smallest + 1e-12 * float(x.norm())


@given(points(torch.float64), seeds)
def test_transport_projects(x, seed):
    y = draw_train(x.shape, list(x.ranks[1:-1]), x.dtype, seed)
    v = project(x, x)
    assert relative_error(dense(transport(v, y).train()), dense(project(y, x).train())) < 1e-8


@given(points(), seeds)
def test_gradients_are_projected_derivatives(x, seed):
    z = draw_train(x.shape, [2] * max(0, x.ndim - 1), x.dtype, seed + 10**6)  # never x itself, where all is rounding
    value, found = gradient(lambda y: (y - z).norm().square() / 2, x)
    assert math.isclose(float(value), float((dense(x) - dense(z)).norm() ** 2 / 2), rel_tol=1e-3)
    expected = project(x, x - z)
    difference = dense(found.train()) - dense(expected.train())
    assert float(difference.norm()) <= 50 * precision(x.dtype) * float(dense(x).norm() + dense(z).norm())


def test_gradients_of_what_does_not_depend_on_some_cores():
    _, found = gradient(lambda y: y.cores[0].sum(), ttnet.ones((2, 3, 2), dtype=torch.float64))
    assert found.deltas[1].norm() == found.deltas[2].norm() == 0


def test_norms_beyond_floats():
    x = ttnet.ones((10,) * 400, dtype=torch.float64)
    with pytest.raises(TTValueError, match=r"the norm of the train is beyond the range of torch.float64; divide"):
        project(x * 1e200, x)
    with pytest.raises(TTValueError, match=r"the norm of z is beyond the range of torch.float64; divide z by it"):
        project(x / x.norm(), x * 1e200)


def one(shape=(2, 3)):
    return ttnet.ones(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: project(torch.ones(2), one()), TTTypeError, "x is a Tensor; expected a TensorTrain."),
        (lambda: project(one(), torch.ones(2)), TTTypeError, "z is a Tensor; expected a TensorTrain."),
        (
            lambda: project(one(), one((3, 2))),
            TTShapeError,
            r"z has shape \(3, 2\); expected that of the",
        ),
        (lambda: project(one() * math.nan, one()), TTValueError, r"cores\[1\] holds NaN or infinite entries, 3 of 3"),
        (lambda: project(one(), one() * math.nan), TTValueError, r"cores\[1\] holds NaN or infinite entries, 3 of 3"),
        (
            lambda: project(ttnet.random((2, 3), 3), one()),
            TTValueError,
            r"cores\[0\] has shape \(1, 2, 3\), with a rank larger than .*; round the train first",
        ),
        (lambda: project(0 * one(), one()), TTValueError, "x is zero; expected a train of full ranks"),
        (
            lambda: transport(project(one(), one()), 0 * one()),
            TTValueError,
            "y is zero; expected a train of full ranks",
        ),
        (lambda: tangent(one(), [torch.ones(1, 2, 1)]), TTShapeError, "directions have the shapes"),
        (lambda: transport(one(), one()), TTTypeError, "vector is a TensorTrain; expected a TangentVector"),
        (lambda: transport(project(one(), one()), 3), TTTypeError, "y is a int; expected a TensorTrain"),
        (lambda: retract(one()), TTTypeError, "vector is a TensorTrain; expected a TangentVector"),
        (lambda: retract(project(one(), one()), "a"), TTTypeError, "step is a str; expected a number"),
        (
            lambda: project(one(), one()) + project(one() * 2, one()),
            TTValueError,
            "different tangent spaces",
        ),
        (lambda: gradient(3, one()), TTTypeError, "f is a int; expected a function of a train"),
        (lambda: gradient(lambda y: 1.0, one()), TTTypeError, "f returned a float; expected a real tensor"),
        (lambda: gradient(lambda y: y.full() * 1j, one()), TTTypeError, "f returned dtype torch.complex128"),
        (lambda: gradient(lambda y: y.full(), one()), TTShapeError, r"f returned the shape \(2, 3\)"),
        (lambda: gradient(lambda y: torch.ones(()), one()), TTValueError, "what f returned has no gradient"),
        (lambda: project(one(), one().to("meta")), TTValueError, "z is on meta and the train on cpu"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
