import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import dense, draw_train, precision, relative_error, same, seeds, trains
from ttnet import TensorTrain, TTShapeError, TTTypeError, TTValueError, round_sum
from ttnet.numerics.train_scales import join_scale
from ttnet.rounding import methods, randomized
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.exact import round_exactly
from ttnet.rounding.gram import _right_factors, round_by_gram
from ttnet.rounding.methods import GRAM_EPS, GRAM_RANK, choose_method
from ttnet.rounding.randomized import draw_sketch, project, round_randomly
from ttnet.rounding.sums import TrainSum

METHODS = ["svd", "gram", "randomized"]
each_method = pytest.mark.parametrize("method", METHODS)


def is_left_orthogonal(x):
    grams = [core.flatten(0, 1).mH @ core.flatten(0, 1) for core in x.cores[:-1]]
    return all(float((gram - torch.eye(len(gram))).abs().max()) <= precision(x.dtype) for gram in grams)


def log_error(x, y):
    """Logarithm of the relative error, of trains whose norm may be no number."""
    return float((x - y).log_norm() - x.log_norm())


def with_spectrum(values, shape=(12,) * 4, dtype=torch.float64, seed=0):
    """A train whose bonds all have about these singular values, in a basis that does not show them."""
    rank = len(values)
    cores = list(ttnet.random(shape, rank, dtype=dtype, seed=seed).orthogonalise(-1).cores)
    generator = torch.Generator().manual_seed(seed + 1)
    for k in range(len(shape) - 1):
        size = cores[k].shape[2]
        basis = torch.linalg.qr(torch.randn(size, size, dtype=dtype, generator=generator))[0]
        scaled = torch.diag(torch.as_tensor(values[:size], dtype=dtype)) @ basis
        cores[k] = torch.tensordot(cores[k], scaled, 1)
        cores[k + 1] = torch.tensordot(basis.mH, cores[k + 1], 1)
    return TensorTrain(cores)


SPECTRA = {
    "slow": [1 / (1 + i) for i in range(48)],
    "exponential": [0.6**i for i in range(48)],
    "gap": [1.0] * 6 + [1e-13] * 42,
    "flat": [1.0] * 48,
}


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


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("eps", [0.5, 1e-2, 1e-4, GRAM_EPS])
def test_squares_suffice_down_to_their_border(spectrum, eps):
    x = with_spectrum(SPECTRA[spectrum])
    result = round_by_gram(
        TrainSum([x.cores], None, x.dtype), RelativeBudget(eps=eps, max_ranks=[None] * 3, dtype=x.dtype)
    )
    assert result is not None
    y = TensorTrain(join_scale(*result, x.dtype))
    assert relative_error(dense(y), dense(x)) <= eps
    assert all(a <= b + 1 for a, b in zip(y.ranks, x.round(eps=eps, method="svd").ranks, strict=True))


def by_gram(x, **arguments):
    given = {"eps": 0.0, "max_ranks": [None] * (x.ndim - 1), "dtype": x.dtype} | arguments
    return round_by_gram(TrainSum([x.cores], None, x.dtype), RelativeBudget(**given))


def test_squares_are_given_up_where_they_drown():
    slow, gap = with_spectrum(SPECTRA["slow"]), with_spectrum(SPECTRA["gap"])
    assert by_gram(with_spectrum(SPECTRA["exponential"]), eps=1e-9) is None
    assert by_gram(gap) is None  # ranks 6, or 48?
    assert by_gram(gap, max_ranks=[6] * 3) is None  # exact, or an error of 1e-8?
    assert by_gram(slow, max_ranks=[6] * 3) is not None
    assert by_gram(slow) is not None  # all kept, and all clear of the noise
    cancelling = slow - (1 - 1e-6) * slow + 1e-6 * with_spectrum(SPECTRA["slow"], seed=1)
    assert by_gram(cancelling, eps=1e-2) is None
    assert by_gram(slow - slow, eps=1e-2) is None
    y = cancelling.round(eps=1e-2, method="gram")
    assert log_error(cancelling, y) <= math.log(1e-2)


