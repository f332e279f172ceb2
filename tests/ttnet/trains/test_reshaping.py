import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_train, dtypes, precision, relative_error, seeds, trains
from ttnet import TensorTrain, TTShapeError, TTTypeError, TTValueError


@st.composite
def shape_pairs(draw):
    """Two shapes of the same number of entries, from two ways to group the same primes, in orders of their own."""
    primes = draw(st.lists(st.sampled_from([2, 2, 3, 5]), max_size=5))
    return tuple(draw(groups(draw(st.permutations(primes)))) for _ in range(2))


@st.composite
def groups(draw, primes):
    shape, size = [], 1
    for prime in primes:
        size *= prime
        if draw(st.booleans()):
            shape.append(size)
            size = 1
    shape += [size] if size > 1 else []
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


@given(shape_pairs(), dtypes, seeds, st.sampled_from([None, 1e-2, 0.3, 0.9, 2.0]), st.data())
def test_any_shape_to_any_other(pair, dtype, seed, eps, data):
    shape, target = pair
    x = draw_train(shape, [data.draw(st.integers(1, 4)) for _ in shape[1:]], dtype, seed)
    y = ttnet.reshape(x, target, eps=eps)
    assert (y.shape, y.dtype) == (target, dtype)
    assert relative_error(dense(y), dense(x).reshape(target)) <= (eps or precision(dtype))


@given(trains(), st.data())
def test_merging_is_exact_and_keeps_the_ranks(x, data):
    kept = sorted(data.draw(st.sets(st.integers(1, x.ndim - 1)))) if x.ndim > 1 else []
    edges = [0, *kept, x.ndim] if x.ndim else [0]
    shape = [math.prod(x.shape[a:b]) for a, b in pairwise(edges)]
    y = x.reshape(shape)
    # Cores are multiplied, and so rounded: by that much of what they would add up to without their signs.
    size = dense(TensorTrain([core.abs() for core in x.cores])).norm()
    assert (dense(y) - dense(x).reshape(shape)).norm() <= precision(x.dtype) * size
    if min(x.shape, default=1) > 1:
        assert y.ranks == tuple(x.ranks[k] for k in edges)
    assert x.reshape(x.shape) is x


def test_splitting_finds_the_ranks_of_the_tensor():
    x = ttnet.random((6, 8, 10), 3, dtype=torch.float64, seed=0)
    assert x.reshape((2, 3, 2, 2, 2, 5, 2)).ranks == (1, 2, 3, 6, 6, 3, 2, 1)
    assert ttnet.arange((4, 9), dtype=torch.float64).reshape((2, 2, 3, 3)).ranks == (1, 2, 2, 2, 1)
    assert x.reshape((2, 3, 80), max_rank=2).ranks == (1, 2, 2, 1)
    assert x.reshape((6, 80), max_rank=2).ranks == (1, 2, 1)
    assert x.reshape((6, 8, 10), max_rank=[2, 1]).ranks == (1, 2, 1, 1)


def test_only_what_must_be_merged_is_merged(monkeypatch):
    x = ttnet.random((4, 9, 50, 4, 9), 2, seed=0)
    fewest = 100 * 4  # bytes: less than any pair of cores but the outer ones
    monkeypatch.setattr("ttnet.numerics.memory._MEMORY", fewest)
    assert x.reshape((6, 6, 50, 6, 6)).shape == (6, 6, 50, 6, 6)
    with pytest.raises(TTValueError, match=r"a core of merged modes has 450 entries, more than .* choose a shape"):
        x.reshape((4, 450, 4, 9))


def test_unit_modes_and_one_unknown_size():
    x = ttnet.random((2, 1, 3, 1), 2, dtype=torch.float64, seed=0)
    for shape in [(2, 3), (1, 2, 3), (2, 3, 1, 1), (6,), (3, 1, 2), (1, 1, 6, 1)]:
        assert relative_error(x.reshape(shape).full(), x.full().reshape(shape)) <= 1e-14
    assert x.reshape((-1,)).shape == (6,)
    assert x.reshape((-1, 6)).shape == (1, 6)
    assert x.reshape([3, -1]).shape == (3, 2)
    scalar = ttnet.ones(()) * 3
    assert scalar.reshape((1, 1)).full().tolist() == [[3.0]]
    assert scalar.reshape((-1,)).reshape(()).full() == 3
    assert scalar.reshape(()) is scalar


