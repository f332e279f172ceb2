import math

import numpy as np
import pytest
import torch
from hypothesis import given

import ttnet
from tests.ttnet.rounding.spectra import METHODS, SPECTRA, by_columns, by_gram, log_error, with_spectrum
from tests.ttnet.strategies import dense, draw_tensor, relative_error, seeds
from ttnet import TensorTrain
from ttnet.numerics.train_scales import join_scale
from ttnet.rounding import gram, methods, randomized
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.exact import round_exactly
from ttnet.rounding.gram import _right_factors, round_by_gram
from ttnet.rounding.methods import GRAM_EPS, GRAM_RANK, choose_method
from ttnet.rounding.randomized import draw_sketch, project, round_randomly
from ttnet.rounding.sums import TrainSum


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


def test_products_noisier_than_those_measured_cost_digits_and_not_an_svd(monkeypatch):
    x = with_spectrum([1.0] * 3 + [1e-9] * 40)  # whose squares are below all rounding
    measured = [noise for _, noise in _right_factors(TrainSum([x.cores], None, x.dtype))]
    monkeypatch.setattr(gram, "_noise_of_gram", lambda size: 1e-17)
    noises = [noise for _, noise in _right_factors(TrainSum([x.cores], None, x.dtype))]
    assert max(noises) == 256 * 1e-17 < max(measured)
    y = x.round(eps=1e-5, method="gram")
    assert max(y.ranks) == 3
    assert relative_error(dense(y), dense(x)) <= 1e-5
    monkeypatch.setattr(gram, "_noise_of_gram", lambda size: 1e-20)
    assert by_gram(x, eps=1e-5) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-3, 0.3, 1.0])
@pytest.mark.parametrize("smallest", [1.0, 1e-8, 1e-30, 0.0])
def test_columns_are_made_orthonormal_however_far_they_are_from_it(dtype, apart, smallest):
    """By a Cholesky factor as long as that is sure, and else by Householder's transformations."""
    x = draw_tensor((200, 12), dtype, 0)
    basis = torch.linalg.qr(x).Q
    columns = basis.clone()
    columns[:, 1:] += apart * basis[:, :-1]  # of full rank all the same
    columns *= torch.logspace(0, -3, 12, dtype=torch.float64)
    columns[:, -1] *= smallest
    u = gram._orthonormal(columns)
    assert float((u.mH @ u - torch.eye(12)).abs().max()) < 1e-14
    kept = columns[:, : 12 if smallest == 1.0 else 11]
    assert float((kept - u @ (u.mH @ kept)).abs().max()) < 1e-14


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
        factor = factors[k - 1][0].numpy().astype(np.longdouble)
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


def test_what_a_projection_misses_is_not_spent_twice(monkeypatch):
    eps, missed, given = 1e-3, 3e-4, []
    project, trim = randomized.project, randomized._trim
    monkeypatch.setattr(randomized, "project", lambda *args: (project(*args)[0], missed))
    monkeypatch.setattr(randomized, "_trim", lambda train, eps, *args: given.append(eps) or trim(train, eps, *args))
    assert by_columns(with_spectrum(SPECTRA["gap"]), eps=eps) is not None
    assert math.hypot(given[0], missed) == pytest.approx(eps)


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
