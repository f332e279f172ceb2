import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import (
    DTYPES,
    dense,
    draw_tensor,
    draw_train,
    precision,
    relative_error,
    same,
    seeds,
    train_pairs,
    trains,
    wide,
)
from ttnet import (
    CrossStatus,
    TensorTrain,
    TTConvergenceError,
    TTError,
    TTIndexError,
    TTShapeError,
    TTTypeError,
    TTValueError,
)
from ttnet.decomposition.black_box import BlackBox
from ttnet.decomposition.maxvol import maxvol


def grid(size, low=0.0, high=1.0):
    return torch.linspace(low, high, size, dtype=torch.float64)


def all_indices(shape):
    return torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape))


def tensor_of(f, shape):
    return f(all_indices(shape)).reshape(shape)


def draw_indices(shape, count, seed=123):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in shape], dim=1)


def sampled_error(f, value, count=20_000):
    """The relative error on samples of the test's own, in which the search had no part."""
    indices = draw_indices(value.shape, count)
    return relative_error(ttnet.evaluate(value, indices), f(indices))


def reciprocal(i):
    return 1 / (1 + grid(12)[i].sum(1))


def test_names():
    assert issubclass(TTConvergenceError, TTError)
    assert issubclass(TTConvergenceError, RuntimeError)
    assert not isinstance(CrossStatus.CONVERGED.value, int)
    for status in CrossStatus:
        assert status.value.endswith(".")


# Well-known functions, with the ranks that their theory or TT-SVD gives.


def exp_of_distance(i):
    return torch.exp(-grid(20)[i].square().sum(1).sqrt())


def hilbert(i):
    return 1 / (1 + i.sum(1).double())


def gaussian(i):
    x = grid(15, -1, 1)[i]
    return torch.exp(-x.sum(1).square() - x.square().sum(1))


def rosenbrock(i):
    x = grid(10, -2, 2)[i]
    return ((1 - x[:, :-1]) ** 2 + 100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2).sum(1)


def sine_of_sum(i):
    return torch.sin(grid(12)[i].sum(1))


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


@settings(max_examples=20)
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


# Honesty.


def test_a_missed_spike_is_in_the_caveat():
    result = ttnet.tt_cross(lambda i: (i == 7).all(1).double(), (20,) * 8)
    assert not result.value.cores[0].any() or float(result.value.norm()) == 0  # no sample hit the one entry
    assert result.error_estimate == 0
    assert "1,000 random entries of 25,600,000,000" in result.caveat
    assert "no more than 0.3% of all entries" in result.caveat
    assert "a spike, can be missed" in result.caveat
    assert result.caveat in str(result)
    more = ttnet.tt_cross(lambda i: (i == 7).all(1).double(), (20,) * 8, samples=30_000)
    assert "no more than 0.01% of all entries" in more.caveat


def test_spikes_that_samples_hit_are_found():
    # No change of two neighbouring indices leads from one nonzero entry to another; only samples do.
    f = lambda i: (i == i[:, :1]).all(1).double() * (1 + i[:, 0])  # noqa: E731
    result = ttnet.tt_cross(f, (8,) * 4, samples=4000)
    assert result.converged
    assert result.value.ranks == (1, 8, 8, 8, 1)
    assert relative_error(result.value.full(), tensor_of(f, (8,) * 4)) <= 1e-12


@pytest.mark.parametrize("f", [lambda i: grid(10)[i].amin(1), lambda i: grid(10)[i].amax(1)], ids=["min", "max"])
def test_corners_are_looked_at(f):
    # The last rank of either hangs on one entry, in a corner.
    result = ttnet.tt_cross(f, (10,) * 5)
    assert result.converged
    assert relative_error(result.value.full(), tensor_of(f, (10,) * 5)) <= 1e-12


@pytest.mark.parametrize("eps", [1e-2, 1e-8])
def test_a_kink_of_high_rank_is_not_called_converged(eps):
    f = lambda i: (grid(30)[i].square().sum(1) < 1.0).double()  # noqa: E731
    result = ttnet.tt_cross(f, (30,) * 4, eps=eps, max_evaluations=150_000)
    assert not result.converged
    error = sampled_error(f, result.value)
    assert error > eps
    assert 0.5 * error <= result.error_estimate <= 2 * error


def noise(i):
    factors = 12.9898 + torch.arange(i.shape[1], dtype=torch.float64)
    return torch.frac(torch.sin(i.double() @ factors) * 43758.5)


