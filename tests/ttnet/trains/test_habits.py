"""What people try on a train as on a tensor or an array: what is exact is right, the rest names a call."""

import operator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from ttnet import TTMatrix
from ttnet.errors import TTError, TTShapeError, TTTypeError, TTValueError
from ttnet.trains.instead import MATRICES_BESIDES, OF_MATRICES, OF_TRAINS, TRAINS_BESIDES

DTYPES = [torch.float64, torch.float32, torch.complex128]


@st.composite
def trains(draw, least=0):
    shape = draw(st.lists(st.integers(1, 4), min_size=least, max_size=4))
    return ttnet.random(
        tuple(shape), draw(st.integers(1, 3)), dtype=draw(st.sampled_from(DTYPES)), seed=draw(st.integers(0, 99))
    )


def close(found, expected):
    bound = 1e-4 if torch.finfo(found.dtype).bits == 32 or found.dtype == torch.complex64 else 1e-10
    torch.testing.assert_close(
        found, expected.to(found.dtype), rtol=bound, atol=bound * (1 + float(expected.abs().max()))
    )


@given(trains(), st.sampled_from([2, -1.5, np.float64(0.25), torch.tensor(3.0)]))
def test_numbers_are_added_to_every_entry(x, number):
    full = x.full()
    for found, expected in [
        (x + number, full + number),
        (number + x, full + number),
        (x - number, full - float(number)),
        (number - x, number - full),
    ]:
        assert found.dtype == expected.dtype
        close(found.full(), expected)


@given(trains(), st.integers(0, 3))
def test_whole_powers_are_exact(x, power):
    close((x**power).full(), x.full() ** power)


@given(trains())
def test_arrays_and_other_habits(x):
    full = x.full()
    for array in (np.asarray(x), np.array(x), x.numpy(), x.__array__()):
        assert array.shape == x.shape
        assert np.array_equal(array, full.numpy())
    assert np.asarray(x, dtype=np.complex64).dtype == np.complex64
    close(x.T.full(), full.permute(tuple(reversed(range(full.ndim)))))
    assert x.numel() == x.numel == full.numel()
    assert torch.equal(x.cpu().full(), full)
    if x.dtype.is_complex:
        with pytest.raises(TTTypeError, match=r"dtype is torch\.float32, but the train is complex.*torch\.real"):
            x.float()
        return
    assert torch.equal(x.double().full(), x.to(torch.float64).full())
    for name in ("float", "half", "bfloat16"):
        assert getattr(x, name)().dtype == getattr(torch, {"float": "float32", "half": "float16"}.get(name, name))


def test_large_arrays_are_not_read_entry_by_entry():
    x = ttnet.random((64,) * 4, 3, seed=0)
    assert np.asarray(x).shape == (64,) * 4
    for make in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_dlpack):
        assert torch.equal(make(x), x.full())
    for make in (torch.tensor, torch.as_tensor):
        assert torch.equal(make(x, dtype=torch.float64), x.full().double())
    assert np.array_equal(np.from_dlpack(x), x.full().numpy())
    for make in (np.asarray, torch.tensor):
        with pytest.raises(TTError, match="entries"):  # the guard of `full`
            make(ttnet.ones((64,) * 20))
    with pytest.raises(TTTypeError, match=r"numpy has no torch\.bfloat16"):
        x.bfloat16().numpy()
    with pytest.raises(TTValueError, match="no array that could be shared"):
        np.array(x, copy=False)


