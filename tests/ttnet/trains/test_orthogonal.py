import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_train, precision, relative_error, trains
from ttnet import TensorTrain, TTIndexError, TTTypeError, TTValueError


def distance_from_identity(gram):
    return float((gram - torch.eye(len(gram))).abs().max())


def assert_centre(x, centre):
    for core in x.cores[:centre]:
        unfolding = core.flatten(0, 1)
        assert distance_from_identity(unfolding.mH @ unfolding) <= precision(x.dtype)
    for core in x.cores[centre + 1 :]:
        unfolding = core.flatten(1)
        assert distance_from_identity(unfolding @ unfolding.mH) <= precision(x.dtype)


def unfoldings(x):
    """The matrices of the dense tensor, one for each inner bond."""
    return [dense(x).reshape(math.prod(x.shape[:k]), -1) for k in range(1, x.ndim)]


@given(st.data(), trains())
def test_orthogonal_towards_any_core(data, x):
    if not x.ndim:
        return
    centre = data.draw(st.integers(-x.ndim, x.ndim - 1))
    y = ttnet.orthogonalise(x, centre)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert relative_error(dense(y), dense(x)) <= precision(x.dtype)
    assert all(a <= b for a, b in zip(y.ranks, x.ranks, strict=True))
    assert_centre(y, centre % x.ndim)
    norm = float(torch.linalg.vector_norm(y.cores[centre]))
    assert norm == pytest.approx(float(dense(x).norm()), rel=precision(x.dtype))


def test_all_scale_is_in_the_centre():
    x = ttnet.random((3, 4, 5, 2), 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * scale for core, scale in zip(x.cores, [1e120, 1e-160, 1e90, 1e-20], strict=True))
    for centre in range(4):
        y = wild.orthogonalise(centre)
        assert_centre(y, centre)
        assert float((y - wild).log_norm() - wild.log_norm()) <= math.log(1e-13)


@pytest.mark.parametrize("scale", [1e170, 1e-170])
def test_norms_that_are_no_numbers(scale):
    x = ttnet.random((2,) * 300, 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * scale for core in x.cores)
    y = wild.orthogonalise(200)
    assert all(core.isfinite().all() for core in y.cores)
    assert float(y.log_norm()) == pytest.approx(float(wild.log_norm()), rel=1e-13)
    assert float((y - wild).log_norm() - wild.log_norm()) <= math.log(1e-12)
    # Up to powers of two, evenly spread, the cores are orthogonal all the same.
    for core in y.cores[:200]:
        unfolding = core.flatten(0, 1) / 2.0 ** math.floor(math.log2(float(core.abs().max())))
        gram = unfolding.mH @ unfolding
        assert distance_from_identity(gram / gram[0, 0]) <= 1e-13


def test_ranks_beyond_the_unfoldings_come_down():
    x = ttnet.random((2, 3, 2), 12, dtype=torch.float64, seed=0)
    assert x.orthogonalise(0).ranks == (1, 6, 2, 1)
    assert x.orthogonalise(2).ranks == (1, 2, 6, 1)
    assert x.orthogonalise(1).ranks == (1, 2, 2, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16])
def test_zero(dtype):
    x = ttnet.zeros((3, 4, 5), dtype=dtype)
    y = (x + x).orthogonalise(1)
    assert torch.equal(y.full(), torch.zeros(3, 4, 5, dtype=dtype))
    for normalised in (False, True):
        assert all(torch.equal(values, torch.zeros_like(values)) for values in x.singular_values(normalised=normalised))
    assert torch.equal(x.entropies(), torch.zeros(2, dtype=dtype.to_real()))


def test_half_precision():
    x = ttnet.random((4, 5, 6), 3, dtype=torch.bfloat16, seed=0)
    y = x.orthogonalise(1)
    assert y.dtype == torch.bfloat16
    assert relative_error(dense(y), dense(x)) <= 0.02
    for values, unfolding in zip(x.singular_values(), unfoldings(x), strict=True):
        assert values.dtype == torch.bfloat16
        assert relative_error(values, torch.linalg.svdvals(unfolding)[:3]) <= 0.01


@given(trains())
def test_singular_values_are_those_of_the_unfoldings(x):
    spectra = ttnet.singular_values(x)
    assert len(spectra) == max(0, x.ndim - 1)
    norm = float(dense(x).norm())
    for values, relative, unfolding, rank in zip(
        spectra, x.singular_values(normalised=True), unfoldings(x), x.ranks[1:-1], strict=True
    ):
        assert values.dtype == relative.dtype == x.dtype.to_real()
        assert len(values) <= rank
        assert torch.equal(values, values.sort(descending=True).values)
        expected = torch.zeros(len(values), dtype=torch.float64)
        exact = torch.linalg.svdvals(unfolding)[: len(values)]
        expected[: len(exact)] = exact
        assert float((values - expected).norm()) <= precision(x.dtype) * norm
        assert float((relative * norm - expected).norm()) <= precision(x.dtype) * norm
        assert float(torch.linalg.svdvals(unfolding)[len(values) :].sum()) <= precision(x.dtype) * norm


