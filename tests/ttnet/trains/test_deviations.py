"""Variances and standard deviations of trains, against the dense tensor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.trains.test_habits import X, close, trains
from ttnet.errors import TTTypeError, TTValueError


@given(trains(), st.integers(0, 1))
def test_variance_and_deviation(x, correction):
    if x.numel <= correction:
        with pytest.raises(TTValueError, match="correction is 1; expected 0 to 0 for so many entries"):
            x.var(correction=correction)
        return
    close(x.var(correction=correction), x.full().var(correction=correction))
    close(x.std(correction=correction), x.full().std(correction=correction))


@given(trains(least=1), st.data())
def test_variances_along_modes(x, data):
    dims = data.draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, max_size=x.ndim, unique=True))
    keep = data.draw(st.booleans())
    count = np.prod([x.shape[k] for k in dims])
    correction = data.draw(st.integers(0, int(count) - 1))
    signed = [k - data.draw(st.sampled_from([0, x.ndim])) for k in dims]
    found = x.var(signed if len(dims) > 1 else signed[0], correction=correction, keepdim=keep)
    expected = x.full().var(dims, correction=correction, keepdim=keep)
    dense = found.full() if expected.ndim else found
    assert found.dtype == dense.dtype == expected.dtype
    assert found.shape == dense.shape == expected.shape
    close(dense, expected)
    close(
        (found if isinstance(found, torch.Tensor) else found.full()),
        torch.as_tensor(np.var(x.numpy(), axis=tuple(dims), ddof=correction, keepdims=keep)),
    )
    if isinstance(found, ttnet.TensorTrain):
        most = len(dims) * (2 if x.dtype.is_complex else 1)
        assert max(found.ranks) <= most * max(x.ranks) ** 2
    if len(dims) == x.ndim:
        deviation = x.std(dims, correction=correction, keepdim=keep)
        assert deviation.shape == expected.shape
        close(deviation.full() if keep else deviation, expected.sqrt())


@given(trains(least=2), st.sampled_from([1e3, -1e7]), st.booleans())
def test_variances_forget_what_is_added(x, number, along_both):
    x = x.to(torch.complex128 if x.dtype.is_complex else torch.float64)
    dims = (0, 1) if along_both and x.ndim > 2 else 0
    expected = x.full().var(dims, correction=0)
    found = (x + number).var(dims, correction=0).full()
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.max()) + 1e-12 * abs(number)


def test_variances_at_any_size():
    x = 1e-200 * (5 + ttnet.random((2,) * 60, 2, dtype=torch.float64, seed=0))  # whose squares are no numbers
    variances = [(factor * x).var(dim=(0, 40)) for factor in (1, 2)]
    assert variances[0].shape == (2,) * 58
    assert float(variances[1].log_norm() - variances[0].log_norm()) == pytest.approx(np.log(4))
    half = (4 * ttnet.random((3, 4), 2, seed=0)).half()
    torch.testing.assert_close(half.var(1).full(), half.full().float().var(1).half(), rtol=1e-2, atol=0)
    with pytest.raises(TTValueError, match=r"cores\[1\] holds NaN"):
        (X * float("nan")).var(0)


def test_roots_of_variances_name_the_call():
    x = 3 + ttnet.random((4, 5, 6), 2, dtype=torch.float64, seed=0)
    for attempt in (lambda: x.std(dim=1), lambda: x.std(axis=1), lambda: torch.std(x, dim=1)):
        with pytest.raises(TTTypeError, match=r"dim is 1, which leaves modes.* not exact; take ttnet\.apply\(lambda v"):
            attempt()
    found = ttnet.apply(lambda v: v.clamp(min=0).sqrt(), x.var(1))
    torch.testing.assert_close(found.full(), x.full().std(1), rtol=1e-6, atol=1e-6)
    norms = ttnet.apply(torch.sqrt, (x.conj() * x).sum(1))  # which `norm` names for `dim`
    torch.testing.assert_close(norms.full(), torch.linalg.vector_norm(x.full(), dim=1), rtol=1e-6, atol=1e-6)


def test_deviations_at_any_size():
    x = 1e-200 * (5 + ttnet.random((2,) * 1100, 2, dtype=torch.float64, seed=0))  # of 2**1100 entries
    double = x * 2
    assert float(double.std() / x.std()) == pytest.approx(2)
    assert float((1e6 + ttnet.arange((4, 5), dtype=torch.float64)).std()) == pytest.approx(np.arange(20).std(ddof=1))
    for wrong in (1.0, True, None):
        with pytest.raises(TTTypeError, match=r"correction is .*; expected an int"):
            x.std(correction=wrong)


def test_gradients_flow_through_deviations():
    cores = [core.requires_grad_() for core in ttnet.random((2, 3), 2, dtype=torch.float64, seed=0).cores]
    assert torch.autograd.gradcheck(lambda *cores: ttnet.TensorTrain(cores).var(), cores)
    cores = [core.requires_grad_() for core in ttnet.random((3, 2, 3), 2, dtype=torch.complex128, seed=0).cores]
    assert torch.autograd.gradcheck(lambda *cores: ttnet.TensorTrain(cores).var((0, 2)).full(), cores)
