import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.rounding.spectra import (
    METHODS,
    SPECTRA,
    by_gram,
    each_method,
    is_left_orthogonal,
    log_error,
    with_spectrum,
)
from tests.ttnet.strategies import dense, precision, relative_error, same, trains
from ttnet import TensorTrain, TTTypeError, TTValueError


@given(trains(), st.sampled_from([1e-2, 0.3, 0.9, 2.0]), st.sampled_from(METHODS))
def test_the_error_bound_holds(x, eps, method):
    y = ttnet.round(x, eps=eps, method=method)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert relative_error(dense(y), dense(x)) <= eps
    assert all(a <= b for a, b in zip(y.ranks, x.ranks, strict=True))
    assert x.ndim < 2 or is_left_orthogonal(y)
    assert eps < 1 or max(y.ranks) == 1


@given(trains(), st.sampled_from(METHODS))
def test_rounding_a_sum_brings_the_ranks_back(x, method):
    y = (x + x - 3 * x).round(method=method)
    assert all(a <= b for a, b in zip(y.ranks, x.ranks, strict=True))
    assert relative_error(dense(y), -dense(x)) <= precision(x.dtype)


@each_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_every_bound_holds_on_every_spectrum(spectrum, dtype, method):
    x = with_spectrum(SPECTRA[spectrum], dtype=dtype)
    for eps in [0.5, 1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 0]:
        exact, y = x.round(eps=eps, method="svd"), x.round(eps=eps, method=method)
        error, floor = relative_error(dense(y), dense(x)), precision(dtype)
        assert error <= max(eps, floor)
        assert all(a <= b + 1 for a, b in zip(y.ranks, exact.ranks, strict=True))


@each_method
def test_max_rank_and_tt_svd_agree(method):
    x = ttnet.random((4, 5, 6, 3), 5, dtype=torch.float64, seed=0)
    for arguments in [{"eps": 0.2}, {"max_rank": 2}, {"max_rank": [1, 2, 3]}, {"eps": 0.5, "max_rank": 3}]:
        rounded, decomposed = x.round(**arguments, method=method), ttnet.tt_svd(x.full(), **arguments)
        assert rounded.ranks == decomposed.ranks
        assert relative_error(rounded.full(), decomposed.full()) <= 1e-12


def by_dense_svds(x, eps):
    """The ranks of a sweep of SVDs over the dense tensor, each bond taking its share of what is left to lose."""
    rest, rank, ranks, left = dense(x), 1, [1], (eps * float(dense(x).norm())) ** 2
    for bond in range(x.ndim - 1):
        _, s, v = torch.linalg.svd(rest.reshape(rank * x.shape[bond], -1), full_matrices=False)
        tails = s.square().flip(0).cumsum(0).flip(0)
        rank = max(1, int((tails > left / (x.ndim - 1 - bond)).sum()))
        left -= float(tails[rank]) if rank < len(tails) else 0.0
        rest = s[:rank, None] * v[:rank]
        ranks.append(rank)
    return (*ranks, 1)


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("spectrum", ["flat", "slow"])
def test_what_one_bond_leaves_goes_to_the_later_ones(spectrum, method):
    x = with_spectrum(SPECTRA[spectrum])
    for eps in (0.99, 0.9, 0.7, 0.4, 0.1):
        assert x.round(eps=eps, method=method).ranks == by_dense_svds(x, eps)


@pytest.mark.parametrize("spectrum", ["slow", "flat", "exponential"])
def test_max_rank_costs_little_more_than_the_best_error(spectrum):
    x = with_spectrum(SPECTRA[spectrum])
    best = relative_error(dense(x.round(max_rank=8, method="svd")), dense(x))
    for method, factor in [("gram", 1 + 1e-3), ("randomized", 2)]:
        y = x.round(max_rank=8, method=method)
        assert y.ranks == (1, 8, 8, 8, 1)
        assert relative_error(dense(y), dense(x)) <= factor * best


def test_max_rank_at_the_true_ranks_leaves_it_exact():
    for method in METHODS:
        x = with_spectrum([1.0] * 5 + [0.0] * 43)
        y = x.round(max_rank=[5, 7, 12], method=method)
        assert y.ranks == (1, 5, 5, 5, 1)
        assert relative_error(dense(y), dense(x)) <= 1e-13


