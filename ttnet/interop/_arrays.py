"""numpy: a train is a list of its cores, which is also what teneva holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ttnet.errors import TTTypeError
from ttnet.numerics.dense import check_unmasked
from ttnet.numerics.scales import compute_dtype
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def from_numpy(cores: Sequence[npt.NDArray[Any]]) -> TensorTrain | TTMatrix:
    """Make a train or TT-matrix of numpy cores; a dense array goes to `ttnet.tt_svd` instead.

    Args:
        cores: Arrays of shape `(r, n, r')` for a train or `(r, m, n, r')` for a TT-matrix, of a floating or complex
            dtype. They are copied.

    Returns:
        A `TensorTrain` for cores of three axes, a `TTMatrix` for cores of four.

    Raises:
        TTTypeError: If a core is not a numpy array, of another dtype, or has masked entries.
        TTShapeError: If the shapes do not chain up.

    Example:
        >>> from_numpy([np.ones((1, 2, 3)), np.ones((3, 2, 1))])
        TensorTrain([2]-3-[2], float64)
    """
    tensors = [copy_array(core, f"cores[{k}]") for k, core in enumerate(cores)]
    return TTMatrix(tensors) if tensors and tensors[0].ndim == 4 else TensorTrain(tensors)


def to_numpy(tt: TensorTrain | TTMatrix) -> list[npt.NDArray[Any]]:
    """Give the cores as numpy arrays, copied and without their gradients.

    Args:
        tt: A train or TT-matrix on any device. bfloat16 and complex32, which numpy lacks, become float32 and complex64.

    Returns:
        One array per core.

    Raises:
        TTTypeError: If `tt` is of another type.

    Example:
        >>> import ttnet
        >>> [core.shape for core in to_numpy(ttnet.ones((2, 3)))]
        [(1, 2, 1), (1, 3, 1)]
    """
    check_is_ours(tt)
    tt = tt.to(compute_dtype(tt.dtype)) if tt.dtype in (torch.bfloat16, torch.complex32) else tt
    return [core.detach().cpu().resolve_conj().resolve_neg().numpy().copy() for core in tt.cores]


def copy_array(array: object, name: str) -> torch.Tensor:
    """Copy a numpy array of numbers to a tensor, whatever its strides and byte order.

    Args:
        array: The array.
        name: What it is, for the message.

    Returns:
        The tensor.

    Raises:
        TTTypeError: If it is something else, of a dtype that torch lacks, or has masked entries.

    Example:
        >>> copy_array(np.arange(3.0)[::-1], "array")
        tensor([2., 1., 0.], dtype=torch.float64)
    """
    if not isinstance(array, np.ndarray):
        raise TTTypeError(f"{name} is a {type(array).__name__}; expected a numpy.ndarray.")
    check_unmasked(array, name)
    try:
        # torch takes neither read-only arrays nor negative strides nor foreign byte orders.
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise TTTypeError(f"{name} has dtype {array.dtype}; expected a floating or complex dtype of torch.") from None


def check_is_ours(tt: object) -> None:
    """Refuse what is neither a train nor a TT-matrix.

    Args:
        tt: What the user gave.

    Raises:
        TTTypeError: For anything else.

    Example:
        >>> import ttnet
        >>> check_is_ours(ttnet.ones((2, 3)))
    """
    if not isinstance(tt, TensorTrain | TTMatrix):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TensorTrain or a TTMatrix.")


def check_has_modes(tt: TensorTrain | TTMatrix, library: str) -> None:
    """Refuse what is not ours, and the train of order 0, which other libraries do not have.

    Args:
        tt: What the user gave.
        library: The other library's name, for the message.

    Raises:
        TTTypeError: For anything else, and for order 0.

    Example:
        >>> import ttnet
        >>> check_has_modes(ttnet.ones((2, 3)), "tensorly")
    """
    check_is_ours(tt)
    if isinstance(tt, TensorTrain) and not tt.ndim:
        raise TTTypeError(f"tt is a train of order 0, which {library} does not have; expected order 1 or more.")
