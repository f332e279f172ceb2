import numpy as np
import pytest
import torch

import ttnet
from tests.ttnet.strategies import DTYPES, same
from ttnet import TTError, TTShapeError, TTTypeError, TTValueError


def test_random_has_unit_variance_at_any_rank_and_order():
    for shape, rank, dtype in [
        ((40, 40, 40), 1, torch.float64),
        ((8,) * 5, 12, torch.float32),
        ((30, 50), 9, torch.complex64),
    ]:
        squares = [
            float(ttnet.random(shape, rank, dtype=dtype, seed=seed).full().abs().square().mean()) for seed in range(40)
        ]
        assert np.mean(squares) == pytest.approx(1, abs=0.15)
    long = [
        float(ttnet.random((2,) * 60, 8, dtype=torch.float64, seed=seed).norm().square() / 2**60) for seed in range(300)
    ]
    assert 0.3 < np.mean(long) < 3


def test_random_is_reproducible():
    x = ttnet.random((3, 4, 5), [2, 3], seed=1)
    assert x.ranks == (1, 2, 3, 1)
    assert same(x, ttnet.random((3, 4, 5), [2, 3], seed=1))
    assert same(x, ttnet.random((3, 4, 5), [2, 3], generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(1)
    assert same(x, ttnet.random((3, 4, 5), [2, 3]))
    assert not same(x, ttnet.random((3, 4, 5), [2, 3], seed=2))
    assert ttnet.random((), seed=0).shape == ()


def test_constants():
    for dtype in [*DTYPES, torch.bfloat16, None]:
        for shape in [(), (3,), (2, 1, 3)]:
            assert torch.equal(ttnet.ones(shape, dtype=dtype).full(), torch.ones(shape, dtype=dtype))
            assert torch.equal(ttnet.zeros(shape, dtype=dtype).full(), torch.zeros(shape, dtype=dtype))
    assert ttnet.ones(torch.Size([2, 3]), device="meta").device.type == "meta"


def test_constructor_errors():
    for operation, error, message in [
        (lambda: ttnet.ones(3), TTTypeError, "shape is 3; expected a sequence of ints"),
        (lambda: ttnet.zeros((2, 0)), TTShapeError, "every mode must have size at least 1"),
        (lambda: ttnet.zeros((2, 1.5)), TTTypeError, "shape holds 1.5"),
        (lambda: ttnet.ones((2,), dtype=torch.int64), TTTypeError, "dtype is torch.int64; expected a floating"),
        (lambda: ttnet.random((2, 2), 0), TTValueError, "rank holds 0"),
        (lambda: ttnet.random((2, 2), [1, 2]), TTShapeError, "rank has 2 entries; expected 1"),
        (lambda: ttnet.random((2, 2), 2.5), TTTypeError, "rank is a float"),
        (lambda: ttnet.random((2,), seed=0, generator=torch.Generator()), TTValueError, "seed and generator are both"),
    ]:
        with pytest.raises(error, match=message):
            operation()
        with pytest.raises(TTError):
            operation()
