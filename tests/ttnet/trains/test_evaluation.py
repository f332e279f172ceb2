import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_indices, draw_train, precision, relative_error, seeds, trains, wide
from ttnet import TensorTrain, TTIndexError, TTShapeError, TTTypeError


@given(trains(), seeds)
def test_evaluate_is_indexing(x, seed):
    indices = draw_indices(x.shape, 17, seed) if x.ndim else torch.empty(17, 0, dtype=torch.int64)
    expected = dense(x)[tuple(indices.unbind(1))] if x.ndim else dense(x).expand(17)
    for given_as in [indices, indices.int(), indices.numpy(), indices.numpy().astype(np.uint8)]:
        values = ttnet.evaluate(x, given_as)
        assert values.shape == (17,)
        assert values.dtype == x.dtype
        assert float((wide(values) - expected).abs().max()) <= precision(x.dtype) * float(dense(x).abs().max() + 1)


def test_evaluate_at_any_scale():
    cores = [torch.full((1, 2, 1), scale, dtype=torch.float64) for scale in [1e300, 1e300, 1e-300, 1e-300, 2.0] * 50]
    at = torch.zeros(3, 250, dtype=torch.int64)
    assert torch.allclose(ttnet.evaluate(TensorTrain(cores), at), torch.full((3,), 2.0**50, dtype=torch.float64))
    # Slices of one core at opposite ends of the range, each entry being a plain number.
    a = torch.tensor([1e-300, 1e300], dtype=torch.float64).reshape(1, 2, 1)
    b = torch.tensor([1e300, 1e-300], dtype=torch.float64).reshape(1, 2, 1)
    assert torch.allclose(
        ttnet.evaluate(TensorTrain([a, b]), torch.tensor([[0, 0], [1, 1]])).log2(), torch.zeros(2).double(), atol=1e-12
    )
    assert ttnet.evaluate(TensorTrain([a, b]), torch.tensor([[0, 1], [1, 0]])).tolist() == [0.0, math.inf]
    tiny = TensorTrain([torch.full((1, 1, 1), 5e-324, dtype=torch.float64), torch.full((1, 1, 1), 2.0).double()])
    assert float(ttnet.evaluate(tiny, torch.zeros(1, 2, dtype=torch.int64))) == 1e-323
    half = TensorTrain([torch.full((1, 2, 1), 300.0, dtype=torch.float16)] * 2 + [torch.full((1, 2, 1), 0.01).half()])
    assert float(ttnet.evaluate(half, torch.zeros(1, 3, dtype=torch.int64))) == pytest.approx(900, rel=1e-2)


def test_evaluate_in_chunks():
    x = ttnet.random((5, 6, 7), [400, 300], dtype=torch.float64, seed=0)
    indices = draw_indices(x.shape, 100)
    assert relative_error(ttnet.evaluate(x, indices), x.full()[tuple(indices.unbind(1))]) <= 1e-13
    assert ttnet.evaluate(x, indices[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(2,) * 9, (3, 1, 2, 9, 4, 2), (5, 6, 7), (7,)])
@pytest.mark.parametrize("scale", [1.0, 1e-250, 1e200])
def test_evaluate_more_rows_than_there_are_beginnings_and_ends(shape, scale):
    x = ttnet.random(shape, 3, dtype=torch.complex128, seed=0)
    indices = draw_indices(x.shape, 60)
    cores = [core * scale if k % 2 else core / scale for k, core in enumerate(x.cores)]
    expected = dense(x)[tuple(indices.unbind(1))]
    expected = expected if len(shape) % 2 == 0 else expected / scale
    assert (
        relative_error(
            ttnet.evaluate(TensorTrain(cores), indices) / expected.abs().max(), expected / expected.abs().max()
        )
        <= 1e-13
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_of_evaluate(dtype):
    x = draw_train((3, 4, 2), [2, 3], dtype, 0)
    cores = [core.requires_grad_() for core in x.cores]
    indices = draw_indices(x.shape, 6)
    assert gradcheck(lambda *cores: ttnet.evaluate(TensorTrain(cores), indices), cores)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([[0, 0]], TTTypeError, "indices is a list; expected a torch.Tensor or numpy.ndarray of ints"),
        (torch.zeros(2, 2), TTTypeError, "indices has dtype torch.float32; expected ints"),
        (torch.zeros(2, 2, dtype=torch.bool), TTTypeError, "indices has dtype torch.bool"),
        (np.zeros((2, 2)), TTTypeError, "indices has dtype float64; expected ints"),
        (np.ma.masked_array([[0, 1]], [[False, True]]), TTTypeError, "indices has masked entries, 1 of 2"),
        (torch.zeros(2, dtype=torch.int64), TTShapeError, "indices has shape \\(2,\\); expected \\(batch, 2\\)"),
        (torch.zeros(2, 3, dtype=torch.int64), TTShapeError, "indices has shape \\(2, 3\\); expected \\(batch, 2\\)"),
        (torch.tensor([[0, 0], [1, 3]]), TTIndexError, "indices\\[1\\] holds 3 for mode 1 of size 3; expected 0 to 2"),
        (torch.tensor([[0, 0], [0, 0], [-1, 0]]), TTIndexError, "indices\\[2\\] holds -1 for mode 0 of size 2"),
    ],
)
def test_bad_indices(indices, error, message):
    with pytest.raises(error, match=message):
        ttnet.evaluate(ttnet.ones((2, 3)), indices)


def test_evaluate_takes_trains_only():
    with pytest.raises(TTTypeError, match="tt is a Tensor; expected a TensorTrain"):
        ttnet.evaluate(torch.ones(2, 3), torch.zeros(1, 2, dtype=torch.int64))