def test_singular_values_keep_their_digits_where_they_are_small():
    x = ttnet.tt_svd(torch.diag(10.0 ** -torch.arange(0, 12, 2, dtype=torch.float64)))
    y = ttnet.random((3, 4), 1, dtype=torch.float64, seed=0)
    for train in (x, ttnet.outer(x, y / y.norm())):
        expected = 10.0 ** -torch.arange(0, 12, 2, dtype=torch.float64)
        assert torch.allclose(train.singular_values()[0], expected, rtol=1e-5, atol=1e-15)


def test_singular_values_at_any_scale():
    x = ttnet.random((2,) * 300, 3, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (1e120 if k % 2 else 1e-120) for k, core in enumerate(x.cores))
    huge = TensorTrain(core * 1e100 for core in x.cores)
    for expected, values in zip(x.singular_values(), wild.singular_values(), strict=True):
        assert torch.allclose(values, expected, rtol=1e-10, atol=0)
    for bond, (expected, values) in enumerate(
        zip(x.singular_values(normalised=True), huge.singular_values(normalised=True), strict=True), start=1
    ):
        assert torch.allclose(values, expected, rtol=0, atol=1e-10)
        assert float(values.square().sum()) == pytest.approx(1)
        assert bond != 150 or bool((values[1:] > 0.01).any())
    assert all(bool(values[0].isinf()) for values in huge.singular_values())
    assert torch.allclose(huge.entropies(), x.entropies(), atol=1e-10)


@given(trains())
def test_entropies(x):
    values = x.entropies()
    assert (values.shape, values.dtype) == ((max(0, x.ndim - 1),), x.dtype.to_real())
    for value, unfolding in zip(values, unfoldings(x), strict=True):
        p = torch.linalg.svdvals(unfolding).square()
        p = p / p.sum()
        expected = float(torch.special.entr(p).sum())
        assert float(value) == pytest.approx(expected, abs=math.sqrt(precision(x.dtype)))


def test_entropies_of_known_states():
    bell = torch.eye(2, dtype=torch.complex128) / math.sqrt(2)
    x = ttnet.tt_svd(torch.einsum("ab,cd->abcd", bell, bell))
    assert x.entropies().tolist() == pytest.approx([math.log(2), 0, math.log(2)], abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    x = draw_train((2, 2, 3), [2, 3], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    for centre in range(3):
        assert gradcheck(lambda *c, centre=centre: TensorTrain(c).orthogonalise(centre).full(), cores)
    assert gradcheck(lambda *c: torch.cat(TensorTrain(c).singular_values()), cores)
    assert gradcheck(lambda *c: torch.cat(TensorTrain(c).singular_values(normalised=True)), cores)
    assert gradcheck(lambda *c: TensorTrain(c).entropies(), cores)


def test_gradients_are_finite_at_low_rank():
    for fill in (torch.zeros, torch.ones):
        cores = [fill(1, 3, 2, requires_grad=True), torch.ones(2, 3, 1, requires_grad=True)]
        x = TensorTrain(cores)
        for centre in (0, 1):
            (x + x).orthogonalise(centre).full().sum().backward()
        for normalised in (False, True):
            (x + x).singular_values(normalised=normalised)[0].sum().backward()
        (x + x).entropies().sum().backward()
        assert all(core.grad.isfinite().all() for core in cores)


@pytest.mark.parametrize("centre", [0, -1])
def test_no_memory_is_shared(centre):
    for shape in [(3,), (3, 4)]:
        x = ttnet.random(shape, 2, dtype=torch.float64, seed=0)
        y = x.orthogonalise(centre)
        pointers = {core.untyped_storage().data_ptr() for core in x.cores}
        assert not pointers & {core.untyped_storage().data_ptr() for core in y.cores}


def test_errors():
    x = ttnet.ones((2, 3))
    for function in (ttnet.singular_values, ttnet.entropies, lambda tt: ttnet.orthogonalise(tt, 0)):
        with pytest.raises(TTTypeError, match="tt is a Tensor; expected a TensorTrain"):
            function(torch.ones(2))
        with pytest.raises(TTValueError, match="cores\\[1\\] holds NaN or infinite entries, 3 of 3"):
            function(x * math.nan)
    for centre in (2, -3):
        with pytest.raises(TTIndexError, match=f"centre is {centre}; expected -2 to 1"):
            x.orthogonalise(centre)
    for centre in (1.0, None, "0"):
        with pytest.raises(TTTypeError, match=r"centre is a .*; expected an int"):
            x.orthogonalise(centre)
    with pytest.raises(TTIndexError, match="order 0, which has no core"):
        ttnet.ones(()).orthogonalise(0)


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (12, 6), (13, 7), (16, 8), (20, 20), (8, 16)])
@pytest.mark.parametrize("value", [1.0, 0.7, 0.3 + 0.1j, 2 - 1j])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_constant_cores_have_one_singular_value(rows, columns, value, dtype):
    """Libraries make NaN of some such matrices of complex64."""
    tt = ttnet.TensorTrain(
        [torch.full((1, rows, rows), value, dtype=dtype), torch.full((rows, columns, 1), value, dtype=dtype)]
    )
    values = tt.singular_values()[0]
    assert abs(float(values[0] / tt.norm()) - 1) <= precision(dtype)
    assert float(values[1:].max() / values[0]) <= precision(dtype)
    rounded = tt.round(eps=1e-3)
    assert rounded.ranks == (1, 1, 1)
    assert float((rounded - tt).norm() / tt.norm()) <= precision(dtype)
