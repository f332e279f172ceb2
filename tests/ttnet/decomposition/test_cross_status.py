import math

import pytest
import torch

import ttnet
from tests.ttnet.decomposition.functions import exp_of_distance, grid, reciprocal, sampled_error, sine_of_sum, tensor_of
from tests.ttnet.strategies import relative_error
from ttnet import CrossStatus, TTTypeError


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
        # The best train is rounded to eps in the end.
        best = min([1.0, *(progress.error for progress in result.history)])
        assert result.error_estimate == pytest.approx(best, rel=0, abs=1e-12)
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
