"""Operators with known inverses and spectra, and what is left of an equation, by dense tensors alone."""

import math

import torch
from torch import Tensor

import ttnet
from tests.ttnet.strategies import dense, draw_train, wide
from ttnet import TensorTrain, TTMatrix


def draw_operator(shape, rank, dtype, seed) -> TTMatrix:
    train = draw_train(tuple(n * n for n in shape), [rank] * (len(shape) - 1), dtype, seed)
    return TTMatrix.from_train(train, shape, shape)


def definite(shape, rank, dtype, seed) -> TTMatrix:
    """A Hermitian operator with eigenvalues from 1 to 2 or so."""
    a = draw_operator(shape, rank, dtype, seed)
    a = a.H @ a
    return ttnet.eye(shape, dtype=dtype) + a / float(a.norm())


def general(shape, rank, dtype, seed) -> TTMatrix:
    """An operator without symmetry, near the identity."""
    a = draw_operator(shape, rank, dtype, seed)
    return ttnet.eye(shape, dtype=dtype) + a * (0.5 / float(a.norm()))


def residual_of(a: TTMatrix, b: TensorTrain, x: TensorTrain) -> float:
    """The relative residual, in double precision and of dense tensors."""
    dtype = torch.promote_types(dense(a).dtype, torch.promote_types(dense(b).dtype, dense(x).dtype))
    right, left = vector(b).to(dtype), dense(a).to(dtype) @ vector(x).to(dtype)
    return float((right - left).norm() / right.norm())


def noise_of(a: TTMatrix, b: TensorTrain, x: TensorTrain) -> float:
    """What rounding may do to a relative residual that is found from the cores, whose products may cancel."""

    def size(train: TTMatrix | TensorTrain) -> float:
        return math.prod(float(torch.linalg.vector_norm(wide(core))) for core in train.cores)

    return 4 * torch.finfo(x.dtype).eps * (size(a) * size(x) + size(b)) / float(wide(vector(b)).norm())


def vector(x: TensorTrain) -> Tensor:
    return dense(x).flatten()


def tolerance(dtype) -> float:
    return {torch.float64: 1e-9, torch.complex128: 1e-9}.get(dtype, 1e-4)


def sine(points: int, power: int = 1) -> Tensor:
    """Sines on the inner points of a grid, eigenvectors of second differences."""
    return torch.sin(math.pi * power * torch.arange(1, points + 1, dtype=torch.float64) / (points + 1))
