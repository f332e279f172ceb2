import copy
import math
import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import DTYPES, dense, precision, relative_error, train_pairs, trains
from ttnet import TensorTrain, TTIndexError, TTMatrix, TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.train_scales import even_bonds


def close(actual, expected, dtype):
    return relative_error(actual, expected) <= precision(dtype)


@given(trains())
def test_properties_and_full(x):
    assert x.ndim == len(x.shape) == len(x.ranks) - 1
    assert x.ranks[0] == x.ranks[-1] == 1
    assert x.num_parameters == sum(core.numel() for core in x.cores)
    assert x.full().shape == x.shape
    assert x.full().dtype == x.dtype
    assert x.numel == x.full().numel()
    assert x.device == torch.device("cpu")
    assert close(x.full(), dense(x), x.dtype)


@given(train_pairs())
def test_sums_and_products(pair):
    x, y = pair
    dtype = torch.promote_types(x.dtype, y.dtype)
    single = min(x.dtype, y.dtype, key=lambda d: -torch.finfo(d).eps)
    scale = dense(x).norm() + dense(y).norm()
    for actual, expected in [(x + y, dense(x) + dense(y)), (x - y, dense(x) - dense(y))]:
        assert actual.dtype == dtype
        assert float((dense(actual) - expected).norm() / scale) <= precision(single)
        assert actual.ranks[1:-1] == tuple(a + b for a, b in zip(x.ranks[1:-1], y.ranks[1:-1], strict=True))
    assert (x * y).dtype == dtype
    assert (x * y).ranks == tuple(a * b for a, b in zip(x.ranks, y.ranks, strict=True))
    assert close(dense(x * y), dense(x) * dense(y), single)
    dot = x.dot(y)
    assert dot.shape == ()
    assert dot.dtype == dtype
    error = abs(complex(dot) - complex((dense(x).conj() * dense(y)).sum()))
    assert error <= precision(single) * float(dense(x).norm() * dense(y).norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "scalar", [3, -0.5, 2j, True, np.float64(2.5), np.int64(2), torch.tensor(2.0), torch.tensor(2.0 + 1j)]
)
def test_scalars_promote_as_torch_does(dtype, scalar):
    x = ttnet.random((3, 4, 2), 2, dtype=dtype, seed=0)
    plain = scalar.item() if isinstance(scalar, np.generic) else scalar
    for actual, expected in [
        (x * scalar, x.full() * plain),
        (scalar * x, x.full() * plain),
        (x / scalar, x.full() / plain),
    ]:
        assert isinstance(actual, TensorTrain)
        assert actual.dtype == expected.dtype
        assert close(actual.full(), expected, dtype)


@pytest.mark.parametrize("scale", [1e250, 1e-250])
def test_products_and_scalars_at_any_scale(scale):
    x = TensorTrain([torch.full((1, 2, 1), v, dtype=torch.float64) for v in (scale, 1 / scale, scale, 1 / scale)])
    number = torch.tensor(scale, dtype=torch.float64)
    for actual in [x * x, x * scale / scale, x * number * (1 / number), x / scale * scale]:
        assert actual.full().flatten().tolist() == pytest.approx([1.0] * 16)
    large = x * scale * scale
    assert float(large.log_norm()) == pytest.approx(math.log(4) + 2 * math.log(scale))
    assert (ttnet.ones((2, 2)) * 1e60 / 1e50).full().flatten().tolist() == pytest.approx([1e10] * 4)  # in float32


def test_scalars_that_do_not_fit():
    x = ttnet.ones((2, 2))
    for zero in (0, 0.0, 0j, False, np.float64(0), torch.tensor(0.0)):
        with pytest.raises(TTValueError, match="a train cannot be divided by 0"):
            x / zero
    for operation in [lambda: x * 10**400, lambda: x / 10**400]:
        with pytest.raises(TTValueError, match="the scalar is an int beyond the range of float64"):
            operation()
    with pytest.raises(TTValueError, match="the train is on cpu and the scalar on meta; move one of them"):
        x * torch.ones((), device="meta")
    assert float((x * 10**30).full()[0, 0]) == pytest.approx(1e30)