@each_method
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_order_300_with_huge_and_tiny_cores(eps, method):
    x = ttnet.random((2,) * 300, 2, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (1e120 if k % 2 else 1e-120) for k, core in enumerate(x.cores))
    y = (wild + wild).round(eps=eps, method=method)
    assert max(y.ranks) == 2
    assert all(core.isfinite().all() for core in y.cores)
    assert float(y.log_norm()) == pytest.approx(float(x.log_norm()) + math.log(2), rel=1e-3 if eps > 1e-4 else 1e-13)
    assert log_error(2 * wild, y) <= math.log(eps)
    if eps == 1e-8:
        index = (1, 0) * 150
        assert float(y[index]) == pytest.approx(2 * float(x[index]), rel=1e-8)


@each_method
@pytest.mark.parametrize("scale", [1e170, 1e-170])
def test_norms_that_are_no_numbers(scale, method):
    x = with_spectrum(SPECTRA["exponential"])
    y = TensorTrain(core * scale for core in x.cores)
    for arguments in [{"eps": 1e-3}, {"eps": 1e-10}, {"max_rank": 5}]:
        rounded, expected = y.round(**arguments, method=method), x.round(**arguments, method=method)
        assert rounded.ranks == expected.ranks
        assert log_error(y, rounded) == pytest.approx(log_error(x, expected), abs=1e-3)
        assert float(rounded.log_norm()) == pytest.approx(float(expected.log_norm()) + 4 * math.log(scale), rel=1e-12)


@pytest.mark.parametrize("scale", [1e10, 1e-10])
def test_long_norms_that_are_no_numbers(scale):
    x = ttnet.random((2,) * 1000, 3, dtype=torch.float64, seed=0)
    y = TensorTrain(core * scale for core in x.cores)
    expected = float(x.log_norm()) + 1000 * math.log(scale)
    assert float(y.norm()) == (math.inf if scale > 1 else 0.0)
    assert float(y.log_norm()) == pytest.approx(expected, rel=1e-13)
    assert float(y.round(eps=1e-10).log_norm()) == pytest.approx(expected, rel=1e-13)


@given(trains())
def test_norms(x):
    expected = float(dense(x).norm())
    assert x.norm().dtype == x.log_norm().dtype == x.dtype.to_real()
    assert float(x.norm()) == pytest.approx(expected, rel=precision(x.dtype))
    assert float(x.log_norm()) == pytest.approx(math.log(expected), rel=precision(x.dtype), abs=precision(x.dtype))


def test_the_norm_of_a_difference_does_not_cancel():
    x = ttnet.random((4,) * 6, 4, dtype=torch.float64, seed=0)
    assert float((x - (1 + 1e-10) * x).norm() / x.norm()) == pytest.approx(1e-10, rel=1e-4)


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16])
def test_zero(dtype, method):
    x = ttnet.zeros((3, 4, 5), dtype=dtype)
    y = (x + x).round(eps=0.1, method=method)
    assert y.ranks == (1, 1, 1, 1)
    assert torch.equal(y.full(), torch.zeros(3, 4, 5, dtype=dtype))
    assert y.norm() == 0
    assert y.log_norm() == -math.inf


@each_method
def test_a_zero_of_large_ranks(method):
    x = with_spectrum(SPECTRA["flat"])
    zero = TensorTrain([x.cores[0], x.cores[1] * 0, *x.cores[2:]])
    for arguments in [{"eps": 0.1}, {"max_rank": 3}, {}]:
        y = zero.round(**arguments, method=method)
        assert y.ranks == (1, 1, 1, 1, 1)
        assert y.log_norm() == -math.inf


@each_method
def test_bonds_with_unused_indices(method):
    x = with_spectrum(SPECTRA["slow"])
    cores = [torch.nn.functional.pad(core, (0, 9 if k < 3 else 0)) for k, core in enumerate(x.cores)]
    padded = TensorTrain(torch.cat([core, core[:9] * 0]) if k else core for k, core in enumerate(cores))
    y = padded.round(eps=1e-2, method=method)
    assert y.ranks == x.round(eps=1e-2, method=method).ranks
    assert relative_error(dense(y), dense(x)) <= 1e-2
    assert method != "gram" or by_gram(padded, eps=1e-2) is not None


@each_method
def test_half_precision(method):
    x = ttnet.random((4, 5, 6), 3, dtype=torch.bfloat16, seed=0)
    y = (x + x).round(eps=0.1, method=method)
    assert y.dtype == torch.bfloat16
    assert max(y.ranks) <= 3
    assert relative_error(dense(y), 2 * dense(x)) <= 0.1
    assert float(x.norm()) == pytest.approx(float(dense(x).norm()), rel=0.01)


