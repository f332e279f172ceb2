import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_train, precision, relative_error, trains
from ttnet import TensorTrain, TTTypeError, TTValueError


@given(trains(), st.sampled_from([1e-2, 0.3, 0.9, 2.0]))
def test_the_error_bound_holds(x, eps):
    y = ttnet.round(x, eps=eps)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert relative_error(dense(y), dense(x)) <= eps
    assert all(a <= b for a, b in zip(y.ranks, x.ranks, strict=True))
    for core in y.cores[:-1]:
        unfolding = core.flatten(0, 1)
        gram = unfolding.mH @ unfolding
        assert float((gram - torch.eye(len(gram))).abs().max()) <= precision(x.dtype) or x.ndim < 2


@given(trains())
def test_rounding_a_sum_brings_the_ranks_back(x):
    y = (x + x - 3 * x).round()
    assert all(a <= b for a, b in zip(y.ranks, x.ranks, strict=True))
    assert relative_error(dense(y), -dense(x)) <= precision(x.dtype)


def test_max_rank_and_tt_svd_agree():
    x = ttnet.random((4, 5, 6, 3), 5, dtype=torch.float64, seed=0)
    for arguments in [{"eps": 0.2}, {"max_rank": 2}, {"max_rank": [1, 2, 3]}, {"eps": 0.5, "max_rank": 3}]:
        rounded, decomposed = x.round(**arguments), ttnet.tt_svd(x.full(), **arguments)
        assert rounded.ranks == decomposed.ranks
        assert relative_error(rounded.full(), decomposed.full()) <= 1e-12


def test_order_1000_with_huge_and_tiny_cores():
    x = ttnet.random((2,) * 1000, 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (1e120 if k % 2 else 1e-120) for k, core in enumerate(x.cores))
    y = (wild + wild).round(eps=1e-8)
    assert max(y.ranks) == 3
    assert all(core.isfinite().all() for core in y.cores)
    assert float(y.log_norm()) == pytest.approx(float(x.log_norm()) + math.log(2), rel=1e-13)
    assert float((y - 2 * wild).log_norm() - y.log_norm()) <= math.log(1e-8)
    index = (1, 0) * 500
    assert float(y[index]) == pytest.approx(2 * float(x[index]), rel=1e-8)


@pytest.mark.parametrize("scale", [1e10, 1e-10])
def test_norms_that_are_no_numbers(scale):
    x = ttnet.random((2,) * 1000, 3, dtype=torch.float64, seed=0)
    y = TensorTrain(core * scale for core in x.cores)
    expected = float(x.log_norm()) + 1000 * math.log(scale)
    assert float(y.norm()) == (math.inf if scale > 1 else 0.0)
    assert float(y.log_norm()) == pytest.approx(expected, rel=1e-13)
    assert float(y.round(eps=1e-10).log_norm()) == pytest.approx(expected, rel=1e-13)


@given(trains())
def test_norms(x):
    expected = float(dense(x).norm())
    assert x.norm().dtype == x.log_norm().dtype == x.dtype.to_real()
    assert float(x.norm()) == pytest.approx(expected, rel=precision(x.dtype))
    assert float(x.log_norm()) == pytest.approx(math.log(expected), rel=precision(x.dtype), abs=precision(x.dtype))


def test_the_norm_of_a_difference_does_not_cancel():
    x = ttnet.random((4,) * 6, 4, dtype=torch.float64, seed=0)
    assert float((x - (1 + 1e-10) * x).norm() / x.norm()) == pytest.approx(1e-10, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16])
def test_zero(dtype):
    x = ttnet.zeros((3, 4, 5), dtype=dtype)
    y = (x + x).round(eps=0.1)
    assert y.ranks == (1, 1, 1, 1)
    assert torch.equal(y.full(), torch.zeros(3, 4, 5, dtype=dtype))
    assert y.norm() == 0
    assert y.log_norm() == -math.inf


def test_half_precision():
    x = ttnet.random((4, 5, 6), 3, dtype=torch.bfloat16, seed=0)
    y = (x + x).round(eps=0.1)
    assert y.dtype == torch.bfloat16
    assert max(y.ranks) <= 3
    assert relative_error(dense(y), 2 * dense(x)) <= 0.1
    assert float(x.norm()) == pytest.approx(float(dense(x).norm()), rel=0.01)


def test_errors():
    x = ttnet.ones((2, 3))
    with pytest.raises(TTTypeError, match="tt is a Tensor; expected a TensorTrain"):
        ttnet.round(torch.ones(2))
    with pytest.raises(TTValueError, match="method is 'qr'; expected 'auto' or 'svd'"):
        x.round(method="qr")
    with pytest.raises(TTValueError, match="eps is -1"):
        x.round(eps=-1)
    with pytest.raises(TTValueError, match="cores\\[1\\] holds NaN or infinite entries, 3 of 3"):
        (x * float("inf")).round()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("max_rank", [1, 2, [2, 3], None])
def test_gradients(dtype, max_rank):
    x = draw_train((3, 4, 5), [3, 4], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    assert gradcheck(lambda *c: TensorTrain(c).round(max_rank=max_rank).full(), cores)


def test_gradients_are_finite_at_low_rank():
    cores = [torch.zeros(1, 3, 2, requires_grad=True), torch.ones(2, 3, 1, requires_grad=True)]
    x = TensorTrain(cores)
    (x + x).round().full().sum().backward()
    assert all(core.grad.isfinite().all() for core in cores)