@given(trains(least=1), st.data())
def test_functions_of_numpy_that_are_exact(x, data):
    full = x.full().numpy()
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    keep = data.draw(st.booleans())
    order = data.draw(st.permutations(range(x.ndim)))
    for found, expected in [
        (np.sum(x), full.sum()),
        (np.sum(x, axis=axis, keepdims=keep), full.sum(axis, keepdims=keep)),
        (np.mean(x), full.mean()),
        (np.mean(x, axis), full.mean(axis)),
        (np.std(x), full.std()),
        (np.var(x), full.var()),
        (np.var(x, axis=axis, keepdims=keep), full.var(axis, keepdims=keep)),
        (np.swapaxes(x, axis, 0), full.swapaxes(axis, 0)),
        (np.linalg.norm(x), np.linalg.norm(full.ravel())),
        (np.vdot(x, x), np.vdot(full, full)),
        (np.transpose(x), full.transpose()),
        (np.transpose(x, order), full.transpose(order)),
        (np.reshape(x, (x.numel(), 1)), full.reshape(-1, 1)),
        (np.concatenate([x, x], axis=axis), np.concatenate([full, full], axis)),
        (np.stack([x, x]), np.stack([full, full])),
        (np.kron(x, x), np.kron(full, full)),
        (np.add(x, x), 2 * full),
        (np.subtract(3, x), 3 - full),
        (np.multiply(np.float64(0.5), x), full / 2),
        (np.negative(x), -full),
        (np.divide(x, 2), full / 2),
        (np.power(x, 2), full**2),
    ]:
        assert isinstance(found, torch.Tensor if np.ndim(expected) == 0 else ttnet.TensorTrain)
        dense = found if isinstance(found, torch.Tensor) else found.full()
        assert tuple(dense.shape) == np.shape(expected)
        close(dense, torch.as_tensor(expected))


def test_functions_of_numpy_that_form_nothing():
    huge = ttnet.ones((10,) * 100, dtype=torch.float64)
    assert (np.ndim(huge), np.size(huge), np.shape(huge)) == (100, 10**100, (10,) * 100)
    assert float(np.mean(huge)) == pytest.approx(1)
    assert float(np.linalg.norm(huge)) == pytest.approx(1e50)
    w = ttnet.eye((10,) * 100, dtype=torch.float64)
    assert float(np.trace(w)) == pytest.approx(1e100)
    assert isinstance(np.transpose(w), TTMatrix)
    with pytest.raises(TTValueError, match="entries"):
        np.cumsum(huge)


def test_other_functions_of_numpy_take_the_dense_array(tmp_path):
    full = X.full().numpy()
    np.save(tmp_path / "x.npy", X)
    assert np.array_equal(np.load(tmp_path / "x.npy"), full)
    assert np.array_equal(np.cumsum(X), full.cumsum())
    assert np.array_equal(np.sum(X, dtype=np.float32), full.sum(dtype=np.float32))  # not an argument of trains
    assert np.array_equal(np.hstack((X, full)), np.hstack((full, full)))
    assert np.linalg.norm(W, ord=2) == pytest.approx(np.linalg.norm(W.full().numpy(), ord=2))
    np.testing.assert_allclose(X, full)


def test_what_has_one_entry_is_a_number():
    one = ttnet.tt_svd(torch.full((1, 1), 2.5, dtype=torch.float64))
    assert (one.item(), float(one), int(one), complex(one)) == (2.5, 2.5, 2, 2.5)
    assert bool(one)
    assert not 0 * one
    assert TTMatrix.from_dense(torch.full((1, 1), 3.0)).item() == 3
    assert ttnet.allclose(sum([X, X, X]), 3 * X)  # which begins with the number 0


