"""TT-SVD of a batch: each tensor's own train, within the bound, whatever stands beside it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import draw_tensor
from ttnet import TTShapeError, TTTypeError, TTValueError
from ttnet.decomposition.batched import _eigenpairs

DTYPES = [torch.float64, torch.float32, torch.complex128, torch.complex64, torch.float16]


def error_of(train, x):
    wide = torch.promote_types(x.dtype, torch.float64)
    exact, found = x.to(wide), train.to(wide).full()
    largest = float(exact.abs().max()) or 1.0  # squares of tiny or huge numbers are no floats
    return float(torch.linalg.vector_norm((found - exact) / largest)) / (
        float(torch.linalg.vector_norm(exact / largest)) or 1.0
    )


@st.composite
def batches(draw, dtypes=DTYPES):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    count = draw(st.integers(1, 5))
    seed, noise = draw(st.integers(0, 999)), draw(st.sampled_from([0.0, 1e-8, 1e-3]))
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(seed)
    items = []
    for k in range(count):
        item = ttnet.random(shape, draw(st.integers(1, 3)), dtype=torch.float64, seed=seed + k).full()
        items.append(item + noise * torch.randn(shape, dtype=torch.float64, generator=generator))
    x = torch.stack(items)
    return (x * (1 + 0.5j) if dtype.is_complex else x).to(dtype)


@given(batches(), st.sampled_from([None, 1e-10, 1e-6, 1e-3, 0.3, 1.5]))
def test_each_keeps_the_bound_with_ranks_of_its_own(x, eps):
    found = ttnet.tt_svd_batch(x, eps=eps)
    assert len(found) == len(x)
    for train, item in zip(found, x, strict=True):
        alone = ttnet.tt_svd(item, eps=eps, method="svd")
        assert (train.shape, train.device) == (tuple(item.shape), item.device)
        assert train.dtype == alone.dtype
        floor = 100 * torch.finfo(x.dtype).eps * math.sqrt(max(1, item.ndim))
        assert error_of(train, item) <= max((eps or 0.0) * (1 + 1e-9), floor)
        if eps is None or eps < 1:
            # The cut may fall on either side of a singular value that is as large as the bound, within rounding.
            assert sum(train.ranks) <= sum(alone.ranks) + item.ndim
        else:
            assert set(train.ranks) == {1}
        for core in train.cores[:-1]:
            u = core.flatten(0, 1).to(torch.promote_types(core.dtype, torch.float32))
            gram = u.mH @ u
            torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=floor)


@given(batches([torch.float64]), st.integers(1, 3))
def test_ranks_are_bounded(x, most):
    bonds = max(0, x.ndim - 2)
    for bound in (most, [most] * bonds):
        for train, item in zip(ttnet.tt_svd_batch(x, max_rank=bound), x, strict=True):
            assert max(train.ranks) <= most
            alone = ttnet.tt_svd(item, max_rank=most, method="svd")
            assert error_of(train, item) <= error_of(alone, item) * (1 + 1e-6) + 1e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("eps", [None, 1e-4])
def test_tensors_of_all_scales_stand_side_by_side(dtype, eps):
    base = ttnet.random((4, 5, 6), 3, dtype=torch.float64, seed=0).full()
    tiny, huge = (1e-300, 1e300) if dtype == torch.float64 else (1e-38, 1e38)
    x = torch.stack(
        [base, torch.zeros_like(base), base * tiny, base * (huge / base.abs().max()), torch.ones_like(base)]
    )
    x = x.to(dtype)
    found = ttnet.tt_svd_batch(x, eps=eps)
    assert [train.ranks for train in found] == [ttnet.tt_svd(item, eps=eps).ranks for item in x]
    for train, item in zip(found, x, strict=True):
        assert error_of(train, item) <= max(eps or 0.0, 1e-5 if dtype == torch.float32 else 1e-12)


def test_many_parts_are_as_one(monkeypatch):
    x = torch.stack([ttnet.random((3, 4, 5), 2, dtype=torch.float64, seed=k).full() for k in range(7)])
    whole = ttnet.tt_svd_batch(x, eps=1e-3)
    monkeypatch.setattr("ttnet.decomposition.batched._ENTRIES", 2 * 60)
    for train, other in zip(ttnet.tt_svd_batch(x, eps=1e-3), whole, strict=True):
        assert ttnet.allclose(train, other, rtol=1e-12)
    with pytest.raises(TTValueError, match=r"x\[5\] holds NaN"):
        ttnet.tt_svd_batch(torch.cat([x[:5], x[:1] * float("nan"), x[6:]]))


def test_cuts_that_a_gram_matrix_misjudges_are_made_anew(monkeypatch):
    """The bound is checked by what is left, not by eigenvalues."""
    x = torch.stack([ttnet.random((4, 4, 4), 4, dtype=torch.float64, seed=k).full() for k in range(3)])
    real = torch.linalg.eigh

    def wrong(matrix):
        values, vectors = real(matrix)
        return values * torch.tensor([0.0, 0.0, 1.0, 1.0]) if values.shape[1] == 4 else values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", wrong)
    for train, item in zip(ttnet.tt_svd_batch(x, eps=1e-3), x, strict=True):
        assert error_of(train, item) <= 1e-3


def test_gradients_are_those_of_single_tensors():
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def norms(x):
        return torch.stack([train.full().square().sum() for train in ttnet.tt_svd_batch(x)])

    assert torch.autograd.gradcheck(norms, x)


def test_what_is_empty_or_of_low_order():
    assert ttnet.tt_svd_batch(torch.ones(0, 3, 4)) == []
    scalars = ttnet.tt_svd_batch(np.array([1.0, 2.0]))
    assert [float(train.full()) for train in scalars] == [1.0, 2.0]
    [vector] = ttnet.tt_svd_batch(torch.ones(1, 3))
    assert vector.shape == (3,)
    integers = ttnet.tt_svd_batch(np.arange(24).reshape(2, 3, 4))
    assert integers[1].dtype == torch.float64
    torch.testing.assert_close(integers[1].full(), torch.arange(12.0, 24, dtype=torch.float64).reshape(3, 4))


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (torch.tensor(1.0), {}, TTShapeError, "x has no dimension; expected the batch first"),
        (torch.ones(2, 0, 3), {}, TTShapeError, "every mode must have size at least 1"),
        ([1.0], {}, TTTypeError, "x is a list"),
        (torch.ones(2, 3, 4), {"eps": -1}, TTValueError, "eps is -1"),
        (torch.ones(2, 3, 4), {"max_rank": [1, 2]}, TTShapeError, "max_rank"),
        (torch.tensor([[[1.0, float("inf")]]]), {}, TTValueError, r"x\[0\] holds NaN or infinite entries"),
    ],
)
def test_what_is_refused(x, options, error, words):
    with pytest.raises(error, match=words):
        ttnet.tt_svd_batch(x, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_few_directions_are_found_before_the_others(dtype, noise):
    # Of different ranks, one of them zero and one alone of full rank.
    x = torch.stack([draw_tensor((16, r), dtype, r) @ draw_tensor((r, 60), dtype, r + 1) for r in (1, 3, 6, 0, 4)])
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1) + noise * draw_tensor(x.shape, dtype, 0)
    goal = torch.full((5,), 1e-5, dtype=torch.float64)
    values, vectors, missed = _eigenpairs(x @ x.mH, goal)
    assert values.shape[1] == 6
    assert bool((values.diff(dim=1) >= 0).all())
    torch.testing.assert_close(vectors.mH @ vectors, torch.eye(6, dtype=dtype).expand(5, 6, 6), atol=1e-12, rtol=0)
    outside = torch.linalg.vector_norm(x - vectors @ (vectors.mH @ x), dim=(1, 2)).square()
    assert bool((outside <= missed + 1e-14).all())
    assert bool((missed <= goal).all())
    torch.testing.assert_close(values.sum(1) + missed, torch.linalg.vector_norm(x, dim=(1, 2)).square())
    full = torch.cat([x, draw_tensor((1, 16, 60), dtype, 9)])
    values, _, missed = _eigenpairs(full @ full.mH, goal[[0] * 6])
    assert values.shape == (6, 16)
    assert not bool(missed.any())
