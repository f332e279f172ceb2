"""To and from the tensor trains of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ttnet.errors import TTTypeError
from ttnet.tensor_train import TensorTrain
from ttnet.tt_matrix import TTMatrix


def from_numpy(cores: Sequence[npt.NDArray[Any]]) -> TensorTrain | TTMatrix:
    """Make a train or TT-matrix of numpy cores; a dense array goes to `ttnet.tt_svd` instead.

    Args:
        cores: Arrays of shape `(r, n, r')` for a train or `(r, m, n, r')` for a TT-matrix, of a floating or complex
            dtype. They are copied.

    Returns:
        A `TensorTrain` for cores of three axes, a `TTMatrix` for cores of four.

    Raises:
        TTTypeError: If a core is not a numpy array, or of another dtype.
        TTShapeError: If the shapes do not chain up.

    Example:
        >>> from_numpy([np.ones((1, 2, 3)), np.ones((3, 2, 1))])
        TensorTrain([2]-3-[2], float64)
    """
    for k, core in enumerate(cores):
        if not isinstance(core, np.ndarray):
            raise TTTypeError(f"cores[{k}] is a {type(core).__name__}; expected a numpy.ndarray.")
    # A copy: torch takes neither read-only arrays nor negative strides nor foreign byte orders.
    tensors = [torch.from_numpy(core.astype(core.dtype.newbyteorder("="), order="C")) for core in cores]
    return TTMatrix(tensors) if tensors and tensors[0].ndim == 4 else TensorTrain(tensors)


def to_numpy(tt: TensorTrain | TTMatrix) -> list[npt.NDArray[Any]]:
    """Give the cores as numpy arrays, copied and without their gradients.

    Args:
        tt: A train or TT-matrix on any device. bfloat16, which numpy lacks, becomes float32.

    Returns:
        One array per core.

    Raises:
        TTTypeError: If `tt` is of another type.

    Example:
        >>> import ttnet
        >>> [core.shape for core in to_numpy(ttnet.ones((2, 3)))]
        [(1, 2, 1), (1, 3, 1)]
    """
    if not isinstance(tt, TensorTrain | TTMatrix):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TensorTrain or a TTMatrix.")
    tt = tt.to(torch.float32) if tt.dtype == torch.bfloat16 else tt
    return [core.detach().cpu().resolve_conj().resolve_neg().numpy().copy() for core in tt.cores]


def from_tensorly(tt: Any) -> TensorTrain | TTMatrix:
    """Make a train or TT-matrix of tensorly's.

    Args:
        tt: A `TTTensor` or `TTMatrix` of tensorly, in the arrays of tensorly's current backend.

    Returns:
        A `TensorTrain` or a `TTMatrix`. Factors that are torch tensors are kept as they are, not copied.

    Raises:
        TTTypeError: If `tt` is of another type.

    Example:
        >>> from tensorly.random import random_tt
        >>> from_tensorly(random_tt((2, 3), 2))
        TensorTrain([2]-2-[3], float64)
    """
    import tensorly
    from tensorly.tt_matrix import TTMatrix as TensorlyTTMatrix
    from tensorly.tt_tensor import TTTensor as TensorlyTTTensor

    if not isinstance(tt, TensorlyTTTensor | TensorlyTTMatrix):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TTTensor or a TTMatrix of tensorly.")
    factors = list(tt.factors)
    if not all(isinstance(core, torch.Tensor) for core in factors):
        return from_numpy([tensorly.to_numpy(core) for core in factors])
    return TTMatrix(factors) if isinstance(tt, TensorlyTTMatrix) else TensorTrain(factors)


def to_tensorly(tt: TensorTrain | TTMatrix) -> Any:
    """Give a train or TT-matrix to tensorly, in the arrays of its current backend.

    Args:
        tt: A train of order 1 or more, or a TT-matrix.

    Returns:
        A `TTTensor` or `TTMatrix` of tensorly: with the very cores if its backend is pytorch, with copies if it is
        another.

    Raises:
        TTTypeError: If `tt` is of another type, or a train of order 0, which tensorly does not have.

    Example:
        >>> import ttnet
        >>> to_tensorly(ttnet.ones((2, 3))).rank
        (1, 1, 1)
    """
    import tensorly
    from tensorly.tt_matrix import TTMatrix as TensorlyTTMatrix
    from tensorly.tt_tensor import TTTensor as TensorlyTTTensor

    if not isinstance(tt, TensorTrain | TTMatrix):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TensorTrain or a TTMatrix.")
    if isinstance(tt, TensorTrain) and not tt.ndim:
        raise TTTypeError("tt is a train of order 0, which tensorly does not have; expected order 1 or more.")
    if tensorly.get_backend() == "pytorch":
        factors: list[Any] = list(tt.cores)
    else:
        factors = [tensorly.tensor(core, dtype=getattr(tensorly, core.dtype.name)) for core in to_numpy(tt)]
    return TensorlyTTMatrix(factors) if isinstance(tt, TTMatrix) else TensorlyTTTensor(factors)