def test_the_scalar_takes_part_in_gradients():
    x = ttnet.random((2, 3), 2, dtype=torch.float64, seed=0)
    scalar = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: (x * s).full(), (scalar,))
    assert gradcheck(lambda s: (x / s).full(), (scalar,))


def test_signs_and_sum():
    x = ttnet.random((3, 4), 2, seed=0)
    assert torch.equal((-x).full(), -x.full())
    assert +x is x
    assert close(sum([x, x, x]).full(), 3 * x.full(), x.dtype)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + "1",
    ],
)
def test_meaningless_operations_are_type_errors(operation):
    with pytest.raises(TypeError, match="unsupported operand"):
        operation(ttnet.ones((2, 2)))


@given(trains(), st.data())
def test_indexing_agrees_with_torch(x, data):
    key = []
    for size in x.shape[: data.draw(st.integers(0, x.ndim))]:
        start = data.draw(st.integers(-size, size - 1))
        key.append(data.draw(st.sampled_from([start, slice(None), slice(start, None), slice(None, None, 2), None])))
    used = sum(item is not None for item in key)
    if data.draw(st.booleans()) and used <= x.ndim:
        key.insert(data.draw(st.integers(0, len(key))), ...)
    key = tuple(key)
    try:
        expected = dense(x)[key]
    except IndexError:
        expected = None
    if expected is None or not expected.numel():  # no train has an empty mode
        with pytest.raises(TTIndexError):
            x[key]
        return
    actual = x[key]
    assert isinstance(actual, TensorTrain) == (expected.ndim > 0)
    actual = actual.full() if isinstance(actual, TensorTrain) else actual
    scale = float(dense(x).abs().max())
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= precision(x.dtype) * max(scale, 1e-3)


def test_indexing_beyond_torch_and_its_errors():
    x = ttnet.random((4, 5, 6), 3, seed=0)
    assert close(x[::-1, 1, 4:0:-2].full(), x.full().flip(0)[:, 1, [4, 2]], x.dtype)
    assert torch.equal(torch.stack([row.full() for row in x]), torch.stack([x[i].full() for i in range(len(x))]))
    assert x[None].shape == (1, 4, 5, 6)
    assert ttnet.ones(())[...] == ttnet.ones(())[()] == 1
    assert ttnet.ones(())[None].full().tolist() == [1.0]
    assert x[np.int64(1)].shape == (5, 6)
    for key, error, message in [
        ((0, 0, 0, 0), TTIndexError, "4 indices are too many for a train of order 3"),
        ((0, 9), TTIndexError, "index 9 is out of range for mode 1 of size 5; expected -5 to 4"),
        (slice(3, 3), TTIndexError, "is empty"),
        ((..., ...), TTIndexError, "more than once"),
        ([0, 1], TTTypeError, "an index is a list, .*expected ints, slices"),
        (True, TTTypeError, "is a bool"),
        (torch.tensor([1, 2]), TTTypeError, "is a Tensor"),
        (1.0, TTTypeError, "is a float"),
    ]:
        with pytest.raises(error, match=message):
            x[key]
    with pytest.raises(TTTypeError, match="order 0 has no length"):
        len(ttnet.ones(()))


def test_indexing_long_trains_of_wild_scales():
    scales = [1e150] * 500 + [1e-150] * 500
    x = TensorTrain([torch.full((1, 2, 1), s, dtype=torch.float64) for s in scales])
    assert float(x[(0,) * 1000]) == pytest.approx(1, rel=1e-10)
    part = x[(0,) * 999]
    assert part.full().tolist() == pytest.approx([1, 1], rel=1e-10)


@given(trains())
def test_copies(x):
    for y in [pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.copy(x), x.clone(), x.detach()]:
        assert type(y) is TensorTrain
        assert y.shape == x.shape
        assert all(torch.equal(a, b) for a, b in zip(x.cores, y.cores, strict=True))
    assert x.clone().cores[0].data_ptr() != x.cores[0].data_ptr()
    assert close(x.conj().full(), dense(x).conj(), x.dtype)