@pytest.mark.parametrize("kind", ["random", "positive", "overcomplete", "badly scaled"])
def test_enlarged_gram_matrices_bound_the_exact_ones(kind):
    x = ttnet.random((6,) * 4, 12, dtype=torch.float64, seed=0)
    if kind == "positive":
        x = TensorTrain(core.abs() for core in x.cores)
    if kind == "overcomplete":
        part = ttnet.random((6,) * 4, 3, dtype=torch.float64, seed=0)
        x = part + part + part + part
    if kind == "badly scaled":
        x = TensorTrain(core * 10.0 ** torch.arange(-6, core.shape[2] - 6) for core in x.cores)
    factors = _right_factors(TrainSum([x.cores], None, torch.float64))
    exact = np.ones((1, 1), dtype=np.longdouble)  # of more digits than the double precision in question
    for k in range(3, 0, -1):
        core = x.cores[k].numpy().astype(np.longdouble)
        exact = np.einsum("anb,bc,dnc->ad", core, exact, core)
        factor = factors[k - 1].numpy().astype(np.longdouble)
        enlarged = factor @ factor.T
        # The factors' own scale is a power of two.
        enlarged *= np.longdouble(2) ** np.round(np.log2(np.trace(exact) / np.trace(enlarged)))
        scale = np.sqrt(np.diag(exact))
        surplus = ((enlarged - exact) / np.outer(scale, scale)).astype(float)
        assert np.linalg.eigvalsh(surplus)[0] >= 0
        assert np.abs(surplus).max() <= 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_few_columns_suffice_where_the_spectrum_has_a_gap(dtype):
    for eps, values in [(1e-2, SPECTRA["gap"]), (1e-8, SPECTRA["gap"]), (1e-4, [0.3**i for i in range(48)])]:
        x = with_spectrum(values, dtype=dtype)
        result = round_randomly(TrainSum([x.cores], None, dtype), eps=eps, max_ranks=[None] * 3, dtype=dtype)
        assert result is not None
        y = TensorTrain(join_scale(*result, dtype))
        assert relative_error(dense(y), dense(x)) <= eps
        assert all(a <= b + 1 for a, b in zip(y.ranks, x.round(eps=eps, method="svd").ranks, strict=True))


def by_columns(x, **arguments):
    given = {"eps": 0.0, "max_ranks": [None] * (x.ndim - 1), "dtype": x.dtype} | arguments
    return round_randomly(TrainSum([x.cores], None, x.dtype), **given)


def test_columns_are_given_up_where_they_cost_more_or_prove_nothing():
    slow, gap = with_spectrum(SPECTRA["slow"]), with_spectrum(SPECTRA["gap"])
    assert by_columns(slow, eps=1e-2) is None
    assert by_columns(gap, eps=1e-14) is None  # no check sees so little
    assert by_columns(gap) is None
    assert by_columns(slow, max_ranks=[40] * 3) is None
    assert by_columns(slow, max_ranks=[6] * 3) is not None
    assert by_columns(slow, eps=1e-3, max_ranks=[6] * 3) is not None  # max_rank forbids the bound anyway
    assert by_columns(slow, eps=0.6, max_ranks=[12] * 3) is None  # it does not, and the check does not confirm it