def test_noise_is_not_called_converged():
    result = ttnet.tt_cross(noise, (40,) * 4)
    assert result.status is CrossStatus.STALLED
    assert result.error_estimate > 0.5
    slight = ttnet.tt_cross(lambda i: exp_of_distance(i) * (1 + 1e-4 * noise(i)), (20,) * 4, eps=1e-8)
    assert slight.status is CrossStatus.STALLED
    assert 1e-5 < slight.error_estimate < 1e-2
    assert sampled_error(exp_of_distance, slight.value) < 1e-2


def test_max_rank_goes_before_eps():
    full = tensor_of(exp_of_distance, (20,) * 4)
    for max_rank, ranks in [(4, (1, 4, 4, 4, 1)), ([2, 5, 3], (1, 2, 5, 3, 1))]:
        result = ttnet.tt_cross(exp_of_distance, (20,) * 4, eps=1e-9, max_rank=max_rank)
        assert result.status is CrossStatus.MAX_RANK
        assert result.value.ranks == ranks
        error = relative_error(result.value.full(), full)
        best = relative_error(ttnet.tt_svd(full, max_rank=max_rank).full(), full)
        assert error <= 2 * best
        assert error / 2 <= result.error_estimate <= 2 * error
    # A bound that is high enough changes nothing.
    assert ttnet.tt_cross(sine_of_sum, (12,) * 6, max_rank=2).converged


def test_max_evaluations():
    for limit in [1000, 2500, 6000, 12_000, 20_000]:
        count = 0

        def f(i):
            nonlocal count
            count += len(i)
            return reciprocal(i)

        result = ttnet.tt_cross(f, (12,) * 6, eps=1e-12, max_evaluations=limit)
        assert result.status is CrossStatus.MAX_EVALUATIONS
        assert result.evaluations == count <= limit
        assert result.error_estimate == min([1.0, *(progress.error for progress in result.history)])
    assert sampled_error(reciprocal, result.value) <= 2 * result.error_estimate < 1e-4
    # Where not even one half sweep can be paid, what is left is zero, and said to be wrong by all of it.
    nothing = ttnet.tt_cross(reciprocal, (12,) * 6, max_evaluations=1000)
    assert nothing.value.norm() == 0
    assert nothing.error_estimate == pytest.approx(1)


def test_max_sweeps():
    result = ttnet.tt_cross(reciprocal, (12,) * 6, eps=1e-12, max_sweeps=1)
    assert result.status is CrossStatus.MAX_SWEEPS
    assert result.sweeps == 1
    assert len(result.history) == 2


def test_a_callback_that_cannot_be_called_is_refused_at_once():
    with pytest.raises(TTTypeError, match="callback is a int; expected a function"):
        ttnet.tt_cross(reciprocal, (2, 2), callback=3)


def test_callback_and_history():
    seen = []
    result = ttnet.tt_cross(reciprocal, (12,) * 5, callback=seen.append)
    assert tuple(seen) == result.history
    assert [progress.bond for progress in seen[:3]] == [4, 1, 4]
    assert [progress.sweep for progress in seen[:3]] == [1, 1, 2]
    assert seen[0].change == math.inf
    assert seen[-1].ranks == result.value.ranks
    assert seen[-1].error == result.error_estimate
    assert seen[-1].evaluations == result.evaluations
    assert result.sweeps == seen[-1].sweep
    stopped = ttnet.tt_cross(reciprocal, (12,) * 5, callback=lambda progress: progress.bond == 4)
    assert stopped.status is CrossStatus.STOPPED
    assert len(stopped.history) == 1
    assert stopped.value.ranks == stopped.history[0].ranks


def test_texts():
    result = ttnet.tt_cross(sine_of_sum, (12,) * 5)
    assert repr(result).startswith("CrossResult(value=TensorTrain(")
    assert "status=CONVERGED, evaluations=" in repr(result)
    assert "\n" not in repr(result)
    lines = str(result).splitlines()
    assert lines[0] == f"CONVERGED: {CrossStatus.CONVERGED.value}"
    assert len(lines) == 5 + len(result.history)
    assert lines[4].split() == ["sweep", "bond", "max", "rank", "evaluations", "change", "error"]
    assert str(ttnet.tt_cross(sine_of_sum, (3, 3))).count("\n") == 3


# Manners.


