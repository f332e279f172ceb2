"""The one family of exceptions: catch `TTError` to catch them all.

Every child also derives from the builtin that a Python user would expect (`ValueError`, `TypeError`, ...), so
code that knows nothing of this package can catch them too.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from ttnet.distribution import NAME


class TTError(Exception):
    """Anything this package refuses to do; the message says what was given, what was expected and what to do.

    Example:
        >>> issubclass(TTShapeError, TTError) and issubclass(TTShapeError, ValueError)
        True
    """


class TTShapeError(TTError, ValueError):
    """Shapes, orders or ranks that do not fit together.

    Example:
        >>> import torch
        >>> from ttnet import TensorTrain
        >>> try:
        ...     TensorTrain([torch.ones(1, 2, 3), torch.ones(4, 2, 1)])
        ... except TTShapeError as error:
        ...     print(error)
        cores[0] ends with rank 3 but cores[1] begins with rank 4; neighbouring cores must share their rank.
    """


class TTValueError(TTError, ValueError):
    """A value outside its range: a negative `eps`, a rank of 0, NaN entries, an unknown method.

    Example:
        >>> import torch, ttnet
        >>> try:
        ...     ttnet.tt_svd(torch.ones(2, 2), eps=-1.0)
        ... except TTValueError as error:
        ...     print(error)
        eps is -1.0; expected a relative error >= 0, or None for no error bound.
    """


class TTTypeError(TTError, TypeError):
    """An argument of a type that the function does not take.

    Example:
        >>> from ttnet import TensorTrain
        >>> try:
        ...     TensorTrain([[1.0]])
        ... except TTTypeError as error:
        ...     print(error)
        cores[0] is a list; expected a torch.Tensor of shape (r, n, r').
    """


class TTIndexError(TTError, IndexError):
    """An index outside a train: too many indices, or one beyond its mode.

    Example:
        >>> import ttnet
        >>> try:
        ...     ttnet.ones((2, 3))[5, 0]
        ... except TTIndexError as error:
        ...     print(error)
        index 5 is out of range for mode 0 of size 2; expected -2 to 1.
    """


class TTFileError(TTError, OSError):
    """A file that cannot be read or written: missing, truncated, of another kind or of a newer version.

    Example:
        >>> import ttnet
        >>> try:
        ...     ttnet.load("nowhere.safetensors")
        ... except TTFileError as error:
        ...     print(error)
        There is no file 'nowhere.safetensors'; check the path.
    """


class TTConvergenceError(TTError, RuntimeError):
    """An iteration that ended before the error bound was reached.

    Attributes:
        result: What there is so far, such as the `CrossResult` of `ttnet.apply`; its `value` is the best train.

    Example:
        >>> import torch, ttnet
        >>> x = ttnet.random((8,) * 5, 4, seed=0)
        >>> try:
        ...     ttnet.apply(torch.abs, x, max_rank=2)
        ... except TTConvergenceError as error:
        ...     print(error.result.value.ranks)
        (1, 2, 2, 2, 2, 1)
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class MissingExtraError(TTError, ImportError):
    """An optional package that is not installed; the message names the extra that brings it.

    Example:
        >>> try:
        ...     import_extra("a_missing_package", extra="plot")
        ... except MissingExtraError as error:
        ...     print(error)
        This needs the package 'a_missing_package', which is not installed; run: pip install 'ttnet-torch[plot]'
    """


def import_extra(name: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which extra to install.

    Args:
        name: The module's full name, such as `"matplotlib.pyplot"`.
        extra: The extra of this distribution that brings it, such as `"plot"`.

    Returns:
        The module.

    Raises:
        MissingExtraError: If the package is not installed. A package that is installed but fails on one of its
            own imports raises that `ImportError` unchanged, since no extra would mend it.

    Example:
        >>> import_extra("math", extra="plot").floor(2.5)
        2
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing.partition(".")[0] != name.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package '{missing.partition('.')[0]}', which is not installed; "
            f"run: pip install '{NAME}[{extra}]'"
        ) from error


def spell_count(count: int) -> str:
    """Write a count that may exceed every float.

    Args:
        count: A number of entries or the like, at least 0.

    Returns:
        All its digits, or its power of ten where these are many.

    Example:
        >>> spell_count(12345), spell_count(7 * 10**400)
        ('12,345', 'about 10^400')
    """
    return f"{count:,}" if count < 10**15 else f"about 10^{len(str(count)) - 1}"
