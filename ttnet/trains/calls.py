"""What functions of numpy and torch on trains share: operators under their names, and which arguments are known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttnet.trains.habits import TensorHabits

# Python's operators by the names that numpy and torch give them.
OPERATORS = {
    "absolute": "abs",
    "add": "add",
    "div": "truediv",
    "divide": "truediv",
    "eq": "eq",
    "equal": "eq",
    "ge": "ge",
    "greater": "gt",
    "greater_equal": "ge",
    "gt": "gt",
    "le": "le",
    "less": "lt",
    "less_equal": "le",
    "lt": "lt",
    "matmul": "matmul",
    "mm": "matmul",
    "mul": "mul",
    "multiply": "mul",
    "mv": "matmul",
    "ne": "ne",
    "neg": "neg",
    "negative": "neg",
    "not_equal": "ne",
    "positive": "pos",
    "pow": "pow",
    "power": "pow",
    "sub": "sub",
    "subtract": "sub",
    "true_divide": "truediv",
}
MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}


def operate(name: str, operands: Sequence[Any]) -> Any:
    """Apply an operator to one or two operands, by the methods of the train among them.

    Not the operator itself, which would ask an array or a tensor first, and that would ask here.

    Args:
        name: What numpy or torch calls it, as `"multiply"`.
        operands: Those on its left and right; one of them at least is a train.

    Returns:
        What it gives, or `NotImplemented`.

    Raises:
        TTTypeError: If trains have no such operator; the error names the call that does it.

    Example:
        >>> import ttnet
        >>> operate("subtract", [2.0, ttnet.ones((1, 2))]).full()
        tensor([[1., 1.]])
        >>> operate("hypot", [2.0, ttnet.ones((1, 2))])
        NotImplemented
    """
    operator = OPERATORS.get(name)
    if operator is None or len(operands) > 2:
        return NotImplemented
    first, last = operands[0], operands[-1]
    if isinstance(first, TensorHabits):
        return getattr(first, f"__{operator}__", _nothing)(*operands[1:])
    return getattr(last, f"__{MIRRORED.get(operator, f'r{operator}')}__", _nothing)(first)


def takes(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Say whether a function has these arguments.

    Args:
        function: Any function.
        args: What it is to be given.
        kwargs: What it is to be given by name.

    Returns:
        Whether it may be called so.

    Example:
        >>> takes(lambda a, dim=None: a, [1], {"dim": 0}), takes(lambda a: a, [1], {"dim": 0})
        (True, False)
    """
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _nothing(*_: Any) -> Any:
    return NotImplemented
