"""Grids of points in the place of indices, for functions of real variables."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTTypeError
from ttnet.numerics.dense import as_dense


def as_grids(shape: Any) -> list[Tensor] | None:
    """Give grids as floating vectors of one dtype.

    Args:
        shape: What `tt_cross` takes for its shape.

    Returns:
        A vector for each mode; None if there are mode sizes in their place.

    Raises:
        TTTypeError: If some modes have grids, but not all of them floating vectors.

    Example:
        >>> as_grids([torch.ones(2), torch.ones(3).double()])[0].dtype, as_grids((2, 3))
        (torch.float64, None)
    """
    if not isinstance(shape, Sequence) or not any(
        isinstance(grid, Tensor | np.ndarray) and grid.ndim for grid in shape
    ):
        return None
    grids = [_as_tensor(given, f"shape[{k}]") for k, given in enumerate(shape)]
    for k, grid in enumerate(grids):
        if grid.ndim != 1 or not len(grid) or not grid.is_floating_point():
            raise TTTypeError(
                f"shape[{k}] is a grid of shape {tuple(grid.shape)} and {grid.dtype}; expected a vector of floating "
                "numbers, as every mode has a grid if one has."
            )
    dtype = functools.reduce(torch.promote_types, [grid.dtype for grid in grids])
    return [grid.to(dtype) for grid in grids]


def _as_tensor(given: Any, name: str) -> Tensor:
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        return as_dense(given, name)  # of any strides and byte order
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TTTypeError(
            f"{name} is a {type(given).__name__} that no tensor can be made of ({error}); expected a vector of "
            "floating numbers."
        ) from error


def at_points(f: Any, grids: Sequence[Tensor]) -> Any:
    """Let a function of points take indices into grids.

    Args:
        f: The function, given a tensor of shape (batch, d); what is none is given back, for `tt_cross` to refuse.
        grids: The points of each mode.

    Returns:
        A function of an int64 tensor of shape (batch, d).

    Example:
        >>> at_points(lambda x: x.sum(1), [torch.tensor([0.5, 1.5])])(torch.tensor([[1], [0]]))
        tensor([1.5000, 0.5000])
    """
    if not callable(f):
        return f
    return lambda indices: f(torch.stack([grid.to(i.device)[i] for grid, i in zip(grids, indices.T, strict=True)], 1))
