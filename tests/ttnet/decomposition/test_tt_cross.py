import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttnet
from tests.examples import examples
from tests.ttnet.decomposition.functions import (
    all_indices,
    exp_of_distance,
    grid,
    reciprocal,
    sampled_error,
    sine_of_sum,
    tensor_of,
)
from tests.ttnet.strategies import DTYPES, dense, draw_indices, draw_train, precision, relative_error, same, seeds
from ttnet import CrossStatus, TTConvergenceError, TTError


def test_names():
    assert issubclass(TTConvergenceError, TTError)
    assert issubclass(TTConvergenceError, RuntimeError)
    assert not isinstance(CrossStatus.CONVERGED.value, int)
    for status in CrossStatus:
        assert status.value.endswith(".")


# Well-known functions, with the ranks that their theory or TT-SVD gives.


def hilbert(i):
    return 1 / (1 + i.sum(1).double())


def gaussian(i):
    x = grid(15, -1, 1)[i]
    return torch.exp(-x.sum(1).square() - x.square().sum(1))


def rosenbrock(i):
    x = grid(10, -2, 2)[i]
    return ((1 - x[:, :-1]) ** 2 + 100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2).sum(1)


SMOOTH = [
    (reciprocal, (12,) * 5, 1e-6),
    (reciprocal, (12,) * 5, 1e-11),
    (exp_of_distance, (20,) * 4, 1e-6),
    (hilbert, (50, 40, 60), 1e-8),
    (hilbert, (16,) * 4, 1e-4),
    (gaussian, (15,) * 4, 1e-7),
    (rosenbrock, (10,) * 5, 1e-6),
    (sine_of_sum, (12,) * 5, 1e-9),
]


@pytest.mark.parametrize(("f", "shape", "eps"), SMOOTH)
@pytest.mark.parametrize("seed", [0, 1])
def test_smooth_functions_meet_the_bound(f, shape, eps, seed):
    result = ttnet.tt_cross(f, shape, eps=eps, seed=seed)
    full = tensor_of(f, shape)
    assert result.converged
    assert result.status is CrossStatus.CONVERGED
    assert relative_error(result.value.full(), full) <= eps
    assert 0 <= result.error_estimate <= eps
    # As small as TT-SVD makes them with the same share of the bound, give or take one.
    best = ttnet.tt_svd(full, eps=eps / 2).ranks
    assert all(rank <= other + 1 for rank, other in zip(result.value.ranks, best, strict=True))


@pytest.mark.parametrize(
    ("f", "shape", "ranks"),
    [
        (sine_of_sum, (12,) * 7, {2}),
        (rosenbrock, (10,) * 6, {3}),
        (lambda i: i.sum(1), (9,) * 8, {2}),
        (lambda i: grid(9, 0.5, 1.5)[i].prod(1), (9,) * 8, {1}),
        (lambda i: (-1.0) ** i.sum(1).double(), (9,) * 8, {1}),
        (lambda i: (i < 4).all(1), (9,) * 5, {1}),
        (lambda i: (i[:, 0] == i[:, -1]).double(), (9,) * 5, {9}),
        (lambda i: ((i - 3).abs() < 2).sum(1) > 2, (9,) * 4, {2}),
    ],
)
def test_functions_of_low_rank_are_found_exactly(f, shape, ranks):
    result = ttnet.tt_cross(f, shape)
    assert result.converged
    assert set(result.value.ranks[1:-1]) == ranks
    assert sampled_error(lambda i: f(i).double(), result.value) <= 1e-12


