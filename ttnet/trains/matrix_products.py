"""Products of a TT-matrix with trains, with other TT-matrices and with dense tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttnet.errors import TTShapeError
from ttnet.numerics.memory import check_product
from ttnet.numerics.scales import compute_dtype, split_excess, split_row_excess, times_power_of_two
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains.chain import CoreChain


def times_train(
    matrix: CoreChain,  # of cores (r, m, n, r')
    other: CoreChain,  # of cores (s, n, s') or (s, n, k, s')
) -> list[Tensor]:
    """Multiply by a train or another TT-matrix, core by core.

    Args:
        matrix: A TT-matrix, the left operand.
        other: The right one, on the same device: a train of shape `col_shape`, or a TT-matrix of that `row_shape`.

    Returns:
        The product's cores, `(r s, m, r' s')` or `(r s, m, k, r' s')`, whose ranks are the products of both ranks.

    Raises:
        TTMemoryError: If a core of the product would be too large.

    Example:
        >>> import ttnet
        >>> [tuple(core.shape) for core in times_train(ttnet.eye((2, 3)), ttnet.ones((2, 3)))]
        [(1, 2, 1), (1, 3, 1)]
    """
    dtype = torch.promote_types(matrix.dtype, other.dtype)
    sizes = [a.numel() * b.numel() // a.shape[2] ** 2 for a, b in zip(matrix.cores, other.cores, strict=True)]
    check_product(max(sizes, default=0), dtype, matrix.device)
    (left, exponent_a), (right, exponent_b) = (split_scales(x.cores, compute_dtype(dtype)) for x in (matrix, other))
    cores = []
    for a, b in zip(left, right, strict=True):
        product = torch.tensordot(a, b, ([2], [1]))  # (r, m, r', s, [n], s')
        order = (0, 3, 1, 2, 4) if b.ndim == 3 else (0, 3, 1, 4, 2, 5)
        cores.append(product.permute(order).flatten(-2, -1).flatten(0, 1))  # (r s, m, [n], r' s')
    return join_scale(cores, exponent_a + exponent_b, dtype)


def times_dense(
    matrix: CoreChain,  # of cores (r, m, n, r')
    x: Tensor,  # (N,) or (*batch, N, columns)
) -> Tensor:  # (M,) or (*batch, M, columns)
    """Multiply dense columns, one core after the other: at each step one column mode goes and one row mode comes.

    Args:
        matrix: A TT-matrix, M x N, the left operand.
        x: Shape `(N,)` or `(*batch, N, columns)`, on the same device.

    Returns:
        The product, `(M,)` or `(*batch, M, columns)`, of the promoted dtype.

    Raises:
        TTShapeError: If the shapes do not fit.

    Example:
        >>> import ttnet
        >>> times_dense(ttnet.eye((2, 3)), torch.arange(6.0))
        tensor([0., 1., 2., 3., 4., 5.])
    """
    rows = math.prod([core.shape[1] for core in matrix.cores])
    cols = math.prod([core.shape[2] for core in matrix.cores])
    if x.ndim == 0 or x.shape[-1 if x.ndim == 1 else -2] != cols:
        raise TTShapeError(
            f"a TT-matrix of shape {(rows, cols)} cannot multiply a tensor of shape {tuple(x.shape)}; expected "
            f"({cols},) or (..., {cols}, columns)."
        )
    if x.ndim == 1:
        return times_dense(matrix, x[:, None])[:, 0]
    dtype = torch.promote_types(matrix.dtype, x.dtype)
    cores, exponent = split_scales(matrix.cores, compute_dtype(dtype))
    columns = x.to(compute_dtype(dtype)).movedim(-2, 0)  # (N, *batch, columns)
    # Columns have nothing to do with each other, so each keeps a scale of its own.
    y, own = split_row_excess(columns.reshape(cols, -1).mT)
    y = y.mT[None]
    for core in cores:
        rank, _, n, _ = core.shape
        y = y.reshape(rank, n, -1)  # (r, n_k, n_{k+1} ... n_d * batch * m_1 ... m_{k-1})
        y, step = split_excess(torch.tensordot(core, y, ([0, 2], [0, 1])).permute(1, 2, 0))  # (r', rest, m_k)
        exponent = exponent + step
    y = times_power_of_two(y.reshape(len(own), rows), (exponent + own)[:, None]).to(dtype)
    return y.reshape(*columns.shape[1:], rows).movedim(-1, -2)