def test_results_depend_on_the_seed_alone():
    first = ttnet.tt_cross(reciprocal, (12,) * 5, seed=3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = ttnet.tt_cross(reciprocal, (12,) * 5, seed=3, batch_size=1000)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first.value, second.value)
    assert first.history == second.history
    assert not same(first.value, ttnet.tt_cross(reciprocal, (12,) * 5, seed=4).value)


@pytest.mark.parametrize("batch_size", [1, 7, 65536])
def test_batches_are_bounded(batch_size):
    sizes = []

    def f(i):
        assert i.dtype == torch.int64
        assert i.ndim == 2
        assert (i >= 0).all()
        assert (i < torch.tensor([5, 6, 7])).all()
        sizes.append(len(i))
        return i.sum(1)

    result = ttnet.tt_cross(f, (5, 6, 7), samples=50, batch_size=batch_size)
    assert 1 <= max(sizes) <= batch_size
    assert sum(sizes) == result.evaluations


def test_f_may_write_into_its_argument():
    def f(i):
        values = reciprocal(i)
        i.zero_()
        return values

    assert same(ttnet.tt_cross(f, (12,) * 5).value, ttnet.tt_cross(reciprocal, (12,) * 5).value)


def test_evaluations_follow_theory():
    # Some d n r**2 a half sweep for each of the few half sweeps that are needed, of all n**d.
    result = ttnet.tt_cross(reciprocal, (12,) * 10, eps=1e-8)
    ranks = result.value.ranks
    once = sum(12 * left * right for left, right in pairwise(ranks))
    assert result.evaluations - result.samples * (len(result.history) + 1) <= 8 * once * len(result.history)
    assert len(result.history) <= 6


def test_errors_in_f_propagate():
    class Trouble(Exception):
        pass

    def f(i):
        raise Trouble

    with pytest.raises(Trouble):
        ttnet.tt_cross(f, (9,) * 5)


def test_devices_are_explicit():
    with torch.device("meta"):  # where nothing can be computed
        result = ttnet.tt_cross(lambda i: i.sum(1).double(), (12,) * 4, device="cpu")
    assert result.value.device.type == "cpu"
    assert result.converged


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (lambda i: i.sum(1).double()[:, None], TTShapeError, "f returned the shape \\(1000, 1\\) for a batch of 1000"),
        (lambda i: i.double(), TTShapeError, "expected \\(1000,\\), one value per row"),
        (lambda i: torch.tensor(1.0), TTShapeError, "f returned the shape \\(\\)"),
        (lambda i: i.sum(1).tolist(), TTTypeError, "what f returned is a list; expected a torch.Tensor or a numpy"),
        (lambda i: None, TTTypeError, "what f returned is a NoneType"),
        (lambda i: 1.0, TTTypeError, "what f returned is a float"),
        (lambda i: np.array(["a"] * len(i)), TTTypeError, "what f returned has dtype <U1"),
        (
            lambda i: torch.where(i.sum(1) == 20, math.nan, 1.0),
            TTValueError,
            "f returned nan at the index \\(.*\\); expected a finite number",
        ),
        (lambda i: torch.where(i.sum(1) == 20, -math.inf, 1.0), TTValueError, "f returned -inf at the index"),
        (lambda i: i.sum(1) * complex(0, math.nan), TTValueError, "f returned .*nanj"),
    ],
)
def test_bad_values(value, error, message):
    with pytest.raises(error, match=message):
        ttnet.tt_cross(value, (9,) * 5)


def test_the_index_of_a_bad_value_is_the_right_one():
    with pytest.raises(TTValueError) as caught:
        ttnet.tt_cross(lambda i: torch.where(i.sum(1) == 20, math.nan, 1.0), (9,) * 5)
    index = str(caught.value).partition("(")[2].partition(")")[0]
    assert sum(map(int, index.split(","))) == 20