@examples(0.4)
@given(st.integers(2, 6), st.integers(2, 5), seeds, st.sampled_from([torch.float64, torch.complex128]))
def test_trains_are_recovered(order, rank, seed, dtype):
    truth = draw_train((7,) * order, [rank] * (order - 1), dtype, seed)
    result = ttnet.tt_cross(lambda i: ttnet.evaluate(truth, i), truth.shape, seed=seed, samples=100)
    assert result.converged
    assert result.value.ranks == ttnet.round(truth, eps=1e-10).ranks
    assert result.value.dtype == dtype
    assert (result.value - truth).norm() <= 1e-10 * truth.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_that_of_the_values(dtype):
    truth = draw_train((8,) * 5, [3] * 4, dtype, 0)
    result = ttnet.tt_cross(lambda i: ttnet.evaluate(truth, i), truth.shape, eps=1e-5)
    assert result.converged
    assert result.value.dtype == dtype
    assert result.value.ranks == truth.ranks
    assert relative_error(dense(result.value), dense(truth)) <= 1e-5


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
        (torch.float64, torch.complex64),
        (torch.float64, torch.bfloat16),
        (torch.float16, None),
        (torch.bfloat16, None),
    ],
)
def test_another_dtype_can_be_asked_for(values, dtype):
    result = ttnet.tt_cross(lambda i: reciprocal(i).to(values), (12,) * 5, dtype=dtype)
    assert result.converged
    assert result.value.dtype == (dtype or values)
    coarsest = max(torch.finfo(values).eps, torch.finfo(result.value.dtype).eps)
    assert relative_error(dense(result.value), tensor_of(reciprocal, (12,) * 5)) <= 8 * math.sqrt(5) * coarsest


def test_what_f_may_return():
    expected = ttnet.tt_cross(lambda i: i.sum(1).double(), (9,) * 5)
    read_only = []

    def frozen(i):
        read_only.append(np.asarray(i.sum(1), dtype=np.float64))
        read_only[-1].flags.writeable = False
        return read_only[-1]

    for f in [
        lambda i: i.sum(1),
        lambda i: i.sum(1).int(),
        lambda i: i.sum(1).to(torch.uint8),
        lambda i: i.sum(1).numpy(),
        lambda i: i.sum(1).numpy().astype(">f8"),
        lambda i: torch.stack([i.sum(1), i.sum(1)], dim=1).double()[:, 0],
        lambda i: i.sum(1).double().requires_grad_(),
        frozen,
    ]:
        assert same(ttnet.tt_cross(f, (9,) * 5).value, expected.value)
    assert ttnet.tt_cross(lambda i: i.sum(1) % 2 == 0, (9,) * 5).value.dtype == torch.float64


# Constants, zeros, and the edges of shapes.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2000,), (9,) * 5, (2,) * 60, (1, 30, 1, 1, 50, 1)])
def test_constants_and_zeros_have_ranks_one(shape, dtype):
    for number in [0.0, 3.0]:
        result = ttnet.tt_cross(lambda i, number=number: torch.full((len(i),), number, dtype=dtype), shape)
        assert result.converged
        assert set(result.value.ranks) == {1}
        assert result.value.shape == shape
        assert result.value.dtype == dtype
        picked = ttnet.evaluate(
            result.value, draw_indices(shape, 50) if shape else torch.empty(1, 0, dtype=torch.int64)
        )
        if number:
            assert relative_error(picked, torch.full_like(picked, number)) <= precision(dtype)
        else:
            assert not picked.any()


def test_orders_zero_and_one():
    scalar = ttnet.tt_cross(lambda i: torch.full((len(i),), 2.5, dtype=torch.float64), ())
    assert (scalar.value.ndim, float(scalar.value.full()), scalar.evaluations) == (0, 2.5, 1)
    for size in [1, 7, 3000]:
        result = ttnet.tt_cross(lambda i: i[:, 0] ** 2, (size,), max_rank=[])
        assert torch.equal(result.value.full(), torch.arange(size, dtype=torch.float64) ** 2)
        assert result.converged


