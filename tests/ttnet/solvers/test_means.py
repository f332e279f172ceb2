"""What means over slices tell before a completion: products and sums of one vector for each mode."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.decomposition.functions import reciprocal
from tests.ttnet.strategies import draw_indices, seeds
from ttnet import TensorTrain
from ttnet.solvers import complete, completion, means
from ttnet.solvers.means import begin_with_means

doubles = st.sampled_from([torch.float64, torch.complex128])
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


def vectors_of(shape, dtype, seed):
    """One vector for each mode, of numbers near one."""
    generator = torch.Generator().manual_seed(seed)
    return [1 + torch.randn(size, dtype=dtype, generator=generator) / 4 for size in shape]


def at_all(shape, times):
    """Every index, several times."""
    return torch.cartesian_prod(*(torch.arange(size) for size in shape)).repeat(times, 1)


def added(vectors, indices):
    return sum(vector[column] for vector, column in zip(vectors, indices.T, strict=True))


def multiplied(vectors, indices):
    return torch.stack([vector[column] for vector, column in zip(vectors, indices.T, strict=True)]).prod(0)


@given(shapes, doubles, seeds)
def test_sums_and_products_come_back_from_whole_tensors(shape, dtype, seed):
    vectors, indices = vectors_of(shape, dtype, seed), at_all(shape, 100)
    values = added(vectors, indices)
    product, wider = begin_with_means(indices, values, indices, values, shape, 0.0)
    assert torch.allclose(ttnet.evaluate(TensorTrain(wider), indices), values)
    assert {core.shape[0] for core in product} == {1}
    values = multiplied(vectors, indices)
    product, wider = begin_with_means(indices, values, indices, values, shape, 1e-3)
    assert wider is None
    found = ttnet.evaluate(TensorTrain(product), indices)
    assert torch.linalg.vector_norm(found - values) <= 1e-3 * torch.linalg.vector_norm(values)


def test_sums_are_not_tried_where_they_tell_nothing():
    few, all_ = draw_indices((6, 6, 6), 50), at_all((6, 6, 6), 4)
    assert begin_with_means(few, few.double().sum(1), few, few.double().sum(1), (6, 6, 6), 1e-6) is None
    vector = all_[:, 0].double()
    assert begin_with_means(all_[:, :1], vector, all_[:, :1], vector, (6,), 1e-6) is None
    waves = multiplied([torch.linspace(-1, 1, 6, dtype=torch.float64)] * 3, all_)
    assert begin_with_means(all_, waves, all_, waves, (6, 6, 6), 1e-6) is None
    assert begin_with_means(all_, 0 * waves, all_, 0 * waves, (6, 6, 6), 1e-6) is None


@pytest.mark.parametrize("method", ["als", "rcg"])
@pytest.mark.parametrize("shape", [(8,) * 8, (8, 1, 9, 7, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_sums_of_vectors_are_completed_at_once(shape, dtype, method):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    vectors = vectors_of(shape, wide, 0)
    indices, fresh = draw_indices(shape, 3000, 1), draw_indices(shape, 1000, 2)
    result = complete(indices, added(vectors, indices).to(dtype), shape, tol=1e-5, method=method)
    assert result.converged
    assert result.sweeps <= 10
    assert max(result.value.ranks) == 2
    lacking = ttnet.evaluate(result.value, fresh).to(wide) - added(vectors, fresh)
    assert torch.linalg.vector_norm(lacking) < 2e-5 * torch.linalg.vector_norm(added(vectors, fresh))


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_products_keep_rank_one(noise):
    shape, generator = (10,) * 6, torch.Generator().manual_seed(0)
    vectors, indices = vectors_of(shape, torch.float64, 3), draw_indices(shape, 4000, 1)
    values = multiplied(vectors, indices)
    values = values * (1 + noise * torch.randn(len(values), dtype=torch.float64, generator=generator))
    result = complete(indices, values, shape, tol=max(1e-8, 1.5 * noise))
    assert result.converged
    assert set(result.value.ranks) == {1}


def test_sums_are_left_where_they_bring_nothing(monkeypatch):
    """A search goes on from the product, if the way from the sum does not come closer."""
    shape = (12,) * 5
    indices = draw_indices(shape, 12**5 // 20)

    def misleading(*args):
        product, _ = begin_with_means(*args)
        return product, [
            torch.zeros(1, 12, 2).double(),
            *[torch.zeros(2, 12, 2).double()] * 3,
            torch.zeros(2, 12, 1).double(),
        ]

    monkeypatch.setattr(completion, "begin_with_means", misleading)
    assert complete(indices, reciprocal(indices), shape, tol=1e-3).converged


@pytest.mark.parametrize("most", [1, [2, 1, 2, 2]])
def test_sums_keep_to_bounds_on_ranks(most):
    shape = (12,) * 5
    indices = draw_indices(shape, 12**5 // 20)
    ranks = complete(indices, reciprocal(indices), shape, tol=1e-8, max_rank=most).value.ranks[1:-1]
    assert all(rank <= bound for rank, bound in zip(ranks, [most] * 4 if most == 1 else most, strict=True))


def test_products_beyond_the_range_of_floats_are_left(monkeypatch):
    monkeypatch.setattr(means, "_product", lambda columns, values, sizes: [values.new_full((n,), 1e200) for n in sizes])
    indices = at_all((6, 6, 6), 4)
    values = indices.double().sum(1)
    assert begin_with_means(indices, values, indices, values, (6, 6, 6), 1e-6) is None
    assert complete(indices, values, (6, 6, 6), tol=1e-8).converged
