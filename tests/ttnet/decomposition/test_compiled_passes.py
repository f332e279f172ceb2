"""Passes compiled for every width of vectors, against dense matrices, and when they are taken."""

import importlib.metadata
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ttnet.decomposition.passes import choose_passes
from tests.ttnet.guarded_memory import Guarded
from tests.ttnet.strategies import draw_tensor, seeds
from ttnet.decomposition import compiled_passes
from ttnet.numerics import blas, machine_code

pytestmark = pytest.mark.skipif(not machine_code.is_available(), reason="llvmlite (extra fast) is missing")
reals = st.sampled_from([torch.float32, torch.float64])
widths = st.sampled_from([16, 32, 64]).filter(lambda width: width <= machine_code.registers().width)
sizes = st.tuples(st.integers(1, 90), st.integers(1, 70))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    choose_passes(monkeypatch, "compiled")


@st.composite
def matrices(draw, shape):
    """A matrix whose rows or columns lie together, with gaps between them or not."""
    m, n = shape
    gap = draw(st.integers(0, 3))
    is_turned = draw(st.booleans())
    stored = draw_tensor((n, m + gap) if is_turned else (m, n + gap), draw(reals), draw(seeds))
    return stored[:, :m].mT if is_turned else stored[:, :n]


@given(st.data(), sizes, reals, widths)
def test_gram(data, shape, dtype, width):
    x = data.draw(matrices(shape))
    expected = x.double().mT @ x.double()
    found, squares = compiled_passes.gram(x, dtype, width)
    assert squares == pytest.approx(math.fsum(x.double().square().flatten().tolist()), rel=1e-14)
    assert torch.equal(found, found.mT)
    limit = 20 * torch.finfo(dtype).eps * float(x.double().norm()) ** 2
    assert float((found - expected).abs().max()) <= limit


