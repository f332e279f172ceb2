"""How far a train is from what it stands for, measured and not merely bounded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import split_scale, times_power_of_two
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def relative_error(
    x: Tensor | TensorTrain | TTMatrix,  # (n_1, ..., n_d)
    tt: TensorTrain | TTMatrix,
) -> float:
    """Compute `||x - tt|| / ||x||` in double precision, at any scale.

    Args:
        x: A dense tensor, or another value of the kind of `tt`, in which case nothing dense is formed.
        tt: A train or TT-matrix of the same shape.

    Returns:
        The relative Frobenius error; infinite if `x` alone is zero, 0 if both are.

    Raises:
        TTShapeError: If the shapes differ.

    Example:
        >>> import ttnet
        >>> x = ttnet.ones((2, 3), dtype=torch.float64)
        >>> relative_error(x.full(), x), round(relative_error(x, x * 1.5), 12)
        (0.0, 0.5)
    """
    x, tt = x.detach(), tt.detach()
    double = torch.promote_types(torch.promote_types(x.dtype, tt.dtype), torch.float64)
    if isinstance(x, TensorTrain | TTMatrix):
        exact, other = ((v.to_train() if isinstance(v, TTMatrix) else v).to(double) for v in (x, tt))
        error, norm = (float(value.log_norm()) for value in (exact - other, exact))
        return float(torch.tensor(error - norm, dtype=torch.float64).exp()) if error > -torch.inf else 0.0
    if tuple(x.shape) != tt.shape:
        raise TTShapeError(f"x has shape {tuple(x.shape)} and tt {tt.shape}; expected the same shape.")
    scaled, exponent = split_scale(x.to(double))
    difference = times_power_of_two(tt.to(double).full(), -exponent) - scaled
    error, norm = (float(torch.linalg.vector_norm(value)) for value in (difference, scaled))
    return error / norm if norm else (torch.inf if error else 0.0)


def allclose(
    a: Tensor | npt.NDArray[Any] | TensorTrain | TTMatrix,  # (n_1, ..., n_d)
    b: Tensor | npt.NDArray[Any] | TensorTrain | TTMatrix,  # (n_1, ..., n_d)
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
) -> bool:
    """Tell whether two values agree as a whole, `||a - b|| <= atol + rtol * ||b||` in the Frobenius norm.

    Args:
        a: A train or TT-matrix, or a dense tensor or numpy array.
        b: Another one of the same shape; one of the two at least is not dense.
        rtol: What part of the norm of `b` they may differ by, at least 0.
        atol: What they may differ by besides, at least 0.

    Returns:
        Whether they do. Entries alone are not compared: a few may differ by more than others.

    Raises:
        TTTypeError: If a value is of another type, or one is a train and the other a TT-matrix.
        TTShapeError: If the shapes differ.
        TTValueError: If a bound is negative or NaN.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((4, 5, 6), 2, dtype=torch.float64, seed=0)
        >>> ttnet.allclose((x + x).round(1e-10), 2 * x), ttnet.allclose(x, 1.01 * x)
        (True, False)
    """
    for name, bound in (("rtol", rtol), ("atol", atol)):
        if not bound >= 0:
            raise TTValueError(f"{name} is {bound}; expected a number of at least 0.")
    a, b = (as_dense(x, name) if isinstance(x, np.ndarray) else x for x, name in ((a, "a"), (b, "b")))
    kinds = {type(x) for x in (a, b) if isinstance(x, TensorTrain | TTMatrix)}
    if len(kinds) != 1 or not all(isinstance(x, Tensor | TensorTrain | TTMatrix) for x in (a, b)):
        raise TTTypeError(
            f"a is a {type(a).__name__} and b is a {type(b).__name__}; expected two trains or two TT-matrices, or a "
            "dense tensor for one of them."
        )
    if tuple(a.shape) != tuple(b.shape):
        raise TTShapeError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected the same shape.")
    double = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float64)
    a, b = a.detach().to(double), b.detach().to(double)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        a, b = (x if isinstance(x, Tensor) else x.full() for x in (a, b))
    # By logarithms, as a norm that overflows would be close to any other, and a difference that underflows to none.
    error = _log_norm(a - b)
    bounds = [torch.tensor(bound, dtype=torch.float64).log() for bound in (atol, rtol)]
    return error <= float(torch.logaddexp(bounds[0], bounds[1] + _log_norm(b)))


def _log_norm(
    x: Tensor | TensorTrain | TTMatrix,  # (n_1, ..., n_d)
) -> float:
    if not isinstance(x, Tensor):
        return float(x.log_norm())
    scaled, exponent = split_scale(x)
    return float(torch.linalg.vector_norm(scaled).log()) + float(exponent) * math.log(2)
