"""Which kernel TT-SVD takes, in which order and precision: its written rule, at the borders."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import dense, draw_tensor, dtypes, precision, relative_error, seeds, shapes, wide
from ttnet.decomposition import plan, randomized, sweep
from ttnet.decomposition.plan import SMALL_NUMEL, kernel_flops, next_step, plan_sweep
from ttnet.decomposition.spectrum import gram_bound
from ttnet.numerics.truncation import ErrorBudget


@pytest.fixture
def looks(monkeypatch):
    """What has been looked at with which kernel: names, with the precision of the products."""
    monkeypatch.setattr(plan, "QUICK", 1)  # where there would be nothing to see
    seen = []

    def spy(name, kernel):
        def watched(u, *args):
            seen.append(f"{name} {str(args[-1].to_real())[6:]}")
            return kernel(u, *args)

        return watched

    for name, kernel in (("by_gram", sweep.by_gram), ("by_sketch", sweep.by_sketch)):
        monkeypatch.setattr(sweep, name, spy(name[3:], kernel))
    inner = sweep.by_qr

    def qr(u, **options):
        seen.append("qr")
        return inner(u, **options)

    monkeypatch.setattr(sweep, "by_qr", qr)
    return seen


def flat(shape=(32, 32, 32), dtype=torch.float64):
    return draw_tensor(shape, dtype, 0)


def test_small_tensors_are_factorised_exactly(looks, monkeypatch):
    monkeypatch.setattr(plan, "SMALL_NUMEL", 1000)
    ttnet.tt_svd(flat((10, 10, 10)), eps=0.1)
    assert looks == []
    ttnet.tt_svd(flat((7, 11, 13)), eps=0.1)
    assert looks != []


def test_a_first_bond_of_few_rows_is_cut_without_a_look(looks, monkeypatch):
    """If the unfolding is not too large, and only until there are many rows."""
    monkeypatch.setattr(plan, "QUICK", 8)
    ttnet.tt_svd(flat((4, 8, 45, 45)), max_rank=4)
    assert looks == []
    for shape, method in [((4, 8, 45, 45), "gram"), ((64, 32, 32), "auto"), ((4, 33, 32, 32), "auto")]:
        looks.clear()
        ttnet.tt_svd(flat(shape), max_rank=4, method=method)
        assert looks != []


@pytest.mark.parametrize("shape", [(2,) * 16, (16,) * 4, (4, 200, 100), (300, 4, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_quick_cuts_keep_the_bound_and_the_ranks_of_svds(shape, dtype, scale):
    exact = ttnet.random(shape, 6, dtype=dtype, seed=0).full()
    x = (exact / exact.norm() + 1e-5 * draw_tensor(shape, dtype, 1) / math.prod(shape) ** 0.5) * scale
    for eps in (None, 1e-3, 0.3):
        y = ttnet.tt_svd(x, eps=eps)
        assert relative_error(dense(y), x) <= max(eps or 0, 100 * torch.finfo(dtype).eps)
        if eps == 1e-3:
            assert y.ranks == ttnet.tt_svd(x, eps=eps, method="svd").ranks


def test_quick_cuts_refuse_what_is_not_finite_and_take_any_scale():
    x = flat((16,) * 4)
    for scale in (1e200, 1e-300):
        assert ttnet.tt_svd(x * scale, max_rank=5).ranks == (1, 5, 5, 5, 1)
    assert set(ttnet.tt_svd(0 * x).ranks) == {1}
    x[3, 3, 3, 3] = math.inf
    with pytest.raises(ttnet.TTValueError, match="NaN or infinite entries, 1 of 65536"):
        ttnet.tt_svd(x, eps=0.1)


@given(shapes, dtypes, seeds, st.sampled_from([1e-5, 1e-2, 0.3, 0.9]), st.sampled_from([4, 16, 64]))
def test_rests_of_few_entries_are_cut_within_the_bound(shape, dtype, seed, eps, small):
    x = draw_tensor(shape, dtype, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALL_NUMEL", small)
        y = ttnet.tt_svd(x, eps=eps)
        patch.setattr(ErrorBudget, "allows_more", True)
        assert ttnet.tt_svd(x, eps=eps).ranks == y.ranks  # where nothing more can be cut, nothing is tried
    assert relative_error(dense(y), x) <= eps + precision(dtype)
    for core in y.cores[:-1]:
        u = wide(core).flatten(0, 1)
        assert float((u.mH @ u - torch.eye(u.shape[1])).abs().max()) <= precision(dtype)


def test_a_budget_knows_when_no_cut_bond_allows_more():
    budget = ErrorBudget(norm=1.0, eps=0.1, max_ranks=[None, None], dtype=torch.float64)
    budget.spend(0.03, 0.2)
    assert not budget.allows_more
    assert not budget.for_norm(3.0).allows_more
    budget.spend(0.04, 0.12)
    assert budget.allows_more  # the other cut may have made .12 as small as what is left
    assert ErrorBudget(norm=1.0, eps=0.1, max_ranks=[], dtype=torch.float64).for_norm(2.0).allows_more is False


@pytest.mark.parametrize("method", ["auto", "gram", "qr", "randomized"])
def test_tensors_that_require_gradients_are_factorised_exactly(looks, method):
    x = flat().requires_grad_()
    ttnet.tt_svd(x, eps=0.1, method=method)
    assert looks == []
    with torch.no_grad():
        assert not ttnet.tt_svd(x, eps=0.1, method=method).cores[0].requires_grad
    assert looks != []


def test_a_bound_decides_between_gram_matrices_and_triangles(looks):
    x = flat((64, 1000))
    # A Gram matrix resolves a cut if its bound is at most half of what the cut may lose, in squares.
    least = math.sqrt(2 * gram_bound(64, 1.0, torch.float64))
    assert 1e-7 < least < 3e-7
    ttnet.tt_svd(x, eps=1.05 * least)
    assert "qr" not in looks
    assert "gram float64" in looks
    looks.clear()
    ttnet.tt_svd(x, eps=0.9 * least)
    assert "qr" in looks
    assert not any("gram" in look for look in looks)


def test_single_precision_serves_loose_bounds_only(looks):
    for dtype in (torch.float32, torch.float64):
        least = math.sqrt(2 * gram_bound(32, 1.0, torch.float32)) * math.sqrt(2)
        looks.clear()
        ttnet.tt_svd(flat(dtype=dtype), eps=1.05 * least, method="gram")
        assert looks[0] == "gram float32"
        looks.clear()
        ttnet.tt_svd(flat(dtype=dtype), eps=0.95 * least, method="gram")
        assert looks[0] == "gram float64"


def test_single_precision_data_never_need_a_triangle(looks):
    x = flat(dtype=torch.float32)
    for eps in (None, 1e-12, 1e-6, 1e-2):
        ttnet.tt_svd(x, eps=eps)
    assert "qr" not in looks


def test_a_largest_rank_is_tried_in_the_cheapest_precision_first(looks):
    ttnet.tt_svd(flat(), max_rank=5)
    assert set(looks) == {"gram float32"}
    looks.clear()
    # A tail of 1e-5 is too small for single precision and large enough for double.
    x = ttnet.random((32, 32, 32), 5, dtype=torch.float64, seed=0).full()
    x = x / x.norm() + 1e-5 / 32**1.5 * flat()
    ttnet.tt_svd(x, max_rank=5)
    assert looks[:2] == ["gram float32", "gram float64"]
    assert "qr" not in looks
    looks.clear()
    ttnet.tt_svd(x, max_rank=10, eps=0)
    assert "gram float64" in looks


def test_an_exact_rank_below_the_largest_one_is_found(looks):
    x = ttnet.random((32, 32, 32), 5, dtype=torch.float64, seed=0).full()
    assert ttnet.tt_svd(x, max_rank=9).ranks == (1, 5, 5, 1)
    assert looks[:3] == ["gram float32", "gram float64", "qr"]


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_low_rank_is_found_by_a_sketch(looks, eps, dtype):
    x = ttnet.random((128, 256, 256), 3, dtype=torch.float64, seed=0).full().to(dtype)
    y = ttnet.tt_svd(x, eps=eps)
    assert y.ranks == (1, 3, 3, 1)
    assert looks[0].startswith("sketch")
    assert not any(look.startswith(("gram", "qr")) for look in looks[:1])
    assert relative_error(dense(y), x) <= max(eps, 1e-6 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("shape", [(48,) * 4, (40, 30, 50, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_without_a_bound_sketches_tell_a_rank_from_rounding(looks, shape, dtype):
    """Of several modes, too, whose inner bonds may lose less than the outer one."""
    x = dense(ttnet.random(shape, 4, dtype=dtype, seed=1))
    train = ttnet.tt_svd(x)
    assert set(train.ranks) == {1, 4}
    assert not [look for look in looks if look == "qr"]
    assert relative_error(dense(train), x) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("noise", [0.0, 1e-17, 1e-16, 1e-15, 1e-12])
def test_extended_bases_are_orthonormal(noise):
    """Also where rows lie in the space of the basis but for rounding."""
    basis = torch.linalg.qr(draw_tensor((60, 5), torch.complex128, 0))[0]
    for seed in range(1, 6):
        weights, rest = draw_tensor((7, 5), torch.complex128, seed), draw_tensor((7, 60), torch.complex128, -seed)
        weights[:, 0] *= 1e3
        basis = randomized._extended(basis, weights @ basis[:, :5].mH + noise * 1e3 * rest)
        gram = basis.mH @ basis
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-14, rtol=0)


def test_sketches_are_given_up_where_they_fail(looks):
    ttnet.tt_svd(flat((256, 32, 32, 32)), eps=1e-2)
    sketches = [place for place, look in enumerate(looks) if look.startswith("sketch")]
    assert sketches[:1] == [0]
    assert len(sketches) <= 3  # at two bonds, and in what a Gram matrix has left
    assert any(look.startswith("gram") for look in looks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sketch_reaches_a_rank_far_above_the_first_guess(looks, dtype):
    # A flat spectrum with an end: what a sketch of some rows misses tells nothing of the rows to come.
    x = ttnet.random((600, 600), 90, dtype=torch.float64, seed=0).full().to(dtype)
    assert ttnet.tt_svd(x, eps=1e-3).ranks == (1, 90, 1)
    assert [look for look in looks if not look.startswith("gram")] == looks[:1]
    assert looks[0].startswith("sketch")


def test_a_sketch_is_taken_up_again_once_a_step_has_shown_the_rank(looks):
    # The first mode cannot be cut, and is cheaper to look at than the bond behind the second one.
    x = ttnet.random((32, 32, 32, 32), 40, dtype=torch.float64, seed=0).full()
    assert ttnet.tt_svd(x, eps=1e-6).ranks == (1, 32, 40, 32, 1)
    kinds = [look.split()[0] for look in looks]
    assert "sketch" in kinds[kinds.index("gram") :]


@pytest.mark.parametrize("method", ["auto", "randomized"])
@pytest.mark.parametrize("bounds", [{"eps": 0.1}, {"max_rank": 5}, {"max_rank": [200] * 7 + [5] * 7}])
def test_no_bond_of_a_flat_tensor_is_sketched_for_ever(method, bounds):
    x = flat((2,) * 15)
    error = relative_error(dense(ttnet.tt_svd(x, method=method, **bounds)), x)
    assert error <= bounds.get("eps", 1)


def test_a_sketch_that_fails_at_one_end_is_tried_at_the_other(looks):
    # The last mode has all of its directions, the first one has three.
    x = ttnet.random((256, 400), 3, dtype=torch.float64, seed=0).full()[:, :, None] * torch.eye(128).double()[0]
    x = x + draw_tensor((3, 400, 128), torch.float64, 0).repeat_interleave(86, 0)[:256]
    y = ttnet.tt_svd(x, eps=1e-9)
    assert [look.split()[0] for look in looks[:2]] == ["sketch", "sketch"]
    assert y.ranks[1] <= 6
    assert relative_error(y.full(), x) <= 1e-9


def test_no_sketch_where_the_largest_rank_decides(looks):
    ttnet.tt_svd(flat((256, 256, 32)), max_rank=8)
    ttnet.tt_svd(flat((256, 256, 32)), eps=1e-3, max_rank=8)
    assert not any(look.startswith("sketch") for look in looks)


@pytest.mark.parametrize("eps", [1e-3, 1e-6])
def test_slowly_decaying_spectra_keep_the_bound_and_the_ranks(eps):
    q = [torch.linalg.qr(draw_tensor((n, 200), torch.float64, n))[0] for n in (225, 256)]
    s = torch.arange(1, 201, dtype=torch.float64) ** -1.5
    x = ((q[0] * s) @ q[1].mT).reshape(15, 15, 16, 16)
    exact = ttnet.tt_svd(x, eps=eps, method="svd")
    for method in ("auto", "qr", "gram", "randomized"):
        y = ttnet.tt_svd(x, eps=eps, method=method)
        assert relative_error(y.full(), x) <= eps
        assert sum(y.ranks) <= 1.05 * sum(exact.ranks)


@pytest.mark.parametrize("method", ["auto", "gram", "qr", "randomized"])
def test_single_precision_keeps_a_bound_just_above_its_own(method):
    grid = torch.linspace(0, 1, 12, dtype=torch.float64)
    x = 1 / (1 + grid[:, None, None, None] + grid[:, None, None] + grid[:, None] + grid)
    for eps in (1e-6, 3e-6, 1e-5):
        assert relative_error(dense(ttnet.tt_svd(x.float(), eps=eps, method=method)), x.float()) <= eps


def test_the_first_step_shrinks_the_data_most():
    def first(shape, rank, method="gram"):
        step = plan_sweep(shape, rank, method=method).steps[0]
        return step.modes, step.columns, step.rank

    assert first((2,) * 26, 16) == (6, 64, 16)  # 64 N + 2 * 16 N, and a quarter is left
    assert first((16,) * 6, 16) == (2, 256, 16)  # one mode alone would shrink nothing
    assert first((64,) * 4, 10) == (1, 64, 10)
    assert first((20,) * 6, 8, "randomized") == (2, 400, 8)  # a sketch costs the same on any short side


def test_a_sweep_starts_at_the_shorter_end():
    assert plan_sweep((256, 256, 3, 64), 8).steps[0].side == "right"
    assert plan_sweep((64, 3, 256, 256), 8).steps[0].side == "left"


def test_the_cost_of_a_step_grows_with_what_makes_it():
    assert kernel_flops("gram", 1000, 64, 8) < kernel_flops("gram", 1000, 64, 16) < kernel_flops("qr", 1000, 64, 16)
    assert kernel_flops("randomized", 10_000, 400, 8) < kernel_flops("gram", 10_000, 400, 8)


def test_no_sketch_is_planned_where_it_cannot_gain():
    assert next_step((8,) * 6, (1, 1), lambda k: 16, "randomized", 8).columns >= 4 * 28
    assert next_step((30, 3000), (1, 1), lambda k: 16, "randomized", 8) is None
    assert next_step((90, 90, 90), (1, 1), lambda k: 300, "randomized", 8) is None


def test_small_rests_are_taken_mode_by_mode():
    step = next_step((4,) * 7, (1, 1), lambda k: 2, "gram", 8)
    assert SMALL_NUMEL == 4**7
    assert (step.side, step.modes, step.method) == ("left", 1, "qr")
    assert next_step((4,) * 8, (1, 1), lambda k: 2, "gram", 8).method == "gram"


def test_a_plan_prints_its_steps():
    text = str(plan_sweep((2,) * 20, 4))
    assert text.startswith("TT-SVD of shape (2, 2")
    assert len(text.splitlines()) == 2 + len(plan_sweep((2,) * 20, 4).steps)
    plan_ = plan_sweep((2,) * 20, 4)
    assert plan_.flops == sum(step.flops for step in plan_.steps)
    assert f"{plan_.bytes:.1e}" in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
def test_no_second_copy_of_the_tensor_is_held():
    code = """
import pathlib, torch, ttnet
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
def now():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
for method, dtype in (("auto", torch.float64), ("auto", torch.float32), ("qr", torch.float64)):
    ttnet.tt_svd(torch.randn((2,) * 20, dtype=dtype), max_rank=16, method=method)  # so that passes are compiled
    x = torch.randn((2,) * 23, dtype=dtype)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = now()
    ttnet.tt_svd(x, max_rank=16, method=method)
    print((peak() - before) / (x.numel() * x.itemsize))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert all(float(line) < 1 / 3 for line in result.stdout.split()), result.stdout