@given(st.data(), sizes, st.integers(1, 40), reals, widths, st.sampled_from([None, "product", "norms", "entries"]))
def test_project(data, shape, rank, dtype, width, measured):
    x = data.draw(matrices(shape))
    v = torch.linalg.qr(draw_tensor((shape[1], min(rank, shape[1])), torch.float64, 0))[0].to(dtype)
    out = data.draw(matrices((len(x), v.shape[1]))).clone(memory_format=torch.preserve_format)
    squares, found = compiled_passes.project(x, v, out, dtype, measured, width)
    wide, norm = x.double(), float(x.double().norm())
    product = wide @ v.double()
    u = max(torch.finfo(dtype).eps, torch.finfo(out.dtype).eps)
    assert float((out - product).norm()) <= 20 * u * norm
    exact = math.fsum(wide.square().flatten().tolist()) if measured in ("norms", "entries") else 0.0
    assert squares == pytest.approx(exact, rel=1e-14)
    outside = wide - product @ v.double().mT
    value = {None: 0.0, "product": float(product.norm())}.get(measured, float(outside.norm()))
    assert found == pytest.approx(value**2, abs=20 * torch.finfo(dtype).eps * norm**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("rows", [24, 29])
def test_rows_of_a_page_are_padded_only_where_they_are_copied(dtype, is_turned, rows):
    n = 4096 // dtype.itemsize
    x = draw_tensor((n, rows), dtype, 0).mT if is_turned else draw_tensor((rows, n), dtype, 0)
    v = torch.linalg.qr(draw_tensor((n, 5), torch.float64, 1))[0].to(dtype)
    wide = x.double()
    outside = float((wide - wide @ v.double() @ v.double().mT).square().sum())
    for measured in ("norms", "entries"):
        _, found = compiled_passes.project(x, v, x.new_empty(rows, 5), dtype, measured)
        assert found == pytest.approx(outside, rel=1e-4)


@given(st.data(), sizes, st.integers(1, 20), st.integers(1, 30), reals, widths)
def test_sketch(data, shape, k, height, dtype, width):
    x = data.draw(matrices(shape))
    omega = draw_tensor((k, height), dtype, data.draw(seeds))
    starts = list(range(0, len(x), 2 * height))
    signs = draw_tensor((len(starts), k), torch.float64, 1).sign()
    blocks = [x[start : start + height].double() for start in starts]
    terms = [sign[:, None] * (omega[:, : len(b)].double() @ b) for b, sign in zip(blocks, signs, strict=True)]
    found = compiled_passes.sketch(x, omega, starts, signs, dtype, width)
    limit = 20 * torch.finfo(dtype).eps * float(x.double().norm() * omega.double().norm())
    assert float((found - sum(terms)).norm()) <= limit


def test_nothing_outside_of_the_product_is_written():
    x, v = draw_tensor((37, 20), torch.float64, 0), draw_tensor((20, 3), torch.float64, 1)
    for turned in (False, True):
        memory = torch.full((6, 50) if turned else (50, 6), 7.0, dtype=torch.float64)
        out = memory[1:4, 5:42].mT if turned else memory[5:42, 1:4]
        expected = memory.clone()
        (expected[1:4, 5:42].mT if turned else expected[5:42, 1:4]).copy_(x @ v)
        compiled_passes.project(x, v, out, torch.float64, None)
        torch.testing.assert_close(memory, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded by calls of Linux")
@given(sizes, st.integers(1, 20), reals, reals, widths, st.booleans(), st.booleans())
def test_no_memory_beside_the_matrices_is_touched(shape, rank, stored, dtype, width, turned, at_end):
    (m, n), r = shape, min(rank, shape[1])
    memory = [Guarded((k, m) if turned else (m, k), stored, at_end) for k in (n, r)]
    x, out = (each.tensor.mT if turned else each.tensor for each in memory)
    x.copy_(draw_tensor(shape, stored, 0))
    v = torch.eye(n, r, dtype=dtype)
    compiled_passes.gram(x, dtype, width)
    for measured in (None, "product", "norms", "entries"):
        compiled_passes.project(x, v, out, dtype, measured, width)
    compiled_passes.sketch(x, torch.ones(3, m, dtype=dtype), [0], torch.ones(1, 3, dtype=torch.float64), dtype, width)
    assert torch.equal(out, x[:, :r].to(dtype).to(stored))
    del x, out
    for each in memory:
        each.free()


def test_entries_that_are_not_finite_are_seen():
    for value in (float("nan"), float("inf")):
        x = torch.ones(40, 20, dtype=torch.float64)
        x[31, 7] = value
        squares, _ = compiled_passes.project(
            x, torch.eye(20, 2, dtype=torch.float64), x.new_empty(40, 2), x.dtype, "norms"
        )
        assert not squares < float("inf")
        assert not float(compiled_passes.gram(x, torch.float32)[0].diagonal().sum()) < float("inf")


def test_what_is_compiled(monkeypatch):
    x = torch.ones(64, 32)
    assert compiled_passes.takes_gram(x)
    assert compiled_passes.takes_projection(x, x[:, :4])
    assert compiled_passes.takes_sketch(x.mT)
    assert not compiled_passes.takes_sketch(None)
    assert not compiled_passes.takes_sketch(x[::2, ::2])
    assert not compiled_passes.takes_sketch(x.half())
    monkeypatch.setattr(machine_code, "is_available", lambda: False)
    assert not compiled_passes.takes_gram(x)
    monkeypatch.undo()
    assert not compiled_passes.takes_gram(x)  # too small
    choose_passes(monkeypatch, "compiled")
    monkeypatch.setenv("TTNET_BLAS", "torch")
    assert not compiled_passes.takes_gram(x)


def test_small_passes_are_compiled_once_there_were_many(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("TTNET_BLAS", raising=False)
    monkeypatch.setattr(compiled_passes, "_passed", 0)
    monkeypatch.setattr(compiled_passes, "WORTH_COMPILING", 2**18)
    tiny, small, large = (torch.ones(rows, 64) for rows in (1000, 1024, 2**14))
    taken = [compiled_passes.takes_gram(x) for x in (small, large, small, tiny, small, small)]
    assert taken == [False, True, False, False, False, False]
    assert compiled_passes.takes_gram(small)
    assert not compiled_passes.takes_gram(tiny)


@pytest.mark.parametrize(
    ("version", "expected"), [("0.44.0", False), ("0.45.0", True), ("0.45rc1", True), ("1.0", True), ("odd", False)]
)
def test_an_older_llvmlite_is_left_alone(monkeypatch, version, expected):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert machine_code.is_available.__wrapped__() is expected


def test_without_llvmlite_nothing_is_compiled(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert machine_code.is_available.__wrapped__() is False


def test_small_steps_take_one_thread_and_passes_those_of_before(monkeypatch):
    monkeypatch.undo()
    before = torch.get_num_threads()
    with compiled_passes.threads_of_passes():
        assert blas.thread_count() == before
        with blas.torch_threads():
            assert blas.thread_count() == before
    assert torch.get_num_threads() == before
