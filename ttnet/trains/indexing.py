"""Entries and sub-tensors of a train, straight from its cores."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTIndexError, TTTypeError
from ttnet.numerics.scales import compute_dtype, split_scale
from ttnet.numerics.train_scales import even_bonds, join_scale


def index(
    cores: Sequence[Tensor],  # each (r, n, r')
    key: Any,
) -> list[Tensor]:
    """Index a train as torch indexes a tensor: with ints, slices, `...` and `None`.

    Args:
        cores: The cores of a train.
        key: What stands between the brackets. Slices may have negative steps.

    Returns:
        The cores of the result; one core of shape (1, 1) if no mode is left.

    Raises:
        TTIndexError: If there are too many indices, one is out of range or a slice is empty.
        TTTypeError: If an index is of another kind.

    Example:
        >>> [core] = index([torch.arange(2.0).reshape(1, 2, 1), torch.ones(1, 3, 1)], 1)
        >>> core
        tensor([[[1.],
                 [1.],
                 [1.]]])
    """
    modes = [] if cores[0].ndim == 2 else list(cores)
    dtype = cores[0].dtype
    pieces = [] if modes else [cores[0]]
    mode = 0
    for item in _expand(key, len(modes)):
        if item is None:
            rank = modes[mode].shape[0] if mode < len(modes) else 1
            pieces.append(torch.eye(rank, dtype=dtype, device=cores[0].device)[:, None, :])
        else:
            pieces.append(_select(modes[mode], item, mode))
            mode += 1
    if all(piece.ndim > 2 for piece in pieces):
        return pieces
    pieces, exponent = even_bonds([piece.to(compute_dtype(dtype)) for piece in pieces])
    kept: list[Tensor] = []
    # An int leaves a matrix in place of a core. Runs of such matrices are multiplied up in `carried`, with their
    # scale kept aside, and go into the next core that stays.
    carried = None
    for core in pieces:
        core, step = split_scale(core) if core.ndim == 2 else (core, 0)
        exponent = exponent + step
        if carried is not None:
            core, step = split_scale(torch.tensordot(carried, core, 1))
            exponent = exponent + step
        carried = core if core.ndim == 2 else None
        if carried is None:
            kept.append(core)
    if carried is not None and kept:
        kept[-1] = torch.tensordot(kept[-1], carried, 1)
    elif carried is not None:
        kept = [carried]
    return join_scale(kept, exponent, dtype)


def _expand(key: Any, order: int) -> list[int | slice | None]:
    """Give one entry per mode, plus the `None`s, with `...` and missing entries filled in."""
    items = list(key) if isinstance(key, tuple) else [key]
    for item in items:
        if item is None or item is Ellipsis:
            continue
        if isinstance(item, slice):
            _check_slice(item)
            continue
        if _is_int(item):
            continue
        shown = f"of shape {tuple(item.shape)}" if hasattr(item, "shape") else repr(item)
        raise TTTypeError(
            f"an index is a {type(item).__name__}, {shown}; expected ints, slices, `...` or None. Single entries of "
            "many places are given by ttnet.evaluate(train, indices), and several slices by ttnet.stack."
        )
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > order:
        raise TTIndexError(f"{used} indices are too many for a train of order {order}.")
    dots = [k for k, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise TTIndexError("`...` stands more than once among the indices; expected it once at most.")
    at = dots[0] if dots else len(items)
    return items[:at] + [slice(None)] * (order - used) + items[at + 1 :]


def _is_int(item: object) -> bool:
    """Tell an int from lists and masks of one entry, which may answer as one."""
    if isinstance(item, (bool, np.bool_)) or (isinstance(item, (Tensor, np.ndarray)) and item.ndim):
        return False
    if isinstance(item, Tensor) and item.dtype == torch.bool:
        return False
    try:
        operator.index(item)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _check_slice(item: slice) -> None:
    for name in ("start", "stop", "step"):
        value = getattr(item, name)
        if value is not None and not hasattr(value, "__index__"):
            raise TTTypeError(f"slice {item} has the {name} {value!r}; expected ints or nothing.")
    if item.step is not None and operator.index(item.step) == 0:
        raise TTIndexError(f"slice {item} has the step 0; expected another int.")


def _select(
    core: Tensor,  # (r, n, r')
    item: Any,
    mode: int,
) -> Tensor:
    """Give the matrix (r, r') for an int, and a core with fewer slices for a slice."""
    size = core.shape[1]
    if isinstance(item, slice):
        if item == slice(None):
            return core
        chosen = range(size)[item]
        if not chosen:
            raise TTIndexError(f"slice {item} of mode {mode} of size {size} is empty; a mode needs at least 1 entry.")
        if chosen.step > 0:
            return core[:, chosen.start : chosen.stop : min(chosen.step, size)]  # ints that torch can hold
        backwards = chosen[::-1]
        return core[:, backwards.start : backwards.stop : min(backwards.step, size)].flip(1)
    position = operator.index(item)
    if not -size <= position < size:
        raise TTIndexError(
            f"index {position} is out of range for mode {mode} of size {size}; expected {-size} to {size - 1}."
        )
    return core[:, position]
