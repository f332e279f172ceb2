"""What a sample of the rows says of an unfolding of few columns: taken at its word only where all rows bear it out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import DTYPES, dense, draw_tensor, relative_error, seeds, wide
from ttnet.decomposition import plan, sweep
from ttnet.decomposition.plan import next_step
from ttnet.decomposition.randomized import by_sample
from ttnet.decomposition.spectrum import Spectrum, by_gram
from ttnet.decomposition.unfolding import BLOCK_NUMEL, Unfolding, double
from ttnet.decomposition.unfolding_kernels import draw_sample, gram_matrix, sample_rows


@pytest.fixture(autouse=True, scope="module")
def _many_blocks():
    """Samples pay from some hundred rows on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BLOCK_NUMEL, "cpu", 2**9)
        patch.setattr(plan, "_CALLS", 0.0)
        patch.setattr(plan, "SMALL_NUMEL", 2**8)
        yield


@pytest.fixture
def samples(monkeypatch):
    """What samples came to: the rank that is certain, or None where all rows had to be looked at."""
    seen = []

    def watched(*args):
        found = by_sample(*args)
        seen.append(found and found.least)
        return found

    monkeypatch.setattr(sweep, "by_sample", watched)
    return seen


def noisy(rows, columns, rank, noise, dtype=torch.float64, seed=0):
    """A matrix of some rank and norm 1, and noise of the norm that is asked for."""
    x = draw_tensor((rows, rank), double(dtype), seed) @ draw_tensor((rank, columns), double(dtype), seed + 1)
    y = draw_tensor((rows, columns), double(dtype), seed + 2)
    return (x / x.norm() + noise * y / y.norm()).to(dtype)


