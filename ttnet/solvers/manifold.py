"""The manifold of trains of fixed ranks: vectors of its tangent spaces, projections onto these, and the ways back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.linalg import qr, thin_svd
from ttnet.solvers.tangent_space import TangentSpace, TangentVector, block_cores, sum_cores, train_of
from ttnet.trains.chain import check_scalar, shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.sweeps import check_finite
from ttnet.trains.tensor_train import TensorTrain


def tangent(x: TensorTrain, directions: Sequence[Tensor]) -> TangentVector:
    """Give the direction into which a train goes when its cores go into some: the derivative of their product.

    Source: Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", section 3.1.

    Args:
        x: A train whose ranks no rounding error brings down.
        directions: One tensor for each core of `x`, of its shape.

    Returns:
        The tangent vector, without gradients.

    Raises:
        TTTypeError: If `x` is not a train.
        TTShapeError: If the number of directions or a shape does not fit.
        TTValueError: If `x` is zero, or has NaN or infinite entries, or ranks that its shape does not allow.

    Example:
        >>> import ttnet
        >>> x = ttnet.ones((2, 2))
        >>> tangent(x, [torch.ones(1, 2, 1), torch.zeros(1, 2, 1)]).train().full().round(decimals=4)
        tensor([[1., 1.],
                [1., 1.]])
    """
    space = _space_at(x)
    if [tuple(each.shape) for each in directions] != [tuple(core.shape) for core in x.cores]:
        raise TTShapeError(
            f"directions have the shapes {shorten([tuple(each.shape) for each in directions])}; expected those of the "
            f"cores of x, {shorten([tuple(core.shape) for core in x.cores])}."
        )
    # In the train of all of them together, as in the sum rule; its projection is itself.
    cores = [core.detach().reshape(core.shape[0], -1, core.shape[-1]) for core in x.cores]
    moved = [each.detach().reshape(core.shape).to(core.dtype) for each, core in zip(directions, cores, strict=True)]
    return space.project_cores(block_cores(cores, moved, cores))


def project(x: TensorTrain, z: TensorTrain) -> TangentVector:
    """Project a train onto the tangent space at another one, orthogonally.

    Source: Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", section 3.2.

    Args:
        x: The train at which the tangent space is.
        z: A train of the same shape and of any ranks s; the cost is O(order * n * r * s * (r + s)).

    Returns:
        The tangent vector nearest to `z`, without gradients.

    Raises:
        TTTypeError: If an argument is not a train.
        TTShapeError: If the shapes differ.
        TTValueError: If entries are NaN or infinite, the devices differ, or `x` is zero or has ranks that its shape
            does not allow.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((4, 5, 6), 2, dtype=torch.float64, seed=0)
        >>> bool((project(x, x).train() - x).norm() < 1e-12 * x.norm())
        True
    """
    space = _space_at(x)
    _check_beside(x, z, "z")
    cores = [core.reshape(core.shape[0], -1, core.shape[-1]) for core in z.cores]
    return space.project_cores(cores)


def transport(vector: TangentVector, y: TensorTrain) -> TangentVector:
    """Carry a tangent vector to the tangent space at another train, by projection.

    Source: Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", section 3.4.

    Args:
        vector: A tangent vector at some train.
        y: A train of the same shape.

    Returns:
        The tangent vector at `y` that is nearest to it.

    Raises:
        TTTypeError: If an argument is of another type.
        TTShapeError: If the shapes differ.
        TTValueError: If entries of `y` are NaN or infinite, or it has ranks that its shape does not allow.

    Example:
        >>> import ttnet
        >>> x, y = ttnet.random((4, 5), 2, seed=0), ttnet.random((4, 5), 2, seed=1)
        >>> bool(transport(project(x, x), y).norm() <= x.norm())
        True
    """
    _check_vector(vector)
    space = _space_at(y, "y")
    train = vector.train()
    _check_beside(y, train, "vector")
    return space.project_cores([core.reshape(core.shape[0], -1, core.shape[-1]) for core in train.cores])


def retract(vector: TangentVector, step: float = 1.0) -> TensorTrain:
    """Go from a train along a tangent vector, and back to the manifold by truncated SVDs.

    Source: Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", section 3.3.

    Args:
        vector: A tangent vector.
        step: How far to go, as a multiple of it.

    Returns:
        A left-orthogonal train of the same ranks near `x + step * vector`, to second order in `step`.

    Raises:
        TTTypeError: If an argument is of another type.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((4, 5, 6), 2, dtype=torch.float64, seed=0)
        >>> y = retract(project(x, x), -0.5)
        >>> y.ranks, bool((y - x / 2).norm() < 1e-12 * x.norm())
        ((1, 2, 2, 1), True)
    """
    _check_vector(vector)
    scalar = check_scalar(step)
    if scalar is None:
        raise TTTypeError(f"step is a {type(step).__name__}; expected a number.")
    return train_of(retract_cores(vector * scalar), vector.space.is_scalar)


def retract_cores(vector: TangentVector) -> list[Tensor]:
    """Give the cores of the train that a tangent vector leads to.

    Args:
        vector: The tangent vector.

    Returns:
        Left-orthogonal cores, each (r, n, r'), of the ranks of the train where it begins.

    Example:
        >>> space = TangentSpace([torch.ones(1, 2, 1), torch.ones(1, 2, 1)])
        >>> [core.shape for core in retract_cores(space.gauged(space.left))]
        [torch.Size([1, 2, 1]), torch.Size([1, 2, 1])]
    """
    space = vector.space
    *inner, last = vector.deltas
    cores = sum_cores(space, (*inner, last + space.left[-1]))
    for k in range(len(cores) - 1, 0, -1):
        q, r = qr(cores[k].flatten(1).mT)
        cores[k] = q.mT.reshape(-1, *cores[k].shape[1:])
        cores[k - 1] = torch.tensordot(cores[k - 1], r.mT, 1)
    for k, (_, size, rank) in enumerate(core.shape for core in space.left[:-1]):
        # As many columns as before, also where singular values are zero.
        u, s, vh = thin_svd(cores[k].flatten(0, 1))
        cores[k] = u[:, :rank].reshape(-1, size, rank)
        cores[k + 1] = torch.tensordot(s[:rank, None] * vh[:rank], cores[k + 1], 1)
    return cores


def gradient(f: Callable[[TensorTrain], Tensor], x: TensorTrain) -> tuple[Tensor, TangentVector]:
    """Compute a function of a train and its Riemannian gradient, by one pass of automatic differentiation.

    Source: Novikov, Rakhuba, Oseledets 2022, "Automatic differentiation for Riemannian optimization on low-rank matrix
    and tensor-train manifolds", Algorithm 1.

    Args:
        f: A function of a train, which gives a real tensor of shape (). It is called once, with a train of twice the
            ranks that is equal to `x`.
        x: The train.

    Returns:
        The value, and the projection of the derivative by the entries.

    Raises:
        TTTypeError: If `f` or `x` is of another type, or the value no real tensor.
        TTShapeError: If the value has another shape than ().
        TTValueError: If `x` has NaN or infinite entries or ranks that its shape does not allow, or the value does not
            depend on the train.

    Example:
        >>> import ttnet
        >>> x = ttnet.ones((2, 3))
        >>> value, direction = gradient(lambda y: y.dot(y) / 2, x)
        >>> value, direction.norm()
        (tensor(3.0000), tensor(2.4495))
    """
    if not callable(f):
        raise TTTypeError(f"f is a {type(f).__name__}; expected a function of a train.")
    space = _space_at(x)
    deltas = [torch.zeros_like(core) for core in space.left[:-1]] + [space.left[-1].clone()]
    for delta in deltas:
        delta.requires_grad_()
    with torch.enable_grad():
        cores = sum_cores(space, deltas)
        value = f(train_of(cores, space.is_scalar))
    if not isinstance(value, Tensor) or value.is_complex():
        what = f"dtype {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TTTypeError(f"f returned {what}; expected a real tensor of shape ().")
    if value.ndim:
        raise TTShapeError(f"f returned the shape {tuple(value.shape)}; expected a real tensor of shape ().")
    if not value.requires_grad:
        raise TTValueError("what f returned has no gradient; expected a value that is computed from the train's cores.")
    found = torch.autograd.grad(value, deltas, allow_unused=True)
    derivatives = [torch.zeros_like(d) if g is None else g for d, g in zip(deltas, found, strict=True)]
    return value.detach(), space.gauged([each.detach() for each in derivatives])


def _space_at(x: object, name: str = "x") -> TangentSpace:
    train = expect_train(x, name)
    check_finite(train.cores)
    if not float(train.norm()):
        raise TTValueError(
            f"{name} is zero; expected a train of full ranks, as there is no tangent space at zero: take another "
            "point, such as a random train of small norm."
        )
    return TangentSpace(train.cores)


def _check_vector(vector: object) -> None:
    if not isinstance(vector, TangentVector):
        raise TTTypeError(f"vector is a {type(vector).__name__}; expected a TangentVector, as project gives one.")


def _check_beside(x: TensorTrain, z: object, name: str) -> None:
    z = expect_train(z, name)
    if z.shape != x.shape:
        raise TTShapeError(f"{name} has shape {shorten(z.shape)}; expected that of the train, {shorten(x.shape)}.")
    if z.device != x.device:
        raise TTValueError(f"{name} is on {z.device} and the train on {x.device}; move them to one device.")
    check_finite(z.cores)