@settings(derandomize=True)  # a few samples of few entries may miss what makes the rank, by bad luck
@given(st.lists(st.sampled_from([1, 1, 2, 5]), min_size=1, max_size=6).map(tuple), seeds, st.integers(10, 40))
def test_any_small_shape_works_with_any_number_of_samples(shape, seed, samples):
    full = dense(draw_train(shape, [2] * (len(shape) - 1), torch.float64, seed))
    result = ttnet.tt_cross(lambda i: full[i.unbind(1)], shape, samples=samples, seed=seed, eps=1e-9)
    assert result.converged
    assert result.samples == min(samples, full.numel())
    assert result.value.shape == shape
    assert relative_error(result.value.full(), full) <= 1e-9
    if samples >= full.numel():
        assert (result.evaluations, result.sweeps, result.history) == (full.numel(), 0, ())
        assert "computed on all" in result.caveat
    else:
        assert "estimated on" in result.caveat


def test_a_small_tensor_is_evaluated_once_and_whole():
    calls = []

    def f(i):
        calls.append(i)
        return 1 / (1 + i.sum(1).double())

    for max_rank, converged in [(None, True), (2, False)]:
        calls.clear()
        result = ttnet.tt_cross(f, (6, 5, 4), eps=1e-9, max_rank=max_rank)
        assert torch.equal(torch.cat(calls), all_indices((6, 5, 4)))
        assert result.converged == converged
        full = tensor_of(lambda i: 1 / (1 + i.sum(1).double()), (6, 5, 4))
        assert result.error_estimate == pytest.approx(relative_error(result.value.full(), full), rel=1e-3, abs=1e-15)
    assert result.status is CrossStatus.MAX_RANK
    assert max(result.value.ranks) == 2
    ones = ttnet.tt_cross(f, (1,) * 300)  # more modes than torch allows a tensor
    assert ones.value.shape == (1,) * 300
    assert ones.converged


@pytest.mark.parametrize("order", [100, 200])
def test_long_trains(order):
    angles = grid(8, 0, 3)
    result = ttnet.tt_cross(lambda i: torch.sin(angles[i].sum(1)), (8,) * order, eps=1e-8)
    assert result.converged
    assert set(result.value.ranks[1:-1]) == {2}
    assert result.value.numel == 8**order
    assert sampled_error(lambda i: torch.sin(angles[i].sum(1)), result.value, 1000) <= 1e-8


def test_quantised_functions():
    digits = 0.5 ** torch.arange(1, 41, dtype=torch.float64)
    f = lambda i: (1e-3 + i.double() @ digits).sqrt()  # noqa: E731
    result = ttnet.tt_cross(f, (2,) * 40, eps=1e-8)
    assert result.converged
    assert sampled_error(f, result.value) <= 1e-8
    assert result.evaluations < 1e-6 * 2**40


def test_long_modes():
    result = ttnet.tt_cross(lambda i: torch.cos(1e-4 * i.sum(1).double()), (30_000, 20_000), eps=1e-9)
    assert result.converged
    assert result.value.ranks == (1, 2, 1)


# Scales.


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("exponent", [-1000, -565, 565, 1000])
def test_scale_does_not_matter(dtype, exponent):
    f = lambda i: reciprocal(i).to(dtype)  # noqa: E731
    plain = ttnet.tt_cross(f, (12,) * 4)
    scaled = ttnet.tt_cross(lambda i: f(i) * 2.0**exponent, (12,) * 4)
    assert scaled.value.ranks == plain.value.ranks
    assert scaled.evaluations == plain.evaluations
    assert scaled.error_estimate == plain.error_estimate
    assert torch.equal(scaled.value.full() * 2.0**-exponent, plain.value.full())


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1e-170, torch.float64),
        (1e170, torch.float64),
        (1e-300, torch.float64),
        (1e308, torch.float64),
        (1e-25, torch.float32),
        (1e38, torch.float32),
        (1e-25, torch.complex64),
    ],
)
def test_scales_at_the_edges_of_the_dtype(scale, dtype):
    result = ttnet.tt_cross(lambda i: (scale * reciprocal(i)).to(dtype), (12,) * 4, eps=1e-5)
    assert result.converged
    assert all(core.isfinite().all() for core in result.value.cores)
    assert relative_error(result.value.full() / scale, tensor_of(reciprocal, (12,) * 4)) <= 1e-5


