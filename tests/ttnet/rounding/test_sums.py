import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.rounding.spectra import METHODS, SPECTRA, each_method, is_left_orthogonal, log_error, with_spectrum
from tests.ttnet.strategies import dense, precision, relative_error, trains
from ttnet import TensorTrain, TTShapeError, TTTypeError, TTValueError, round_sum


@given(st.data(), trains(), st.sampled_from(METHODS))
def test_sums_of_trains(data, first, method):
    terms = [first] + [data.draw(trains(shape=first.shape)) for _ in range(data.draw(st.integers(0, 3)))]
    numbers = st.sampled_from([-2, -0.7, 0, 0.01, 1, 3.5])
    weights = data.draw(st.one_of(st.none(), st.lists(numbers, min_size=len(terms), max_size=len(terms))))
    y = ttnet.round_sum(terms, coefficients=weights, method=method)
    parts = [dense(term) * (weights[i] if weights else 1) for i, term in enumerate(terms)]
    expected = sum(parts[1:], parts[0])
    dtype = terms[0].dtype
    for term in terms:
        dtype = torch.promote_types(dtype, term.dtype)
    assert (y.shape, y.dtype) == (first.shape, dtype)
    # The least precise summand sets what the sum is known to, and summands may cancel.
    scale = max(float(part.norm()) for part in parts)
    floor = max(precision(term.dtype) for term in terms) * scale
    assert float((dense(y) - expected).norm()) <= floor
    assert y.ndim < 2 or is_left_orthogonal(y) or float(expected.norm()) <= floor


@each_method
@pytest.mark.parametrize("arguments", [{"eps": 1e-1}, {"eps": 1e-5}, {"eps": 1e-9}, {"max_rank": 5}, {}])
def test_a_sum_is_rounded_as_if_it_were_formed(arguments, method):
    terms = [ttnet.random((9,) * 4, 6, dtype=torch.float64, seed=i) * 0.1**i for i in range(8)]
    weights = [1, -1, 2, 0.5, 3, 1, 0, 1]
    whole = sum((w * x for w, x in zip(weights[1:], terms[1:], strict=True)), weights[0] * terms[0])
    y, expected = ttnet.round_sum(terms, coefficients=weights, **arguments, method=method), whole.round(**arguments)
    best, error = relative_error(dense(expected), dense(whole)), relative_error(dense(y), dense(whole))
    if "eps" in arguments:
        assert error <= arguments["eps"]
    assert error <= max(2 * best, arguments.get("eps", 0.0), 1e-13)
    assert all(a <= b + 1 for a, b in zip(y.ranks, expected.ranks, strict=True))


@each_method
def test_sums_of_summands_of_any_scale(method):
    x, y = (with_spectrum(SPECTRA["exponential"], seed=seed) for seed in (0, 5))
    huge = TensorTrain(core * 1e150 for core in x.cores)
    tiny = TensorTrain(core * 1e-150 for core in y.cores)
    nothing = TensorTrain([huge.cores[0] * 0, *huge.cores[1:]])
    assert log_error(tiny, ttnet.round_sum([tiny, nothing], eps=1e-6, method=method)) <= math.log(1e-6)
    assert log_error(huge, ttnet.round_sum([tiny, huge], eps=1e-6, method=method)) <= math.log(1e-6)
    # Equal again by their coefficients: 1e-300 times 1e600 against 1e300 times 1e-600.
    z = ttnet.round_sum([x * 1e-250, y * 1e250], coefficients=[1e250, 1e-250], eps=1e-6, method=method)
    assert log_error(x + y, z) <= math.log(1e-6)
    long = ttnet.random((2,) * 400, 3, dtype=torch.float64, seed=0)
    high, low = (TensorTrain(core * scale for core in long.cores) for scale in (1e3, 1e-3))
    total = ttnet.round_sum([low, high, low], eps=1e-6, method=method)
    assert log_error(high, total) <= math.log(1e-6)
    assert max(total.ranks) == 3


