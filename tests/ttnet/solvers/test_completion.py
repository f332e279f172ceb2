"""Completion: its steps against dense least squares and projections, and tensors whose entries are known."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.decomposition.functions import grid, reciprocal, sampled_error
from tests.ttnet.solvers.test_manifold import points
from tests.ttnet.strategies import dense, draw_indices, draw_tensor, draw_train, relative_error, same, seeds
from ttnet import TensorTrain, TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.solvers import SolverStatus, complete, completion, project, sampled
from ttnet.solvers.adaptation import FURTHER_STARTS
from ttnet.solvers.entries import IndexSamples
from ttnet.solvers.gauss_newton import View, conjugate_gradients, least_missing, projected
from ttnet.solvers.products import product_without_means
from ttnet.solvers.sampled import attainable, enlarged, least_squares
from ttnet.solvers.tangent_space import TangentSpace

doubles = st.sampled_from([torch.float64, torch.complex128])


@st.composite
def problems(draw):
    """A train, different entries of its shape, and numbers for them."""
    x = draw(points(draw(doubles)).filter(lambda x: x.ndim))
    indices = draw_indices(x.shape, draw(st.integers(1, 60)), draw(seeds)).unique(dim=0)
    return x, indices, draw_tensor((len(indices),), x.dtype, draw(seeds))


@given(problems())
def test_samples_are_entries(problem):
    x, indices, _ = problem
    samples = IndexSamples(indices, x.shape)
    assert torch.allclose(samples.values(x.cores), ttnet.evaluate(x, indices))
    mirrored = [core.permute(2, 1, 0) for core in reversed(x.cores)]
    assert torch.allclose(samples.mirrored().values(mirrored), ttnet.evaluate(x, indices))


def at(samples, mode, rows):
    """Rows, one for each sample, as columns in the order of a mode."""
    return torch.stack([samples.arrange(mode, column) for column in rows.T])


@given(problems())
def test_corrections_are_least_squares(problem):
    x, indices, missed = problem
    samples = IndexSamples(indices, x.shape)
    mode = x.ndim // 2
    left, right = (draw_tensor((len(indices), rank), x.dtype, rank) for rank in x.ranks[mode : mode + 2])
    lefts, rights, lacking = (at(samples, mode, each) for each in (left, right, missed[:, None]))
    step, still = samples.correct(mode, lefts, rights, lacking, 0.0)
    rows = torch.zeros(len(indices), x.shape[mode], left.shape[1] * right.shape[1], dtype=x.dtype)
    rows[torch.arange(len(indices)), indices[:, mode]] = (left[:, :, None] * right[:, None, :]).flatten(1)
    dense = rows.flatten(1)
    best = dense @ (torch.linalg.pinv(dense, rtol=1e-10) @ missed)
    found = (torch.einsum("ir,rns->ins", left, step)[torch.arange(len(indices)), indices[:, mode]] * right).sum(1)
    torch.testing.assert_close(still, at(samples, mode, (missed - found)[:, None]))
    torch.testing.assert_close(samples.see(mode, step, lefts, rights), at(samples, mode, found[:, None]))
    assert float((found - missed).norm()) <= float((best - missed).norm()) + 1e-4 * float(missed.norm())


@given(problems())
def test_sums_of_samples_are_projected(problem):
    x, indices, weights = problem
    dense = torch.zeros(x.shape, dtype=x.dtype)
    dense[tuple(indices.T)] = weights
    found = projected(IndexSamples(indices, x.shape), TangentSpace(x.cores), weights)
    expected = project(x, ttnet.tt_svd(dense)).train().full()
    assert float((found.train().full() - expected).norm()) <= 1e-10 * float(weights.norm())


@given(problems())
def test_steps_find_the_tangent_vector_that_misses_least(problem):
    """Where there are all entries, it is the projection of what is missed, which one step of the inner kind finds."""
    x = problem[0]
    indices = torch.ones(x.shape).nonzero()
    samples, missed = IndexSamples(indices, x.shape), draw_tensor((len(indices),), x.dtype, 3)
    space = TangentSpace(x.cores)
    found = least_missing(View(samples, space, missed), missed, 1e-12).train().full()
    expected = projected(samples, space, missed).train().full()
    assert float((found - expected).norm()) <= 1e-10 * float(missed.norm())


@given(problems(), st.sampled_from([least_squares, conjugate_gradients]))
def test_no_sweep_misses_more(problem, level):
    x, indices, values = problem
    samples = IndexSamples(indices, x.shape)
    steps = level(samples, values, list(x.cores))
    last = float((values - samples.values(x.cores)).norm())
    for _, (cores, missed) in zip(range(4), steps, strict=False):
        assert math.isclose(missed, float((values - samples.values(cores)).norm()), abs_tol=1e-8 * (1 + last))
        assert missed <= last + 1e-8 * (1 + last)
        last = missed


@given(st.integers(2, 6), st.integers(2, 6), doubles, seeds)
def test_least_squares_use_new_directions_at_once(m, n, dtype, seed):
    """The best rank 1 of a matrix, and one more column: one half sweep finds what lies in the span of the two."""
    matrix = draw_tensor((m, n), dtype, seed)
    indices = torch.cartesian_prod(torch.arange(m), torch.arange(n))
    samples, values = IndexSamples(indices, (m, n)), matrix.flatten()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    cores = [u[None, :, :1], (s[0] * v[:1])[..., None]]
    larger = enlarged(samples, cores, values - samples.values(cores), [1], torch.Generator().manual_seed(0))
    _, missed = next(least_squares(samples, values, larger))
    q = larger[0][0]
    best = float((matrix - q @ (q.mH @ matrix)).norm())
    assert missed <= best + 1e-6 * float(s[0])
    assert best <= float(s[1:].norm()) * (1 - 0.01 / min(m, n))  # the column is worth something


@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), doubles, st.integers(0, 2), seeds)
def test_slices_of_any_sizes_are_solved_together(sizes, dtype, skew, seed):
    """Also where one slice has most of the samples, and some have none."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    draws = [torch.rand(80, generator=generator) ** (1 + 4 * skew) for _ in sizes]
    indices = torch.stack([(draw * size).long() for draw, size in zip(draws, sizes, strict=True)], 1).unique(dim=0)
    samples, mode = IndexSamples(indices, sizes), len(sizes) // 2
    left, right = (draw_tensor((len(indices), 2), dtype, seed + k) for k in (1, 2))
    core, weights = draw_tensor((2, sizes[mode], 3), dtype, seed + 3), draw_tensor((len(indices),), dtype, seed + 4)
    slices = indices[:, mode]
    expected = torch.einsum("ir,irs->is", left, core.permute(1, 0, 2)[slices])
    lefts, rights, weighted = (at(samples, mode, each) for each in (left, right, weights[:, None]))
    ahead = expected.T if mode + 1 == len(sizes) else at(samples, mode + 1, expected)
    torch.testing.assert_close(samples.contract(mode, core, lefts), ahead)
    found = samples.scatter(mode, lefts, rights, weighted)
    step = samples.correct(mode, lefts, rights, weighted, 0.1)[0]
    for place in range(sizes[mode]):
        here = slices == place
        one = (left[here].conj() * weights[here, None]).mT @ right[here].conj()
        torch.testing.assert_close(found[:, place], one)
        rows = (left[here][:, :, None] * right[here][:, None]).flatten(1)
        gram = rows.mH @ rows + 0.1 * torch.eye(4, dtype=dtype)
        torch.testing.assert_close(step[:, place].flatten(), torch.linalg.solve(gram, rows.mH @ weights[here]))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_attainable_ranks_are_those_of_some_train(sizes, data):
    ranks = [data.draw(st.integers(1, 9)) for _ in sizes[1:]]
    found = attainable(ranks, sizes)
    outer = [1, *found, 1]
    assert all(a <= b for a, b in zip(found, ranks, strict=True))
    for k, size in enumerate(sizes):
        assert outer[k + 1] <= outer[k] * size
        assert outer[k] <= size * outer[k + 1]