X = ttnet.random((2, 3), 2, dtype=torch.float64, seed=0)
NAMED = [name for name, call in (OF_TRAINS | TRAINS_BESIDES).items() if call == f"ttnet.apply(torch.{name}, train)"]
ARCS = {name for name in TRAINS_BESIDES if name[:2] in ("ac", "ar", "as", "at")} | {"erfinv", "logit"}
W = TTMatrix.from_dense(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), (2, 3), (2, 3))


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda: 1 / X, r"no '/' of this kind; take ttnet\.apply\(torch\.div"),
        (lambda: X / X, r"ttnet\.apply\(torch\.div"),
        (lambda: X**-1, "for powers below 0 or between whole numbers"),
        (lambda: X**0.5, "for powers below 0"),
        (lambda: 2**X, "for powers below 0"),
        (lambda: abs(X), r"take ttnet\.apply\(torch\.abs, train\)"),
        (lambda: X < X, r"\(a - b\)\.norm\(\)"),
        (lambda: X >= 1, r"\(a - b\)\.norm\(\)"),
        (lambda: X == X, r"ttnet\.allclose\(a, b\)"),
        (lambda: X != X, r"ttnet\.allclose\(a, b\)"),
        (lambda: 1.0 in X, "not asked with `in`"),
        (lambda: X * torch.ones(2, 3), r"other is dense, of shape \(2, 3\).*ttnet\.tt_svd\(other\)"),
        (lambda: np.ones((2, 3)) + X, "other is dense"),
        (lambda: torch.ones(2, 3) - X, "other is dense"),
        (lambda: X / np.ones(3), "other is dense"),
        (lambda: X[[0, 1]], r"ttnet\.evaluate\(train, indices\)"),
        (lambda: W + 1, r"c \* ttnet\.eye\(matrix\.row_shape\)"),
        (lambda: 1 - W, r"ttnet\.eye"),
        (lambda: W - 1, r"ttnet\.eye"),
        (lambda: W**2, "matrix @ matrix"),
        (lambda: 1 / W, r"ttnet\.solvers\.inverse\(matrix\)"),
        (lambda: W / W, r"ttnet\.solvers\.inverse\(matrix\)"),
        (lambda: abs(W), r"to_train\(\)"),
        (lambda: W == W, r"ttnet\.allclose"),
        (lambda: X @ torch.ones(3), r"no '@' of this kind; take a\.dot\(b\).*ttnet\.TTMatrix"),
        (lambda: X @ X, r"a\.dot\(b\)"),
        (lambda: np.ones(2) @ X, r"a\.dot\(b\)"),
        (lambda: torch.ones(2) @ X, r"a\.dot\(b\)"),
        (lambda: W @ np.ones(6), r"a TTMatrix and a ndarray; take torch\.as_tensor\(array\)"),
        (lambda: np.ones(6) @ W, r"a ndarray and a TTMatrix; take torch\.as_tensor\(array\)"),
        (lambda: np.exp(X), r"numpy\.exp is given a TensorTrain; take ttnet\.apply\(torch\.exp, train\)"),
        (lambda: np.abs(X), r"take ttnet\.apply\(torch\.abs, train\)"),
        (lambda: np.cbrt(X), r"ttnet\.apply\(function, train\), or train\.numpy\(\) if it is small"),
        (lambda: np.add.reduce(X), r"numpy\.add\.reduce is given a TensorTrain; take train\.sum\(dim\)"),
        (lambda: np.multiply.outer(X, X), r"numpy\.multiply\.outer .*; take ttnet\.outer\(a, b\)"),
        (lambda: np.maximum(X, 0), r"ttnet\.apply\(torch\.maximum, a, b\), or .*clamp"),
        (lambda: X == 1, r"entries of a train are not compared with == or !=; take train\.full\(\).*allclose"),
        (lambda: X != 1.5, "entries of a train are not compared"),
        (lambda: np.float64(2) == X, "entries of a train are not compared"),
        (lambda: X.full() == X, "entries of a train are not compared"),
        (lambda: X.numpy() == X, "entries of a train are not compared"),
        (lambda: X.numpy() != X, "entries of a train are not compared"),
        (lambda: torch.ones(6, 6) == W, "entries of a train are not compared"),
        (lambda: X in [1, 2], "entries of a train are not compared"),
        (lambda: X // 2, r"no '//' of this kind; take ttnet\.apply\(lambda x: x // number, train\)"),
        (lambda: 2 // X, "no '//'"),
        (lambda: divmod(X, 2), "no '//'"),
        (lambda: X % 2, r"no '%' of this kind; take ttnet\.apply\(lambda x: x % number, train\)"),
        (lambda: W % 2, r"to_train\(\), of which ttnet\.apply takes any function"),
        (lambda: X[torch.tensor([0])], r"an index is a Tensor, of shape \(1,\); .*ttnet\.evaluate"),
        (lambda: X[torch.tensor(True)], r"an index is a Tensor, of shape \(\)"),
        (lambda: X[np.ones((2, 3), bool)], r"an index is a ndarray, of shape \(2, 3\); expected"),
        (lambda: X[np.bool_(True)], "an index is a bool"),
        (lambda: W[0], r"a TT-matrix is not indexed; take to_train\(\).*ttnet\.diag\(matrix\)"),
        (lambda: X.sum(0, 1), r"keepdim is 1; expected True or False: several modes are named as dim=\(0, 1\)"),
        (lambda: X.mean(0, 1), "keepdim is 1"),
        (lambda: W + torch.ones(6, 6), r"other is dense, of shape \(6, 6\).*TTMatrix\.from_dense\(other, row_shape"),
        (lambda: torch.ones(6, 6) - W, "other is dense"),
        (lambda: W * np.ones((6, 6)), "other is dense"),
        (lambda: W / torch.ones(6), "other is dense"),
        (lambda: X.norm(2), r"norm has no argument for 2; take norm\(\), the Frobenius norm"),
        (lambda: W.norm("fro"), "norm has no argument for 'fro'"),
        (lambda: X.numpy(force=True), r"numpy has no argument 'force'; take numpy\(\) without it"),
        (lambda: ttnet.zeros(3, 4), r"zeros has no argument for 4; take zeros\(\(4, 4\)\), with the sizes in one"),
        (lambda: X.reshape((2, 3), 1), r"shape is \(2, 3\), and more follows; expected one sequence of ints"),
        (lambda: ttnet.round(W), r"tt is a TTMatrix; expected a TensorTrain, as its to_train\(\) gives"),
        (lambda: ttnet.cat([W, W]), r"trains\[0\] is a TTMatrix; expected a TensorTrain, as its to_train\(\)"),
        (lambda: ttnet.contract("ij,ij->", X, X), r"operand 0 is a TensorTrain; .*: take their cores, or train\.dot"),
        (lambda: np.greater(1, X), r"\(a - b\)\.norm\(\)"),
        (lambda: np.equal(X, X), r"ttnet\.allclose\(a, b\)"),
        (lambda: bool(X), "a TensorTrain of 6 entries is neither true nor false; take `train is not None`"),
        (lambda: not W, "a TTMatrix of 36 entries is neither true nor false"),
        (lambda: float(X), r"a TensorTrain of 6 entries is no number; take .*train\.sum\(\)"),
        (lambda: complex(X), "is no number"),
        (lambda: int(X), "is no number"),
        (lambda: X.item(), "is no number"),
        (lambda: round(X, 3), r"not rounded to digits; take train\.round\(eps\)"),
        (lambda: operator.setitem(X, 0, 1.0), r"not changed in place; .*ttnet\.pad"),
    ],
)
def test_operators_that_are_not_exact_name_the_call(operation, words):
    with pytest.raises(TTTypeError, match=words):
        operation()


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda: np.max(X), r"no 'max'; take ttnet\.solvers\.optimize\(train, 'max'\)"),
        (lambda: np.argmin(X), r"ttnet\.solvers\.optimize\(train, 'min'\)"),
        (lambda: np.squeeze(X), r"train\[:, 0\]"),
        (lambda: np.sum(W), r"to_train\(\)\.sum\(\)"),
        (lambda: np.std(W), r"to_train\(\)\.std\(\)"),
        (lambda: np.linalg.inv(W), r"ttnet\.solvers\.inverse\(matrix\)"),
    ],
)
def test_functions_of_numpy_that_are_not_exact_name_the_call(operation, words):
    with pytest.raises(AttributeError, match=words):
        operation()


