import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import (
    DTYPES,
    dense,
    draw_tensor,
    draw_train,
    dtypes,
    precision,
    relative_error,
    same,
    seeds,
    trains,
    tt_matrices,
    wide,
)
from ttnet import TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError


def close(actual, expected, dtype):
    return relative_error(actual, expected) <= precision(dtype)


@given(tt_matrices())
def test_properties_full_and_transpose(w):
    assert w.shape == (np.prod(w.row_shape), np.prod(w.col_shape))
    assert len(w.ranks) == len(w.row_shape) + 1
    assert w.num_parameters == sum(core.numel() for core in w.cores)
    assert w.numel == w.shape[0] * w.shape[1]
    assert w.full().dtype == w.dtype
    assert close(w.full(), dense(w), w.dtype)
    assert close(w.T.full(), dense(w).T, w.dtype)
    assert (w.T.row_shape, w.T.col_shape) == (w.col_shape, w.row_shape)
    assert close(w.conj().full(), dense(w).conj(), w.dtype)
    assert float(w.norm()) == pytest.approx(float(dense(w).norm()), rel=precision(w.dtype))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4), dtypes, seeds)
def test_from_dense(modes, dtype, seed):
    rows, cols = zip(*modes, strict=True)
    x = draw_tensor((int(np.prod(cols)), int(np.prod(rows))), dtype, seed).T  # not contiguous
    w = TTMatrix.from_dense(x, rows, cols)
    assert (w.row_shape, w.col_shape, w.dtype) == (rows, cols, dtype)
    assert close(dense(w), x, dtype)
    assert relative_error(dense(TTMatrix.from_dense(x, rows, cols, eps=0.4)), x) <= 0.4
    assert max(TTMatrix.from_dense(x, rows, cols, max_rank=1).ranks) == 1
    assert close(dense(TTMatrix.from_dense(x.numpy(), rows, cols)), x, dtype)


@given(tt_matrices(), st.data())
def test_products_with_tensors(w, data):
    batch = data.draw(st.sampled_from([None, (2,), (3, 2), (0, 2)]))
    rows, cols = w.shape
    shape = (cols,) if batch is None else (*batch[:-1], cols, batch[-1])
    x = draw_tensor(shape, w.dtype, 0)
    assert (w @ x).dtype == w.dtype
    assert close(w @ x, dense(w) @ wide(x), w.dtype)
    shape = (rows,) if batch is None else (*batch, rows)
    y = draw_tensor(shape, w.dtype, 0)
    assert close(y @ w, wide(y) @ dense(w), w.dtype)