@pytest.mark.parametrize("method", ["als", "rcg"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
def test_trains_come_back_from_some_entries(method, dtype):
    x = ttnet.random((12, 1, 12, 12), 2, dtype=dtype, seed=0)
    indices = draw_indices(x.shape, 1000)
    tol = 1e-4 if dtype == torch.float32 else 1e-7
    result = complete(indices, ttnet.evaluate(x, indices), x.shape, tol=tol, method=method)
    assert result.status is SolverStatus.CONVERGED
    assert result.value.dtype == dtype
    assert relative_error(result.value.full(), x.full()) < 20 * tol
    assert result.sweeps == len(result.history)


@pytest.mark.parametrize("method", ["als", "rcg"])
def test_a_function_of_eight_variables_from_two_in_a_hundred_thousand_of_its_entries(method):
    def f(i):
        return torch.sin(grid(12)[i].sum(1))

    indices = draw_indices((12,) * 8, 8000)
    result = complete(indices, f(indices), (12,) * 8, tol=1e-6, method=method)
    assert result.converged
    assert set(result.value.ranks) == {1, 2}
    assert sampled_error(f, result.value) < 2e-6


def test_the_reciprocal_from_one_in_twenty_entries():
    shape = (12,) * 5
    indices = draw_indices(shape, 12**5 // 20)
    result = complete(indices, reciprocal(indices), shape, tol=1e-4)
    assert result.converged
    assert sampled_error(reciprocal, result.value) < 3e-4


def test_a_vector_cannot_be_completed():
    indices = torch.arange(5).repeat(20)[:, None]
    with pytest.raises(TTValueError, match=r"none has index . of mode 0"):
        complete(indices, indices[:, 0], (5,))


def test_repeated_entries_count_as_their_mean():
    x = ttnet.random((6, 6, 6), 1, dtype=torch.float64, seed=0)
    indices = draw_indices(x.shape, 150).repeat(2, 1)
    noise = torch.cat([torch.full((150,), 0.1), torch.full((150,), -0.1)]).double()
    assert complete(indices, ttnet.evaluate(x, indices) + noise, x.shape, tol=1e-9).converged


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_any_scale(scale):
    x = ttnet.random((6, 7, 8), 2, dtype=torch.float64, seed=0)
    indices = draw_indices(x.shape, 250)
    result = complete(indices, ttnet.evaluate(x, indices) * scale, x.shape, tol=1e-7)
    assert result.converged
    assert relative_error((result.value / scale).full(), x.full()) < 1e-5


def test_zeros_are_zero():
    indices = draw_indices((4, 5), 200)
    result = complete(indices, torch.zeros(200), (4, 5))
    assert result.converged
    assert result.residual == 0
    assert torch.equal(result.value.full(), torch.zeros(4, 5))


def test_noise_is_not_fitted():
    """Ranks stop where larger ones do not help with what they have not seen."""
    x = ttnet.random((10, 10, 10), 1, dtype=torch.float64, seed=0)
    indices = draw_indices(x.shape, 500)
    noise = 0.05 * draw_tensor((500,), torch.float64, 1)
    result = complete(indices, ttnet.evaluate(x, indices) + noise, x.shape)
    assert result.status is SolverStatus.DATA_SPENT
    assert result.value.ranks == (1, 1, 1, 1)
    assert relative_error(result.value.full(), x.full()) < 0.05


def problem(count=400):
    x = ttnet.random((8, 8, 8), 3, dtype=torch.float64, seed=0)
    indices = draw_indices(x.shape, count)
    return x, indices, ttnet.evaluate(x, indices)


def test_bounds_on_ranks_hold():
    x, indices, values = problem()
    result = complete(indices, values, x.shape, max_rank=[2, 1])
    assert result.status is SolverStatus.MAX_RANK
    assert all(a <= b for a, b in zip(result.value.ranks, (1, 2, 1, 1), strict=True))


def test_a_good_start_is_kept():
    x, indices, values = problem()
    start = TensorTrain([core + 1e-3 * torch.ones_like(core) for core in x.cores])
    result = complete(indices, values, x.shape, tol=1e-10, x0=start)
    assert result.converged
    assert result.value.ranks == x.ranks
    assert complete(indices, values, x.shape, x0=x).sweeps == 1


def test_the_same_call_gives_the_same_result_and_leaves_the_global_generator_alone():
    x, indices, values = problem()
    state = torch.get_rng_state()
    a, b = (complete(indices, values, x.shape, max_sweeps=20, seed=3) for _ in range(2))
    assert torch.equal(a.value.full(), b.value.full())
    assert torch.equal(torch.get_rng_state(), state)


def test_limits_callbacks_and_exceptions():
    x, indices, values = problem()
    assert complete(indices, values, x.shape, max_sweeps=3).status is SolverStatus.MAX_SWEEPS
    seen = []
    result = complete(indices, values, x.shape, callback=lambda p: seen.append(p) or len(seen) == 2)
    assert result.status is SolverStatus.STOPPED
    assert tuple(seen) == result.history

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as info:
        complete(indices, values, x.shape, callback=interrupt)
    assert info.value.result.status is SolverStatus.INTERRUPTED
    assert info.value.result.value.shape == x.shape


ROWS = draw_indices((3, 4), 100)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (ROWS, torch.ones(99), (3, 4)),
            TTShapeError,
            r"values has shape \(99,\); expected \(100,\)",
        ),
        ((ROWS, torch.full((100,), math.nan), (3, 4)), TTValueError, "values has entries that are NaN or infinite"),
        ((ROWS, torch.ones(100), (3, 3)), TTIndexError, r"holds 3 for mode 1 of size 3"),
        ((ROWS, torch.ones(100), (3, 4, 2)), TTShapeError, r"indices has shape \(100, 2\); expected \(batch, 3\)"),
        ((ROWS.double(), torch.ones(100), (3, 4)), TTTypeError, "indices has dtype torch.float64; expected ints"),
        ((ROWS, torch.ones(100), (3, 5)), TTValueError, r"none has index 4 of mode 1, so nothing is known"),
        ((ROWS, torch.ones(100), ()), TTShapeError, r"shape is \(\); expected at least one mode"),
        ((ROWS[:1], torch.ones(1), (3, 4)), TTValueError, "there are 1 different samples; expected at least 2"),
        ((ROWS, torch.ones(100), (3, 4), 1e-9), TTValueError, "below the precision of float32"),
    ],
)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        complete(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "svd"}, TTValueError, "method is 'svd'; expected 'als' or 'rcg'"),
        ({"held_out": 1.0}, TTValueError, r"held_out is 1.0; expected a share of the samples"),
        ({"held_out": "a"}, TTTypeError, "held_out is a str; expected a number"),
        ({"max_sweeps": 0}, TTValueError, "max_sweeps is 0; expected an int >= 1"),
        ({"x0": ttnet.ones((2, 4))}, TTShapeError, r"x0 has shape \(2, 4\); expected \(3, 4\)"),
        ({"x0": 3}, TTTypeError, "x0 is a int; expected a TensorTrain"),
        ({"seed": 0.5}, TTTypeError, r"seed is 0.5; expected an int"),
        ({"callback": 3}, TTTypeError, "callback is a int; expected a function"),
    ],
)
def test_options_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        complete(ROWS, torch.ones(100), (3, 4), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_new_indices_of_bonds_leave_the_tensor_and_point_where_it_lacks_most(monkeypatch, dtype):
    monkeypatch.setattr(sampled, "SUBSPACE_STEPS", 50)  # to convergence
    shape = (4, 5, 3)
    indices = torch.ones(shape).nonzero()
    train, samples = draw_train(shape, [2, 2], dtype, 0), IndexSamples(indices, shape)
    missed = draw_tensor((60,), dtype, 1)
    larger = enlarged(samples, train.cores, missed, [1, 0], torch.Generator().manual_seed(0))
    assert TensorTrain(larger).ranks == (1, 3, 2, 1)
    assert relative_error(dense(TensorTrain(larger)), dense(train)) < 1e-12
    # By definition: the derivative by what is left and right of the bond, through the core after next.
    after = train.orthogonalise(0).cores[2][:, :, 0]
    derivative = (missed.reshape(20, 3) @ after.mH).reshape(4, -1)
    old = torch.linalg.qr(dense(train).reshape(4, -1) @ draw_tensor((15, 2), dtype, 2))[0]
    expected = torch.linalg.svd(derivative)[0][:, :1]
    found = larger[0][0]  # spans what it did, and the new direction
    assert torch.allclose(found @ (found.mH @ old), old)
    assert float((found @ (found.mH @ expected) - expected).norm()) < 1e-8


@pytest.mark.parametrize("seed", [2, 3])
def test_directions_that_samples_do_not_tell_are_left_out_again(seed):
    """A search from few entries that grows ranks alone ends at a train of larger ranks and an error of some tenths."""
    x = ttnet.random((20, 20, 20), 2, dtype=torch.float64, seed=seed)
    generator = torch.Generator().manual_seed(100 + seed)
    indices = torch.stack([torch.randint(20, (800,), generator=generator) for _ in range(3)], 1)
    result = complete(indices, ttnet.evaluate(x, indices), x.shape, max_sweeps=3000)
    assert float((result.value - x).norm() / x.norm()) < 1e-3
    assert result.value.ranks == (1, 2, 2, 1)


@given(
    # Of small matrices the few entries that are held out leave means that are not zero.
    st.lists(st.integers(3, 6), min_size=3, max_size=7).map(tuple),
    seeds,
    st.sampled_from(["als", "rcg"]),
    st.sampled_from([1e-100, 1.0, 1e100]),
)
def test_products_whose_means_are_zero_are_found(shape, seed, method, scale):
    """Means over slices, which alternating least squares begin with, show nothing of these but noise."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(size, dtype=torch.float64, generator=generator) for size in shape]
    vectors = [vector - vector.mean() for vector in vectors]
    x = ttnet.TensorTrain([vector.view(1, -1, 1) for vector in vectors]) * scale
    indices = torch.stack([torch.randint(size, (60 * max(shape),), generator=generator) for size in shape], 1)
    result = complete(indices, ttnet.evaluate(x, indices), shape, tol=1e-8, method=method, seed=seed)
    assert result.converged
    assert float((result.value - x).norm() / x.norm()) < 1e-6


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_products_with_slices_of_zeros_and_noise(noise):
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.tensor([1.0, -1.0, 0.0, 2.0, -2.0], dtype=torch.float64)] * 6
    x = ttnet.TensorTrain([vector.view(1, -1, 1) for vector in vectors])
    indices = torch.randint(5, (4000, 6), generator=generator)
    values = ttnet.evaluate(x, indices)
    values = values + noise * values.std() * torch.randn(len(values), dtype=torch.float64, generator=generator)
    result = complete(indices, values, x.shape, tol=max(1e-9, 3 * noise), max_rank=1)
    assert result.converged
    assert float((result.value - x).norm() / x.norm()) <= 1e-7 + noise


def test_products_are_not_sought_where_means_show_enough_or_signs_mean_nothing():
    indices = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    noise = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert product_without_means(indices, torch.ones(16, dtype=torch.float64), (4, 4)) is None
    assert product_without_means(indices, torch.zeros(16, dtype=torch.float64), (4, 4)) is None
    assert product_without_means(indices, noise.to(torch.complex128), (4, 4)) is None
    checks = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    halves = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    both = torch.outer(checks, checks) + torch.outer(halves, halves)  # two products, half of it each
    assert product_without_means(indices, (both + 1e-3 * noise.view(4, 4)).flatten(), (4, 4)) is None


class TestFurtherStarts:
    """What is tried where a search ends with a large error: here one whose steps lead nowhere."""

    x = ttnet.random((6, 6, 6), 2, dtype=torch.float64, seed=1)
    indices = draw_indices(x.shape, 300, 0)
    y = ttnet.evaluate(x, indices)

    @staticmethod
    def astray(samples, values, cores):
        while True:
            yield [core * 0.0 for core in cores], float(values.norm())

    def test_another_way_finds_what_one_way_did_not(self, monkeypatch):
        monkeypatch.setitem(completion.METHODS, "rcg", self.astray)
        result = complete(self.indices, self.y, self.x.shape)
        assert result.converged
        assert relative_error(result.value.full(), self.x.full()) < 1e-5
        assert max(result.history[0].ranks) == 1
        ranks = [max(p.ranks) for p in result.history]
        assert any(after == 1 < before for before, after in itertools.pairwise(ranks))
        assert same(result.value, complete(self.indices, self.y, self.x.shape).value)

    def test_the_better_one_counts(self, monkeypatch):
        monkeypatch.setattr(completion, "_cheaper", self.astray)
        noise = draw_tensor(self.y.shape, torch.float64, 3) * float(self.y.norm()) / len(self.y) ** 0.5
        result = complete(self.indices, self.y + 0.05 * noise, self.x.shape)
        assert result.status is SolverStatus.DATA_SPENT
        assert result.residual < 0.2
        assert min(p.residual for p in result.history) == pytest.approx(result.residual)
        assert result.history[-1].residual > 0.9
        starts = [max(p.ranks) == 1 < max(q.ranks) for q, p in itertools.pairwise(result.history)]
        assert sum(starts) == FURTHER_STARTS  # as none came to an error like that of another

    def test_two_like_errors_end_the_search(self):
        noise = draw_tensor(self.y.shape, torch.float64, 3) * float(self.y.norm()) / len(self.y) ** 0.5
        result = complete(self.indices, self.y + 0.05 * noise, self.x.shape)
        assert result.status is SolverStatus.DATA_SPENT
        starts = [max(p.ranks) == 1 < max(q.ranks) for q, p in itertools.pairwise(result.history)]
        assert sum(starts) == 1

    def test_small_errors_ask_for_none(self, monkeypatch):
        monkeypatch.setattr(completion, "_cheaper", None)
        noise = draw_tensor(self.y.shape, torch.float64, 3) * float(self.y.norm()) / len(self.y) ** 0.5
        result = complete(self.indices, self.y + 1e-3 * noise, self.x.shape, tol=1e-4)
        assert result.status is SolverStatus.DATA_SPENT

    def test_sweeps_and_interruptions_are_those_of_all(self, monkeypatch):
        monkeypatch.setattr(completion, "_cheaper", self.astray)
        noise = draw_tensor(self.y.shape, torch.float64, 3) * float(self.y.norm()) / len(self.y) ** 0.5
        y = self.y + 0.05 * noise
        whole = complete(self.indices, y, self.x.shape)
        begins = next(k for k, p in enumerate(whole.history) if p.residual == 1)  # that of zeros
        short = complete(self.indices, y, self.x.shape, max_sweeps=begins + 2)
        assert short.status is SolverStatus.MAX_SWEEPS
        assert short.residual == whole.residual

        def interrupt(progress):
            if progress.sweep == begins + 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            complete(self.indices, y, self.x.shape, callback=interrupt)
        assert caught.value.result.residual == whole.residual


def test_a_tensor_that_the_first_start_does_not_find():
    x = ttnet.random((12, 12, 12, 12), 2, dtype=torch.float64, seed=19)
    indices = torch.randint(12, (2640, 4), generator=torch.Generator().manual_seed(19))
    result = complete(indices, ttnet.evaluate(x, indices), x.shape)
    assert result.converged
    assert relative_error(result.value.full(), x.full()) < 1e-4