@each_method
def test_long_modes_keep_the_digits_of_single_precision(method):
    x = ttnet.random((200_000, 3, 40), 30, dtype=torch.float32, seed=0)
    low = ttnet.random((200_000, 3, 40), 3, dtype=torch.float32, seed=1)
    y = (low + 1e-9 * x).round(max_rank=3, method=method)
    assert y.ranks == (1, 3, 3, 1)
    difference = y.to(torch.float64) - low.to(torch.float64)
    assert float(difference.norm() / low.to(torch.float64).norm()) <= 2e-6


@each_method
@pytest.mark.parametrize("shape", [(), (3,), (1, 1), (3, 4), (2, 1, 3)])
def test_no_memory_is_shared(shape, method):
    x = ttnet.random(shape, 2, dtype=torch.float64, seed=0)
    y = x.round(method=method)
    assert relative_error(dense(y), dense(x)) <= 1e-14
    pointers = {core.untyped_storage().data_ptr() for core in x.cores}
    assert not pointers & {core.untyped_storage().data_ptr() for core in y.cores}
    z = ttnet.round_sum([x], method=method)
    assert relative_error(dense(z), dense(x)) <= 1e-14
    assert not pointers & {core.untyped_storage().data_ptr() for core in z.cores}


@each_method
def test_cores_of_any_layout(method):
    shapes = [(1, 40, 40), (40, 40, 40), (40, 40, 1)]
    generator = torch.Generator().manual_seed(0)
    lazy = [torch.randn(shape, dtype=torch.complex128, generator=generator).conj().imag for shape in shapes]
    spread = [torch.randn(shape[1:], dtype=torch.float64, generator=generator).expand(shape) for shape in shapes]
    turned = [torch.randn(shape[::-1], dtype=torch.float64, generator=generator).permute(2, 1, 0) for shape in shapes]
    assert lazy[0].is_neg()
    for cores in (lazy, spread, turned):
        x = TensorTrain(cores)
        plain = TensorTrain(core.resolve_neg().contiguous() for core in cores)
        for arguments in [{"max_rank": 4}, {"eps": 0.5}]:
            y, expected = x.round(**arguments, method=method), plain.round(**arguments, method=method)
            assert y.ranks == expected.ranks
            assert relative_error(dense(y), dense(expected)) <= 1e-11


@each_method
def test_the_same_call_gives_the_same_train(method):
    x = with_spectrum(SPECTRA["gap"])
    state = torch.get_rng_state()
    assert same(x.round(eps=1e-4, method=method), x.round(eps=1e-4, method=method))
    assert same(x.round(max_rank=4, method=method), x.round(max_rank=4, method=method))
    assert torch.equal(state, torch.get_rng_state())


def test_errors():
    x = ttnet.ones((2, 3))
    with pytest.raises(TTTypeError, match="tt is a Tensor; expected a TensorTrain"):
        ttnet.round(torch.ones(2))
    with pytest.raises(TTValueError, match="method is 'qr'; expected 'auto' or 'svd' or 'gram' or 'randomized'"):
        x.round(method="qr")
    with pytest.raises(TTValueError, match="eps is -1"):
        x.round(eps=-1)
    for infinite in (ttnet.TensorTrain([*x.cores[:-1], x.cores[-1] * torch.inf]), x * float("nan")):
        with pytest.raises(TTValueError, match="cores\\[1\\] holds NaN or infinite entries, 3 of 3"):
            infinite.round()


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, of its jvp
def test_what_has_no_numbers_is_refused():
    x = ttnet.random((20,) * 3, 40, dtype=torch.float64, seed=0)

    def rounded(core):
        return TensorTrain([core, *x.cores[1:]]).round(max_rank=3).full().sum()

    core = x.cores[0]
    for attempt in (
        lambda: torch.func.grad(rounded)(core),
        lambda: torch.func.jvp(rounded, (core,), (core,)),
        lambda: torch.func.vmap(rounded)(torch.stack([core, core])),
        lambda: x.to("meta").round(),
        lambda: ttnet.round_sum([x.to("meta")]),
    ):
        with pytest.raises(TTValueError, match=r"cores\[0\] has no plain numbers"):
            attempt()
