"""`ttnet.allclose`: that of norms, and what cannot be compared."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.trains.test_habits import W, X, trains
from ttnet import TTMatrix
from ttnet.errors import TTShapeError, TTTypeError, TTValueError


@given(trains(), st.floats(1e-9, 1e-2), st.booleans())
def test_closeness_is_that_of_norms(x, distance, matrix):
    full = x.full()
    norm = float(torch.linalg.vector_norm(full.to(torch.promote_types(x.dtype, torch.float64))))
    a, b = (x * (1 + distance), x) if not (matrix and x.ndim) else (_matrix(x * (1 + distance)), _matrix(x))
    error = float(torch.linalg.vector_norm((a.full() - b.full()).to(torch.complex128)))
    for rtol, atol in [(1e-3, 0.0), (0.0, 1e-3), (1e-4, 1e-4)]:
        bound = rtol * norm + atol
        if abs(error - bound) > 1e-6 * (norm + bound):
            assert ttnet.allclose(a, b, rtol=rtol, atol=atol) == (error <= bound)
            for first, second in ((a.full(), b), (a, b.full()), (a.full().numpy(), b), (a, b.full().numpy())):
                assert ttnet.allclose(first, second, rtol=rtol, atol=atol) == (error <= bound)


def test_closeness_at_any_size():
    huge = ttnet.ones((10,) * 700, dtype=torch.float64)  # of a norm of 1e350
    assert ttnet.allclose(huge * (1 + 1e-7), huge)
    assert not ttnet.allclose(1.1 * huge, huge)
    assert not ttnet.allclose(_matrix(1.1 * huge), _matrix(huge))
    for size in (1e-200, 1e200):  # whose squares are no numbers
        x = ttnet.ones((3, 2), dtype=torch.float64) * size
        for near in (x * (1 + 1e-7), x.full() * (1 + 1e-7)):
            assert ttnet.allclose(near, x)
            assert not ttnet.allclose(near, x, rtol=1e-8)
        assert not ttnet.allclose(1.1 * x.full(), x)
        assert ttnet.allclose(1.1 * x.full(), x, rtol=0, atol=size)
    zero = 0 * ttnet.ones((3, 2))
    assert ttnet.allclose(zero, zero, rtol=0)
    assert ttnet.allclose(zero.full(), zero, rtol=0)


def _matrix(x):
    return TTMatrix.from_train(x, x.shape, (1,) * x.ndim)


@pytest.mark.parametrize(
    ("operation", "error", "words"),
    [
        (lambda: ttnet.allclose(X, W), TTTypeError, "a is a TensorTrain and b is a TTMatrix"),
        (lambda: ttnet.allclose(X, 1), TTTypeError, "b is a int"),
        (lambda: ttnet.allclose(X.full(), X.full()), TTTypeError, "a is a Tensor and b is a Tensor"),
        (lambda: ttnet.allclose(X, X.T), TTShapeError, r"a has shape \(2, 3\) and b \(3, 2\)"),
        (lambda: ttnet.allclose(X, X, rtol=-1), TTValueError, "rtol is -1; expected a number of at least 0"),
        (lambda: ttnet.allclose(X, X, atol=float("nan")), TTValueError, "atol is nan"),
    ],
)
def test_what_cannot_be_compared(operation, error, words):
    with pytest.raises(error, match=words):
        operation()