@given(st.data())
def test_products_with_trains_and_operators(data):
    dtype = data.draw(dtypes)
    a = data.draw(tt_matrices(dtype=dtype))
    inner = a.col_shape
    b = data.draw(tt_matrices(rows=inner, cols=inner[::-1], dtype=dtype))
    x, y = data.draw(trains(shape=inner, dtype=dtype)), data.draw(trains(shape=a.row_shape, dtype=dtype))

    def check(actual, expected, size):
        assert actual.dtype == dtype
        assert float((dense(actual).reshape(expected.shape) - expected).norm()) <= precision(dtype) * float(size)

    assert isinstance(a @ x, TensorTrain)
    assert (a @ x).shape == a.row_shape
    assert (a @ x).ranks == tuple(r * s for r, s in zip(a.ranks, x.ranks, strict=True))
    check(a @ x, dense(a) @ dense(x).reshape(-1), dense(a).norm() * dense(x).norm())
    check(y @ a, dense(y).reshape(-1) @ dense(a), dense(a).norm() * dense(y).norm())
    assert isinstance(a @ b, TTMatrix)
    assert ((a @ b).row_shape, (a @ b).col_shape) == (a.row_shape, b.col_shape)
    check(a @ b, dense(a) @ dense(b), dense(a).norm() * dense(b).norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic(dtype):
    x, y = draw_tensor((6, 8), dtype, 0), draw_tensor((6, 8), dtype, 1)
    a, b = (TTMatrix.from_dense(z, (2, 3), (4, 2)) for z in (x, y))
    for actual, expected in [
        (a + b, x + y),
        (a - b, x - y),
        (-a, -x),
        (2 * a, 2 * x),
        (a * 2j, x * 2j),
        (a / 4, x / 4),
        ((a + a).round(), 2 * x),
    ]:
        assert isinstance(actual, TTMatrix)
        assert actual.dtype == expected.dtype
        assert close(actual.full(), expected, dtype)
    assert (a + a).round().ranks == a.ranks


@given(st.data())
def test_algebra_agrees_with_torch(data):
    dtype = data.draw(dtypes)
    a = data.draw(tt_matrices(dtype=dtype))
    b = data.draw(tt_matrices(rows=a.row_shape, cols=a.col_shape, dtype=dtype))
    x, y = dense(a), dense(b)
    size = float(x.norm() * y.norm())
    assert close(dense(a.H), x.mH, dtype)
    assert (a * b).ranks == tuple(r * s for r, s in zip(a.ranks, b.ranks, strict=True))
    assert float((dense(a * b) - x * y).norm()) <= precision(dtype) * size
    assert abs(complex(a.dot(b)) - complex((x.conj() * y).sum())) <= precision(dtype) * size
    assert float(a.log_norm()) == pytest.approx(float(x.norm().log()), rel=precision(dtype), abs=precision(dtype))
    assert close(dense(sum([a, +a, a])), 3 * x, dtype)
    trace = (a.H @ b).trace()
    assert trace.shape == ()
    assert trace.dtype == dtype
    assert abs(complex(trace) - complex((x.mH @ y).trace())) <= precision(dtype) * size


@given(tt_matrices())
def test_trains_of_pairs_of_modes(w):
    train = w.to_train()
    assert train.shape == tuple(m * n for m, n in zip(w.row_shape, w.col_shape, strict=True))
    assert same(TTMatrix.from_train(train, w.row_shape, w.col_shape), w)


@pytest.mark.parametrize("scale", [1e250, 1e-250])
def test_products_at_any_scale(scale):
    scales = (scale, 1 / scale, scale, 1 / scale)
    w = TTMatrix([torch.full((1, 2, 2, 1), v, dtype=torch.float64) for v in scales])
    x = TensorTrain([torch.full((1, 2, 1), v, dtype=torch.float64) for v in scales])
    for actual in [w @ x, x @ w, w @ w, w * w, w @ torch.ones(16, dtype=torch.float64), w.trace()]:
        full = actual if isinstance(actual, torch.Tensor) else actual.full()
        assert full.flatten().tolist() == pytest.approx([float(full.flatten()[0])] * full.numel())
        assert 1 - 1e-12 < float(full.flatten()[0]) < 16 + 1e-12


def test_half_precision_is_multiplied_in_single():
    w = TTMatrix.from_train(ttnet.ones((64, 64), dtype=torch.bfloat16), (8, 8), (8, 8))
    x = torch.full((64,), 1.0, dtype=torch.bfloat16)
    assert (w @ x).dtype == torch.bfloat16
    assert (w @ x).tolist() == [64.0] * 64
    assert (w @ ttnet.ones((8, 8), dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_mixed_dtypes_promote():
    w = TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3))
    assert (w @ torch.ones(6, dtype=torch.complex128)).dtype == torch.complex128
    assert (w @ ttnet.ones((2, 3), dtype=torch.float64)).dtype == torch.float64


def test_copies_and_repr():
    w = TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3))
    for v in [pickle.loads(pickle.dumps(w)), copy.deepcopy(w), w.clone(), w.detach(), w.to(torch.float64)]:
        assert isinstance(v, TTMatrix)
        assert close(v.full(), w.full(), w.dtype)
    assert repr(w) == "TTMatrix([2x2]-1-[3x3], float32)"


def test_vast_operators():
    eye = TTMatrix([torch.eye(2)[None, :, :, None]] * 1000)
    x = ttnet.random((2,) * 1000, 2, dtype=torch.float64, seed=0)
    assert eye.shape == (2**1000, 2**1000)
    assert float((eye @ x - x).log_norm() - x.log_norm()) < -20


