"""Sums and means over modes: a core's slices are added up, and what is left of it goes into its neighbour."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains.dims import check_dims
from ttnet.trains.indexing import index
from ttnet.trains.sweeps import balance


def chosen_modes(dim: int | Sequence[int] | None, order: int) -> tuple[int, ...]:
    """Give the modes that a sum or mean runs over.

    Args:
        dim: An int or a sequence of different ints, from -order to order - 1; None for all modes.
        order: The number of modes.

    Returns:
        Their positions.

    Raises:
        TTTypeError: If `dim` is of another type.
        TTIndexError: If there is no such mode.
        TTValueError: If it is empty, or names a mode twice.

    Example:
        >>> chosen_modes(None, 3), chosen_modes(-1, 3)
        ((0, 1, 2), (2,))
    """
    if dim is None:
        return tuple(range(order))
    dims = check_dims(dim, order)
    if not dims:  # torch sums over all modes then, numpy over none
        raise TTValueError(f"dim is {dim!r}; expected at least one mode, or None for all of them.")
    return dims


def reduce(
    cores: Sequence[Tensor],  # each (r, n, r')
    dims: Collection[int],
    *,
    keepdim: bool = False,
    mean: bool = False,
) -> list[Tensor]:
    """Sum or average over some modes, in O(order * n * r**3), at any scale and order.

    Args:
        cores: The cores of a train.
        dims: The positions of the modes to reduce.
        keepdim: Whether these stay, with size 1.
        mean: Whether to divide by their sizes, mode by mode, so that no count overflows.

    Returns:
        The cores of the result; one core of shape (1, 1) if no mode is left.

    Raises:
        TTTypeError: If `keepdim` is no bool.

    Example:
        >>> import torch
        >>> [core] = reduce([torch.ones(1, 2, 1), torch.ones(1, 3, 1)], {1})
        >>> core
        tensor([[[3.],
                 [3.]]])
    """
    if not isinstance(keepdim, (bool, np.bool_)):  # a second mode, after numpy's and torch's other functions
        raise TTTypeError(f"keepdim is {keepdim!r}; expected True or False: several modes are named as dim=(0, 1).")
    dims = set(dims)
    if not dims:  # of a train of order 0
        return list(cores)
    dtype = cores[0].dtype
    wide = compute_dtype(dtype)
    scaled, exponent = split_scales(cores, wide)
    for k in dims:
        scaled[k] = scaled[k].mean(1, keepdim=True) if mean else scaled[k].sum(1, keepdim=True)
    if not keepdim:
        scaled = join_scale(scaled, exponent, wide)
        return balance(index(scaled, tuple(0 if k in dims else slice(None) for k in range(len(scaled)))), dtype)
    return join_scale(scaled, exponent, dtype)