def test_values_must_fit_the_dtype():
    with pytest.raises(
        TTTypeError, match=r"complex64 where .* is to have torch\.float64; pass dtype=torch\.complex128"
    ):
        ttnet.tt_cross(lambda i: i.sum(1) * 1j, (9,) * 5, dtype=torch.float64)
    with pytest.raises(TTTypeError, match=r"where the result is to have torch\.float64"):
        ttnet.tt_cross(lambda i: i.sum(1) if len(i) == 1000 else i.sum(1).numpy() * 1j, (9,) * 5)
    with pytest.raises(TTValueError, match=r"f returned 1e\+200 at the index .* within the range of torch\.float32"):
        ttnet.tt_cross(lambda i: 1e200 * reciprocal(i), (12,) * 5, dtype=torch.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"f": 3}, TTTypeError, "f is a int; expected a function of an int64 tensor of shape \\(batch, d\\)"),
        ({"shape": (9, 0)}, TTShapeError, "shape is \\(9, 0\\); every mode must have size at least 1"),
        ({"shape": 9}, TTTypeError, "shape is 9; expected a sequence of ints"),
        ({"eps": -1.0}, TTValueError, "eps is -1.0"),
        ({"eps": math.nan}, TTValueError, "eps is nan"),
        ({"max_rank": 0}, TTValueError, "max_rank holds 0"),
        ({"max_rank": [2, 2]}, TTShapeError, "max_rank has 2 entries; expected 4"),
        ({"seed": 1.0}, TTTypeError, "seed is 1.0; expected an int"),
        ({"seed": True}, TTTypeError, "seed is True; expected an int"),
        ({"seed": -1}, TTValueError, "seed is -1; expected an int from 0"),
        ({"seed": 2**64}, TTValueError, "seed is 18446744073709551616"),
        ({"max_sweeps": 0}, TTValueError, "max_sweeps is 0; expected an int >= 1"),
        ({"max_sweeps": 1.5}, TTTypeError, "max_sweeps is 1.5; expected an int >= 1"),
        ({"samples": 0}, TTValueError, "samples is 0"),
        ({"batch_size": 0}, TTValueError, "batch_size is 0"),
        ({"batch_size": None}, TTTypeError, "batch_size is None"),
        ({"max_evaluations": 0}, TTValueError, "max_evaluations is 0; expected an int >= 1"),
        ({"max_evaluations": 999}, TTValueError, "max_evaluations is 999, less than the 1000 samples of a single"),
        ({"dtype": torch.int64}, TTTypeError, "dtype is torch.int64; expected a floating or complex torch.dtype"),
        ({"dtype": "float32"}, TTTypeError, "dtype is float32"),
        ({"device": "nowhere"}, TTValueError, "device is 'nowhere'; expected a torch.device or its name"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(arguments, error, message):
    def f(i):
        pytest.fail("f was called")

    with pytest.raises(error, match=message):
        ttnet.tt_cross(**({"f": f, "shape": (9,) * 5} | arguments))


def test_extreme_bounds():
    for eps in [0, None, 1e-300]:
        result = ttnet.tt_cross(reciprocal, (12,) * 5, eps=eps)
        assert result.converged
        assert sampled_error(reciprocal, result.value) <= 1e-13
    for eps in [1, 5, math.inf]:
        result = ttnet.tt_cross(reciprocal, (12,) * 5, eps=eps)
        assert result.converged
        assert set(result.value.ranks) == {1}


# Functions of trains.


def test_apply_to_one_train():
    x = ttnet.meshgrid(*[grid(10)] * 5)
    total = ttnet.round(sum(x))
    for f in [torch.exp, torch.sin, lambda v: v, lambda v: 1 / (1 + v), lambda v: v.numpy() ** 2, lambda v: v * 1j]:
        y = ttnet.apply(f, total, eps=1e-8)
        expected = torch.as_tensor(f(total.full().flatten())).reshape(total.shape)
        assert relative_error(y.full(), expected) <= 1e-8
    assert set(ttnet.apply(torch.exp, total).ranks) == {1}
    assert ttnet.apply(lambda v: v, total).ranks == total.ranks


@settings(max_examples=20)
@given(train_pairs(), seeds)
def test_apply_to_two_trains(pair, seed):
    # Products of any two trains, in their own dtypes, by sampling.
    x, y = pair
    result = ttnet.apply(lambda a, b: a * b, x, y, seed=seed, samples=50, eps=1e-3, max_sweeps=20)
    expected = dense(x) * dense(y)
    assert result.dtype == torch.promote_types(x.dtype, y.dtype)
    assert relative_error(dense(result), expected) <= 0.1


def test_apply_beyond_any_dense_tensor():
    x, y = ttnet.meshgrid(*[grid(5)] * 40)[7:9]
    z = ttnet.apply(lambda a, b: 1 / (1 + a + b), x, y, eps=1e-9, batch_size=500)
    assert z.ranks[8] == 5
    assert set(z.ranks[:8] + z.ranks[9:]) == {1}
    assert sampled_error(lambda i: 1 / (1 + grid(5)[i[:, 7]] + grid(5)[i[:, 8]]), z) <= 1e-9


def test_apply_keeps_what_it_is_given():
    x = ttnet.random((8,) * 5, 2, dtype=torch.float32, seed=0)
    for core in x.cores:
        core.requires_grad_()
    y = ttnet.apply(lambda v: v, x, eps=1e-5)
    assert y.dtype == torch.float32
    assert not y.cores[0].requires_grad
    assert ttnet.apply(lambda v: v, x, dtype=torch.float64).dtype == torch.float64
    scalar = ttnet.apply(torch.exp, ttnet.ones(()))
    assert float(scalar.full()) == pytest.approx(math.e)


def test_apply_says_when_it_does_not_converge():
    x = ttnet.random((12,) * 5, 4, dtype=torch.float64, seed=0)
    with pytest.raises(
        TTConvergenceError, match=r"relative error of about .* where eps is 1e-06\. Ranks have reached"
    ) as e:
        ttnet.apply(torch.sign, x, max_rank=3)
    assert e.value.result.status is CrossStatus.MAX_RANK
    assert isinstance(e.value.result.value, TensorTrain)
    copy = pickle.loads(pickle.dumps(TTConvergenceError("text", 3)))
    assert (str(copy), copy.result) == ("text", 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.exp,), TTValueError, "trains is empty; expected at least one train"),
        ((torch.exp, torch.ones(2, 2)), TTTypeError, "trains\\[0\\] is a Tensor; expected a TensorTrain"),
        ((ttnet.ones((2, 3)), ttnet.ones((2, 3))), TTTypeError, "f is a TensorTrain; expected a function of tensors"),
        (
            (torch.add, ttnet.ones((2, 3)), ttnet.ones((3, 2))),
            TTShapeError,
            "trains\\[1\\] has shape \\(3, 2\\) but trains\\[0\\] has \\(2, 3\\); expected the same shape",
        ),
        (
            (torch.add, ttnet.ones((2, 3)), ttnet.ones((2, 3), device="meta")),
            TTValueError,
            "trains\\[1\\] is on meta but trains\\[0\\] is on cpu",
        ),
        ((lambda v: 1 / (v - 1), ttnet.ones((2, 3))), TTValueError, "f returned inf at the index \\(0, 0\\)"),
        ((lambda v: v[:1], ttnet.ones((2, 3))), TTShapeError, "f returned the shape \\(1,\\) for a batch of 6"),
    ],
)
def test_bad_arguments_to_apply(arguments, error, message):
    with pytest.raises(error, match=message):
        ttnet.apply(*arguments)