def test_powers_that_would_fill_the_memory_are_refused():
    with pytest.raises(TTValueError, match=r"ranks up to 2 to 2\*\*40"):
        X**40


@pytest.mark.parametrize(
    ("value", "table"), [(X, OF_TRAINS), (X, TRAINS_BESIDES), (W, OF_MATRICES), (W, MATRICES_BESIDES)]
)
def test_attributes_that_are_missing_name_the_call(value, table):
    for name, call in table.items():
        if name.isidentifier() and name != "contiguous":
            assert not hasattr(value, name), name
            with pytest.raises(AttributeError) as caught:
                getattr(value, name)
            assert str(caught.value) == f"a {type(value).__name__} has no {name!r}; take {call}."
    with pytest.raises(AttributeError, match="has no 'shap'; did you mean 'shape'"):
        value.shap  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no 'qqqqq'$"):
        value.qqqqq  # noqa: B018
    for name in ("add_", "fill_", "copy_"):
        with pytest.raises(AttributeError, match="take an operation that gives a new value, as none is changed in"):
            getattr(value, name)


@pytest.mark.parametrize("name", NAMED)
def test_functions_that_are_named_take_trains(name):
    x = (X + 1.5).to(torch.complex128 if name in ("real", "imag") else torch.float64)
    if name in ARCS:
        x = x / 10 + (1 if name.endswith("cosh") else 0)
    found = ttnet.apply(getattr(torch, name), x)
    torch.testing.assert_close(found.full(), getattr(torch, name)(x.full()).to(found.dtype), rtol=1e-6, atol=1e-6)