def test_values_are_immutable():
    x = ttnet.ones((2, 3))
    assert isinstance(x.cores, tuple)
    with pytest.raises(AttributeError):
        x.cores = ()
    with pytest.raises(AttributeError):
        x.name = "x"


def test_to_and_detach():
    x = ttnet.ones((2, 3))
    assert x.to(torch.float64).dtype == torch.float64
    assert x.to("meta").device.type == "meta"
    for dtype in (torch.float32, torch.complex64):
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(TTTypeError, match=r"dtype is torch\.int64; expected"),
        ):
            x.to(dtype).to(torch.int64)
    core = torch.ones(1, 3, 1, requires_grad=True)
    assert not TensorTrain([core]).detach().cores[0].requires_grad
    TensorTrain([core]).to(torch.float64).full().sum().backward()
    assert torch.equal(core.grad, torch.ones(1, 3, 1))


def test_repr_draws_the_train():
    assert repr(ttnet.random((4, 5, 6), [3, 2], dtype=torch.float64)) == "TensorTrain([4]-3-[5]-2-[6], float64)"
    assert repr(ttnet.ones((7,))) == "TensorTrain([7], float32)"
    assert repr(ttnet.ones(())) == "TensorTrain([], float32)"
    assert repr(ttnet.ones((2,), device="meta")) == "TensorTrain([2], float32, meta)"


@given(order=st.integers(1, 300), size=st.sampled_from([1, 9, 10**6, 10**9]), rank=st.sampled_from([1, 5000]))
def test_repr_is_one_line_of_ascii_at_any_order(order, size, rank):
    ranks = [1, *[rank] * (order - 1), 1]
    cores = [torch.empty(r, size, s, device="meta") for r, s in pairwise(ranks)]
    text = repr(TensorTrain(cores))
    assert text.isascii()
    assert "\n" not in text
    assert len(text) <= 120
    if "..." in text:
        assert f"order {order}, ranks <= {rank}" in text


def test_numel_is_exact_at_any_order():
    assert ttnet.ones((7,) * 1000).numel == 7**1000


@pytest.mark.parametrize(
    ("cores", "error", "message"),
    [
        ([], TTShapeError, "cores is empty"),
        ([1.0], TTTypeError, "cores\\[0\\] is a float; expected a torch.Tensor of shape \\(r, n, r'\\)"),
        ([torch.ones(1, 2, 1, dtype=torch.int64)], TTTypeError, "torch.int64; expected a floating or complex"),
        ([torch.ones(1, 2)], TTShapeError, "the outer ranks are 1 and 2"),
        ([torch.ones(1, 1), torch.ones(1, 2, 1)], TTShapeError, "cores\\[0\\] has shape \\(1, 1\\)"),
        ([torch.ones(1, 2, 1, 1)], TTShapeError, "cores\\[0\\] has shape \\(1, 2, 1, 1\\)"),
        ([torch.ones(1, 0, 1)], TTShapeError, "every size must be at least 1"),
        ([torch.ones(1, 2, 3), torch.ones(2, 2, 1)], TTShapeError, "rank 3 but cores\\[1\\] begins with rank 2"),
        ([torch.ones(2, 2, 1)], TTShapeError, "the outer ranks are 2 and 1; expected 1 and 1"),
        ([torch.ones(1, 2, 1), torch.ones(1, 2, 1).double()], TTTypeError, "convert them to one dtype"),
        ([torch.ones(1, 2, 1), torch.ones(1, 2, 1, device="meta")], TTValueError, "move them to one device"),
    ],
)
def test_bad_cores(cores, error, message):
    with pytest.raises(error, match=message):
        TensorTrain(cores)