@pytest.mark.parametrize("scale", [1e250, 1e-250])
def test_order_1000_with_huge_and_tiny_cores(scale):
    x = ttnet.random((2,) * 1000, 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (scale if k % 2 else 1 / scale) for k, core in enumerate(x.cores))
    merged = wild.reshape((2, *(4,) * 499, 2))
    assert float(merged.log_norm()) == pytest.approx(float(x.log_norm()), rel=1e-12)
    again = merged.reshape(wild.shape, eps=1e-10)
    assert max(again.ranks) == 3
    assert float((again - wild).log_norm() - wild.log_norm()) <= math.log(1e-10)
    with pytest.raises(TTValueError, match=r"about 10\^301 entries, more than this machine's memory"):
        wild.reshape((-1,))
    unbalanced = TensorTrain(
        torch.full((1, n, 1), v, dtype=torch.float64) for n, v in [(2, 1 / scale), (1, scale), (2, scale)]
    )
    assert unbalanced.reshape((4,)).full().tolist() == pytest.approx([scale] * 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    x = ttnet.random((6, 4, 10), 3, dtype=dtype, seed=0)
    for shape in [(2, 3, 2, 2, 10), (24, 10), (8, 6, 5), (6, 1, 4, 10)]:
        for eps in (None, 0.05, 0.3):
            y = x.reshape(shape, eps=eps)
            assert y.dtype == dtype
            bound = max(eps or 0, len(shape) * torch.finfo(dtype).eps / 2)
            assert relative_error(dense(y), dense(x).reshape(shape)) <= bound


def test_zero_and_not_finite():
    zero = ttnet.zeros((4, 6)) + ttnet.zeros((4, 6))
    assert zero.reshape((2, 2, 2, 3)).ranks == (1, 1, 2, 1, 1)
    assert torch.equal(zero.reshape((2, 2, 2, 3)).full(), torch.zeros(2, 2, 2, 3))
    broken = ttnet.ones((4, 6)) * math.nan
    assert broken.reshape((24,)).full().isnan().all()
    with pytest.raises(TTValueError, match="holds NaN or infinite entries"):
        broken.reshape((2, 2, 6))


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda x: ttnet.reshape(torch.ones(24), (24,)), TTTypeError, "tt is a Tensor; expected a TensorTrain"),
        (
            lambda x: x.reshape((5, 5)),
            TTShapeError,
            r"shape \(5, 5\) has 25 entries, but the train's shape \(4, 6\) has 24",
        ),
        (lambda x: x.reshape((-1, -1)), TTShapeError, "expected at most one -1"),
        (lambda x: x.reshape((-1, 5)), TTShapeError, r"shape \(4, 5\) has 20 entries"),
        (lambda x: x.reshape((-1, 100)), TTShapeError, r"shape \(1, 100\) has 100 entries"),
        (lambda x: x.reshape((0, -1)), TTShapeError, "every mode must have size at least 1"),
        (lambda x: x.reshape(()), TTShapeError, r"shape \(\) has 1 entries"),
        (lambda x: x.reshape(24.0), TTTypeError, "shape is 24.0; expected a sequence of ints"),
        (lambda x: x.reshape((24.0,)), TTTypeError, "shape holds 24.0"),
        (lambda x: x.reshape((2, 12), eps=-1), TTValueError, "eps is -1"),
        (lambda x: x.reshape((4, 6), max_rank=0), TTValueError, "max_rank holds 0"),
        (lambda x: x.reshape((2, 2, 6), max_rank=[1]), TTShapeError, "max_rank has 1 entries; expected 2"),
    ],
)
def test_errors(operation, error, message):
    with pytest.raises(error, match=message):
        operation(ttnet.ones((4, 6)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(24,), (2, 2, 2, 3), (8, 3), (3, 8), (4, 1, 6)])
def test_gradients(dtype, shape):
    x = draw_train((4, 6), [3], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    assert gradcheck(lambda *c: TensorTrain(c).reshape(shape).full(), cores)