def test_errors():
    w = TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3))
    for operation, error, message in [
        (lambda: TTMatrix([torch.ones(1, 2, 1)]), TTShapeError, "expected a torch.Tensor of shape \\(r, m, n, r'\\)"),
        (lambda: TTMatrix.from_dense(torch.eye(6), (2, 3), (6,)), TTShapeError, "row_shape has 2 modes and col_shape"),
        (lambda: TTMatrix.from_dense(torch.ones(1, 1), (), ()), TTShapeError, "at least 1"),
        (lambda: TTMatrix.from_dense(torch.eye(6), (2, 2), (2, 3)), TTShapeError, "w has shape \\(6, 6\\)"),
        (lambda: TTMatrix.from_dense(torch.eye(6), 6, (6,)), TTTypeError, "row_shape is 6; expected a sequence"),
        (lambda: TTMatrix.from_dense(torch.eye(6), (2, 3.0), (2, 3)), TTTypeError, "row_shape holds 3.0"),
        (lambda: TTMatrix.from_dense(torch.eye(6), (-2, -3), (2, 3)), TTShapeError, "must have size at least 1"),
        (lambda: TTMatrix.from_dense([[1.0]], (1,), (1,)), TTTypeError, "w is a list"),
        (
            lambda: TTMatrix.from_dense(np.ma.masked_array(np.eye(6), np.eye(6)), (2, 3), (2, 3)),
            TTTypeError,
            "w has masked entries, 6 of 36",
        ),
        (lambda: w @ torch.ones(5), TTShapeError, "cannot multiply a tensor of shape \\(5,\\)"),
        (lambda: w @ torch.tensor(1.0), TTShapeError, "cannot multiply"),
        (lambda: w @ ttnet.ones((3, 2)), TTShapeError, "col_shape \\(2, 3\\) but the right one has shape \\(3, 2\\)"),
        (lambda: w @ TTMatrix.from_dense(torch.eye(6), (3, 2), (2, 3)), TTShapeError, "row_shape \\(3, 2\\)"),
        (lambda: w @ torch.ones(6, device="meta"), TTValueError, "move them to one device"),
        (lambda: w + TTMatrix.from_dense(torch.eye(6), (3, 2), (2, 3)), TTShapeError, "expected the same"),
        (lambda: w * TTMatrix.from_dense(torch.eye(6), (6,), (6,)), TTShapeError, "modes \\(2, 3\\) x \\(2, 3\\) and"),
        (lambda: w.dot(w.to_train()), TTTypeError, "other is a TensorTrain; expected a TTMatrix"),
        (lambda: w.dot(ttnet.eye((6,))), TTShapeError, "expected the same"),
        (lambda: w / 0, TTValueError, "divided by 0"),
        (lambda: TTMatrix.from_train(torch.ones(4), (2,), (2,)), TTTypeError, "train is a Tensor"),
        (
            lambda: TTMatrix.from_train(ttnet.ones((4, 9)), (2, 2), (2, 3)),
            TTShapeError,
            "train has shape \\(4, 9\\), row",
        ),
        (lambda: TTMatrix.from_train(ttnet.ones(()), (), ()), TTShapeError, "as many modes in each"),
        (lambda: TTMatrix.from_train(ttnet.ones((6,)), (2,), (3, 1)), TTShapeError, "as many modes in each"),
        (
            lambda: TTMatrix.from_train(ttnet.ones((6, 6)), (2, 3), (3, 2)).trace(),
            TTShapeError,
            "row_shape \\(2, 3\\) and col_shape \\(3, 2\\); expected the same sizes",
        ),
    ]:
        with pytest.raises(error, match=message):
            operation()
    for operation in [lambda: w @ 2, lambda: 2 @ w, lambda: w + 1, lambda: w - 1, lambda: w / w, lambda: w * [1]]:
        with pytest.raises(TypeError):
            operation()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    w = TTMatrix.from_dense(draw_tensor((6, 6), dtype, 0), (2, 3), (3, 2))
    cores = [core.clone().requires_grad_() for core in w.cores]
    x = draw_tensor((6, 2), dtype, 1).requires_grad_()
    assert gradcheck(lambda x, *c: TTMatrix(c) @ x, (x, *cores))
    for function in [
        lambda w: w.full(),
        lambda w: (w * w).full(),
        lambda w: w.H.full(),
        lambda w: (w @ w.H).trace(),
        lambda w: w.dot(w),
        lambda w: w.log_norm(),
        lambda w: w.to_train().full(),
    ]:
        assert gradcheck(lambda *c, function=function: function(TTMatrix(c)), cores)


def test_dense_operands_of_any_scale():
    w = TTMatrix([torch.full((1, 2, 3, 1), 1e-100, dtype=torch.float64)] * 2)
    x = torch.full((9, 2), 1e307, dtype=torch.float64)
    torch.testing.assert_close(w @ x, torch.full((4, 2), 9e107, dtype=torch.float64))
    long = TTMatrix([torch.full((1, 1, 1, 1), 2.0 ** (900 * (-1) ** (k // 3)), dtype=torch.float64) for k in range(12)])
    torch.testing.assert_close(long @ x[:1], x[:1])
    assert (w @ x[:, :0]).shape == (4, 0)


@pytest.mark.parametrize(("dtype", "big"), [(torch.float64, 1e200), (torch.float32, 1e25), (torch.bfloat16, 1e25)])
def test_columns_of_a_dense_operand_keep_scales_of_their_own(dtype, big):
    powers = torch.tensor([big, 1.0, 1 / big], dtype=dtype)
    x = draw_tensor((3, 8, 3), dtype, 0)
    w = TTMatrix.from_train(draw_train((4, 4, 4), [2, 2], dtype, 1), (2, 2, 2), (2, 2, 2))
    expected = w.full().double() @ x.double()
    for found in ((w @ (x * powers)), (((x * powers).mT @ w.T).mT)):
        found = found.double() / powers.double()
        for column in range(3):
            assert relative_error(found[..., column], expected[..., column]) <= 10 * precision(dtype)


def test_products_that_do_not_fit_are_refused_before_they_are_made():
    wide = torch.ones(1).expand(1, 2, 2, 200_000), torch.ones(1).expand(200_000, 2, 2, 1)
    w = TTMatrix(wide)
    x = TensorTrain([wide[0][:, :, 0], wide[1][:, :, 0]])
    products = [
        lambda: w @ w,
        lambda: w @ x,
        lambda: w * w,
        lambda: x * x,
        lambda: ttnet.kron(x, x),
    ]
    for product in products:
        with pytest.raises(TTValueError, match=r"the largest core of the product has .* round the operands first"):
            product()