def test_operands_that_do_not_fit():
    x = ttnet.ones((2, 3))
    for operation in [lambda: x + ttnet.ones((3, 2)), lambda: x * ttnet.ones((2,)), lambda: x.dot(ttnet.ones((2, 1)))]:
        with pytest.raises(TTShapeError, match="expected the same shape"):
            operation()
    with pytest.raises(TTValueError, match="move them to one device"):
        x - ttnet.ones((2, 3), device="meta")
    with pytest.raises(TTTypeError, match="other is a int; expected a TensorTrain"):
        x.dot(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    x, y = (ttnet.random((3, 2, 4), 2, dtype=dtype, seed=seed) for seed in (0, 1))
    cores = [core.clone().requires_grad_() for core in x.cores]
    for function in [
        lambda t: t.full(),
        lambda t: (t + y).full(),
        lambda t: (t * y).full(),
        lambda t: (t * t).full(),
        lambda t: t.dot(y),
        lambda t: t.norm(),
        lambda t: t.log_norm(),
        lambda t: t[1, :, 2].full(),
        lambda t: t[1, 1, 1],
    ]:
        assert gradcheck(lambda *c, function=function: function(TensorTrain(c)), cores)


def test_gradient_of_the_norm_of_zero_is_zero():
    cores = [torch.zeros(1, 2, 2, requires_grad=True), torch.zeros(2, 2, 1, requires_grad=True)]
    TensorTrain(cores).norm().backward()
    assert all(torch.equal(core.grad, torch.zeros_like(core)) for core in cores)


@pytest.mark.parametrize("make", [lambda core: TensorTrain([core] * 300), lambda core: TTMatrix([core[:, None]] * 300)])
def test_more_entries_than_memory_are_refused_before_any_work(make):
    with pytest.raises(TTValueError, match=r"about 10\^90 entries, more than this machine's memory .* by indexing"):
        make(torch.ones(1, 2, 1)).full()


def uneven(dtype=torch.float64, big=1e200):
    first = torch.tensor([[[big, 1 / big], [big, 1 / big]]], dtype=dtype)
    last = torch.tensor([[[1 / big], [2 / big]], [[big], [3 * big]]], dtype=dtype)
    return TensorTrain([first, last]), torch.tensor([[2.0, 5.0], [2.0, 5.0]], dtype=dtype)


@pytest.mark.parametrize(("dtype", "big"), [(torch.float64, 1e200), (torch.float32, 1e25)])
def test_entries_of_bonds_whose_indices_differ_in_scale(dtype, big):
    x, a = uneven(dtype, big)
    torch.testing.assert_close(x.full(), a)
    torch.testing.assert_close(ttnet.evaluate(x, torch.tensor([[0, 0], [0, 1], [1, 1]])), a[[0, 0, 1], [0, 1, 1]])
    torch.testing.assert_close(x[0, 1], a[0, 1])
    torch.testing.assert_close(x[0].full(), a[0])
    torch.testing.assert_close(x[:, None, 1].full(), a[:, None, 1])
    torch.testing.assert_close(ttnet.apply(lambda t: t, x, eps=1e-4).full(), a)


def test_entries_of_a_long_sum_whose_parts_grow_at_different_ends():
    order = 1000
    cores = []
    for k in range(order):
        growth = 100.0 if k < order // 2 else 0.01
        core = torch.zeros(2, 2, 2, dtype=torch.float64)
        core[0, :, 0], core[1, :, 1] = growth, 1 / growth
        cores.append(core)
    cores[0], cores[-1] = cores[0].sum(0, keepdim=True), cores[-1].sum(2, keepdim=True)
    x = TensorTrain(cores)  # of twos
    two = torch.tensor(2.0, dtype=torch.float64)
    torch.testing.assert_close(x[(0,) * order], two, rtol=1e-11, atol=0)
    torch.testing.assert_close(ttnet.evaluate(x, torch.zeros(1, order, dtype=torch.int64))[0], two, rtol=1e-11, atol=0)
    row = x[(0,) * (order // 2) + (slice(None),) + (1,) * (order // 2 - 1)]
    torch.testing.assert_close(row.full(), two.expand(2), rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_sums_of_ordinary_trains_are_even_as_they_are(dtype):
    x = ttnet.random((3, 4, 5, 3), 2, dtype=dtype, seed=0) - ttnet.random((3, 4, 5, 3), 3, dtype=dtype, seed=1)
    cores, exponent = even_bonds(x.cores)
    assert exponent == 0
    assert all(core is own for core, own in zip(cores, x.cores, strict=True))


@pytest.mark.parametrize("tiny", [1e-161, 1e-170, 1e-250])  # squares that are hardly numbers, or zero
def test_what_only_seems_to_be_zero_is_evened(tiny):
    down, up = torch.tensor([1.0, tiny], dtype=torch.float64), torch.tensor([1.0, 1 / tiny], dtype=torch.float64)
    x = TensorTrain([down[None, None], torch.diag(down)[:, None], torch.diag(up)[:, None], up[:, None, None]])
    moved, _ = even_bonds(x.cores)
    assert any(core is not own for core, own in zip(moved, x.cores, strict=True))
    torch.testing.assert_close(x.full().flatten(), torch.tensor([2.0], dtype=torch.float64))


def test_a_scalar_of_ordinary_size_changes_each_entry_as_torch_does():
    x = TensorTrain([torch.tensor([1e30, 1e-30])[None, :, None]])
    torch.testing.assert_close((x * 0.5).full(), torch.tensor([5e29, 5e-31]), rtol=1e-6, atol=0)
    torch.testing.assert_close((x / 2).full(), torch.tensor([5e29, 5e-31]), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("dtype", "lower", "big"), [(torch.float64, torch.float32, 1e120), (torch.float32, torch.float16, 1e10)]
)
def test_conversion_keeps_trains_whose_cores_leave_the_smaller_range(dtype, lower, big):
    x = TensorTrain([torch.full((1, 2, 1), big if k % 2 else 1 / big, dtype=dtype) for k in range(4)])
    assert x.to(lower).dtype == lower
    torch.testing.assert_close(x.to(lower).full(), torch.ones(2, 2, 2, 2, dtype=lower))
    assert all(torch.equal(a, b.double()) for a, b in zip(x.to(torch.float64).cores, x.cores, strict=True))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_full_shares_no_memory_with_the_cores(order):
    x = ttnet.ones((3,) * order)
    x.full().zero_()
    assert float(x.full().sum()) == 3**order


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda x: x[1.0:], TTTypeError, "has the start 1.0; expected ints"),
        (lambda x: x[:"a"], TTTypeError, "has the stop 'a'; expected ints"),
        (lambda x: x[::0], TTIndexError, "has the step 0"),
        (lambda x: TensorTrain([x.cores[0].to_sparse(), x.cores[1]]), TTTypeError, r"cores\[0\] is sparse or nested"),
        (lambda x: x.to(torch.float8_e4m3fn), TTTypeError, "dtype is torch.float8_e4m3fn; expected"),
        (lambda x: TensorTrain([torch.ones(1, 1).to(torch.float8_e5m2)]), TTTypeError, "at least 16 bits"),
        (lambda x: ttnet.evaluate(x, torch.zeros(1, 2).long().to_sparse()), TTTypeError, "indices has the layout"),
        (lambda x: ttnet.eye((2,)) @ torch.eye(2).to_sparse(), TTTypeError, "the tensor is sparse or nested"),
        (lambda x: torch.func.vmap(lambda y: ttnet.apply(torch.exp, y).full())(stack(x)), TTValueError, "no plain num"),
        (lambda x: torch.func.vmap(lambda y: y.save("x") or y)(stack(x)), TTValueError, "no plain numbers"),
    ],
)
def test_what_torch_would_refuse_in_its_own_words(operation, error, message):
    with pytest.raises(error, match=message):
        operation(ttnet.ones((2, 3)))


def stack(x):
    return TensorTrain.unchecked(torch.stack([core, core]) for core in x.cores)


def test_slices_of_any_size():
    x = ttnet.random((4, 5), 2, seed=0)
    with warnings.catch_warnings(action="error"):
        assert torch.equal(x[-(10**30) : 10**30].full(), x.full())
        assert torch.equal(x[:: 10**30].full(), x.full()[:1])
