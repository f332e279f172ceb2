import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import (
    dense,
    precision,
    relative_error,
    same,
    shapes,
    train_pairs,
    trains,
    tt_matrices,
    wide,
)
from ttnet import TensorTrain, TTIndexError, TTMatrix, TTShapeError, TTTypeError, TTValueError


def coarser(*values):
    """The dtype of the least precision."""
    return max((value.dtype for value in values), key=lambda dtype: torch.finfo(dtype).eps)


def promoted(*values):
    dtype = values[0].dtype
    for value in values:
        dtype = torch.promote_types(dtype, value.dtype)
    return dtype


@given(shapes.filter(len), st.integers(1, 4), st.data())
def test_cat(shape, count, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    sizes = [data.draw(st.integers(1, 3)) for _ in range(count)]
    parts = [data.draw(trains(shape=(*shape[:dim], size, *shape[dim + 1 :]))) for size in sizes]
    joined = ttnet.cat(parts, data.draw(st.sampled_from([dim, dim - len(shape)])))
    assert joined.dtype == promoted(*parts)
    assert joined.ranks[1:-1] == tuple(map(sum, zip(*(part.ranks[1:-1] for part in parts), strict=True)))
    expected = torch.cat([dense(part).to(wide(torch.ones((), dtype=joined.dtype)).dtype) for part in parts], dim)
    assert relative_error(dense(joined), expected) <= precision(coarser(*parts))


@given(shapes, st.integers(1, 4), st.data())
def test_stack(shape, count, data):
    parts = [data.draw(trains(shape=shape)) for _ in range(count)]
    dim = data.draw(st.integers(-len(shape) - 1, len(shape)))
    joined = ttnet.stack(parts, dim)
    assert joined.dtype == promoted(*parts)
    expected = torch.stack([dense(part).to(wide(torch.ones((), dtype=joined.dtype)).dtype) for part in parts], dim)
    assert relative_error(dense(joined), expected) <= precision(coarser(*parts))


@given(trains(), st.data())
def test_cat_undoes_slicing(x, data):
    if not x.ndim or x.shape[0] < 2:
        return
    at = data.draw(st.integers(1, x.shape[0] - 1))
    assert relative_error(dense(ttnet.cat([x[:at], x[at:]])), dense(x)) <= precision(x.dtype)
    assert relative_error(dense(ttnet.stack(list(x)) if x.ndim > 1 else x), dense(x)) <= precision(x.dtype)


@given(trains(), st.data())
def test_pad(x, data):
    padding = [(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in x.shape]
    padded = ttnet.pad(x, padding)
    flat = [count for pair in reversed(padding) for count in pair]
    expected = torch.nn.functional.pad(dense(x), flat) if x.ndim else dense(x)
    assert padded.ranks == x.ranks
    assert relative_error(dense(padded), expected) <= precision(x.dtype)


@given(trains(), trains())
def test_kron_and_outer_of_trains(x, y):
    tolerance = precision(coarser(x, y))
    a, b = (dense(value).to(torch.complex128) for value in (x, y))
    product = ttnet.kron(x, y)
    assert product.dtype == promoted(x, y)
    assert relative_error(dense(product), torch.kron(a, b)) <= tolerance
    if x.ndim == y.ndim:
        assert product.ranks == tuple(r * s for r, s in zip(x.ranks, y.ranks, strict=True))
    product = ttnet.outer(x, y)
    assert product.dtype == promoted(x, y)
    assert product.shape == x.shape + y.shape
    assert relative_error(dense(product), torch.tensordot(a, b, 0)) <= tolerance
    if x.ndim and y.ndim:
        assert product.ranks == x.ranks + y.ranks[1:]


@given(tt_matrices(), tt_matrices())
def test_kron_of_operators(a, b):
    product = ttnet.kron(a, b)
    assert product.dtype == promoted(a, b)
    assert (product.row_shape, product.col_shape) == (a.row_shape + b.row_shape, a.col_shape + b.col_shape)
    assert product.ranks == a.ranks + b.ranks[1:]
    expected = torch.kron(*(dense(value).to(torch.complex128).contiguous() for value in (a, b)))
    assert relative_error(dense(product), expected) <= precision(coarser(a, b))


@given(train_pairs())
def test_diag_of_a_train(pair):
    x, y = pair
    if not x.ndim:
        return
    operator = ttnet.diag(x)
    assert operator.ranks == x.ranks
    assert relative_error(dense(operator), torch.diag(dense(x).reshape(-1))) <= precision(x.dtype)
    assert same(ttnet.diag(operator), x)
    tolerance = precision(coarser(x, y)) * float(dense(x).norm() * dense(y).norm())
    assert float((dense(operator @ y) - dense(x) * dense(y)).norm()) <= tolerance


@given(st.data())
def test_diag_of_an_operator(data):
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    w = data.draw(tt_matrices(rows=tuple(shape), cols=tuple(shape)))
    diagonal = ttnet.diag(w)
    assert diagonal.ranks == w.ranks
    assert relative_error(dense(diagonal).reshape(-1), dense(w).diag()) <= precision(w.dtype)


def test_wild_scales():
    x = ttnet.random((2,) * 1000, 3, dtype=torch.float64, seed=0)
    norm = float(x.log_norm())
    wild = TensorTrain(core * (1e250 if k % 2 else 1e-250) for k, core in enumerate(x.cores))
    twice = math.log(2) / 2
    for actual, expected in [
        (ttnet.cat([wild, x], 3), norm + twice),
        (ttnet.stack([x, wild], 3), norm + twice),
        (ttnet.kron(wild, wild), 2 * norm),
        (ttnet.outer(wild, wild), 2 * norm),
        (ttnet.diag(wild), norm),
        (ttnet.pad(wild, [(1, 1)] * 1000), norm),
    ]:
        assert float(actual.log_norm()) == pytest.approx(expected, rel=1e-12)
    scalar = ttnet.ones((), dtype=torch.float64) * 1e300
    small = TensorTrain(torch.full((1, 2, 1), value, dtype=torch.float64) for value in (1e-300, 1e300))
    assert ttnet.outer(scalar, small).full().tolist() == ttnet.outer(small, scalar).full().tolist()
    assert float(ttnet.outer(scalar, small).full()[0, 0]) == pytest.approx(1e300)


def test_many_trains():
    vectors = [ttnet.ones((2,)) * k for k in range(3000)]
    assert torch.equal(ttnet.cat(vectors).full(), torch.arange(3000.0).repeat_interleave(2))
    with pytest.raises(
        TTValueError, match=r"the largest core of the result has .* entries, more than .* round in between"
    ):
        ttnet.cat([ttnet.ones((2, 2, 2))] * 10**5)


def test_results_are_apart_from_what_was_joined():
    x = ttnet.ones((2, 2))
    results = [ttnet.cat([x]), ttnet.stack([x]), ttnet.kron(x, ttnet.ones((1, 1))), ttnet.pad(x, [(0, 1), (0, 0)])]
    before = [result.full() for result in results]
    for core in x.cores:
        core.zero_()
    assert all(torch.equal(result.full(), full) for result, full in zip(results, before, strict=True))


x = ttnet.ones((2, 3))
meta = ttnet.ones((2, 3), device="meta")
w = ttnet.eye((2, 3))


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda: ttnet.cat([]), TTShapeError, "trains is empty; expected at least one train"),
        (lambda: ttnet.cat(x), TTTypeError, "trains is a TensorTrain; expected a list of TensorTrains"),
        (lambda: ttnet.cat([x, w]), TTTypeError, r"trains\[1\] is a TTMatrix; expected a TensorTrain"),
        (lambda: ttnet.cat([x, ttnet.ones((3, 3))], 1), TTShapeError, r"shape \(3, 3\) but trains\[0\] has \(2, 3\)"),
        (lambda: ttnet.cat([x, ttnet.ones((2,))]), TTShapeError, "expected the same sizes but for mode 0"),
        (lambda: ttnet.cat([x, x], 2), TTIndexError, "dim is 2; expected -2 to 1 for a train of order 2"),
        (lambda: ttnet.cat([x, x], None), TTTypeError, "dim is None; expected an int"),
        (lambda: ttnet.cat([ttnet.ones(())]), TTShapeError, "order 1 or more, or use ttnet.stack"),
        (lambda: ttnet.cat([x, meta]), TTValueError, "operands are on cpu and meta; move them to one device"),
        (lambda: ttnet.stack([x, ttnet.ones((3, 2))]), TTShapeError, r"\(3, 2\) but trains\[0\] has \(2, 3\)"),
        (lambda: ttnet.stack([x, x], 3), TTIndexError, "dim is 3; expected -3 to 2"),
        (lambda: ttnet.pad(w, []), TTTypeError, "tt is a TTMatrix; expected a TensorTrain"),
        (lambda: ttnet.pad(x, 1), TTTypeError, "padding is 1; expected one pair"),
        (lambda: ttnet.pad(x, [(1, 1)]), TTShapeError, "expected 2 pairs"),
        (lambda: ttnet.pad(x, [1, 1]), TTShapeError, "expected 2 pairs"),
        (lambda: ttnet.pad(x, [(0, 1), (0, -1)]), TTValueError, "padding holds -1; expected ints >= 0: take"),
        (lambda: ttnet.pad(x, [(0, 1), (0, 1.5)]), TTTypeError, "padding holds 1.5"),
        (lambda: ttnet.kron(x, w), TTTypeError, "a is a TensorTrain and b is a TTMatrix; expected two"),
        (lambda: ttnet.kron(2, x), TTTypeError, "a is a int"),
        (lambda: ttnet.kron(x, meta), TTValueError, "move them to one device"),
        (lambda: ttnet.kron(w, w.to("meta")), TTValueError, "move them to one device"),
        (lambda: ttnet.outer(x, torch.ones(2)), TTTypeError, "b is a Tensor; expected a TensorTrain"),
        (lambda: ttnet.outer(x, meta), TTValueError, "move them to one device"),
        (lambda: ttnet.diag(torch.ones(2)), TTTypeError, "x is a Tensor; expected a TensorTrain or a TTMatrix"),
        (lambda: ttnet.diag(ttnet.ones(())), TTShapeError, "x is a train of order 0"),
        (
            lambda: ttnet.diag(TTMatrix.from_train(ttnet.ones((6, 6)), (2, 3), (3, 2))),
            TTShapeError,
            r"row_shape \(2, 3\) and col_shape \(3, 2\)",
        ),
    ],
)
def test_errors(operation, error, message):
    with pytest.raises(error, match=message):
        operation()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    x, y = (ttnet.random((3, 2), 2, dtype=dtype, seed=seed) for seed in (0, 1))
    cores = [core.clone().requires_grad_() for core in x.cores]
    for function in [
        lambda t: ttnet.cat([t, y, t], 1).full(),
        lambda t: ttnet.stack([y, t], 1).full(),
        lambda t: ttnet.pad(t, [(1, 0), (0, 2)]).full(),
        lambda t: ttnet.kron(t, y).full(),
        lambda t: ttnet.outer(y, t).full(),
        lambda t: ttnet.diag(t).full(),
        lambda t: ttnet.diag(ttnet.diag(t) @ ttnet.diag(y)).full(),
    ]:
        assert gradcheck(lambda *c, function=function: function(TensorTrain(c)), cores)