@given(seeds)
def test_a_check_never_understates_what_a_projection_misses(seed):
    x = TrainSum([ttnet.random((6,) * 6, 36, dtype=torch.float64, seed=0).cores], None, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    sketch = draw_sketch(x, [8] * 5, generator)
    (cores, exponent), bound = project(x, [sketch], draw_sketch(x, [32] * 5, generator))
    y = TensorTrain(join_scale(cores, exponent, torch.float64))
    full = TensorTrain(blocks[0] for blocks in x.cores)
    assert float((full - y).norm() / y.norm()) <= bound


def test_sketches_keep_squares_on_average():
    x = TrainSum([ttnet.random((4,) * 6, 12, dtype=torch.float64, seed=0).cores], None, torch.float64)
    full = TensorTrain(blocks[0] for blocks in x.cores)
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for _ in range(400):
        sketch = draw_sketch(x, [8] * 5, generator)
        left = x.times_left(0, x.head).flatten(0, 1) @ sketch.factors[0]
        ratios.append(float((left.norm() * 2.0 ** sketch.exponents[0] / full.norm()) ** 2))
    assert np.mean(ratios) == pytest.approx(1, abs=5 * np.std(ratios) / 20)
    assert np.std(ratios) > 0.05
    assert draw_sketch(x, [64] * 5, generator).steps == 0  # nothing is left to chance


def test_the_check_s_factor_is_a_bound_of_chi_squares():
    assert randomized._safety(0) == 1
    for steps in (1, 3, 10):
        samples = np.random.default_rng(0).chisquare(32, (20000, steps)) / 32
        assert randomized._safety(steps) > samples.prod(1).min() ** -0.5
    # One step has a closed form: the quantile of a chi-square, which the bound may exceed but slightly.
    assert 3.2 < randomized._safety(1) < 3.5


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


def test_what_a_projection_misses_is_not_spent_twice(monkeypatch):
    eps, missed, given = 1e-3, 3e-4, []
    project, trim = randomized.project, randomized._trim
    monkeypatch.setattr(randomized, "project", lambda *args: (project(*args)[0], missed))
    monkeypatch.setattr(randomized, "_trim", lambda train, eps, *args: given.append(eps) or trim(train, eps, *args))
    assert by_columns(with_spectrum(SPECTRA["gap"]), eps=eps) is not None
    assert math.hypot(given[0], missed) == pytest.approx(eps)


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
def test_order_1000_with_huge_and_tiny_cores(eps, method):
    x = ttnet.random((2,) * 1000, 2, dtype=torch.float64, seed=0)
    wild = TensorTrain(core * (1e120 if k % 2 else 1e-120) for k, core in enumerate(x.cores))
    y = (wild + wild).round(eps=eps, method=method)
    assert max(y.ranks) == 2
    assert all(core.isfinite().all() for core in y.cores)
    assert float(y.log_norm()) == pytest.approx(float(x.log_norm()) + math.log(2), rel=1e-3 if eps > 1e-4 else 1e-13)
    assert log_error(2 * wild, y) <= math.log(eps)
    if eps == 1e-8:
        index = (1, 0) * 500
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


def chosen(method="auto", **changes):
    given = {"dtype": torch.float64, "rank": GRAM_RANK, "eps": GRAM_EPS, "max_rank": None, "grad": False}
    return choose_method(method, **(given | changes))


def test_what_auto_chooses():
    assert chosen() == chosen(dtype=torch.complex128) == "gram"
    assert chosen(rank=GRAM_RANK - 1) == "svd"
    assert chosen(eps=GRAM_EPS * 0.999) == "svd"
    assert chosen(eps=0.0, max_rank=GRAM_RANK // 2) == "gram"
    assert chosen(eps=0.0, max_rank=GRAM_RANK // 2 + 1) == "svd"
    assert chosen(dtype=torch.float32) == chosen(dtype=torch.bfloat16) == chosen(dtype=torch.complex64) == "svd"
    assert chosen(grad=True) == chosen("gram", grad=True) == chosen("randomized", grad=True) == "svd"
    assert [chosen(method, rank=2, eps=0.0) for method in METHODS] == METHODS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"eps": 1e-4}, ["gram"]),
        ({"eps": 1e-8}, ["svd"]),
        ({"max_rank": 6}, ["gram"]),
        ({"eps": 1e-8, "method": "gram"}, ["gram", "svd"]),
        ({"eps": 1e-8, "method": "randomized"}, ["randomized", "svd"]),
        ({"eps": 1e-5, "method": "randomized"}, ["randomized", "gram"]),
        ({"max_rank": 6, "method": "randomized"}, ["randomized"]),
    ],
)
def test_where_a_method_gives_up_the_next_one_takes_over(arguments, expected, monkeypatch):
    tried = []
    for name, function in [("svd", round_exactly), ("gram", round_by_gram), ("randomized", round_randomly)]:

        def spy(*args, name=name, function=function, **keywords):
            tried.append(name)
            return function(*args, **keywords)

        monkeypatch.setattr(methods, function.__name__, spy)
    with_spectrum(SPECTRA["exponential"]).round(**arguments)
    assert tried == expected


