"""Gradients of solutions and of eigenpairs against finite differences, and against those of dense solutions."""

import pytest
import torch

import ttnet
from tests.ttnet.solvers.systems import draw_operator, general, vector
from tests.ttnet.strategies import draw_train, relative_error
from ttnet import TensorTrain, TTConvergenceError, TTMatrix, operators, solvers

DTYPES = [torch.float64, torch.complex128]


def leaves(*values):
    return [core.clone().requires_grad_() for value in values for core in value.cores]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 2)])
def test_solutions_on_small_shapes(shape, dtype):
    a, b = general(shape, 2, dtype, 0), draw_train(shape, [2] * (len(shape) - 1), dtype, 1)
    weights = draw_train(shape, [1] * (len(shape) - 1), dtype, 2)
    order = len(shape)

    def loss(*cores):
        x = solvers.solve(TTMatrix(cores[:order]), TensorTrain(cores[order:]), 1e-13).value
        return x.norm() + weights.dot(x).real

    # The fast mode compares along random directions.
    assert torch.autograd.gradcheck(loss, leaves(a, b), eps=1e-5, atol=1e-6, fast_mode=order > 2)


def test_solutions_of_small_ranks():
    """What the solution's tangent space holds is all there is where a change of b moves it within its ranks."""
    a = operators.laplace((6, 6, 6))
    b = draw_train((6, 6, 6), [1, 1], torch.float64, 0)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = solvers.solve(a, b * scale, 1e-11).value
    x.norm().backward()
    expected = torch.linalg.solve(a.full(), vector(b)).norm()
    assert relative_error(scale.grad, expected) < 1e-8
    factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    solvers.solve(a * factor, b, 1e-11).value.norm().backward()
    assert relative_error(factor.grad, -expected / 1.5**2) < 1e-8


def test_against_gradients_of_dense_solutions():
    a, b = general((3, 2, 2), 2, torch.float64, 3), draw_train((3, 2, 2), [2, 2], torch.float64, 4)
    ours, dense = leaves(a, b), leaves(a, b)
    solvers.solve(TTMatrix(ours[:3]), TensorTrain(ours[3:]), 1e-12).value.full().sin().sum().backward()
    x = torch.linalg.solve(TTMatrix(dense[:3]).full(), TensorTrain(dense[3:]).full().flatten())
    x.sin().sum().backward()
    for mine, other in zip(ours, dense, strict=True):
        assert relative_error(mine.grad, other.grad) < 1e-9


def test_the_value_is_the_same_and_only_what_asks_for_gradients_gets_them():
    a, b = general((3, 2), 2, torch.float64, 0), draw_train((3, 2), [2], torch.float64, 1)
    plain = solvers.solve(a, b)
    asked = solvers.solve(a, TensorTrain(leaves(b)))
    assert relative_error(vector(asked.value).detach(), vector(plain.value)) < 1e-14
    assert not plain.value.cores[0].requires_grad
    with torch.no_grad():
        assert not solvers.solve(a, TensorTrain(leaves(b))).value.cores[-1].requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_eigenpairs_on_small_shapes(shape, dtype):
    a = draw_operator(shape, 2, dtype, 5)
    weights = ttnet.random(shape, 1, dtype=dtype, seed=0)

    def pairs(*cores):
        given = TTMatrix(cores)
        result = solvers.eigsh((given + given.H) * 0.5, k=2, tol=1e-12)
        # The sign or phase of a vector is nobody's choice.
        return result.values, *(weights.dot(v).abs() ** 2 for v in result.vectors)

    assert torch.autograd.gradcheck(pairs, leaves(a), eps=1e-5, atol=1e-5)


def test_gradients_of_vectors_of_equal_eigenvalues_say_why_there_are_none():
    a = operators.laplace((4, 4))  # of whose eigenvalues the second and third are one
    cores = leaves(a)
    result = solvers.eigsh(TTMatrix(cores), k=2, tol=1e-9)
    weights = ttnet.random((4, 4), 2, dtype=torch.float64, seed=0)
    with pytest.raises(
        TTConvergenceError, match=r"The gradient of the eigenvector of 1\.76393 is not known: .* equal to it"
    ):
        result.vectors[1].dot(weights).backward()
