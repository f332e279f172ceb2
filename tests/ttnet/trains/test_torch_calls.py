"""torch's functions, and its operators beside tensors, on trains: by cores where that is exact, else in words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.trains.test_habits import W, X, close, trains
from ttnet import TensorTrain, TTMatrix, TTTypeError


@given(trains(least=1), st.data())
def test_functions_of_torch_that_are_exact(x, data):
    full = x.full()
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    other = data.draw(st.integers(-x.ndim, x.ndim - 1))
    keep = data.draw(st.booleans())
    order = data.draw(st.permutations(range(x.ndim)))
    two = torch.tensor(2.0, dtype=x.dtype)
    for found, expected in [
        (torch.sum(x), full.sum()),
        (torch.sum(x, dim, keepdim=keep), full.sum(dim, keepdim=keep)),
        (torch.sum(input=x, axis=dim, keepdims=keep), full.sum(dim, keepdim=keep)),
        (torch.mean(x, dim=dim), full.mean(dim)),
        (torch.std(x, correction=0), full.std(correction=0)),
        (torch.var(x, correction=0), full.var(correction=0)),
        (torch.var(x, dim, correction=0, keepdim=keep), full.var(dim, correction=0, keepdim=keep)),
        (torch.var_mean(x, dim, correction=0, keepdim=keep)[0], full.var(dim, correction=0, keepdim=keep)),
        (torch.var_mean(x, dim, correction=0, keepdim=keep)[1], full.mean(dim, keepdim=keep)),
        (torch.std_mean(x, correction=0)[0], full.std(correction=0)),
        (torch.std_mean(x, correction=0)[1], full.mean()),
        (torch.square(x), full**2),
        (torch.swapaxes(x, dim, other), full.transpose(dim, other)),
        (torch.norm(x), full.norm()),
        (torch.linalg.norm(x), torch.linalg.norm(full)),
        (torch.linalg.vector_norm(x, 2), torch.linalg.vector_norm(full)),
        (torch.vdot(x, x), torch.vdot(full.ravel(), full.ravel())),
        (torch.dot(x, x), torch.dot(full.ravel(), full.ravel())),
        (torch.add(x, x), 2 * full),
        (torch.add(x, x, alpha=2), 3 * full),
        (torch.sub(2, x, alpha=3), 2 - 3 * full),
        (torch.sub(two, x), 2 - full),
        (torch.mul(x, two), 2 * full),
        (torch.div(x, 2), full / 2),
        (torch.neg(x), -full),
        (torch.pow(x, 2), full**2),
        (torch.conj(x), full.conj()),
        (torch.cat([x, x], dim), torch.cat([full, full], dim)),
        (torch.concatenate((x, x), axis=dim), torch.cat([full, full], dim)),
        (torch.stack([x, x]), torch.stack([full, full])),
        (torch.kron(x, x), torch.kron(full, full)),
        (torch.outer(x.reshape((-1,)), x.reshape((-1,))), torch.outer(full.ravel(), full.ravel())),
        (torch.permute(x, order), full.permute(order)),
        (torch.transpose(x, dim, other), full.transpose(dim, other)),
        (torch.reshape(x, (-1, 1)), full.reshape(-1, 1)),
        (torch.flatten(x), full.ravel()),
        (torch.t(torch.flatten(x)), full.ravel()),
        (torch.clone(x), full),
    ]:
        assert isinstance(found, TensorTrain if expected.ndim else torch.Tensor)
        dense = found if isinstance(found, torch.Tensor) else found.full()
        assert dense.shape == expected.shape
        close(dense, expected.resolve_conj())


@given(trains())
def test_operators_beside_tensors_of_no_dimensions(x):
    two, full = torch.tensor(2.0, dtype=torch.float64), x.full()
    for found, expected in [(two + x, 2 + full), (two - x, 2 - full), (two * x, 2 * full), (x / two, full / 2)]:
        assert found.dtype == expected.dtype
        close(found.full(), expected)
    total = two.clone()
    total += x  # which makes a train of the name, as no tensor can hold the sum
    close(total.full(), 2 + full)


def test_functions_of_torch_that_form_nothing():
    huge = ttnet.ones((10,) * 100, dtype=torch.float64)
    assert torch.numel(huge) == 10**100
    assert not torch.is_complex(huge)
    assert torch.is_floating_point(huge)
    assert float(torch.mean(huge)) == pytest.approx(1)
    assert float(torch.linalg.norm(huge)) == pytest.approx(1e50)
    assert float(torch.linalg.matrix_norm(W)) == pytest.approx(float(W.norm()))
    w = ttnet.eye((10,) * 100, dtype=torch.float64)
    assert float(torch.trace(w)) == pytest.approx(1e100)
    assert isinstance(torch.matmul(w, huge), TensorTrain)
    assert isinstance(torch.matmul(w, w), TTMatrix)


def test_a_matrix_multiplies_tensors_by_torchs_functions():
    v = torch.arange(6.0)
    for found in (W @ v, torch.matmul(W, v), torch.mv(W, v)):
        torch.testing.assert_close(found, W.full() @ v)
    torch.testing.assert_close(torch.matmul(v, W), v @ W.full())
    torch.testing.assert_close(torch.mm(W, torch.stack([v, v], 1)), W.full() @ torch.stack([v, v], 1))
    close(torch.t(W).full(), W.full().T)


def test_gradients_flow_through_torchs_functions():
    cores = [core.requires_grad_() for core in ttnet.random((2, 3), 2, dtype=torch.float64, seed=0).cores]
    assert torch.autograd.gradcheck(lambda *cores: torch.sum(torch.mul(TensorTrain(cores), 2.0)), cores)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda: torch.max(X), r"torch\.max is given a TensorTrain; take ttnet\.solvers\.optimize\(train, 'max'\)"),
        (lambda: torch.exp(X), r"torch\.exp is given a TensorTrain; take ttnet\.apply\(torch\.exp, train\)\.$"),
        (lambda: torch.special.expm1(X), r"take ttnet\.apply\(torch\.expm1, train\)\.$"),
        (lambda: torch.nn.functional.relu(X), r"take ttnet\.apply\(torch\.relu, train\)\.$"),
        (lambda: torch.abs(X), r"take ttnet\.apply\(torch\.abs, train\)"),
        (lambda: torch.squeeze(X), r"take train\[:, 0\]"),
        (lambda: torch.allclose(X, X), r"a TensorTrain and a TensorTrain; take ttnet\.allclose\(a, b\)"),
        (lambda: torch.equal(X, X), r"take ttnet\.allclose\(a, b\)"),
        (lambda: torch.linalg.svd(X), r"torch\.linalg\.svd is given .*; take ttnet\.singular_values\(train\)"),
        (
            lambda: torch.linalg.inv(W),
            r"torch\.linalg\.inv is given a TTMatrix; take ttnet\.solvers\.inverse\(matrix\)",
        ),
        (lambda: torch.sum(X, dtype=torch.float32), r"sum has no argument 'dtype'; take train\.to\(dtype\) first"),
        (lambda: X.mean(0, dtype=torch.float32), r"mean has no argument 'dtype'; take train\.to\(dtype\) first"),
        (lambda: torch.sum(X, 0, out=torch.empty(3)), "sum has no argument 'out'; take what is returned"),
        (
            lambda: X.var(0, unbiased=False),
            "var has no argument 'unbiased'; take correction=1 for True, or correction=0",
        ),
        (lambda: torch.var(X, unbiased=False), "var has no argument 'unbiased'; take correction=1"),
        (lambda: torch.var(X, False), "dim is False; expected an int"),
        (
            lambda: torch.norm(X, dim=0),
            r"norm has no argument 'dim'; take \(train\.conj\(\) \* train\)\.sum\(dim\), of",
        ),
        (lambda: torch.norm(X, 2, 0, True), r"norm has no argument 'dim'"),
        (lambda: torch.norm(X, keepdim=True), r"norm has no argument 'keepdim'"),
        (lambda: torch.linalg.vector_norm(X, dim=0), r"norm has no argument 'dim'"),
        (lambda: torch.linalg.norm(X, dim=(0, 1)), r"norm has no argument 'dim'"),
        (lambda: X.norm(axis=0), r"norm has no argument 'axis'"),
        (lambda: W.norm(ord=2), r"norm has no argument 'ord'; take norm\(\), the Frobenius norm"),
        (lambda: torch.linalg.matrix_norm(W, "nuc"), r"torch\.linalg\.matrix_norm is given a TTMatrix; take"),
        (lambda: X.round(decimals=2), r"round has no argument 'decimals'; take round\(eps\) for smaller ranks"),
        (lambda: ttnet.round(W, decimals=2), r"round has no argument 'decimals'"),
        (lambda: X.numpy(dtype=float), r"numpy has no argument 'dtype'; take numpy\.asarray\(train, dtype\)"),
        (lambda: ttnet.ones((2, 3), requires_grad=True), r"'requires_grad'; take TensorTrain\(core\.requires_grad_"),
        (lambda: torch.norm(X, p=1), r"torch\..*norm is given a TensorTrain; take train\.full\(\)"),
        (lambda: torch.linalg.norm(W, ord=2), r"torch\.linalg\.norm is given a TTMatrix; take train\.full\(\)"),
        (
            lambda: torch.hypot(X, X),
            r"torch\.hypot .* if it is small, or ttnet\.apply\(torch\.hypot, train\) if it goes",
        ),
        (lambda: torch.cumsum(X, 0), r"torch\.cumsum is given a TensorTrain; take full\(\), if it is small"),
        (lambda: torch.einsum("ij,ij->", X, X), r"torch\.einsum is .*; take a\.dot\(b\) or ttnet\.outer"),
        (lambda: torch.split(X, 1), r"torch\.split is given a TensorTrain; take slices"),
        (lambda: torch.flip(X, (0,)), r"torch\.flip .*; take train\[::-1\]"),
        (lambda: torch.linalg.multi_dot([X, X]), r"torch\.linalg\.multi_dot is given trains; take a\.dot\(b\)"),
        (lambda: X.full().copy_(X), r"torch\.Tensor\.copy_ .*; take an operation that gives a new value"),
        (lambda: X.full().view_as(X), r"torch\.Tensor\.view_as .*; take train\.full\(\) if it is small\.$"),
        (lambda: torch.clamp(X, 0), r"ttnet\.apply\(lambda x: x\.clamp\(0, 1\), train\)"),
        (lambda: torch.eq(X, 1), "entries of a train are not compared"),
        (lambda: torch.div(X, X), r"ttnet\.apply\(torch\.div, a, b\)"),
        (lambda: torch.matmul(X, torch.ones(3)), r"a\.dot\(b\)"),
        (lambda: torch.add(X, torch.ones(2, 3)), "other is dense"),
        (lambda: torch.t(ttnet.ones((2, 2, 2))), r"torch\.t is given a TensorTrain; take "),
        (lambda: torch.stack([X, torch.ones(2, 3)]), "Tensor"),
        (lambda: X.sum(dim=0, axis=0), "dim and axis are two words for one argument"),
        (lambda: X.mean(0, axis=0), "multiple values for argument 'dim'"),
    ],
)
def test_functions_of_torch_that_are_not_exact_name_the_call(operation, words):
    with pytest.raises(TypeError, match=words) as caught:
        operation()
    assert isinstance(caught.value, TTTypeError) or "multiple" in words


@given(trains(least=1), st.data())
def test_numpys_words_for_modes(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    close(x.sum(axis=axis, keepdims=True).full(), x.full().sum(axis, keepdim=True))
    close(x.mean(axis=axis, keepdims=True).full(), x.full().mean(axis, keepdim=True))
    close(x.var(axis=axis, ddof=0, keepdims=True).full(), x.full().var(axis, correction=0, keepdim=True))
    assert x.sum(axis=None, dtype=None, out=None) == x.sum()
    close(ttnet.cat([x, x], axis=axis).full(), torch.cat([x.full()] * 2, axis))
    close(ttnet.stack([x, x], axis=axis).full(), torch.stack([x.full()] * 2, axis))
