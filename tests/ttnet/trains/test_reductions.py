import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, precision, trains
from ttnet import TensorTrain, TTIndexError, TTTypeError, TTValueError


def reduce_dense(x, name, dims, keepdim):
    """What torch gives, and the size of what it adds up; torch takes an empty `dim` for all modes."""
    function = getattr(dense(x), name)
    size = float(getattr(dense(x).abs(), name)())
    return (function(dim=dims, keepdim=keepdim) if dims else dense(x)), size


@given(trains(), st.sampled_from(["sum", "mean"]), st.booleans(), st.data())
def test_sums_and_means_over_any_modes(x, name, keepdim, data):
    chosen = data.draw(st.lists(st.sampled_from(range(x.ndim)), unique=True, min_size=1)) if x.ndim else None
    dims = [data.draw(st.sampled_from([k, k - x.ndim])) for k in chosen] if x.ndim else None
    expected, size = reduce_dense(x, name, chosen, keepdim)
    actual = getattr(x, name)(dims, keepdim=keepdim)
    assert isinstance(actual, TensorTrain) == (expected.ndim > 0)
    assert actual.dtype == x.dtype
    actual = dense(actual) if isinstance(actual, TensorTrain) else actual
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= precision(x.dtype) * size


@given(trains())
def test_all_modes_and_one_mode(x):
    for name in ("sum", "mean"):
        expected, size = reduce_dense(x, name, tuple(range(x.ndim)), False)
        total = getattr(x, name)()
        assert total.shape == ()
        assert abs(complex(total) - complex(expected)) <= precision(x.dtype) * size
        if x.ndim:
            one = getattr(x, name)(-1)
            assert one.shape == x.shape[:-1]
            assert one.ndim == 0 or one.ranks == (*x.ranks[:-2], 1)


@pytest.mark.parametrize("scale", [1e250, 1e-250])
def test_order_1000_with_huge_and_tiny_cores(scale):
    x = ttnet.random((2,) * 1000, 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (scale if k % 2 else 1 / scale) for k, core in enumerate(x.cores))
    assert float(wild.sum()) == pytest.approx(float(x.sum()), rel=1e-10)
    assert math.log(abs(float(wild.sum()))) - math.log(abs(float(wild.mean()))) == pytest.approx(1000 * math.log(2))
    half = wild.sum(range(0, 1000, 2))
    assert half.ndim == 500
    assert float(half.sum()) == pytest.approx(float(x.sum()), rel=1e-10)
    kept = wild.sum(range(0, 1000, 2), keepdim=True)
    assert kept.shape == (1, 2) * 500
    assert float(kept.sum()) == pytest.approx(float(x.sum()), rel=1e-10)


def test_counts_and_sums_beyond_the_dtype():
    ones = ttnet.ones((7,) * 1000)
    assert ones.mean() == 1
    assert ones.sum() == math.inf
    assert float(ones.sum(range(0, 1000, 2)).log_norm()) == pytest.approx(750 * math.log(7), rel=1e-6)
    large, small = (torch.full((1, 4, 1), value, dtype=torch.float64) for value in (1e308, 1e-100))
    assert TensorTrain([large, small]).sum(0).full().tolist() == pytest.approx([4e208] * 4)
    assert TensorTrain([large, small]).mean(0, keepdim=True).full().tolist()[0] == pytest.approx([1e208] * 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    x = ttnet.random((3,) * 60, 2, dtype=dtype, seed=0)
    expected = x.to(torch.float64).mean()
    assert x.mean().dtype == dtype
    assert float(x.to(torch.float64).mean(range(59)).full()[0]) == pytest.approx(
        float(x.mean(range(59)).full()[0]), rel=0.02
    )
    assert float(x.mean()) == pytest.approx(float(expected), rel=0.01, abs=1e-7)
    ones = ttnet.ones((1024, 1024), dtype=dtype)
    assert ones.sum(0, keepdim=True).full().tolist() == [[1024.0] * 1024]


def test_zero_and_not_finite():
    assert ttnet.zeros((2,) * 500).sum() == 0
    assert ttnet.zeros((2, 3)).mean(1).full().tolist() == [0.0, 0.0]
    assert math.isnan(float(TensorTrain([torch.tensor([1.0, math.nan])[None, :, None]]).sum()))
    assert float(TensorTrain([torch.tensor([1.0, math.inf])[None, :, None]]).sum()) == math.inf


@pytest.mark.parametrize(
    ("dim", "error", "message"),
    [
        (3, TTIndexError, "dim is 3; expected -3 to 2 for a train of order 3"),
        ((0, -4), TTIndexError, "an entry of dim is -4; expected -3 to 2"),
        ((1, -2), TTValueError, r"dim is \(1, -2\), which names a mode twice"),
        ((), TTValueError, r"dim is \(\); expected at least one mode, or None for all"),
        (1.0, TTTypeError, "dim is 1.0; expected an int or a sequence of ints"),
        ("0", TTTypeError, "dim is '0'"),
        ((0, True), TTTypeError, "an entry of dim is True; expected an int"),
        (True, TTTypeError, "dim is True; expected an int"),
    ],
)
def test_errors(dim, error, message):
    for operation in [ttnet.ones((2, 3, 4)).sum, ttnet.ones((2, 3, 4)).mean]:
        with pytest.raises(error, match=message):
            operation(dim)


def test_a_scalar_has_no_modes():
    scalar = ttnet.ones(()) * 3
    assert scalar.sum() == scalar.mean() == 3
    with pytest.raises(TTIndexError, match="dim is 0, but a train of order 0 has no modes"):
        scalar.sum(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    x = ttnet.random((3, 2, 4), 2, dtype=dtype, seed=0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    for function in [
        lambda t: t.sum(),
        lambda t: t.mean(),
        lambda t: t.sum(1).full(),
        lambda t: t.mean((0, 2)).full(),
        lambda t: t.sum((0, -1), keepdim=True).full(),
    ]:
        assert gradcheck(lambda *c, function=function: function(TensorTrain(c)), cores)
