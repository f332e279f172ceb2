import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_tensor, draw_train, dtypes, precision, relative_error, seeds
from ttnet import TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError


@given(st.integers(2, 3), st.lists(st.integers(0, 3), max_size=3), dtypes, seeds, st.sampled_from([None, 0.1]))
def test_there_and_back(base, powers, dtype, seed, eps):
    shape = tuple(base**power for power in powers)
    x = draw_train(shape, [2] * (len(shape) - 1), dtype, seed)
    qtt = ttnet.quantize(x, base, eps=eps)
    assert qtt.shape == tuple(size for power in powers for size in [base] * power or [1])
    assert relative_error(dense(qtt).reshape(shape), dense(x)) <= (eps or precision(dtype))
    back = ttnet.dequantize(qtt, shape)
    assert back.shape == shape
    assert relative_error(dense(back), dense(qtt).reshape(shape)) <= precision(dtype)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=3), dtypes, seeds)
def test_operators_there_and_back(powers, dtype, seed):
    rows, cols = (tuple(2**power for power in side) for side in zip(*powers, strict=True))
    x = draw_tensor((math.prod(rows), math.prod(cols)), dtype, seed)
    qtt = ttnet.quantize(TTMatrix.from_dense(x, rows, cols))
    assert relative_error(dense(qtt), x) <= precision(dtype)
    assert max(*qtt.row_shape, *qtt.col_shape) <= 2
    back = ttnet.dequantize(qtt, (rows, cols))
    assert (back.row_shape, back.col_shape) == (rows, cols)
    assert relative_error(dense(back), x) <= precision(dtype)


def test_factors():
    x = draw_train((6, 4, 5), [2, 2], torch.float64, 0)
    qtt = ttnet.quantize(x, factors=[(2, 3), (4,), (1, 5)])
    assert qtt.shape == (2, 3, 4, 1, 5)
    assert relative_error(qtt.full().reshape(6, 4, 5), x.full()) <= 1e-14
    w = TTMatrix.from_dense(draw_tensor((6, 20), torch.float64, 0), (6,), (20,))
    qtt = ttnet.quantize(w, factors=([(3, 2)], [(2, 2, 5)]))
    assert (qtt.row_shape, qtt.col_shape) == ((1, 3, 2), (2, 2, 5))
    assert relative_error(qtt.full(), w.full()) <= 1e-14
    assert relative_error(ttnet.dequantize(qtt, ((6,), (20,))).full(), w.full()) <= 1e-14
    qtt = ttnet.quantize(ttnet.eye((6,)), factors=([(6, 1)], [(6, 1)]))
    assert ttnet.dequantize(qtt, ((6,), (6,))).row_shape == (6,)


def test_functions_on_a_fine_grid_have_the_ranks_of_their_addition_theorems():
    points = torch.linspace(0, 1, 2**12, dtype=torch.float64)
    for values, rank in [(points.exp(), 1), ((20 * points).sin(), 2), (points, 2), (points**3, 4), (points > 0.5, 1)]:
        dense_values = values.to(torch.float64)
        qtt = ttnet.quantize(ttnet.tt_svd(dense_values), eps=1e-10)
        assert max(qtt.ranks) == rank
        assert relative_error(ttnet.dequantize(qtt, (2**12,)).full(), dense_values) <= 1e-10
        assert qtt.ranks == ttnet.tt_svd(dense_values.reshape((2,) * 12), eps=1e-10).ranks


def test_the_laplacian_has_rank_3():
    laplacian = 2 * torch.eye(256, dtype=torch.float64)
    laplacian -= torch.diag(torch.ones(255, dtype=torch.float64), 1) + torch.diag(
        torch.ones(255, dtype=torch.float64), -1
    )
    qtt = ttnet.quantize(TTMatrix.from_dense(laplacian, (256,), (256,)), eps=1e-12)
    assert max(qtt.ranks) == 3
    x = ttnet.random((2,) * 8, 2, dtype=torch.float64, seed=0)
    assert relative_error((qtt @ x).full().reshape(-1), laplacian @ x.full().reshape(-1)) <= 1e-12


