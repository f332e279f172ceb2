"""Functions of many indices, for `tt_cross` to find, and the errors of what it found."""

import torch

import ttnet
from tests.ttnet.strategies import draw_indices, relative_error


def grid(size, low=0.0, high=1.0):
    return torch.linspace(low, high, size, dtype=torch.float64)


def all_indices(shape):
    return torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape))


def tensor_of(f, shape):
    return f(all_indices(shape)).reshape(shape)


def sampled_error(f, value, count=20_000):
    """The relative error on samples of the test's own, in which the search had no part."""
    indices = draw_indices(value.shape, count)
    return relative_error(ttnet.evaluate(value, indices), f(indices))


def reciprocal(i):
    return 1 / (1 + grid(12)[i].sum(1))


def exp_of_distance(i):
    return torch.exp(-grid(20)[i].square().sum(1).sqrt())


def sine_of_sum(i):
    return torch.sin(grid(12)[i].sum(1))