# Entries.


@given(trains(), seeds)
def test_evaluate_is_indexing(x, seed):
    indices = draw_indices(x.shape, 17, seed) if x.ndim else torch.empty(17, 0, dtype=torch.int64)
    expected = dense(x)[tuple(indices.unbind(1))] if x.ndim else dense(x).expand(17)
    for given_as in [indices, indices.int(), indices.numpy(), indices.numpy().astype(np.uint8)]:
        values = ttnet.evaluate(x, given_as)
        assert values.shape == (17,)
        assert values.dtype == x.dtype
        assert float((wide(values) - expected).abs().max()) <= precision(x.dtype) * float(dense(x).abs().max() + 1)


def test_evaluate_at_any_scale():
    cores = [torch.full((1, 2, 1), scale, dtype=torch.float64) for scale in [1e300, 1e300, 1e-300, 1e-300, 2.0] * 50]
    at = torch.zeros(3, 250, dtype=torch.int64)
    assert torch.allclose(ttnet.evaluate(TensorTrain(cores), at), torch.full((3,), 2.0**50, dtype=torch.float64))
    # Slices of one core at opposite ends of the range, each entry being a plain number.
    a = torch.tensor([1e-300, 1e300], dtype=torch.float64).reshape(1, 2, 1)
    b = torch.tensor([1e300, 1e-300], dtype=torch.float64).reshape(1, 2, 1)
    assert torch.allclose(
        ttnet.evaluate(TensorTrain([a, b]), torch.tensor([[0, 0], [1, 1]])).log2(), torch.zeros(2).double(), atol=1e-12
    )
    assert ttnet.evaluate(TensorTrain([a, b]), torch.tensor([[0, 1], [1, 0]])).tolist() == [0.0, math.inf]
    tiny = TensorTrain([torch.full((1, 1, 1), 5e-324, dtype=torch.float64), torch.full((1, 1, 1), 2.0).double()])
    assert float(ttnet.evaluate(tiny, torch.zeros(1, 2, dtype=torch.int64))) == 1e-323
    half = TensorTrain([torch.full((1, 2, 1), 300.0, dtype=torch.float16)] * 2 + [torch.full((1, 2, 1), 0.01).half()])
    assert float(ttnet.evaluate(half, torch.zeros(1, 3, dtype=torch.int64))) == pytest.approx(900, rel=1e-2)


