"""Samples against the distributions that they are drawn from, and what sample refuses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import dense, draw_train, dtypes, precision, seeds, shapes
from ttnet import TensorTrain, TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.solvers import conditionals, log_probabilities, sample


def non_negative(shape, rank, dtype, seed):
    return TensorTrain([core.abs() for core in draw_train(shape, [rank] * (len(shape) - 1), dtype, seed).cores])


def distribution(train, squared):
    tensor = dense(train).abs() ** (2 if squared else 1)
    return (tensor / tensor.sum()).double()


def draw(shape, rank, dtype, seed, squared):
    """A train and whether it is to be squared; complex ones always are."""
    squared = squared or dtype.is_complex
    return (draw_train(shape, [rank] * (len(shape) - 1), dtype, seed) if squared else
            non_negative(shape, rank, dtype, seed)), squared  # fmt: skip


@given(shapes, st.integers(1, 4), dtypes, seeds, st.booleans())
def test_samples_have_the_probabilities_they_say(shape, rank, dtype, seed, squared):
    train, squared = draw(shape, rank, dtype, seed, squared)
    expected = distribution(train, squared)
    samples = sample(train, 50, squared=squared, seed=seed)
    assert samples.indices.shape == (50, len(shape))
    probabilities = expected[tuple(samples.indices.T)] if shape else expected.expand(50)
    tolerance = precision(dtype) * 10
    assert torch.allclose(samples.log_probabilities.exp(), probabilities, rtol=tolerance, atol=tolerance)
    assert samples.negative == 0
    logs = log_probabilities(train, samples.indices, squared=squared)
    assert torch.allclose(logs.double().exp(), probabilities, rtol=tolerance, atol=tolerance)


@given(shapes.filter(len), st.integers(1, 4), dtypes, seeds, st.booleans(), st.data())
def test_conditionals_against_dense_ones(shape, rank, dtype, seed, squared, data):
    train, squared = draw(shape, rank, dtype, seed, squared)
    expected = distribution(train, squared)
    k = data.draw(st.integers(0, len(shape) - 1))
    head = [data.draw(st.integers(0, n - 1)) for n in shape[:k]]
    below = expected[tuple(head)]
    below = below.reshape(len(below), -1).sum(1)
    found = conditionals(train, torch.tensor([head, head], dtype=torch.int64), squared=squared)
    assert found.shape == (2, shape[k])
    if float(below.sum()) > 1e-3 * math.sqrt(precision(dtype)):
        assert torch.allclose(found, (below / below.sum()).expand(2, -1), atol=math.sqrt(precision(dtype)))
    assert torch.allclose(found.sum(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("squared", [True, False])
def test_as_many_samples_as_there_should_be(squared):
    """Pearson's test of all 24 entries, whose statistic has a mean of 23 and rarely exceeds 60."""
    train, _ = draw((2, 3, 4), 2, torch.float64, 5, squared)
    expected = distribution(train, squared).flatten() * 20_000
    samples = sample(train, 20_000, squared=squared, seed=1)
    numbers = samples.indices @ torch.tensor([12, 4, 1])
    counts = numbers.bincount(minlength=24)
    assert float(((counts - expected) ** 2 / expected).sum()) < 60


def test_given_indices_stay():
    train = non_negative((3, 4, 5, 2), 3, torch.float64, 0)
    joint = distribution(train, False)
    samples = sample(train, 500, given=[2, 1], seed=0)
    assert (samples.indices[:, :2] == torch.tensor([2, 1])).all()
    probabilities = joint[2, 1] / joint[2, 1].sum()
    assert torch.allclose(samples.log_probabilities.exp(), probabilities[tuple(samples.indices[:, 2:].T)])
    rows = torch.arange(500)[:, None] % 3
    samples = sample(train, 500, given=rows, seed=0)
    assert torch.equal(samples.indices[:, :1], rows)
    conditional = joint / joint.sum((1, 2, 3), keepdim=True)
    assert torch.allclose(samples.log_probabilities.exp(), conditional[tuple(samples.indices.T)])
    whole = sample(train, 2, given=torch.tensor([[0, 0, 0, 0], [2, 3, 4, 1]]))
    assert whole.indices.tolist() == [[0, 0, 0, 0], [2, 3, 4, 1]]
    assert whole.log_probabilities.tolist() == [0.0, 0.0]


