"""torch's functions on trains: by cores where that is exact, and else they are told what to take instead.

torch asks an argument's class before it does anything. Unlike numpy it never makes what it is given dense on its own,
and neither is that done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import resolve_name

from ttnet.errors import TTTypeError
from ttnet.trains.calls import operate, takes
from ttnet.trains.habits import NUMPYS_WORDS, TensorHabits
from ttnet.trains.joining import cat, kron, outer, stack
from ttnet.trains.tensor_train import TensorTrain


def _norm(input: Any, p: object = 2, dim: Any = None, keepdim: bool = False, **words: Any) -> Any:
    return input.norm(dim=dim, keepdim=keepdim or None, **words) if p in (2, "fro") else NotImplemented


def _mean_beside(input: Any, dim: Any = None, *, keepdim: bool = False, **_: Any) -> Any:
    return input.mean(dim, keepdim)


# With the arguments that are understood, under torch's names; methods tell what to take in the place of other words.
EXACT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.add: lambda input, other, *, alpha=1: operate("add", [input, other if alpha == 1 else alpha * other]),
    torch.cat: lambda tensors, dim=0: cat(tensors, dim),
    torch.clone: lambda input: input.clone(),
    torch.concat: lambda tensors, dim=0: cat(tensors, dim),
    torch.concatenate: lambda tensors, dim=0: cat(tensors, dim),
    torch.conj: lambda input: input.conj(),
    torch.detach: lambda input: input.detach(),
    torch.dot: lambda input, tensor: input.conj().dot(tensor),
    torch.flatten: lambda input: input.reshape((-1,)),
    torch.is_complex: lambda input: input.dtype.is_complex,
    torch.is_floating_point: lambda input: input.dtype.is_floating_point,
    torch.kron: lambda input, other: kron(input, other),
    torch.linalg.matrix_norm: lambda A, ord="fro": _norm(A, ord) if len(A.shape) == 2 else NotImplemented,
    torch.linalg.norm: lambda A, ord="fro", dim=None, keepdim=False, **words: (
        _norm(A, ord, dim, keepdim, **words) if ord == "fro" else NotImplemented  # of 2, the largest value
    ),
    torch.linalg.vector_norm: lambda x, ord=2, dim=None, keepdim=False, **words: _norm(x, ord, dim, keepdim, **words),
    torch.mean: lambda input, dim=None, keepdim=False, **words: input.mean(dim, keepdim, **words),
    torch.norm: _norm,
    torch.numel: lambda input: int(input.numel),
    torch.outer: lambda input, vec2: outer(input, vec2),
    torch.permute: lambda input, dims: input.permute(dims),
    torch.reshape: lambda input, shape: input.reshape(shape),
    torch.stack: lambda tensors, dim=0: stack(tensors, dim),
    torch.square: lambda input: operate("pow", [input, 2]),
    torch.std: lambda input, dim=None, **words: input.std(dim, **words),
    torch.std_mean: lambda input, dim=None, **words: (input.std(dim, **words), _mean_beside(input, dim, **words)),
    torch.sub: lambda input, other, *, alpha=1: operate("sub", [input, other if alpha == 1 else alpha * other]),
    torch.sum: lambda input, dim=None, keepdim=False, **words: input.sum(dim, keepdim, **words),
    torch.swapaxes: lambda input, axis0, axis1: input.transpose(axis0, axis1),
    torch.t: lambda input: input.T if len(input.shape) < 3 else NotImplemented,
    torch.trace: lambda input: input.trace(),
    torch.transpose: lambda input, dim0, dim1: input.transpose(dim0, dim1),
    torch.var: lambda input, dim=None, **words: input.var(dim, **words),
    torch.var_mean: lambda input, dim=None, **words: (input.var(dim, **words), _mean_beside(input, dim, **words)),
    torch.vdot: lambda input, other: input.dot(other),
}


def call_function(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Answer a function of torch's, or an operator between a tensor and a train.

    Args:
        function: The function, as `torch.sum`.
        args: What it is given, a train or TT-matrix somewhere among it.
        kwargs: What it is given by name.

    Returns:
        What the train's own method or operator gives.

    Raises:
        TTTypeError: If there is none; the error names the call that does it.

    Example:
        >>> import ttnet
        >>> call_function(torch.sum, [ttnet.ones((2, 3))], {"dim": 0})
        TensorTrain([3], float32)
    """
    name = function.__name__
    given = {NUMPYS_WORDS.get(word, word): value for word, value in kwargs.items() if value is not None}
    exact = EXACT.get(function)
    if exact is not None and takes(exact, args, given):
        answer = exact(*args, **given)
    else:
        answer = NotImplemented if given else operate(name, args)
    if answer is not NotImplemented:
        return answer
    operands = [*args, *kwargs.values()]
    trains = [value for value in operands if isinstance(value, TensorHabits)]
    full_name = re.sub(r"\b(\w+)\.\1_", r"\1.", resolve_name(function) or name)  # not torch.linalg.linalg_svd
    full_name = full_name.replace("torch.functional.", "torch.")
    general = "train.full() if it is small"
    if not full_name.startswith("torch.Tensor.") and "." in full_name:
        general += f", or ttnet.apply({full_name}, train) if it goes entry by entry"
    kinds = " and ".join(
        f"a {type(value).__name__}" for value in operands if isinstance(value, torch.Tensor | TensorHabits)
    )
    kind = type(trains[0]) if trains else TensorTrain  # trains in lists
    advice = kind._call_for(full_name.rpartition(".")[2]) or general
    raise TTTypeError(f"{full_name} is given {kinds or 'trains'}; take {advice}.")