def test_evaluate_in_chunks():
    x = ttnet.random((5, 6, 7), [400, 300], dtype=torch.float64, seed=0)
    indices = draw_indices(x.shape, 100)
    assert relative_error(ttnet.evaluate(x, indices), x.full()[tuple(indices.unbind(1))]) <= 1e-13
    assert ttnet.evaluate(x, indices[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_of_evaluate(dtype):
    x = draw_train((3, 4, 2), [2, 3], dtype, 0)
    cores = [core.requires_grad_() for core in x.cores]
    indices = draw_indices(x.shape, 6)
    assert gradcheck(lambda *cores: ttnet.evaluate(TensorTrain(cores), indices), cores)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([[0, 0]], TTTypeError, "indices is a list; expected a torch.Tensor or numpy.ndarray of ints"),
        (torch.zeros(2, 2), TTTypeError, "indices has dtype torch.float32; expected ints"),
        (torch.zeros(2, 2, dtype=torch.bool), TTTypeError, "indices has dtype torch.bool"),
        (np.zeros((2, 2)), TTTypeError, "indices has dtype float64; expected ints"),
        (torch.zeros(2, dtype=torch.int64), TTShapeError, "indices has shape \\(2,\\); expected \\(batch, 2\\)"),
        (torch.zeros(2, 3, dtype=torch.int64), TTShapeError, "indices has shape \\(2, 3\\); expected \\(batch, 2\\)"),
        (torch.tensor([[0, 0], [1, 3]]), TTIndexError, "indices\\[1\\] holds 3 for mode 1 of size 3; expected 0 to 2"),
        (torch.tensor([[0, 0], [0, 0], [-1, 0]]), TTIndexError, "indices\\[2\\] holds -1 for mode 0 of size 2"),
    ],
)
def test_bad_indices(indices, error, message):
    with pytest.raises(error, match=message):
        ttnet.evaluate(ttnet.ones((2, 3)), indices)


def test_evaluate_takes_trains_only():
    with pytest.raises(TTTypeError, match="tt is a Tensor; expected a TensorTrain"):
        ttnet.evaluate(torch.ones(2, 3), torch.zeros(1, 2, dtype=torch.int64))


# The parts.


@given(st.integers(1, 40), st.integers(1, 8), seeds, st.sampled_from([torch.float64, torch.complex128]))
def test_maxvol(rows, columns, seed, dtype):
    columns = min(rows, columns)
    matrix = torch.linalg.qr(draw_tensor((rows, columns), dtype, seed))[0]
    chosen, coefficients = maxvol(matrix)
    assert len(set(chosen.tolist())) == columns
    assert float(coefficients.abs().max()) <= 1.05 + 1e-9
    assert relative_error(coefficients @ matrix[chosen], matrix) <= 1e-12


def test_maxvol_of_unit_vectors():
    # What the singular vectors of a zero matrix are.
    chosen, coefficients = maxvol(torch.eye(5, 2, dtype=torch.float64))
    assert sorted(chosen.tolist()) == [0, 1]
    assert torch.equal(coefficients.abs().sum(0), torch.ones(2, dtype=torch.float64))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data(), st.integers(1, 9))
def test_blocks_of_the_black_box(shape, data, batch_size):
    full = draw_tensor(shape, torch.float64, 0)
    box = BlackBox(lambda i: full[tuple(i.unbind(1))], shape, batch_size=batch_size)
    mode = data.draw(st.integers(0, len(shape) - 1))
    heads, tails = (
        all_indices(part) if part else torch.empty(1, 0, dtype=torch.int64)
        for part in (shape[:mode], shape[mode + 1 :])
    )
    block = box.block(mode, heads, tails)
    assert torch.equal(block, full.reshape(block.shape))
    assert box.evaluations == full.numel()
    assert box.log_norm == pytest.approx(math.log(float(full.norm())))