def test_other_calls_that_are_named_do_what_they_stand_for():
    x = ttnet.random((3, 4), 2, dtype=torch.float64, seed=0)
    full = x.full()
    for found, expected in [
        (ttnet.cat([x[-1:], x[:-1]]), full.roll(1, 0)),
        (x[::-1], full.flip(0)),
        (x[1:] - x[:-1], full.diff(dim=0)),
        (ttnet.kron(ttnet.ones((2, 3)), x), full.tile(2, 3)),
        (ttnet.kron(x, ttnet.ones((2, 1))), full.repeat_interleave(2, 0)),
        (ttnet.outer(ttnet.ones((5,)), x), full.expand(5, 3, 4)),
        (ttnet.stack([x[k] for k in (0, 2)]), full[[0, 2]]),
        (ttnet.apply(lambda x: x.clamp(0, 1), x), full.clamp(0, 1)),
        (ttnet.apply(torch.maximum, x, 2 * x), torch.maximum(full, 2 * full)),
        (ttnet.apply(lambda x: x // 2, x), full // 2),
        (ttnet.apply(lambda x: x % 2, x), full % 2),
        (x**0, torch.ones_like(full)),
    ]:
        torch.testing.assert_close(found.full().double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.complex128])
def test_numbers_of_every_kind_stand_beside_trains(dtype):
    x = ttnet.random((3, 4), 2, seed=0).to(dtype)
    for two in (2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), torch.tensor(2.0)):
        for found, expected in [(x * two, 2 * x.full()), (two * x, 2 * x.full()), (two - x, 2 - x.full())]:
            assert found.dtype == dtype
            torch.testing.assert_close(found.full(), expected, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close((x**two).full(), x.full() ** 2, rtol=1e-2, atol=1e-2)
        assert ttnet.allclose(two * W, 2 * W)
    for yes in (True, np.True_, torch.tensor(True)):
        assert ttnet.allclose(yes * x, x)
        assert ttnet.allclose(x * yes, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
@pytest.mark.parametrize("infinite", [float("inf"), -np.float64("inf"), torch.tensor(torch.inf), np.array(np.inf)])
def test_infinite_entries_are_refused(dtype, infinite):
    x = ttnet.random((3, 4), 2, seed=0).to(dtype)
    w = TTMatrix.from_dense(torch.eye(4), (2, 2), (2, 2)).to(dtype)
    for operation in (
        lambda: x * infinite,
        lambda: infinite * w,
        lambda: x + infinite,
        lambda: infinite - x,
        lambda: x / infinite,
    ):
        with pytest.raises(TTValueError, match="the scalar is infinite; expected a finite number"):
            operation()
    for zero in (0, 0.0, torch.tensor(0.0), np.float64(0)):
        for value in (x, w):
            with pytest.raises(TTValueError, match="divided by 0"):
                value / zero
    assert (x * float("nan")).full().isnan().all()


@given(trains(least=1), st.data())
def test_sizes_and_modes_one_by_one(x, data):
    order = data.draw(st.permutations(range(x.ndim)))
    close(x.permute(*order).full(), x.full().permute(*order))
    for found in (x.reshape(-1), ttnet.reshape(x, -1), np.reshape(x, -1), x.reshape(x.numel(), 1)[:, 0]):
        close(found.full(), x.full().reshape(-1))
    close(x.reshape(1, *x.shape).full(), x.full()[None])


def test_digits_to_round_to_are_no_relative_error():
    for operation in (lambda: X.round(2), lambda: W.round(np.int64(1)), lambda: ttnet.round(X, eps=3)):
        with pytest.raises(TTValueError, match=r"as large as the tensor; .*such as 1e-8.* not rounded to digits"):
            operation()
    assert ttnet.allclose(X.round(0), X)
    assert ttnet.tt_svd(torch.ones(2, 2), eps=1).ranks == (1, 1, 1)


def test_slices_of_the_first_mode_are_gone_through():
    x = ttnet.random((3, 4, 5), 2, dtype=torch.float64, seed=0)
    assert len(x) == len(list(x)) == 3
    for part, expected in zip(x, x.full(), strict=True):
        torch.testing.assert_close(part.full(), expected)
    with pytest.raises(TTTypeError, match="order 0 has no length"):
        list(ttnet.ones(()))
    with pytest.raises(TypeError, match="not iterable"):
        list(W)
    conjugate = (X * 1j).conj()
    torch.testing.assert_close(torch.tensor(conjugate), conjugate.full().resolve_conj())
    assert np.array_equal(np.asarray(conjugate), conjugate.full().resolve_conj().numpy())
    needing = ttnet.TensorTrain([core.clone().requires_grad_() for core in X.cores])
    assert not torch.as_tensor(needing).requires_grad
    assert torch.tensor(W).shape == (6, 6)


def test_values_stay_keys_and_answer_to_what_is_no_train():
    assert {X: 1}[X] == 1
    assert (X == None) is False  # noqa: E711
    assert X != "train"


def test_matrices_choose_their_modes():
    w = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"max_rank": 2}, {"eps": 1e-3}):
        found = TTMatrix.from_dense(w, **options)
        assert found.shape == (12, 8)
        expected = ttnet.modes.choose_paired_modes(12, 8, rank=options.get("max_rank", 8))
        assert (found.row_shape, found.col_shape) == expected
    assert torch.allclose(TTMatrix.from_dense(w).full(), w)
    with pytest.raises(TTShapeError, match="one is None; give both, or neither"):
        TTMatrix.from_dense(w, (3, 4))
    with pytest.raises(TTShapeError, match="expected a matrix"):
        TTMatrix.from_dense(torch.ones(2, 2, 2))


