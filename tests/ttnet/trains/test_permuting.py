import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_train, precision, relative_error, trains
from ttnet import TensorTrain, TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.trains.permuting import count_swaps, plan_swaps


@given(trains(), st.sampled_from([None, 1e-2, 0.3, 0.9, 2.0]), st.data())
def test_the_error_bound_holds(x, eps, data):
    order = data.draw(st.permutations(range(x.ndim)))
    dims = [data.draw(st.sampled_from([k, k - x.ndim])) for k in order]
    y = ttnet.permute(x, dims, eps=eps)
    expected = dense(x).permute(order)
    assert (y.shape, y.dtype) == (tuple(expected.shape), x.dtype)
    assert relative_error(dense(y), expected) <= (eps or precision(x.dtype))


@given(trains(), st.data())
def test_there_and_back_has_the_ranks_of_the_tensor(x, data):
    order = data.draw(st.permutations(range(x.ndim)))
    back = [order.index(k) for k in range(x.ndim)]
    y = x.permute(order).permute(back)
    assert relative_error(dense(y), dense(x)) <= precision(x.dtype)
    assert all(a <= b for a, b in zip(y.round().ranks, x.ranks, strict=True))


def test_ranks_are_about_those_of_tt_svd():
    points = torch.linspace(0, 1, 6, dtype=torch.float64)
    x = ttnet.tt_svd(
        1 / (1 + sum((k + 1) * axis for k, axis in enumerate(torch.meshgrid(*[points] * 5, indexing="ij"))))
    )
    order = (3, 0, 4, 1, 2)
    for eps in (1e-10, 1e-6, 1e-2):
        actual, best = x.permute(order, eps=eps), ttnet.tt_svd(x.full().permute(order), eps=eps)
        assert all(a <= b + 1 for a, b in zip(actual.ranks, best.ranks, strict=True))


@given(trains())
def test_reversing_is_exact(x):
    y = x.permute(range(x.ndim)[::-1])
    assert y.ranks == x.ranks[::-1]
    assert all(torch.equal(a, b.transpose(0, -1)) for a, b in zip(y.cores, x.cores[::-1], strict=True) if x.ndim)
    assert x.permute(range(x.ndim)) is x


def test_ranks_of_one_are_exact_at_any_order():
    x = ttnet.random((2,) * 1000, 1, seed=0)
    order = list(range(1000))
    random.Random(0).shuffle(order)
    y = x.permute(order)
    assert all(torch.equal(core, x.cores[k]) for core, k in zip(y.cores, order, strict=True))


@given(trains(), st.data())
def test_max_rank(x, data):
    order = data.draw(st.permutations(range(x.ndim)))
    y = x.permute(order, max_rank=2)
    assert max(y.ranks) <= 2
    if x.ndim > 1:
        bounds = [data.draw(st.integers(1, 3)) for _ in range(x.ndim - 1)]
        y = x.permute(order, eps=1e-3, max_rank=bounds)
        assert all(rank <= bound for rank, bound in zip(y.ranks[1:-1], bounds, strict=True))
        assert relative_error(dense(x.permute(order, max_rank=99)), dense(x).permute(order)) <= precision(x.dtype)


@given(st.permutations(range(9)))
def test_the_plan_takes_the_fewest_swaps(places):
    plan = plan_swaps(places)
    inversions = sum(places[i] > places[j] for j in range(9) for i in range(j))
    assert sum(map(len, plan)) == count_swaps(places) == inversions
    for swaps in plan:
        assert swaps == sorted(swaps)
        for k in swaps:
            places[k], places[k + 1] = places[k + 1], places[k]
        places = [8 - place for place in reversed(places)]
    assert places == list(range(9))


