import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.decomposition.passes import PASSES, choose_passes
from tests.ttnet.strategies import (
    DTYPES,
    dense,
    draw_tensor,
    dtypes,
    precision,
    relative_error,
    same,
    seeds,
    shapes,
    trains,
    wide,
)
from ttnet import TTShapeError, TTTypeError, TTValueError
from ttnet.decomposition import plan, unfolding

METHODS = ("auto", "svd", "qr", "gram", "randomized")

methods = st.sampled_from(METHODS)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module", autouse=True, params=PASSES)
def passes(request):
    """Send these small tensors through the kernels for large ones, in several blocks, compiled or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALL_NUMEL", 0)
        patch.setitem(unfolding.BLOCK_NUMEL, "cpu", 512)
        choose_passes(patch, request.param)
        yield request.param


def check_left_orthogonal(tt):
    for core in tt.cores[:-1]:
        unfolding = wide(core).flatten(0, 1)
        gram = unfolding.mH @ unfolding
        assert float((gram - torch.eye(len(gram))).abs().max()) <= precision(tt.dtype)


@given(shapes, dtypes, seeds, st.sampled_from([1e-5, 1e-2, 0.3, 0.9, 1.0, 5.0]), methods)
def test_the_error_bound_holds(shape, dtype, seed, eps, method):
    x = draw_tensor(shape, dtype, seed)
    before = x.clone()
    tt = ttnet.tt_svd(x, eps=eps, method=method)
    assert torch.equal(x, before)
    assert all(core.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for core in tt.cores)
    assert tt.shape == shape
    assert tt.dtype == dtype
    assert relative_error(dense(tt), x) <= max(eps, precision(dtype)) if eps < 1e-4 else eps
    check_left_orthogonal(tt)
    if eps >= 1:
        assert set(tt.ranks) == {1}


@given(trains(), methods)
def test_exact_ranks_are_the_true_ones(x, method):
    full = dense(x)
    y = ttnet.tt_svd(full.to(x.dtype), method=method)
    for k in range(1, x.ndim):
        unfolding = full.reshape(math.prod(x.shape[:k]), -1)
        s = torch.linalg.svdvals(unfolding)
        # Ranks are clear only where singular values keep clear of rounding noise.
        floor = 1e3 * torch.finfo(x.dtype).eps * s.norm()
        ill = ((s > 1e-13 * s.norm()) & (s < floor)).any()
        if not ill:
            assert y.ranks[k] == max(1, int((s > floor).sum()))
    assert relative_error(dense(y), full) <= precision(x.dtype)


@given(shapes, dtypes, seeds, st.integers(1, 3), methods)
def test_max_rank_is_quasi_optimal(shape, dtype, seed, rank, method):
    x = draw_tensor(shape, dtype, seed)
    tt = ttnet.tt_svd(x, max_rank=rank, method=method)
    assert max(tt.ranks) <= rank
    tails = 0.0
    for k in range(1, len(shape)):
        s = torch.linalg.svdvals(wide(x).reshape(math.prod(shape[:k]), -1))
        tails += float(s[rank:].square().sum())
    assert relative_error(dense(tt), x) <= math.sqrt(tails) / float(wide(x).norm()) + precision(dtype)


@every_method
def test_max_rank_per_bond_goes_before_eps(method):
    x = draw_tensor((4, 4, 4), torch.float64, 0)
    assert ttnet.tt_svd(x, max_rank=[2, 3], method=method).ranks == (1, 2, 3, 1)
    assert ttnet.tt_svd(x, max_rank=[3, 2], method=method).ranks == (1, 3, 2, 1)
    assert ttnet.tt_svd(x, eps=1e-10, max_rank=2, method=method).ranks == (1, 2, 2, 1)
    assert ttnet.tt_svd(x[:, 0, 0], max_rank=[], method=method).ranks == (1, 1)


@every_method
@pytest.mark.parametrize("mirror", [False, True])
def test_unspent_budget_goes_to_other_bonds(method, mirror):
    # The first two bonds are exact at rank 1, so the last one may spend the whole bound rather than a third of it.
    s = torch.tensor([1.0, 0.5, 0.09], dtype=torch.float64)
    x = torch.ones(3, 3, 1, 1, dtype=torch.float64) * torch.diag(s)
    if mirror and method != "svd":
        x = x.permute(3, 2, 1, 0)
    # The certificate of a coarse look counts as lost, and adds up with what the last cuts lose.
    margin = 1.001 if method in ("svd", "qr") else 1.02
    ranks = ttnet.tt_svd(x, eps=0.09 / float(s.norm()) * margin, method=method).ranks
    assert sorted(ranks) == [1, 1, 1, 1, 2]


@every_method
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_does_not_matter(dtype, method, passes):
    x = draw_tensor((4, 5, 6), dtype, 0)
    plain = ttnet.tt_svd(x, eps=0.3, method=method)
    exponents = [-80, 99] if dtype in (torch.float32, torch.complex64) else [-565, 565, -1000, 1000]
    for exponent in exponents:
        scaled = ttnet.tt_svd(x * 2.0**exponent, eps=0.3, method=method)
        assert scaled.ranks == plain.ranks
        if passes == "libraries":
            assert torch.equal(scaled.full() * 2.0**-exponent, plain.full())
        else:  # entries that have to be scaled first go through libraries, which add up in another order
            assert relative_error(scaled.full() * 2.0**-exponent, plain.full()) <= 20 * torch.finfo(dtype).eps


@every_method
def test_scales_at_the_edges_of_the_dtype(method):
    x = draw_tensor((4, 5, 6), torch.float64, 0)
    x = x / x.abs().max()
    for scale in [1.7e308, 1e-308, 1e-170, 1e170]:
        y = ttnet.tt_svd(x * scale, eps=0.3, method=method)
        assert all(core.isfinite().all() for core in y.cores)
        assert relative_error(y.full() / scale, x) <= 0.3
    y = ttnet.tt_svd(x.float() * 1e-25, eps=0.3, method=method)
    assert relative_error(y.full().double() / 1e-25, x) <= 0.3


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4, 5), (1, 1, 3, 1)])
@every_method
def test_zeros(dtype, shape, method):
    tt = ttnet.tt_svd(torch.zeros(shape, dtype=dtype), eps=0.1, method=method)
    assert tt.dtype == dtype
    assert set(tt.ranks) == {1}
    assert torch.equal(tt.full(), torch.zeros(shape, dtype=dtype))
    assert all(core.isfinite().all() for core in tt.cores)


@every_method
def test_an_eps_below_the_precision_does_not_fill_the_ranks(method):
    x = ttnet.random((6,) * 5, 3, dtype=torch.float64, seed=0).full().float()
    for eps in [None, 0, 1e-12, 1e-7]:
        assert ttnet.tt_svd(x, eps=eps, method=method).ranks == (1, 3, 3, 3, 3, 1)


@every_method
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision(dtype, eps, method):
    x = draw_tensor((4, 5, 6), torch.float32, 0).to(dtype) * 1000  # whose norm is no float16
    tt = ttnet.tt_svd(x, eps=eps, method=method)
    assert tt.dtype == dtype
    assert relative_error(dense(tt), x) <= eps
    low = ttnet.random((8, 8, 8), 2, dtype=torch.float32, seed=0).full().to(dtype)
    assert ttnet.tt_svd(low, method=method).ranks == (1, 2, 2, 1)


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(24).reshape(2, 3, 4),
        torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4),
        torch.arange(24).reshape(2, 3, 4) % 3 == 0,
        np.arange(24, dtype=">i4").reshape(2, 3, 4)[::-1],
        np.arange(24, dtype=np.uint64).reshape(2, 3, 4),
        np.array(3),
        np.bool_(1).reshape(1, 1),
        torch.tensor(3),
    ],
)
@every_method
def test_integers_and_bools_are_exact(x, method):
    tt = ttnet.tt_svd(x, method=method)
    assert tt.dtype == torch.float64
    expected = torch.as_tensor(x if isinstance(x, torch.Tensor) else x.astype(np.float64)).double()
    assert tt.shape == tuple(expected.shape)
    assert relative_error(dense(tt), expected) <= 1e-14


@every_method
def test_layouts(method):
    x = draw_tensor((3, 4, 5), torch.float64, 0)
    read_only = x.numpy().copy()
    read_only.flags.writeable = False
    for y in [x.permute(2, 0, 1), x[::2, :, 1:], x[:, None].expand(3, 2, 4, 5), x.permute(1, 2, 0).numpy(), read_only]:
        expected = y if isinstance(y, torch.Tensor) else torch.tensor(y)
        assert relative_error(ttnet.tt_svd(y, method=method).full(), expected) <= 1e-14
    z = draw_tensor((3, 4), torch.complex128, 0)
    assert relative_error(ttnet.tt_svd(z.conj(), method=method).full(), z.conj().resolve_conj()) <= 1e-14


@every_method
@pytest.mark.parametrize("shape", [(4, 300_000), (300_000, 4), (2, 200_000, 2)])
def test_long_unfoldings_keep_single_precision(shape, method):
    x = draw_tensor(shape, torch.float32, 0)
    assert relative_error(dense(ttnet.tt_svd(x, eps=1e-5, method=method)), x) <= 1e-5
    low = draw_tensor((shape[0], 1), torch.float64, 1) @ draw_tensor((1, math.prod(shape[1:])), torch.float64, 2)
    assert set(ttnet.tt_svd(low.float().reshape(shape), method=method).ranks[:2]) == {1}


@every_method
def test_a_decomposition_is_deterministic(method):
    x = draw_tensor((6,) * 5, torch.float64, 0)
    assert same(ttnet.tt_svd(x, eps=0.3, method=method), ttnet.tt_svd(x, eps=0.3, method=method))


@every_method
@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_a_train_has_storage_of_its_own(shape, method):
    x = draw_tensor(shape, torch.float64, 0)
    y = ttnet.tt_svd(x, method=method)
    before = y.full()
    x += 1
    assert torch.equal(y.full(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"eps": -0.1}, TTValueError, "eps is -0.1; expected a relative error >= 0"),
        ({"eps": float("nan")}, TTValueError, "eps is nan"),
        ({"eps": "0.1"}, TTTypeError, "eps is a str"),
        ({"eps": True}, TTTypeError, "eps is a bool"),
        ({"max_rank": 0}, TTValueError, "max_rank holds 0; every rank must be at least 1"),
        ({"max_rank": [2, -1]}, TTValueError, "max_rank holds -1"),
        ({"max_rank": [2]}, TTShapeError, "max_rank has 1 entries; expected 2, one per inner bond"),
        ({"max_rank": 2.0}, TTTypeError, "max_rank is a float"),
        ({"max_rank": True}, TTTypeError, "max_rank holds True"),
        ({"max_rank": [2, "3"]}, TTTypeError, "max_rank holds '3'"),
        ({"method": "magic"}, TTValueError, "method is 'magic'; expected 'auto' or 'svd' or 'qr' or 'gram'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ttnet.tt_svd(torch.ones(2, 3, 4), **arguments)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0]], TTTypeError, "x is a list; expected a torch.Tensor, a numpy.ndarray, or an array"),
        (np.array(["a"]), TTTypeError, "x has dtype <U1"),
        (torch.ones(2, dtype=torch.float8_e5m2), TTTypeError, "float8_e5m2"),
        (torch.eye(2).to_sparse(), TTTypeError, "x has the layout torch.sparse_coo; expected a dense tensor"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), TTTypeError, "x is a nested tensor"),
        (np.ma.masked_array(np.ones((2, 2)), np.eye(2)), TTTypeError, "x has masked entries, 2 of 4; expected none"),
        (torch.masked.masked_tensor(torch.ones(2), torch.ones(2) > 0), TTTypeError, "x is a MaskedTensor; expected"),
        (torch.ones(2, 2, device="meta"), TTTypeError, "x is on the meta device"),
        (torch.ones(2, 0, 3), TTShapeError, "x has shape \\(2, 0, 3\\); every mode must have size at least 1"),
        (torch.tensor([1.0, float("nan"), float("inf")]), TTValueError, "NaN or infinite entries, 2 of 3"),
        (torch.tensor([complex(0, float("nan"))]), TTValueError, "NaN or infinite entries, 1 of 1"),
    ],
)
def test_bad_tensors(x, error, message):
    with pytest.raises(error, match=message):
        ttnet.tt_svd(x)


@every_method
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_numbers_that_are_none_are_refused(method, dtype):
    for place, value in itertools.product([0, 777, 11_999], [float("nan"), float("inf"), -float("inf")]):
        x = draw_tensor((100, 30, 4), torch.float32, 0).to(dtype)
        x.view(-1)[place] = value
        for bounds in ({"eps": 0.1}, {"max_rank": 2}):
            with pytest.raises(TTValueError, match="NaN or infinite entries, 1 of 12000"):
                ttnet.tt_svd(x, method=method, **bounds)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("max_rank", [1, 2, [1, 2], None])
@every_method
def test_gradients(dtype, max_rank, method):
    x = draw_tensor((2, 2, 3), dtype, 0).requires_grad_()
    assert gradcheck(lambda x: ttnet.tt_svd(x, max_rank=max_rank, method=method).full(), (x,))


@pytest.mark.parametrize("shape", [(6, 2), (2, 6), (4, 4)])
def test_gradients_of_matrices(shape):
    x = draw_tensor(shape, torch.float64, 0).requires_grad_()
    assert gradcheck(lambda x: ttnet.tt_svd(x, max_rank=1).full(), (x,))


def test_gradient_at_low_rank_is_the_tangent_projection():
    x = ttnet.random((4, 5), 2, dtype=torch.float64, seed=0).full()
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    left, right = u[:, :2] @ u[:, :2].T, vh[:2].T @ vh[:2]
    g = draw_tensor((4, 5), torch.float64, 1)
    x.requires_grad_()
    (ttnet.tt_svd(x).full() * g).sum().backward()
    assert relative_error(x.grad, g - (g - left @ g) @ (torch.eye(5) - right)) <= 1e-10


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 3, 3), torch.eye(4), torch.ones(3, 3, 3), torch.eye(8).reshape(2, 4, 8)], ids=str
)
@pytest.mark.parametrize("max_rank", [None, 1, 2])
def test_gradients_are_finite_where_singular_values_meet(x, max_rank):
    x = x.clone().requires_grad_()
    y = ttnet.tt_svd(x, max_rank=max_rank).full()
    (y.square().sum() + y.sum()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "kind", "eps"),
    [((2,) * 15, torch.randn, 0.5), ((2,) * 15, torch.rand, 0.3), ((3,) * 10, torch.randn, 0.8)],
)
def test_the_last_cuts_keep_the_bound_as_well(method, shape, kind, eps):
    x = kind(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert relative_error(ttnet.tt_svd(x, eps=eps, method=method).full(), x) <= eps


@pytest.mark.parametrize("method", METHODS)
def test_constant_slices_of_single_complex_numbers(method):
    # LAPACK's complex single precision gives NaN for some of their constant unfoldings.
    for seed in range(5):
        x = draw_tensor((20, 1, 1), torch.complex64, seed).expand(20, 20, 20)
        train = ttnet.tt_svd(x, eps=1e-4, method=method)
        assert train.ranks == (1, 1, 1, 1)
        assert relative_error(train.full(), x) <= 1e-4
