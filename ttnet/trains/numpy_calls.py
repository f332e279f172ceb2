"""numpy's functions on trains: by cores where that is exact, and else by what they are told to take instead.

numpy asks an argument's class before it does anything (NEP 13 for functions of entries, NEP 18 for the others). What a
train has a method for is done by it, what `habits` names a call for is refused with that call, and the rest, such as
`numpy.save`, gets the dense array, which the memory has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ttnet.errors import TTTypeError
from ttnet.trains.calls import operate, takes
from ttnet.trains.habits import TensorHabits
from ttnet.trains.joining import cat, kron, stack

# With the arguments that are understood; with others the dense array is taken.
EXACT: dict[Callable[..., Any], Callable[..., Any]] = {
    np.concatenate: lambda trains, axis=0: cat(trains, axis),
    np.kron: lambda a, b: kron(a, b),
    np.linalg.norm: lambda x: x.norm(),
    np.mean: lambda a, axis=None, *, keepdims=False: a.mean(axis, keepdims),
    np.ndim: lambda a: a.ndim,
    np.reshape: lambda a, shape: a.reshape(shape),
    np.shape: lambda a: a.shape,
    np.size: lambda a: int(a.numel),
    np.stack: lambda trains, axis=0: stack(trains, axis),
    np.std: lambda a, *, ddof=0: a.std(correction=ddof),
    np.sum: lambda a, axis=None, *, keepdims=False: a.sum(axis, keepdims),
    np.swapaxes: lambda a, axis1, axis2: a.transpose(axis1, axis2),
    np.trace: lambda a: a.trace(),
    np.transpose: lambda a, axes=None: a.T if axes is None else a.permute(axes),
    np.var: lambda a, axis=None, *, ddof=0, keepdims=False: a.var(axis, correction=ddof, keepdim=keepdims),
    np.vdot: lambda a, b: a.dot(b),
}

_EXACT_UFUNCS: dict[np.ufunc, Callable[..., Any]] = {
    np.conjugate: lambda x: x.conj(),
    np.square: lambda x: operate("pow", [x, 2]),
}
# What methods of functions of entries do that has a call.
_OF_METHODS = {"add.reduce": "train.sum(dim)", "multiply.outer": "ttnet.outer(a, b)"}


def call_function(
    train: TensorHabits, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Answer a function of numpy's that is given a train.

    Args:
        train: A train or TT-matrix among the arguments.
        function: The function, as `numpy.sum`.
        args: What it is given.
        kwargs: What it is given by name.

    Returns:
        What the train's own method gives, or numpy's function on dense arrays.

    Raises:
        AttributeError: If `habits` names another call for it; the error says which.
        TTValueError: If a dense array would exceed this machine's memory.

    Example:
        >>> import numpy, ttnet
        >>> call_function(ttnet.ones((2, 3)), numpy.sum, [ttnet.ones((2, 3))], {"axis": 0})
        TensorTrain([3], float32)
    """
    exact = EXACT.get(function)
    if exact is not None and takes(exact, args, kwargs):
        return exact(*args, **kwargs)
    if exact is None and function.__name__ in train._instead:
        getattr(train, function.__name__)  # which is not there, and says what is
    return function(*_dense(list(args)), **_dense(dict(kwargs)))


def call_ufunc(
    train: TensorHabits, ufunc: np.ufunc, method: str, inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Answer a function of entries of numpy's that is given a train: operators as they are, others in words.

    Args:
        train: A train or TT-matrix among the inputs.
        ufunc: The function, as `numpy.add`.
        method: How it is called, `"__call__"` or another.
        inputs: One or two operands.
        kwargs: What it is given by name.

    Returns:
        What the operator between the operands gives.

    Raises:
        TTTypeError: If trains have no such operator; the error names the call that does it.

    Example:
        >>> import numpy, ttnet
        >>> call_ufunc(ttnet.ones((2, 2)), numpy.multiply, "__call__", [2.0, ttnet.ones((2, 2))], {}).full()
        tensor([[2., 2.],
                [2., 2.]])
    """
    answer = NotImplemented
    if method == "__call__" and not kwargs:
        exact = _EXACT_UFUNCS.get(ufunc)
        answer = exact(*inputs) if exact is not None else operate(ufunc.__name__, inputs)
    if answer is not NotImplemented:
        return answer
    kinds = " and ".join(f"a {type(value).__name__}" for value in inputs)
    name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
    if ufunc is np.matmul and method == "__call__":
        advice = "torch.as_tensor(array) in the array's place"
    else:
        entrywise = "ttnet.apply(function, train), or train.numpy() if it is small"
        advice = _OF_METHODS.get(name) or train._call_for(name) or entrywise
    raise TTTypeError(f"numpy.{name} is given {kinds}; take {advice}.")


def _dense(value: Any) -> Any:
    """Put dense arrays in the place of trains, in lists, tuples and dicts as well."""
    if isinstance(value, TensorHabits):
        return value.numpy()
    if isinstance(value, dict):
        return {name: _dense(part) for name, part in value.items()}
    return type(value)(_dense(part) for part in value) if isinstance(value, list | tuple) else value