def test_what_cannot_be_is_never_drawn():
    vector = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    for squared in (False, True):
        samples = sample(TensorTrain([vector[None, :, None]] * 6), 2000, squared=squared)
        assert set(samples.indices.flatten().tolist()) == {1, 3}


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_numbers_beyond_floats(squared, scale):
    vector = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    samples = sample(TensorTrain([(vector * scale)[None, :, None]] * 200), 100, squared=squared, seed=2)
    powers = (vector**2 if squared else vector) / (vector ** (2 if squared else 1)).sum()
    assert torch.allclose(samples.log_probabilities, powers[samples.indices].log().sum(1))
    train = TensorTrain([(vector * scale)[None, :, None]] * 200)
    assert torch.allclose(log_probabilities(train, samples.indices, squared=squared), samples.log_probabilities)


def test_small_negative_entries_count_as_zero():
    train = ttnet.tt_svd(torch.tensor([[1.0, -1e-9], [1.0, 1.0]], dtype=torch.float64))
    samples = sample(train, 100)
    assert 0 < samples.negative < 1e-8
    assert [0, 1] not in samples.indices.tolist()
    assert log_probabilities(train, torch.tensor([[0, 1]]))[0] == -math.inf
    with pytest.raises(TTValueError, match=r"1.0e-09 of the distribution of index 1 for some sample, and tol is"):
        sample(train, 100, tol=1e-10)


def test_large_numbers_of_samples_are_drawn_in_parts(monkeypatch):
    train = non_negative((3, 4, 5), 3, torch.float64, 0)
    whole = sample(train, 100, seed=4)
    monkeypatch.setattr("ttnet.solvers.sampling.CHUNK", 100)
    before = torch.random.get_rng_state()
    parts = sample(train, 100, seed=4)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(whole.indices, sample(train, 100, seed=5).indices)


@pytest.mark.parametrize("squared", [True, False])
def test_gradients(squared):
    train, _ = draw((2, 3, 2), 2, torch.float64, 0, squared)
    cores = [core.requires_grad_() for core in train.cores]
    indices = torch.tensor([[0, 0, 0], [1, 2, 1], [1, 1, 0]])
    assert torch.autograd.gradcheck(lambda *c: log_probabilities(TensorTrain(c), indices, squared=squared), cores)


X = ttnet.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sample(3, 1), TTTypeError, "train is a int; expected a TensorTrain."),
        (lambda: sample(X * 1j, 1), TTTypeError, "train is complex, which probabilities are not; pass squared=True"),
        (lambda: sample(X, 0), TTValueError, "n is 0; expected an int >= 1."),
        (lambda: sample(X, 1, seed=None), TTTypeError, "seed is None"),
        (lambda: sample(X, 1, tol=2), TTValueError, "tol is 2; expected a share from 0 to 1."),
        (lambda: sample(X, 1, squared=1), TTTypeError, "squared is 1; expected True or False."),
        (lambda: sample(X * 0, 1), TTValueError, "train sums to zero or less; expected a non-negative one"),
        (lambda: sample(X * 0, 1, squared=True), TTValueError, "train is zero; expected some entry other than that."),
        (lambda: sample(-X, 1), TTValueError, "train sums to zero or less"),
        (lambda: sample(X * math.nan, 1), TTValueError, "holds NaN or infinite"),
        (lambda: sample(X, 3, given=torch.zeros(2, 1).long()), TTShapeError, "given has 2 rows; expected one for each"),
        (lambda: sample(X, 3, given=[0, 0, 0]), TTShapeError, "given has shape (1, 3); expected (batch, k), with k at"),
        (
            lambda: sample(X, 3, given=[2]),
            TTIndexError,
            "given holds 2 in row 0 for mode 0 of size 2; expected 0 to 1.",
        ),
        (lambda: sample(X, 3, given=[0.5]), TTTypeError, "given is a tensor of torch.float32; expected ints"),
        (lambda: sample(X, 3, given="a"), TTTypeError, "given is a str; expected ints"),
        (lambda: conditionals(X, [0, 0]), TTShapeError, "heads has 2 indices a row, all there are; expected at"),
        (
            lambda: log_probabilities(X, torch.zeros(1, 1).long()),
            TTShapeError,
            "indices has 1 indices a row; expected",
        ),
        (lambda: log_probabilities(-X, torch.zeros(1, 2).long()), TTValueError, "train sums to zero or less"),
        (
            lambda: conditionals(ttnet.tt_svd(torch.tensor([[1.0, 1.0], [0.0, 0.0]])), [1]),
            TTValueError,
            "row 0 of what is given has a probability of zero, so nothing can be said of index 1",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