@each_method
def test_sums_of_summands_whose_norm_is_far_from_their_cores(method):
    core = torch.tensor([[1e-6, 1.0], [0.0, 1e-6]], dtype=torch.float64)[:, None].expand(2, 3, 2)
    small = TensorTrain([core[:1], *[core] * 198, core[:, :, 1:]])  # all its entries are 200 * 1e-1194
    level = TensorTrain([torch.full((1, 3, 1), 1e-6, dtype=torch.float64)] * 200)  # 1e-1200
    y = ttnet.round_sum([small, level], coefficients=[1, 2e8], eps=1e-6, method=method)
    assert y.ranks == (1,) * 201
    assert float(y.log_norm() - level.log_norm()) == pytest.approx(math.log(4e8), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coefficients_promote_as_products_do(dtype):
    x = ttnet.random((3, 4), 2, dtype=torch.float32, seed=0).to(dtype)
    for weight in [2, 2.0, True, 1j, np.float64(2), torch.tensor(2.0, dtype=torch.float64), torch.tensor(1j)]:
        y, expected = ttnet.round_sum([x, x], coefficients=[weight, 0]), x * weight
        assert y.dtype == expected.dtype
        assert relative_error(dense(y), dense(expected)) <= 8 * torch.finfo(dtype).eps
    y = ttnet.round_sum(iter([x, x]), coefficients=torch.tensor([1.0, 2.0]))
    assert relative_error(dense(y), 3 * dense(x)) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ([ttnet.ones((2, 3))], {}, TTTypeError, "trains is a TensorTrain; expected a list of TensorTrains"),
        ([3], {}, TTTypeError, "trains is a int; expected a list"),
        ([[]], {}, TTValueError, "trains is empty; expected at least one train"),
        ([[ttnet.ones((2,)), 3]], {}, TTTypeError, "trains\\[1\\] is a int; expected a TensorTrain"),
        (
            [[ttnet.ones((2,)), ttnet.ones((3,))]],
            {},
            TTShapeError,
            "trains\\[1\\] has shape \\(3,\\) but trains\\[0\\]",
        ),
        (
            [[ttnet.ones((2,)), ttnet.ones((2,)).to("meta")]],
            {},
            TTValueError,
            "trains\\[1\\] is on meta but trains\\[0\\] is on cpu",
        ),
        ([[ttnet.ones((2,))]], {"coefficients": 3}, TTTypeError, "coefficients is a int; expected one number"),
        ([[ttnet.ones((2,))]], {"coefficients": [1, 2]}, TTShapeError, "coefficients has 2 entries; expected 1"),
        ([[ttnet.ones((2,))]], {"coefficients": ["a"]}, TTTypeError, "coefficients\\[0\\] is 'a'; expected a number"),
        (
            [[ttnet.ones((2,))]],
            {"coefficients": [math.nan]},
            TTValueError,
            "coefficients\\[0\\] is nan; expected a fin",
        ),
        (
            [[ttnet.ones((2,))]],
            {"coefficients": [10**400]},
            TTValueError,
            "coefficients\\[0\\] is 1000.*; expected a f",
        ),
        ([[ttnet.ones((2,)), ttnet.ones((2,)) * math.nan]], {}, TTValueError, "trains\\[1\\].cores\\[0\\] holds NaN"),
        ([[ttnet.ones((2, 3))]], {"method": "best"}, TTValueError, "method is 'best'"),
        ([[ttnet.ones((2, 3))]], {"max_rank": [1, 2]}, TTShapeError, "max_rank has 2 entries; expected 1"),
    ],
)
def test_errors_of_sums(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        ttnet.round_sum(*arguments, **keywords)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_summands_that_grow_at_different_ends(method, order, dtype):
    grows, stays = torch.ones(1, 8, 1, dtype=dtype), torch.eye(8, dtype=dtype)[None, :, :1]
    x, y = (
        TensorTrain([*[one] * (order // 2), *[other] * (order // 2)]) for one, other in [(grows, stays), (stays, grows)]
    )
    expected = (order / 2 * math.log(8) + math.log(2)) / 2  # they overlap at one entry only
    for total in [
        round_sum([x, y], method=method),
        (x + y).round(method=method),
        ((x + y) * (x + y)).round(method=method),
    ]:
        assert float(total.log_norm()) == pytest.approx(expected, rel=1e-6)
    assert float(((x + y) * (x + y)).log_norm()) == pytest.approx(expected, rel=1e-6)
