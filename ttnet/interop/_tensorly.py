"""tensorly: `TTTensor` and `TTMatrix`, in the arrays of its current backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ttnet.errors import TTTypeError, import_extra
from ttnet.interop._arrays import check_has_modes, from_numpy, to_numpy
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def from_tensorly(tt: Any) -> TensorTrain | TTMatrix:
    """Make a train or TT-matrix of tensorly's.

    Args:
        tt: A `TTTensor` or `TTMatrix` of tensorly, in the arrays of tensorly's current backend.

    Returns:
        A `TensorTrain` or a `TTMatrix`. Factors that are torch tensors are kept as they are, not copied.

    Raises:
        MissingExtraError: If tensorly is not installed.
        TTTypeError: If `tt` is of another type.

    Example:
        >>> from tensorly.random import random_tt
        >>> from_tensorly(random_tt((2, 3), 2))
        TensorTrain([2]-2-[3], float64)
    """
    tensorly, train_cls, matrix_cls = _tensorly()
    if not isinstance(tt, train_cls | matrix_cls):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TTTensor or a TTMatrix of tensorly.")
    factors = list(tt.factors)
    if not all(isinstance(core, torch.Tensor) for core in factors):
        # `to_numpy` would lose the mask of a masked array.
        return from_numpy([core if isinstance(core, np.ndarray) else tensorly.to_numpy(core) for core in factors])
    return TTMatrix(factors) if isinstance(tt, matrix_cls) else TensorTrain(factors)


def to_tensorly(tt: TensorTrain | TTMatrix) -> Any:
    """Give a train or TT-matrix to tensorly, in the arrays of its current backend.

    Args:
        tt: A train of order 1 or more, or a TT-matrix.

    Returns:
        A `TTTensor` or `TTMatrix` of tensorly: with the very cores if its backend is pytorch, with copies if it is
        another.

    Raises:
        MissingExtraError: If tensorly is not installed.
        TTTypeError: If `tt` is of another type, or a train of order 0, which tensorly does not have.

    Example:
        >>> import ttnet
        >>> to_tensorly(ttnet.ones((2, 3))).rank
        (1, 1, 1)
    """
    tensorly, train_cls, matrix_cls = _tensorly()
    check_has_modes(tt, "tensorly")
    if tensorly.get_backend() == "pytorch":
        factors: list[Any] = list(tt.cores)
    else:
        factors = [tensorly.tensor(core, dtype=getattr(tensorly, core.dtype.name)) for core in to_numpy(tt)]
    return matrix_cls(factors) if isinstance(tt, TTMatrix) else train_cls(factors)


def _tensorly() -> tuple[Any, Any, Any]:
    """Import tensorly, and give it with its classes of trains and of TT-matrices."""
    names = ("tensorly", "tensorly.tt_tensor", "tensorly.tt_matrix")
    package, trains, matrices = (import_extra(name, extra="tensorly") for name in names)
    return package, trains.TTTensor, matrices.TTMatrix