def test_errors_are_seen_at_any_scale():
    for scale in [1e-300, 1e-170, 1e170, 1e300]:
        result = ttnet.tt_cross(lambda i, s=scale: s * exp_of_distance(i), (20,) * 4, max_rank=2)
        assert result.status is CrossStatus.MAX_RANK
        truth = relative_error(result.value.full() / scale, tensor_of(exp_of_distance, (20,) * 4))
        assert truth / 2 <= result.error_estimate <= 2 * truth


def test_a_norm_beyond_the_dtype():
    result = ttnet.tt_cross(lambda i: 1e300 * (1 + grid(1000)[i].mean(1)), (1000,) * 6)
    assert result.converged
    assert set(result.value.ranks[1:-1]) == {2}
    assert float(result.value.log_norm()) == pytest.approx(math.log(1.5e300) + 3 * math.log(1000), rel=1e-4)


def test_a_narrow_peak():
    # Nearly all of the norm lies where no sample falls; relative to what samples see, no train would be good enough.
    f = lambda i: torch.exp(-50 * (grid(16)[i] - 0.4).square().sum(1).sqrt())  # noqa: E731
    result = ttnet.tt_cross(f, (16,) * 5, eps=1e-4)
    assert result.converged
    assert relative_error(result.value.full(), tensor_of(f, (16,) * 5)) <= 1e-4


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_grids_are_points_of_real_variables(kind):
    grids = [kind([0.0, 0.5, 2.0]), kind([1.0, 3.0]), kind([-1.0, 0.25, 0.5, 4.0])]
    found = ttnet.tt_cross(lambda x: x[:, 0] * x[:, 1] + x[:, 2].exp(), grids, eps=1e-10).value
    x, y, z = torch.meshgrid(*[torch.as_tensor(grid) for grid in grids], indexing="ij")
    torch.testing.assert_close(found.full(), x * y + z.exp())
    large = [torch.linspace(0, 1, 50, dtype=torch.float64)] * 8
    result = ttnet.tt_cross(lambda x: 1 / (1 + x.sum(1)), large, eps=1e-8)
    at = torch.randint(50, (100, 8))
    torch.testing.assert_close(ttnet.evaluate(result.value, at), 1 / (1 + large[0][at].sum(1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("view", [lambda x: x[::-1], lambda x: x[::2], lambda x: x.astype(">f8")])
def test_grids_are_arrays_of_any_strides_and_byte_order(view):
    points = view(np.linspace(0, 1, 8))
    found = ttnet.tt_cross(lambda x: x[:, 0] - x[:, 1], [points, points], eps=1e-10).value
    assert np.allclose(found.numpy(), points[:, None] - points[None, :], atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([torch.ones(3), 4], r"shape\[1\] is a grid of shape \(\) and torch.int64; expected a vector of floating"),
        ([torch.ones(3, 2)], r"shape\[0\] is a grid of shape \(3, 2\)"),
        ([torch.arange(3)], r"shape\[0\] is a grid of shape \(3,\) and torch.int64"),
        ([torch.ones(3), torch.ones(0)], r"shape\[1\] is a grid of shape \(0,\)"),
        ([torch.ones(3), ["a", "b"]], r"shape\[1\] is a list that no tensor can be made of"),
        ([np.array(["a", "b"])], r"shape\[0\] is a ndarray that no tensor can be made of"),
        ([np.ones(2, np.longdouble)], r"shape\[0\] has dtype (float128|longdouble|float96)"),
    ],
)
def test_grids_that_are_none_are_refused(shape, words):
    with pytest.raises(ttnet.TTTypeError, match=words):
        ttnet.tt_cross(lambda x: x.sum(1), shape)
    with pytest.raises(ttnet.TTTypeError, match="f is a int"):
        ttnet.tt_cross(1, [torch.ones(3)])
