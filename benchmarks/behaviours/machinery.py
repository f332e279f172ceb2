"""Cases: gradients, compilation, cross approximation, and the operations on trains there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.behaviours.judging import (
    CROSS,
    GRADIENTS,
    OPERATIONS,
    Wrong,
    behaviour,
    close,
    contract,
    normal,
    random_cores,
    refused,
    require,
    wide,
)
from benchmarks.behaviours.libraries import Library


def gradient(lib: Library, x: Tensor, weight: Tensor) -> Tensor:
    """Of sum(weight * train) with respect to x, which is the weight itself where nothing is cut off."""
    x = x.clone().requires_grad_()
    dense = torch.as_tensor(lib.dense(lib.decompose_exactly(x))).reshape(x.shape)
    (dense * weight).sum().backward()
    if x.grad is None:
        raise Wrong("no gradient")
    require(bool(x.grad.isfinite().all()), "not finite")
    return x.grad


@behaviour(GRADIENTS, "Through TT-SVD, of full ranks")
def svd_gradient(lib: Library) -> str:
    weight = normal(4, 4, 4, seed=1)
    return close(gradient(lib, normal(4, 4, 4), weight), weight, 1e-8)


@behaviour(GRADIENTS, "Through TT-SVD of the identity, whose singular values are all equal")
def degenerate_gradient(lib: Library) -> str:
    weight = normal(2, 2, 2, 2, 2, 2, seed=1)
    x = torch.eye(8, dtype=torch.float64).reshape(weight.shape)
    return close(gradient(lib, x, weight), weight, 1e-8)


@behaviour(GRADIENTS, "Through TT-SVD of zeros: finite")
def zero_gradient(lib: Library) -> str | None:
    gradient(lib, torch.zeros(3, 4, 5, dtype=torch.float64), normal(3, 4, 5))
    return None


@behaviour(GRADIENTS, "Through rounding of x + x, whose unfoldings lack rank: finite")
def rounding_gradient(lib: Library) -> str | None:
    cores = [core.requires_grad_() for core in random_cores((4, 5, 6), 2)]
    train = lib.build(cores)
    rounded = torch.as_tensor(lib.dense(lib.round(lib.add(train, train), eps=1e-9)))
    (rounded.reshape(4, 5, 6) * normal(4, 5, 6, seed=1)).sum().backward()
    if any(core.grad is None for core in cores):
        raise Wrong("no gradient")
    require(all(bool(core.grad.isfinite().all()) for core in cores), "not finite")
    return None


@behaviour(GRADIENTS, "Of the norm, with respect to the cores")
def norm_gradient(lib: Library) -> str:
    cores = [core.requires_grad_() for core in random_cores((4, 5, 6), 2)]
    torch.as_tensor(lib.norm(lib.build(cores))).backward()
    actual = [core.grad for core in cores]
    if any(grad is None for grad in actual):
        raise Wrong("no gradient")
    expected = torch.autograd.grad(contract(cores).norm(), cores)
    return max(close(a, b, 1e-8) for a, b in zip(actual, expected, strict=True))


def dense_of(lib: Library, *cores: Tensor) -> Tensor:
    return torch.as_tensor(lib.dense(lib.build(cores))).reshape(4, 5, 6)


def square_of(lib: Library, *cores: Tensor) -> Tensor:
    train = lib.build(cores)
    return torch.as_tensor(lib.dot(train, train))


def compiled(lib: Library, function: Callable[..., Tensor]) -> str:
    cores = random_cores((4, 5, 6), 3)
    expected = function(lib, *cores)
    result = torch.compile(partial(function, lib), backend="aot_eager", fullgraph=True)(*cores)
    return close(result, expected, 1e-10)


def mapped(lib: Library, function: Callable[..., Tensor]) -> str:
    batch = [torch.stack([core, 2 * core]) for core in random_cores((4, 5, 6), 3)]
    expected = torch.stack([function(lib, *(core[k] for core in batch)) for k in range(2)])
    return close(torch.func.vmap(partial(function, lib))(*batch), expected, 1e-12)


@behaviour(GRADIENTS, "torch.compile of the dense tensor, in one graph")
def compiled_dense(lib: Library) -> str:
    return compiled(lib, dense_of)


@behaviour(GRADIENTS, "torch.compile of an inner product, in one graph")
def compiled_dot(lib: Library) -> str:
    return compiled(lib, square_of)


@behaviour(GRADIENTS, "torch.func.vmap of the dense tensor, over a batch of cores")
def mapped_dense(lib: Library) -> str:
    return mapped(lib, dense_of)


@behaviour(GRADIENTS, "torch.func.vmap of an inner product, over a batch of cores")
def mapped_dot(lib: Library) -> str:
    return mapped(lib, square_of)


def crossed(lib: Library, f: Callable[[Tensor], Tensor], shape: tuple[int, ...], tolerance: float) -> str:
    torch.manual_seed(0)
    train = lib.cross(f, shape, 1e-8)
    indices = torch.cartesian_prod(*[torch.arange(size) for size in shape]).reshape(-1, len(shape))
    return close(wide(lib.dense(train)).reshape(shape), f(indices).reshape(shape), tolerance)


@behaviour(CROSS, "1 / (1 + i + j + k + l) on `20**4` points to 1e-8: error below 1e-6")
def smooth(lib: Library) -> str:
    return crossed(lib, lambda i: 1 / (1.0 + i.double().sum(1)), (20,) * 4, 1e-6)


@behaviour(CROSS, "A constant function")
def constant(lib: Library) -> str:
    return crossed(lib, lambda i: torch.full((len(i),), 3.0, dtype=torch.float64), (8,) * 4, 1e-8)


@behaviour(CROSS, "The zero function")
def nothing(lib: Library) -> str:
    return crossed(lib, lambda i: torch.zeros(len(i), dtype=torch.float64), (8,) * 4, 0.0)


@behaviour(CROSS, "A smooth function times 1e200: error below 1e-6")
def scaled_function(lib: Library) -> str:
    return crossed(lib, lambda i: 1e200 * (i.double() / 8).sum(1).sin(), (8,) * 4, 1e-6)


@behaviour(CROSS, "A function that gives NaN is refused")
def nan_function(lib: Library) -> str:
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    return refused(lambda: lib.cross(lambda i: nan.expand(len(i)), (8,) * 4, 1e-6))


@behaviour(CROSS, "A function of two variables")
def two_variables(lib: Library) -> str:
    return crossed(lib, lambda i: (i.double() / 8).sum(1).sin(), (8, 9), 1e-6)


@behaviour(CROSS, "A function of one variable")
def one_variable(lib: Library) -> str:
    return crossed(lib, lambda i: (i.double() / 8).sum(1).sin(), (8,), 1e-6)


@behaviour(OPERATIONS, "Sum, difference and multiple")
def linear(lib: Library) -> str:
    a, b = random_cores((4, 5, 6), 3), random_cores((4, 5, 6), 2, seed=1)
    first, second = lib.build(a), lib.build(b)
    close(lib.dense(lib.subtract(first, second)), contract(a) - contract(b), 1e-12)
    return close(lib.dense(lib.add(lib.scale(first, 2.0), second)), 2 * contract(a) + contract(b), 1e-12)


@behaviour(OPERATIONS, "Product, entry by entry")
def hadamard(lib: Library) -> str:
    a, b = random_cores((4, 5, 6), 3), random_cores((4, 5, 6), 2, seed=1)
    return close(lib.dense(lib.multiply(lib.build(a), lib.build(b))), contract(a) * contract(b), 1e-12)


@behaviour(OPERATIONS, "One index fixed")
def selection(lib: Library) -> str:
    cores = random_cores((4, 5, 6), 3)
    return close(lib.dense(lib.select(lib.build(cores), 1, 2)), contract(cores)[:, 2], 1e-12)


@behaviour(OPERATIONS, "TT-matrix times train")
def operator(lib: Library) -> str:
    cores = random_cores((3, 4, 5), 2)
    matrix = [core.unflatten(1, (-1, n)) for core, n in zip(random_cores((6, 8, 5), 3, seed=1), (3, 4, 5), strict=True)]
    dense = torch.einsum("aikb,bjlc,cmnd->ijmkln", *matrix).reshape(4, 60)
    product = wide(lib.dense(lib.apply(matrix, lib.build(cores))))
    return close(product.flatten(), dense @ contract(cores).flatten(), 1e-12)


@behaviour(OPERATIONS, "Axes permuted")
def permutation(lib: Library) -> str:
    cores = random_cores((4, 5, 6, 3), 3)
    return close(lib.dense(lib.permute(lib.build(cores), (2, 0, 3, 1))), contract(cores).permute(2, 0, 3, 1), 1e-8)


@behaviour(OPERATIONS, "Another shape, (4, 6, 9) to (2, 12, 3, 3)")
def another_shape(lib: Library) -> str:
    cores = random_cores((4, 6, 9), 3)
    return close(lib.dense(lib.reshape(lib.build(cores), (2, 12, 3, 3))), contract(cores).reshape(2, 12, 3, 3), 1e-8)


@behaviour(OPERATIONS, "Outer product")
def outer(lib: Library) -> str:
    a, b = random_cores((4, 5), 3), random_cores((6, 2), 2, seed=1)
    expected = torch.tensordot(contract(a), contract(b), 0)
    return close(lib.dense(lib.outer(lib.build(a), lib.build(b))), expected, 1e-12)


@behaviour(OPERATIONS, "Joined along an axis")
def joined(lib: Library) -> str:
    a, b = random_cores((4, 5, 6), 3), random_cores((4, 2, 6), 2, seed=1)
    return close(
        lib.dense(lib.concatenate(lib.build(a), lib.build(b), 1)), torch.cat([contract(a), contract(b)], 1), 1e-12
    )
