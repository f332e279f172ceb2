"""Products of matrices by whichever way is fastest: compiled for every width of vectors, and when they are."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ttnet.guarded_memory import Guarded
from tests.ttnet.strategies import DTYPES, draw_tensor, seeds, wide
from ttnet.numerics import compiled_product, machine_code, products

pytestmark = pytest.mark.skipif(not machine_code.is_available(), reason="llvmlite (extra fast) is missing")
reals = st.sampled_from([torch.float32, torch.float64])
widths = st.sampled_from([16, 32, 64]).filter(lambda width: width <= machine_code.registers().width)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 420), st.integers(1, 80))


def laid_out(shape, dtype, turned, gap=0, seed=0):
    m, n = shape
    return draw_tensor((n, m + gap), dtype, seed)[:, :m].mT if turned else draw_tensor((m, n + gap), dtype, seed)[:, :n]


@given(sizes, reals, st.tuples(*[st.booleans()] * 3), st.tuples(*[st.integers(0, 3)] * 3), widths, seeds)
def test_compiled_products(shape, dtype, turned, gaps, width, seed):
    m, k, n = shape
    a, b = laid_out((m, k), dtype, turned[0], gaps[0], seed), laid_out((k, n), dtype, turned[1], gaps[1], seed + 1)
    memory = torch.full((n, m + gaps[2]) if turned[2] else (m, n + gaps[2]), 7.0, dtype=dtype)
    out = memory[:, :m].mT if turned[2] else memory[:, :n]
    assert compiled_product.multiply(a, b, out, width) is out
    limit = 4 * torch.finfo(dtype).eps * (a.double().abs() @ b.double().abs()) * k**0.5
    assert bool(((out.double() - a.double() @ b.double()).abs() <= limit + 1e-300).all())
    assert bool((memory[:, m if turned[2] else n :] == 7).all())


def test_products_wider_and_deeper_than_a_panel():
    for shape in ((9, 500, 1100), (3, 193, 481), (17, 192, 24)):
        a, b = laid_out(shape[:2], torch.float64, False), laid_out(shape[1:], torch.float64, True, seed=1)
        out = compiled_product.multiply(a, b, a.new_empty(shape[0], shape[2]))
        torch.testing.assert_close(out, a @ b, atol=1e-11, rtol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded by calls of Linux")
@given(st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 60)), reals, widths, *[st.booleans()] * 3)
def test_no_memory_beside_the_matrices_is_touched(shape, dtype, width, a_turned, b_turned, at_end):
    m, k, n = shape
    memory = [
        Guarded(size[::-1] if turned else size, dtype, at_end)
        for size, turned in (((m, k), a_turned), ((k, n), b_turned), ((m, n), False))
    ]
    layouts = zip(memory, (a_turned, b_turned, False), strict=True)
    a, b, out = (x.tensor.mT if turned else x.tensor for x, turned in layouts)
    a.fill_(1)
    b.fill_(1)
    compiled_product.multiply(a, b, out, width)
    assert bool((out == k).all())
    del a, b, out
    for each in memory:
        each.free()


def test_numbers_that_are_not_finite_stay_what_they_are():
    a, b = torch.ones(9, 30), torch.ones(30, 50)
    a[2, 3], b[4, 49] = torch.nan, torch.inf
    out = compiled_product.multiply(a, b, torch.empty(9, 50))
    assert bool(out[2].isnan().all())
    assert bool((out[:, 49].isinf() | (torch.arange(9) == 2)).all())
    assert int(out.isfinite().sum()) == 8 * 49


@pytest.fixture
def compiled(monkeypatch):
    """Compile every product that is worth a choice, and note those that are."""
    taken = []

    def multiply(a, b, out, width=None):
        taken.append((tuple(a.shape), tuple(b.shape)))
        return inner(a, b, out, width)

    inner = compiled_product.multiply
    monkeypatch.delenv("TTNET_BLAS", raising=False)
    monkeypatch.setattr(compiled_product, "multiply", multiply)
    monkeypatch.setattr(products, "_compiled_is_faster", lambda dtype: True)
    monkeypatch.setattr(products, "_WORTH_COMPILING", 0)
    monkeypatch.setattr(products, "_WORTH_COMPILED", 2**18)
    monkeypatch.setattr(products, "thread_count", lambda: 1)
    return taken


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_compiled(compiled, dtype, monkeypatch):
    a, b = draw_tensor((100, 60), dtype, 0), draw_tensor((60, 50), dtype, 1)

    def is_compiled(x, y):
        compiled.clear()
        torch.testing.assert_close(wide(products.multiply(x, y)), wide(x) @ wide(y), atol=3e-5, rtol=0)
        return bool(compiled)

    assert is_compiled(a, b) == (not dtype.is_complex)
    assert is_compiled(a.mT.contiguous().mT, b) == (not dtype.is_complex)
    assert not is_compiled(a[:10], b)
    assert not is_compiled(a.clone().requires_grad_(), b)
    assert not is_compiled(a.repeat_interleave(2, 1)[:, ::2].mT.repeat_interleave(2, 1)[:, ::2].mT, b)
    monkeypatch.setenv("TTNET_BLAS", "torch")
    assert not is_compiled(a, b)


def test_libraries_multiply_until_they_have_taken_as_long_as_compiling(compiled, monkeypatch):
    a, b = torch.ones(100, 60), torch.ones(60, 50)
    monkeypatch.setattr(products, "_multiplied", 0)
    monkeypatch.setattr(products, "_WORTH_COMPILING", 3 * 100 * 60 * 50)
    for _ in range(5):
        products.multiply(a, b)
    assert len(compiled) == 2


def test_several_threads_take_parts_of_the_rows(compiled, monkeypatch):
    monkeypatch.setattr(products, "thread_count", lambda: 3)
    monkeypatch.setattr(products, "_WORTH_A_THREAD", 1)
    a, b = draw_tensor((100, 60), torch.float64, 0), draw_tensor((60, 50), torch.float64, 1)
    torch.testing.assert_close(products.multiply(a, b), a @ b)
    assert sorted(shape[0] for shape, _ in compiled) == [20, 40, 40]


def test_what_is_faster_is_measured_once(monkeypatch):
    monkeypatch.delenv("TTNET_BLAS", raising=False)
    products._compiled_is_faster.cache_clear()
    assert products._compiled_is_faster(torch.float64) in (True, False)
    assert products._compiled_is_faster.cache_info().currsize == 1
