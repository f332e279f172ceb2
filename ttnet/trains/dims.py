"""Which modes an argument such as `dim` names: ints that may count from the end, as in torch."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

from ttnet.errors import TTIndexError, TTTypeError, TTValueError


def check_dim(dim: object, order: int, name: str = "dim") -> int:
    """Give the position of one mode, counted from the front.

    Args:
        dim: An int from -order to order - 1.
        order: The number of modes.
        name: What the caller calls the argument, for the message.

    Returns:
        The position, from 0 to order - 1.

    Raises:
        TTTypeError: If it is no int.
        TTIndexError: If there is no such mode.

    Example:
        >>> check_dim(-1, 3)
        2
    """
    if isinstance(dim, bool) or not isinstance(dim, numbers.Integral):
        raise TTTypeError(f"{name} is {dim!r}; expected an int.")
    if not order:
        raise TTIndexError(f"{name} is {dim}, but a train of order 0 has no modes.")
    position = int(dim)
    if not -order <= position < order:
        raise TTIndexError(f"{name} is {dim}; expected {-order} to {order - 1} for a train of order {order}.")
    return position % order


def check_dims(dims: object, order: int, name: str = "dim") -> tuple[int, ...]:
    """Give the positions of several modes, each counted from the front.

    Args:
        dims: An int or a sequence of ints, from -order to order - 1, of which no two name the same mode.
        order: The number of modes.
        name: What the caller calls the argument, for the messages.

    Returns:
        The positions, in the order given.

    Raises:
        TTTypeError: If it is neither an int nor a sequence of ints.
        TTIndexError: If there is no such mode.
        TTValueError: If two name the same mode.

    Example:
        >>> check_dims([2, -3], 3), check_dims(1, 3)
        ((2, 0), (1,))
    """
    if isinstance(dims, numbers.Integral):
        return (check_dim(dims, order, name),)
    if isinstance(dims, str) or not isinstance(dims, Sequence):
        raise TTTypeError(f"{name} is {dims!r}; expected an int or a sequence of ints.")
    positions = tuple(check_dim(dim, order, f"an entry of {name}") for dim in dims)
    if len(set(positions)) < len(positions):
        raise TTValueError(f"{name} is {tuple(dims)}, which names a mode twice; expected each at most once.")
    return positions


def one_by_one(first: int | Sequence[int], more: Sequence[int], name: str) -> Sequence[int]:
    """Give ints that stand in a sequence, or each as an argument of its own.

    Args:
        first: The sequence, or the first int.
        more: The other ints.
        name: What the caller calls the argument, for the message.

    Returns:
        All of them.

    Raises:
        TTTypeError: If ints follow a sequence.

    Example:
        >>> one_by_one((2, 3), (), "shape"), one_by_one(2, (3,), "shape")
        ((2, 3), (2, 3))
    """
    if isinstance(first, numbers.Integral):
        return (int(first), *more)
    if more:
        raise TTTypeError(f"{name} is {first!r}, and more follows; expected one sequence of ints, or ints alone.")
    return first  # type: ignore[return-value]
