import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import ttnet
from tests.ttnet.decomposition.functions import reciprocal, sampled_error
from tests.ttnet.strategies import same
from ttnet import TTShapeError, TTTypeError, TTValueError


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
            lambda i: np.ma.masked_greater(i.sum(1).numpy(), 20),
            TTTypeError,
            "what f returned has masked entries, .* of 1000; expected none: fill them before",
        ),
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
