import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.decomposition.functions import all_indices
from tests.ttnet.strategies import draw_tensor, draw_train, relative_error, seeds
from ttnet.decomposition.black_box import BlackBox
from ttnet.decomposition.interpolant import Interpolant
from ttnet.decomposition.maxvol import maxvol


@given(st.integers(1, 40), st.integers(1, 8), seeds, st.sampled_from([torch.float64, torch.complex128]))
def test_maxvol(rows, columns, seed, dtype):
    columns = min(rows, columns)
    matrix = torch.linalg.qr(draw_tensor((rows, columns), dtype, seed))[0]
    chosen, coefficients = map(torch.from_numpy, maxvol(matrix.numpy()))
    assert len(set(chosen.tolist())) == columns
    assert float(coefficients.abs().max()) <= 1.05 + 1e-9
    assert relative_error(coefficients @ matrix[chosen], matrix) <= 1e-12


def test_maxvol_of_unit_vectors():
    # What the singular vectors of a zero matrix are.
    chosen, coefficients = map(torch.from_numpy, maxvol(np.eye(5, 2)))
    assert sorted(chosen.tolist()) == [0, 1]
    assert torch.equal(coefficients.abs().sum(0), torch.ones(2, dtype=torch.float64))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data(), st.integers(1, 9))
def test_blocks_of_the_black_box(shape, data, batch_size):
    full = draw_tensor(shape, torch.float64, 0)
    box = BlackBox(lambda i: full[tuple(i.unbind(1))], shape, batch_size=batch_size)
    mode = data.draw(st.integers(0, len(shape) - 1))
    heads, tails = (
        all_indices(part).numpy() if part else np.empty((1, 0), dtype=np.int64)
        for part in (shape[:mode], shape[mode + 1 :])
    )
    block = torch.from_numpy(box.block(mode, heads, tails))
    assert torch.equal(block, full.reshape(block.shape))
    assert box.evaluations == full.numel()
    assert box.log_norm == pytest.approx(math.log(float(full.norm())))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("ratio", [1e-300, 1.0, 1e12])
def test_change_of_an_interpolant(dtype, ratio):
    cores = draw_train((3, 4, 2, 5), [2, 3, 2], dtype, 0).cores
    other = draw_train((3, 4, 2, 5), [3, 1, 4], dtype, 1).cores
    x = Interpolant.of(cores, valued=-1)
    y = Interpolant.of([ratio * other[0], *other[1:]], valued=0)
    full = x.train().full()
    expected = float((full - y.train().full()).norm() / full.norm())
    assert x.change_from(y) == pytest.approx(expected, rel=1e-12)
    assert x.change_from(x) <= 1e-14
    nearly = Interpolant.of([(1 + 1e-12) * cores[0], *cores[1:]], valued=0)
    assert nearly.change_from(x) == pytest.approx(1e-12, rel=1e-3)  # nothing has cancelled before


def test_change_from_and_to_nothing():
    cores = [torch.ones(1, 2, 1, dtype=torch.float64)] * 3
    one = Interpolant.of([*cores[:2], 1e-300 * cores[2]], valued=-1)
    nothing = Interpolant.of([*cores[:2], 0 * cores[2]], valued=-1)
    assert one.change_from(nothing) == 1
    assert nothing.change_from(one) == math.inf
    assert nothing.change_from(nothing) == 0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), st.data(), seeds, st.integers(1, 300))
def test_entries_of_an_interpolant(shape, data, seed, count):
    dtype = data.draw(st.sampled_from([torch.float64, torch.complex128]))
    train = draw_train(shape, [2] * (len(shape) - 1), dtype, seed)
    generator = np.random.default_rng(seed)
    indices = np.stack([generator.integers(0, n, count) for n in shape], axis=1)
    expected = ttnet.evaluate(train, torch.from_numpy(indices)).numpy()
    scale = np.abs(train.full().numpy()).max()
    x = Interpolant.of(train.cores, valued=0)
    assert np.abs(x.entries(indices, 0) - expected).max() <= 1e-13 * scale
    # Beside values that are far larger than the samples, their scales are kept one by one.
    huge = Interpolant(x.cores, x.exponent + 2000)
    assert np.abs(huge.entries(indices, -2000) - expected).max() <= 1e-13 * scale
    first = Interpolant.of([2.0**-1000 * train.cores[0], *train.cores[1:]], valued=-1)
    assert np.abs(first.entries(indices, 1000) - expected).max() <= 1e-13 * scale


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("exponent", [-5000, 0, 5000])
def test_rounding_of_an_interpolant(dtype, exponent):
    train = draw_train((3, 4, 2, 5), [2, 3, 2], dtype, 0)
    full, other = train.full(), draw_train((3, 4, 2, 5), [1, 1, 1], dtype, 1)
    doubled = train + train + other * (1e-4 * float(full.norm() / other.full().norm()))
    x = Interpolant.of(doubled.cores, valued=-1)
    rounded = Interpolant(x.cores, x.exponent + exponent).rounded(eps=1e-3, max_ranks=[None] * 3, dtype=dtype)
    assert rounded.ranks == (1, 2, 3, 2, 1)
    back = Interpolant(rounded.cores, rounded.exponent - exponent).train()
    assert relative_error(back.full(), doubled.full()) <= 1e-3
    cut = x.rounded(eps=0.0, max_ranks=[1, 2, 1], dtype=dtype)
    assert cut.ranks == (1, 1, 2, 1, 1)
    best = ttnet.round(doubled, max_rank=[1, 2, 1]).full()
    assert relative_error(cut.train().full(), doubled.full()) <= 1.001 * relative_error(best, doubled.full())