def test_errors():
    x = ttnet.ones((2, 3))
    with pytest.raises(TTTypeError, match="tt is a Tensor; expected a TensorTrain"):
        ttnet.round(torch.ones(2))
    with pytest.raises(TTValueError, match="method is 'qr'; expected 'auto' or 'svd' or 'gram' or 'randomized'"):
        x.round(method="qr")
    with pytest.raises(TTValueError, match="eps is -1"):
        x.round(eps=-1)
    for infinite in (x * float("inf"), x * float("nan"), x * complex(0, float("-inf"))):
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("max_rank", [1, 2, [2, 3], None])
def test_gradients(dtype, max_rank):
    x = draw_train((3, 3, 3), [3, 3], dtype, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    assert gradcheck(lambda *c: TensorTrain(c).round(max_rank=max_rank).full(), cores)


@each_method
def test_gradients_flow_whatever_the_method(method):
    x = with_spectrum(SPECTRA["slow"])
    gradients = []
    for name in ("svd", method):
        cores = [core.clone().requires_grad_() for core in x.cores]
        TensorTrain(cores).round(max_rank=3, method=name).full().pow(3).sum().backward()
        gradients.append([core.grad for core in cores])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(bool(gradient.any()) for gradient in gradients[0])
    with torch.no_grad():
        y = TensorTrain(cores).round(max_rank=3, method=method)
    assert same(y, x.round(max_rank=3, method=method))
    assert not y.cores[0].requires_grad


def test_gradients_at_any_scale():
    x = draw_train((3, 4, 5), [3, 4], torch.float64, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]
    scales = [1e120, 1e-120, 1e20]

    def function(*c):
        scaled = TensorTrain(core * scale for core, scale in zip(c, scales, strict=True))
        return scaled.round(max_rank=2).full() * 1e-20

    assert gradcheck(function, cores)


@pytest.mark.parametrize("size", [3, 40])
def test_gradients_are_finite_at_low_rank(size):
    for fill in (torch.zeros, torch.ones):
        cores = [fill(1, size, 40, requires_grad=True), torch.ones(40, size, 1, requires_grad=True)]
        x = TensorTrain(cores)
        for arguments in [{}, {"max_rank": 2}, {"eps": 0.1}]:
            (x + x).round(**arguments).full().sum().backward()
        assert all(core.grad.isfinite().all() for core in cores)


def test_gradients_of_overcomplete_trains():
    x = draw_train((4, 5, 4), [2, 2], torch.float64, 0)
    cores = [core.clone().requires_grad_() for core in x.cores]

    def function(*c):
        train = TensorTrain(c)
        return (train + 2 * train).round(eps=1e-9).full()

    assert gradcheck(function, cores)


@given(st.data(), trains(), st.sampled_from(METHODS))
def test_sums_of_trains(data, first, method):
    terms = [first] + [data.draw(trains(shape=first.shape)) for _ in range(data.draw(st.integers(0, 3)))]
    numbers = st.sampled_from([-2, -0.7, 0, 0.01, 1, 3.5])
    weights = data.draw(st.one_of(st.none(), st.lists(numbers, min_size=len(terms), max_size=len(terms))))
    y = ttnet.round_sum(terms, coefficients=weights, method=method)
    parts = [dense(term) * (weights[i] if weights else 1) for i, term in enumerate(terms)]
    expected = sum(parts[1:], parts[0])
    dtype = terms[0].dtype
    for term in terms:
        dtype = torch.promote_types(dtype, term.dtype)
    assert (y.shape, y.dtype) == (first.shape, dtype)
    # The least precise summand sets what the sum is known to, and summands may cancel.
    scale = max(float(part.norm()) for part in parts)
    floor = max(precision(term.dtype) for term in terms) * scale
    assert float((dense(y) - expected).norm()) <= floor
    assert y.ndim < 2 or is_left_orthogonal(y) or float(expected.norm()) <= floor


@each_method
@pytest.mark.parametrize("arguments", [{"eps": 1e-1}, {"eps": 1e-5}, {"eps": 1e-9}, {"max_rank": 5}, {}])
def test_a_sum_is_rounded_as_if_it_were_formed(arguments, method):
    terms = [ttnet.random((9,) * 4, 6, dtype=torch.float64, seed=i) * 0.1**i for i in range(8)]
    weights = [1, -1, 2, 0.5, 3, 1, 0, 1]
    whole = sum((w * x for w, x in zip(weights[1:], terms[1:], strict=True)), weights[0] * terms[0])
    y, expected = ttnet.round_sum(terms, coefficients=weights, **arguments, method=method), whole.round(**arguments)
    best, error = relative_error(dense(expected), dense(whole)), relative_error(dense(y), dense(whole))
    if "eps" in arguments:
        assert error <= arguments["eps"]
    assert error <= max(2 * best, arguments.get("eps", 0.0), 1e-13)
    assert all(a <= b + 1 for a, b in zip(y.ranks, expected.ranks, strict=True))


@each_method
def test_sums_of_summands_of_any_scale(method):
    x, y = (with_spectrum(SPECTRA["exponential"], seed=seed) for seed in (0, 5))
    huge = TensorTrain(core * 1e150 for core in x.cores)
    tiny = TensorTrain(core * 1e-150 for core in y.cores)
    nothing = TensorTrain([huge.cores[0] * 0, *huge.cores[1:]])
    assert log_error(tiny, ttnet.round_sum([tiny, nothing], eps=1e-6, method=method)) <= math.log(1e-6)
    assert log_error(huge, ttnet.round_sum([tiny, huge], eps=1e-6, method=method)) <= math.log(1e-6)
    # Equal again by their coefficients: 1e-300 times 1e600 against 1e300 times 1e-600.
    z = ttnet.round_sum([x * 1e-250, y * 1e250], coefficients=[1e250, 1e-250], eps=1e-6, method=method)
    assert log_error(x + y, z) <= math.log(1e-6)
    long = ttnet.random((2,) * 400, 3, dtype=torch.float64, seed=0)
    high, low = (TensorTrain(core * scale for core in long.cores) for scale in (1e3, 1e-3))
    total = ttnet.round_sum([low, high, low], eps=1e-6, method=method)
    assert log_error(high, total) <= math.log(1e-6)
    assert max(total.ranks) == 3


@each_method
def test_sums_of_summands_whose_norm_is_far_from_their_cores(method):
    core = torch.tensor([[1e-6, 1.0], [0.0, 1e-6]], dtype=torch.float64)[:, None].expand(2, 3, 2)
    small = TensorTrain([core[:1], *[core] * 198, core[:, :, 1:]])  # all its entries are 200 * 1e-1194
    level = TensorTrain([torch.full((1, 3, 1), 1e-6, dtype=torch.float64)] * 200)  # 1e-1200
    y = ttnet.round_sum([small, level], coefficients=[1, 2e8], eps=1e-6, method=method)
    assert y.ranks == (1,) * 201
    assert float(y.log_norm() - level.log_norm()) == pytest.approx(math.log(4e8), abs=1e-6)


def test_coefficients_promote_as_products_do():
    x = ttnet.random((3, 4), 2, dtype=torch.float32, seed=0)
    for weight in [2, 2.0, True, 1j, np.float64(2), torch.tensor(2.0, dtype=torch.float64), torch.tensor(1j)]:
        y, expected = ttnet.round_sum([x, x], coefficients=[weight, 0]), x * weight
        assert y.dtype == expected.dtype
        assert relative_error(dense(y), dense(expected)) <= 1e-6
    y = ttnet.round_sum(iter([x, x]), coefficients=torch.tensor([1.0, 2.0]))
    assert relative_error(dense(y), 3 * dense(x)) <= 1e-6


def test_gradients_of_sums():
    x, y = (draw_train((3, 4, 2), [2, 2], torch.float64, seed) for seed in (0, 1))
    weights = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    cores = [core.clone().requires_grad_() for core in (*x.cores, *y.cores)]

    def function(weights, *c):
        return ttnet.round_sum([TensorTrain(c[:3]), TensorTrain(c[3:])], coefficients=weights, max_rank=2).full()

    assert gradcheck(function, (weights, *cores))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ([ttnet.ones((2, 3))], {}, TTTypeError, "trains is a TensorTrain; expected a list of TensorTrains"),
        ([3], {}, TTTypeError, "trains is a int; expected a list"),
        ([[]], {}, TTValueError, "trains is empty; expected at least one train"),
        ([[ttnet.ones((2,)), 3]], {}, TTTypeError, "trains\\[1\\] is a int; expected a TensorTrain"),
        (
            [[ttnet.ones((2,)), ttnet.ones((3,))]],
            {},
            TTShapeError,
            "trains\\[1\\] has shape \\(3,\\) but trains\\[0\\]",
        ),
        (
            [[ttnet.ones((2,)), ttnet.ones((2,)).to("meta")]],
            {},
            TTValueError,
            "trains\\[1\\] is on meta but trains\\[0\\] is on cpu",
        ),
        ([[ttnet.ones((2,))]], {"coefficients": 3}, TTTypeError, "coefficients is a int; expected one number"),
        ([[ttnet.ones((2,))]], {"coefficients": [1, 2]}, TTShapeError, "coefficients has 2 entries; expected 1"),
        ([[ttnet.ones((2,))]], {"coefficients": ["a"]}, TTTypeError, "coefficients\\[0\\] is 'a'; expected a number"),
        (
            [[ttnet.ones((2,))]],
            {"coefficients": [math.nan]},
            TTValueError,
            "coefficients\\[0\\] is nan; expected a fin",
        ),
        (
            [[ttnet.ones((2,))]],
            {"coefficients": [10**400]},
            TTValueError,
            "coefficients\\[0\\] is 1000.*; expected a f",
        ),
        ([[ttnet.ones((2,)), ttnet.ones((2,)) * math.nan]], {}, TTValueError, "trains\\[1\\].cores\\[0\\] holds NaN"),
        ([[ttnet.ones((2, 3))]], {"method": "best"}, TTValueError, "method is 'best'"),
        ([[ttnet.ones((2, 3))]], {"max_rank": [1, 2]}, TTShapeError, "max_rank has 2 entries; expected 1"),
    ],
)
def test_errors_of_sums(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        ttnet.round_sum(*arguments, **keywords)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_summands_that_grow_at_different_ends(method, order, dtype):
    grows, stays = torch.ones(1, 8, 1, dtype=dtype), torch.eye(8, dtype=dtype)[None, :, :1]
    x, y = (
        TensorTrain([*[one] * (order // 2), *[other] * (order // 2)]) for one, other in [(grows, stays), (stays, grows)]
    )
    expected = (order / 2 * math.log(8) + math.log(2)) / 2  # they overlap at one entry only
    for total in [
        round_sum([x, y], method=method),
        (x + y).round(method=method),
        ((x + y) * (x + y)).round(method=method),
    ]:
        assert float(total.log_norm()) == pytest.approx(expected, rel=1e-6)
    assert float(((x + y) * (x + y)).log_norm()) == pytest.approx(expected, rel=1e-6)