def test_names_by_habit():
    assert ttnet.random((4, 5), ranks=2, seed=0).ranks == ttnet.random((4, 5), 2, seed=0).ranks
    with pytest.raises(TTError, match="ranks"):
        ttnet.random((4, 5), ranks=0)
    assert X.round(0.5).ranks == X.round(eps=0.5).ranks == ttnet.round(X, 0.5).ranks
    assert W.round(0.5).ranks == W.round(eps=0.5).ranks
    with pytest.raises(AttributeError, match="ttnet has no 'tt_svdd'; did you mean 'tt_svd'"):
        ttnet.tt_svdd  # noqa: B018
    with pytest.raises(AttributeError, match=r"ttnet has no 'qqqqq'$"):
        ttnet.qqqqq  # noqa: B018
    assert {"tt_svd", "allclose", "TensorTrain"} <= set(dir(ttnet))
    for name, call in {"norm": "train.norm", "exp": "ttnet.apply(torch.exp, train)", "save": "train.save"}.items():
        with pytest.raises(AttributeError) as caught:
            getattr(ttnet, name)
        assert str(caught.value) == f"ttnet has no {name!r}; take {call}."
    assert not hasattr(ttnet, "__wrapped__")


def test_operators_module_sees_the_same():
    assert ttnet.allclose(operator.add(X, 2), X + 2)
