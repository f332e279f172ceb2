import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import DTYPES, dtypes, same, shapes
from ttnet import TTError, TTShapeError, TTTypeError, TTValueError


def test_random_has_unit_variance_at_any_rank_and_order():
    for shape, rank, dtype in [
        ((40, 40, 40), 1, torch.float64),
        ((8,) * 5, 12, torch.float32),
        ((30, 50), 9, torch.complex64),
    ]:
        squares = [
            float(ttnet.random(shape, rank, dtype=dtype, seed=seed).full().abs().square().mean()) for seed in range(40)
        ]
        assert np.mean(squares) == pytest.approx(1, abs=0.15)
    long = [
        float(ttnet.random((2,) * 60, 8, dtype=torch.float64, seed=seed).norm().square() / 2**60) for seed in range(300)
    ]
    assert 0.3 < np.mean(long) < 3


def test_random_is_reproducible():
    x = ttnet.random((3, 4, 5), [2, 3], seed=1)
    assert x.ranks == (1, 2, 3, 1)
    assert same(x, ttnet.random((3, 4, 5), [2, 3], seed=1))
    assert same(x, ttnet.random((3, 4, 5), [2, 3], generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(1)
    assert same(x, ttnet.random((3, 4, 5), [2, 3]))
    assert not same(x, ttnet.random((3, 4, 5), [2, 3], seed=2))
    assert ttnet.random((), seed=0).shape == ()


def test_constants():
    for dtype in [*DTYPES, torch.bfloat16, None]:
        for shape in [(), (3,), (2, 1, 3)]:
            assert torch.equal(ttnet.ones(shape, dtype=dtype).full(), torch.ones(shape, dtype=dtype))
            assert torch.equal(ttnet.zeros(shape, dtype=dtype).full(), torch.zeros(shape, dtype=dtype))
    assert ttnet.ones(torch.Size([2, 3]), device="meta").device.type == "meta"


@given(shapes.filter(len), dtypes)
def test_eye(shape, dtype):
    identity = ttnet.eye(shape, dtype=dtype)
    assert identity.row_shape == identity.col_shape == shape
    assert set(identity.ranks) == {1}
    assert torch.equal(identity.full(), torch.eye(math.prod(shape), dtype=dtype))


@given(shapes, dtypes)
def test_arange(shape, dtype):
    numbers = ttnet.arange(shape, dtype=dtype)
    assert max(numbers.ranks) <= 2
    assert torch.equal(numbers.full(), torch.arange(math.prod(shape)).to(dtype).reshape(shape))


def test_arange_is_exact_at_any_order():
    numbers = ttnet.arange((10,) * 1000, dtype=torch.float64)
    assert float(numbers[(0,) * 985 + (1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6)]) == 123456789123456
    assert float(numbers.log_norm() - ttnet.ones((10,) * 1000, dtype=torch.float64).log_norm()) == pytest.approx(
        1000 * math.log(10) - math.log(3) / 2
    )
    assert ttnet.arange((2, 2), device="meta").device.type == "meta"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), dtypes)
def test_meshgrid(sizes, dtype):
    vectors = [torch.arange(size).to(dtype) + 10 * k for k, size in enumerate(sizes)]
    grid = ttnet.meshgrid(*vectors)
    for actual, expected in zip(grid, torch.meshgrid(*vectors, indexing="ij"), strict=True):
        assert set(actual.ranks) == {1}
        assert actual.dtype == dtype
        assert torch.equal(actual.full(), expected)


def test_meshgrid_takes_arrays_and_promotes():
    x, y = ttnet.meshgrid(np.arange(3), torch.ones(2, dtype=torch.complex64))
    assert x.dtype == y.dtype == torch.complex128
    assert x.full()[:, 0].tolist() == [0, 1, 2]
    vector = torch.linspace(0, 1, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: (ttnet.meshgrid(v, v)[0] * ttnet.meshgrid(v, v)[1]).full(), (vector,))


def test_constructor_errors():
    for operation, error, message in [
        (lambda: ttnet.ones(3), TTTypeError, "shape is 3; expected a sequence of ints"),
        (lambda: ttnet.zeros((2, 0)), TTShapeError, "every mode must have size at least 1"),
        (lambda: ttnet.zeros((2, 1.5)), TTTypeError, "shape holds 1.5"),
        (lambda: ttnet.ones((2,), dtype=torch.int64), TTTypeError, "dtype is torch.int64; expected a floating"),
        (lambda: ttnet.random((2, 2), 0), TTValueError, "rank holds 0"),
        (lambda: ttnet.random((2, 2), [1, 2]), TTShapeError, "rank has 2 entries; expected 1"),
        (lambda: ttnet.random((2, 2), 2.5), TTTypeError, "rank is a float"),
        (lambda: ttnet.random((2,), seed=0, generator=torch.Generator()), TTValueError, "seed and generator are both"),
        (lambda: ttnet.eye(()), TTShapeError, r"shape is \(\); expected at least one mode"),
        (lambda: ttnet.eye(3), TTTypeError, "shape is 3; expected a sequence of ints"),
        (lambda: ttnet.eye((2**30,)), TTValueError, "the largest core of the identity has .* take the mode apart"),
        (lambda: ttnet.arange((2, 0)), TTShapeError, "every mode must have size at least 1"),
        (lambda: ttnet.arange((2,), dtype=torch.int64), TTTypeError, "dtype is torch.int64"),
        (lambda: ttnet.meshgrid(), TTShapeError, "meshgrid got no vectors"),
        (lambda: ttnet.meshgrid(torch.ones(2, 2)), TTShapeError, r"vectors\[0\] has shape \(2, 2\); expected \(n,\)"),
        (lambda: ttnet.meshgrid(torch.ones(2), torch.ones(0)), TTShapeError, r"vectors\[1\] has shape \(0,\)"),
        (
            lambda: ttnet.meshgrid(np.ma.masked_array([1.0, 2.0], [1, 0])),
            TTTypeError,
            r"vectors\[0\] has masked entries",
        ),
        (lambda: ttnet.meshgrid([1.0]), TTTypeError, r"vectors\[0\] is a list"),
    ]:
        with pytest.raises(error, match=message):
            operation()
        with pytest.raises(TTError):
            operation()
