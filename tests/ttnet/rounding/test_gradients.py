import pytest
import torch
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.rounding.spectra import SPECTRA, each_method, with_spectrum
from tests.ttnet.strategies import draw_train, same
from ttnet import TensorTrain


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("max_rank", [1, 2, [1, 2], None])
def test_gradients(dtype, max_rank):
    x = draw_train((2, 3, 3), [2, 3], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    assert gradcheck(lambda *c: TensorTrain(c).round(max_rank=max_rank).full(), cores)


@each_method
def test_gradients_flow_whatever_the_method(method):
    x = with_spectrum(SPECTRA["slow"])
    gradients = []
    for name in ("svd", method):
        cores = [core.clone().requires_grad_() for core in x.cores]
        TensorTrain(cores).round(max_rank=3, method=name).full().pow(3).sum().backward()
        gradients.append([core.grad for core in cores])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(bool(gradient.any()) for gradient in gradients[0])
    with torch.no_grad():
        y = TensorTrain(cores).round(max_rank=3, method=method)
    assert same(y, x.round(max_rank=3, method=method))
    assert not y.cores[0].requires_grad


def test_gradients_at_any_scale():
    x = draw_train((3, 4, 5), [3, 4], torch.float64, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    scales = [1e120, 1e-120, 1e20]

    def function(*c):
        scaled = TensorTrain(core * scale for core, scale in zip(c, scales, strict=True))
        return scaled.round(max_rank=2).full() * 1e-20

    assert gradcheck(function, cores)


@pytest.mark.parametrize("size", [3, 40])
def test_gradients_are_finite_at_low_rank(size):
    for fill in (torch.zeros, torch.ones):
        cores = [fill(1, size, 40, requires_grad=True), torch.ones(40, size, 1, requires_grad=True)]
        x = TensorTrain(cores)
        for arguments in [{}, {"max_rank": 2}, {"eps": 0.1}]:
            (x + x).round(**arguments).full().sum().backward()
        assert all(core.grad.isfinite().all() for core in cores)


def test_gradients_of_overcomplete_trains():
    x = draw_train((4, 5, 4), [2, 2], torch.float64, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]

    def function(*c):
        train = TensorTrain(c)
        return (train + 2 * train).round(eps=1e-9).full()

    assert gradcheck(function, cores)


def test_gradients_of_sums():
    x, y = (draw_train((3, 4, 2), [2, 2], torch.float64, seed) for seed in (0, 1))
    weights = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    cores = [core.clone().requires_grad_() for core in (*x.cores, *y.cores)]

    def function(weights, *c):
        return ttnet.round_sum([TensorTrain(c[:3]), TensorTrain(c[3:])], coefficients=weights, max_rank=2).full()

    assert gradcheck(function, (weights, *cores))