def test_padding_makes_a_power_of_two():
    x = draw_train((6, 4), [2], torch.float64, 0)
    qtt = ttnet.quantize(ttnet.pad(x, [(0, 2), (0, 0)]))
    assert relative_error(ttnet.dequantize(qtt, (8, 4))[:6].full(), x.full()) <= 1e-14


def test_max_rank():
    x = draw_train((8, 8), [4], torch.float64, 0)
    assert ttnet.quantize(x, max_rank=2).ranks == (1, 2, 2, 2, 2, 2, 1)
    assert max(ttnet.quantize(ttnet.diag(x), max_rank=3).ranks) == 3


x = ttnet.ones((6, 4))
w = ttnet.eye((6, 4))


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda: ttnet.quantize(torch.ones(4)), TTTypeError, "tt is a Tensor; expected a TensorTrain or a TTMatrix"),
        (
            lambda: ttnet.quantize(x),
            TTShapeError,
            "mode 0 has size 6, which is no power of 2; give its factors, or make it 8 entries long with ttnet.pad",
        ),
        (lambda: ttnet.quantize(w, 3), TTShapeError, "row mode 0 has size 6, which is no power of 3; .* 9 .* or 3"),
        (lambda: ttnet.quantize(x, 1), TTValueError, "base is 1; expected an int >= 2"),
        (lambda: ttnet.quantize(x, 2.0), TTTypeError, "base is 2.0"),
        (lambda: ttnet.quantize(x, factors=[(2, 3)]), TTShapeError, "factors has 1 entries; expected 2, one per mode"),
        (
            lambda: ttnet.quantize(x, factors=[(2, 2), (4,)]),
            TTShapeError,
            r"factors\[0\] is \(2, 2\), but mode 0 has size 6",
        ),
        (lambda: ttnet.quantize(x, factors=[6, 4]), TTTypeError, r"factors\[0\] is 6; expected a sequence"),
        (lambda: ttnet.quantize(x, factors=6), TTTypeError, "factors is 6; expected one sequence of ints per mode"),
        (lambda: ttnet.quantize(w, factors=[(6, 4)]), TTTypeError, "expected a pair for a TT-matrix"),
        (lambda: ttnet.dequantize(torch.ones(4), (4,)), TTTypeError, "qtt is a Tensor"),
        (lambda: ttnet.dequantize(x, (4, 6)), TTShapeError, r"the modes \(6, 4\) do not merge to \(4, 6\)"),
        (lambda: ttnet.dequantize(x, (6, 4, 1)), TTShapeError, "do not merge"),
        (lambda: ttnet.dequantize(x, (6,)), TTShapeError, "do not merge"),
        (lambda: ttnet.dequantize(x, ()), TTShapeError, "do not merge"),
        (lambda: ttnet.dequantize(x, 24), TTTypeError, "shape is 24"),
        (lambda: ttnet.dequantize(w, 24), TTTypeError, r"shape is 24; expected a pair for a TT-matrix"),
        (lambda: ttnet.dequantize(w, ((24,), (6, 4))), TTShapeError, "shape has 1 row modes and 2 column modes"),
        (
            lambda: ttnet.dequantize(w, ((4, 6), (4, 6))),
            TTShapeError,
            r"modes \(6x6, 4x4\) do not merge to \(4x4, 6x6\)",
        ),
    ],
)
def test_errors(operation, error, message):
    with pytest.raises(error, match=message):
        operation()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    x = draw_train((4, 4), [2], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    assert gradcheck(lambda *c: ttnet.quantize(TensorTrain(c)).full(), cores)
    assert gradcheck(lambda *c: ttnet.dequantize(TensorTrain(c), (16,)).full(), cores)
    assert gradcheck(lambda *c: ttnet.quantize(TTMatrix.from_train(TensorTrain(c), (2, 2), (2, 2))).full(), cores)
