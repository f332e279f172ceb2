"""How far a train is from what it stands for, measured and not merely bounded."""

from __future__ import annotations

import torch
from torch import Tensor

from ttnet.errors import TTShapeError
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
