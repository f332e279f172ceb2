import math
import pickle

import pytest
import torch
from hypothesis import given

import ttnet
from tests.examples import examples
from tests.ttnet.decomposition.functions import grid, sampled_error
from tests.ttnet.strategies import dense, relative_error, seeds, train_pairs
from ttnet import CrossStatus, TensorTrain, TTConvergenceError, TTShapeError, TTTypeError, TTValueError


def test_apply_to_one_train():
    x = ttnet.meshgrid(*[grid(10)] * 5)
    total = ttnet.round(sum(x))
    for f in [torch.exp, torch.sin, lambda v: v, lambda v: 1 / (1 + v), lambda v: v.numpy() ** 2, lambda v: v * 1j]:
        y = ttnet.apply(f, total, eps=1e-8)
        expected = torch.as_tensor(f(total.full().flatten())).reshape(total.shape)
        assert relative_error(y.full(), expected) <= 1e-8
    assert set(ttnet.apply(torch.exp, total).ranks) == {1}
    assert ttnet.apply(lambda v: v, total).ranks == total.ranks


@examples(0.4)
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