@pytest.mark.parametrize("scale", [1e250, 1e-250])
def test_order_300(scale):
    x = ttnet.random((2,) * 300, 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (scale if k % 2 else 1 / scale) for k, core in enumerate(x.cores))
    order = list(range(300))
    for k in range(0, 299, 37):
        order[k], order[k + 1] = order[k + 1], order[k]
    y = wild.permute(order, eps=1e-8)
    assert float(y.log_norm()) == pytest.approx(float(x.log_norm()), rel=1e-12)
    index = (1, 0, 0) * 100
    assert float(y[tuple(index[k] for k in order)]) == pytest.approx(float(wild[index]), rel=1e-6)
    assert float((y.permute(order) - wild).log_norm() - y.log_norm()) <= math.log(2e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    x = ttnet.random((3, 4, 2, 5), 3, dtype=dtype, seed=0)
    order = (2, 0, 3, 1)
    for eps in (None, 0.05, 0.3):
        y = x.permute(order, eps=eps)
        assert y.dtype == dtype
        bound = max(eps or 0, 4 * torch.finfo(dtype).eps / 2)
        assert relative_error(dense(y), dense(x).permute(order)) <= bound


def test_zero_and_transpose():
    zero = ttnet.zeros((2, 3, 4)) + ttnet.zeros((2, 3, 4))
    assert zero.permute((1, 0, 2)).ranks == (1, 1, 1, 1)
    assert torch.equal(zero.permute((1, 0, 2)).full(), torch.zeros(3, 2, 4))
    x = ttnet.random((2, 3, 4, 5), 3, dtype=torch.float64, seed=0)
    assert relative_error(x.transpose(0, -1, eps=1e-12).full(), x.full().transpose(0, -1)) <= 1e-12
    assert x.transpose(1, 2, max_rank=2).ranks[1:-1] == (2, 2, 2)
    assert x.transpose(1, 1) is x


def test_ranks_beyond_memory_are_refused_before_they_are_made(monkeypatch):
    x = ttnet.random((10,) * 4, 10, seed=0)
    monkeypatch.setattr("ttnet.numerics.memory._MEMORY", 10_000)
    with pytest.raises(TTValueError, match=r"the pair of cores .* allow a larger eps, or set max_rank"):
        x.permute((0, 2, 1, 3))


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (
            lambda x: ttnet.permute(torch.ones(2, 3, 4), (0, 1, 2)),
            TTTypeError,
            "tt is a Tensor; expected a TensorTrain",
        ),
        (
            lambda x: x.permute((0, 1)),
            TTValueError,
            r"dims is \(0, 1\); expected every mode of a train of order 3 once",
        ),
        (lambda x: x.permute((0, 1, -2)), TTValueError, r"dims is \(0, 1, -2\), which names a mode twice"),
        (lambda x: x.permute((0, 1, 3)), TTIndexError, "an entry of dims is 3; expected -3 to 2"),
        (lambda x: x.permute((0, 1, 2.0)), TTTypeError, "an entry of dims is 2.0; expected an int"),
        (lambda x: x.permute("012"), TTTypeError, "dims is '012'; expected an int or a sequence of ints"),
        (lambda x: x.permute((1, 0, 2), eps=-1), TTValueError, "eps is -1"),
        (lambda x: x.permute((1, 0, 2), max_rank=0), TTValueError, "max_rank holds 0"),
        (lambda x: x.permute((1, 0, 2), max_rank=[1]), TTShapeError, "max_rank has 1 entries; expected 2"),
        (lambda x: (x * math.nan).permute((1, 0, 2)), TTValueError, r"cores\[2\] holds NaN or infinite entries"),
        (lambda x: x.transpose(0, 3), TTIndexError, "dim1 is 3; expected -3 to 2"),
        (lambda x: x.transpose(None, 1), TTTypeError, "dim0 is None; expected an int"),
    ],
)
def test_errors(operation, error, message):
    with pytest.raises(error, match=message):
        operation(ttnet.random((2, 3, 4), 2, seed=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("order", "max_rank"), [((2, 1, 0), None), ((1, 2, 0), None), ((0, 2, 1), 2)])
def test_gradients(dtype, order, max_rank):
    x = draw_train((2, 2, 3), [2, 3], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    assert gradcheck(lambda *c: TensorTrain(c).permute(order, max_rank=max_rank).full(), cores)
