"""Trains of known singular values, and one way of rounding at a time."""

import pytest
import torch

import ttnet
from tests.ttnet.strategies import precision
from ttnet import TensorTrain
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.gram import round_by_gram
from ttnet.rounding.randomized import round_randomly
from ttnet.rounding.sums import TrainSum

METHODS = ["svd", "gram", "randomized"]
each_method = pytest.mark.parametrize("method", METHODS)


def is_left_orthogonal(x):
    grams = [core.flatten(0, 1).mH @ core.flatten(0, 1) for core in x.cores[:-1]]
    return all(float((gram - torch.eye(len(gram))).abs().max()) <= precision(x.dtype) for gram in grams)


def log_error(x, y):
    """Logarithm of the relative error, of trains whose norm may be no number."""
    return float((x - y).log_norm() - x.log_norm())


def with_spectrum(values, shape=(12,) * 4, dtype=torch.float64, seed=0):
    """A train whose bonds all have about these singular values, in a basis that does not show them."""
    rank = len(values)
    cores = list(ttnet.random(shape, rank, dtype=dtype, seed=seed).orthogonalise(-1).cores)
    generator = torch.Generator().manual_seed(seed + 1)
    for k in range(len(shape) - 1):
        size = cores[k].shape[2]
        basis = torch.linalg.qr(torch.randn(size, size, dtype=dtype, generator=generator))[0]
        scaled = torch.diag(torch.as_tensor(values[:size], dtype=dtype)) @ basis
        cores[k] = torch.tensordot(cores[k], scaled, 1)
        cores[k + 1] = torch.tensordot(basis.mH, cores[k + 1], 1)
    return TensorTrain(cores)


SPECTRA = {
    "slow": [1 / (1 + i) for i in range(48)],
    "exponential": [0.6**i for i in range(48)],
    "gap": [1.0] * 6 + [1e-13] * 42,
    "flat": [1.0] * 48,
}


def by_gram(x, **arguments):
    given = {"eps": 0.0, "max_ranks": [None] * (x.ndim - 1), "dtype": x.dtype} | arguments
    return round_by_gram(TrainSum([x.cores], None, x.dtype), RelativeBudget(**given))


def by_columns(x, **arguments):
    given = {"eps": 0.0, "max_ranks": [None] * (x.ndim - 1), "dtype": x.dtype} | arguments
    return round_randomly(TrainSum([x.cores], None, x.dtype), **given)