def test_the_gram_matrix_of_a_sample_is_that_of_all_rows_on_average():
    x = draw_tensor((3000, 5), torch.complex128, 0)
    u = Unfolding(x, 1, x.dtype)
    count = -(-len(x) // sample_rows(u))
    rows = sample_rows(u)
    sample = draw_sample(count, 3, torch.Generator().manual_seed(0))
    assert count / 3 - 1 <= len(sample) <= count / 3 + 1
    taken = torch.cat([x[rows * place : rows * (place + 1)] for place in sample])
    expected = taken.mH @ taken * (len(x) / len(taken))
    torch.testing.assert_close(gram_matrix(u, x.dtype, sample), expected)
    torch.testing.assert_close(gram_matrix(u, x.dtype, range(count)), gram_matrix(u, x.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_measured", [True, False])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 9e-3])
def test_the_rank_and_what_is_lost(dtype, is_measured, noise):
    x = noisy(6000, 24, 5, noise, dtype)
    norm = float(x.norm())
    u = Unfolding(x, 1, dtype)
    found = by_sample(u, norm if is_measured else None, 1e-2 * (norm if is_measured else 1), 12, double(dtype))
    rank, tail = found.cut(1e-2 * norm, None)
    assert rank == by_gram(u, norm, double(dtype)).cut(1e-2 * norm, None)[0] == 5
    basis, seen = found.seen
    torch.testing.assert_close(wide(seen), wide(x) @ basis, atol=torch.finfo(dtype).eps, rtol=0)
    v = found.v[:, :rank]
    lost = float((wide(x) - wide(x) @ v @ v.mH).norm())
    assert lost <= math.sqrt(tail**2 + found.bound) <= max(1.01 * lost, 1e-3)
    assert found.squares == pytest.approx(norm**2, rel=1e-5)


def test_noise_that_is_most_of_an_allowed_loss_is_foretold():
    x = noisy(6000, 24, 5, 9e-3)
    found = by_sample(Unfolding(x, 1, x.dtype), 1.0, 1e-2, 12, x.dtype)
    assert found.least == 5
    assert 0.5 * 1e-4 < found.missed < 0.9 * 1e-4


def test_a_sample_that_leaves_the_rank_open_is_not_taken_at_its_word():
    s = torch.ones(24, dtype=torch.float64)
    s[5:] = 1e-6
    s[4] = 1.02e-2  # with which a cut to four loses 2 % more than is allowed
    x = torch.linalg.qr(draw_tensor((6000, 24), torch.float64, 0))[0] * s
    found = by_sample(Unfolding(x, 1, x.dtype), float(x.norm()), 1e-2, 12, x.dtype)
    assert found.least == 1
    assert found.cut(1e-2, None)[0] == 5
    assert found.cut(1.03e-2, None)[0] == 4
    assert found.energies[4] == pytest.approx(1.02e-2**2, rel=1e-6)


def test_a_direction_that_the_sample_does_not_show_is_not_lost():
    x = noisy(6000, 24, 5, 1e-3)
    u = Unfolding(x, 1, x.dtype)
    assert by_sample(u, float(x.norm()), 1e-2, 12, x.dtype).least == 5
    count = -(-u.shape[0] // sample_rows(u))
    taken = draw_sample(count, plan.SAMPLE, torch.Generator().manual_seed(0x7E450))
    hidden = next(place for place in range(count) if place not in taken) * sample_rows(u)
    x[hidden, 3] += 8e-3  # within what may be lost, but more than a tenth of it
    assert by_sample(Unfolding(x, 1, x.dtype), float(x.norm()), 1e-2, 12, x.dtype) is None


def test_more_columns_than_pay_are_not_multiplied():
    x = noisy(6000, 24, 15, 0.0)
    assert by_sample(Unfolding(x, 1, x.dtype), float(x.norm()), 1e-6, 14, x.dtype) is None
    assert by_sample(Unfolding(x, 1, x.dtype), float(x.norm()), 1e-6, 15, x.dtype).least == 15
    flat = draw_tensor((6000, 24), torch.float64, 0)
    assert by_sample(Unfolding(flat, 1, flat.dtype), float(flat.norm()), 1e-3, 24, flat.dtype) is None


def test_a_cut_below_what_is_known_is_not_certain():
    energies, v = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64), torch.eye(5, 3, dtype=torch.float64)
    found = Spectrum(energies, v, 5, 0.0, 6.5, missed=0.5, least=3)
    assert found.cut(1.0, None) == found.cut(100.0, None) == (3, pytest.approx(0.5**0.5))
    assert found.cut(1.0, 2) is None
    assert found.cut(0.7, None) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tensor_with_noise_is_sampled_first(samples, dtype, side):
    x = noisy(12 * 500, 14, 3, 6e-3, dtype).reshape(12, 500, 14)
    x = x.permute(2, 1, 0).contiguous() if side == "left" else x
    train = ttnet.tt_svd(x, eps=1e-2)
    assert samples
    assert samples[0] is not None
    assert train.ranks == ttnet.tt_svd(x, eps=1e-2, method="svd").ranks
    assert relative_error(dense(train), x) <= 1e-2


def test_samples_are_left_alone_where_the_largest_rank_decides_or_a_triangle_is_needed(samples):
    x = noisy(12 * 500, 14, 3, 6e-3).reshape(12, 500, 14)
    ttnet.tt_svd(x, max_rank=2)
    ttnet.tt_svd(x, eps=1e-12)
    ttnet.tt_svd(x, eps=1e-2, method="gram")
    assert samples == []


def test_samples_are_planned_where_rows_are_many_and_columns_more_than_the_rank():
    assert next_step((500, 24), (1, 1), lambda k: 5, "sampled", 8) is None
    step = next_step((12, 500, 24), (1, 1), lambda k: 5, "sampled", 8)
    assert (step.side, step.modes, step.columns) == ("right", 1, 24)
    assert step.max_sketch <= 24
    assert next_step((12, 500, 24), (1, 1), lambda k: 23, "sampled", 8) is None


@given(
    st.tuples(st.integers(4, 12), st.integers(60, 400), st.integers(3, 16)).map(tuple),
    st.integers(1, 6),
    st.sampled_from([0.0, 1e-6, 3e-3, 9e-3]),
    st.sampled_from([torch.float32, torch.float64, torch.complex64]),
    st.sampled_from([None, "rows", "spike", "scale"]),
    st.sampled_from(["auto", "randomized"]),
    seeds,
)
def test_the_bound_holds_whatever_the_sample_shows(shape, rank, noise, dtype, trouble, method, seed):
    x = noisy(math.prod(shape[:-1]), shape[-1], rank, noise, dtype, seed % 1000).reshape(shape)
    place = seed % shape[1]
    if trouble == "rows":  # some rows carry most of the norm
        x[:, place : place + 3] *= 100
    elif trouble == "spike":
        x[0, place, -1] += 1e-2 * float(x.norm())
    elif trouble == "scale":
        x *= 1e-18 if dtype == torch.float32 else 1e-30
    train = ttnet.tt_svd(x, eps=1e-2, method=method)
    assert relative_error(dense(train), x) <= 1e-2
    exact = ttnet.tt_svd(x, eps=1e-2, method="svd")
    assert max(train.ranks) <= max(exact.ranks) + 1


def test_losses_that_rounding_hides_in_squares_are_not_looked_for():
    x = noisy(6000, 24, 5, 0.0)
    assert by_sample(Unfolding(x, 1, x.dtype), 1.0, 1e-9, 12, x.dtype) is None
    few = by_sample(Unfolding(x[:50], 1, x.dtype), float(x[:50].norm()), 1e-3, 12, x.dtype)  # all rows are the sample
    assert few.cut(1e-3, None)[0] == 5


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_rounding_of_single_precision_is_most_of_no_allowance(seed, dtype):
    """Without `eps`, a bond may lose twice the precision of the numbers; what they were rounded by is far less."""
    x = noisy(6000, 24, 5, 0.0, dtype, seed)
    found = by_sample(Unfolding(x, 1, dtype), None, 2 * torch.finfo(dtype).eps, 12, double(dtype))
    assert found is not None
    assert found.cut(2 * torch.finfo(dtype).eps * float(x.norm()), None)[0] == 5
    assert found.missed < (torch.finfo(dtype).eps * float(x.norm())) ** 2 / 4


def test_a_direction_that_the_sample_overrates_is_left_out():
    x = noisy(6000, 24, 5, 3e-3)
    u = Unfolding(x, 1, x.dtype)
    taken = draw_sample(-(-u.shape[0] // sample_rows(u)), plan.SAMPLE, torch.Generator().manual_seed(0x7E450))
    x[taken[0] * sample_rows(u), 7] += 6e-3  # which counts eight times as much there
    found = by_sample(Unfolding(x, 1, x.dtype), float(x.norm()), 1e-2, 12, x.dtype)
    assert found is None or found.cut(1e-2, None)[0] == 5


@pytest.mark.parametrize("method", ["auto", "randomized"])
def test_samples_of_what_may_be_lost_whole_or_that_miss_it_all(method):
    z = draw_tensor((12, 500, 14), torch.float32, 0)
    z[..., 1] = 1
    z[:6] = 1e-9
    for eps in (0.5, 1.0, 5.0):
        train = ttnet.tt_svd(z, eps=eps, method=method)
        assert relative_error(dense(train), z) <= min(eps, 1)
