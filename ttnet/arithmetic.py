"""The algebra of trains, on their cores: sums, products, inner products and norms.

Ranks add up in sums and multiply in products (Oseledets 2011, "Tensor-Train Decomposition", section 4); rounding
brings them down again. A scalar, a train of order 0, is one core of shape (1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.linalg import r_factor
from ttnet.memory import check_memory
from ttnet.scales import compute_dtype, split_scale, split_scales, times_power_of_two


def full(
    cores: Sequence[Tensor],  # each (r, n_1, ..., n_j, r')
) -> Tensor:
    """Contract a chain of cores to the dense tensor, at a cost of O(numel * r).

    Args:
        cores: Cores whose outer ranks are 1, each with any number of modes.

    Returns:
        The tensor, of all modes in order.

    Raises:
        TTValueError: If it has more entries than this machine's memory holds.

    Example:
        >>> full([torch.ones(1, 2, 3), torch.ones(3, 2, 1)])
        tensor([[3., 3.],
                [3., 3.]])
    """
    shape = [size for core in cores for size in core.shape[1:-1]]
    check_memory(
        math.prod(shape),
        cores[0].dtype,
        cores[0].device,
        what="the dense array",
        advice="take a part of the train by indexing, or work on the train itself.",
    )
    # Scales apart, so that large and small cores meet before anything overflows.
    result, exponent = split_scale(cores[0])
    for core in cores[1:]:
        core, core_exponent = split_scale(core)
        result, result_exponent = split_scale(torch.tensordot(result, core, 1))
        exponent += core_exponent + result_exponent
    return times_power_of_two(result, exponent).reshape(shape)


def add(
    a: Sequence[Tensor],  # each (r, n, r')
    b: Sequence[Tensor],  # each (s, n, s')
) -> list[Tensor]:
    """Add two trains: cores become block-diagonal, and ranks add up (Oseledets 2011, eq. 4.1).

    Args:
        a: The cores of a train.
        b: The cores of a train of the same shape.

    Returns:
        Cores of shape (r + s, n, r' + s'), the outer ranks staying 1.

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 2, 1)]
        >>> full(add(one, one))
        tensor([[2., 2.],
                [2., 2.]])
    """
    if len(a) == 1:
        return [a[0] + b[0]]
    first = torch.cat([a[0], b[0]], dim=-1)
    last = torch.cat([a[-1], b[-1]], dim=0)
    return [first, *(_block_diagonal(x, y) for x, y in zip(a[1:-1], b[1:-1], strict=True)), last]


def _block_diagonal(
    x: Tensor,  # (r, n, r')
    y: Tensor,  # (s, n, s')
) -> Tensor:
    dtype = torch.promote_types(x.dtype, y.dtype)
    above = torch.cat([x, x.new_zeros(x.shape[0], x.shape[1], y.shape[2], dtype=dtype)], dim=2)
    below = torch.cat([y.new_zeros(y.shape[0], x.shape[1], x.shape[2], dtype=dtype), y], dim=2)
    return torch.cat([above, below])


def hadamard(
    a: Sequence[Tensor],  # each (r, n, r')
    b: Sequence[Tensor],  # each (s, n, s')
) -> list[Tensor]:
    """Multiply two trains entry by entry: ranks multiply (Oseledets 2011, section 4.2).

    Args:
        a: The cores of a train.
        b: The cores of a train of the same shape.

    Returns:
        Cores of shape (r * s, n, r' * s').

    Example:
        >>> two = [torch.full((1, 2, 1), 2.0), torch.ones(1, 2, 1)]
        >>> full(hadamard(two, two))
        tensor([[4., 4.],
                [4., 4.]])
    """
    if a[0].ndim == 2:
        return [a[0] * b[0]]
    products = []
    for x, y in zip(a, b, strict=True):
        product = x[:, None, :, :, None] * y[None, :, :, None, :]  # (r, s, n, r', s')
        products.append(product.flatten(3, 4).flatten(0, 1))
    return products


def dot(
    a: Sequence[Tensor],  # each (r, n, r')
    b: Sequence[Tensor],  # each (s, n, s')
) -> Tensor:
    """Sum conj(a) * b over all entries, in O(order * n * r**3) (Oseledets 2011, Algorithm 4).

    Args:
        a: The cores of a train, which is conjugated.
        b: The cores of a train of the same shape.

    Returns:
        A tensor of shape ().

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 2, 1)]
        >>> dot(one, one)
        tensor(4.)
    """
    if a[0].ndim == 2:
        return (a[0].conj() * b[0]).reshape(())
    dtype = torch.promote_types(a[0].dtype, b[0].dtype)
    a, exponent_a = split_scales(a, compute_dtype(dtype))
    b, exponent_b = split_scales(b, compute_dtype(dtype))
    exponent = exponent_a + exponent_b
    left = a[0].new_ones(1, 1)  # (r, s): the product of all cores so far
    for x, y in zip(a, b, strict=True):
        right = torch.tensordot(left, y, 1)  # (r, n, s')
        left, step = split_scale(torch.tensordot(x.conj(), right, ([0, 1], [0, 1])))  # (r', s')
        exponent += step
    return times_power_of_two(left, exponent).reshape(()).to(dtype)


def norm_and_exponent(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> tuple[Tensor, int]:
    """Compute the Frobenius norm by orthogonalisation, as a number near one and a power of two.

    Unlike the square root of `dot`, this does not cancel: the norm of a difference is right down to the precision of
    what was subtracted, not to its square root.

    Args:
        cores: The cores of a train.

    Returns:
        A real tensor of shape (), and an exponent: the norm is the one times 2 to the power of the other.

    Example:
        >>> value, exponent = norm_and_exponent([torch.ones(1, 4, 1), torch.ones(1, 4, 1)])
        >>> value * 2**exponent
        tensor(4.0000)
    """
    cores, exponent = split_scales(cores, compute_dtype(cores[0].dtype))
    carried = cores[0].new_ones(1, 1)
    for core in cores:
        unfolding = torch.tensordot(carried, core, 1).flatten(0, -2)  # (r n, r')
        carried, step = split_scale(r_factor(unfolding))
        exponent += step
    return carried.abs().reshape(()), exponent


def norm(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> Tensor:
    """Compute the Frobenius norm.

    Args:
        cores: The cores of a train.

    Returns:
        A real tensor of shape (); infinite or zero if the norm leaves the range of the dtype.

    Example:
        >>> norm([torch.ones(1, 4, 1), torch.ones(1, 4, 1)])
        tensor(4.0000)
    """
    value, exponent = norm_and_exponent(cores)
    return times_power_of_two(value, exponent).to(cores[0].real.dtype)


def log_norm(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> Tensor:
    """Compute the natural logarithm of the Frobenius norm, which never overflows.

    Args:
        cores: The cores of a train.

    Returns:
        A real tensor of shape (); minus infinity for a zero train.

    Example:
        >>> log_norm([torch.full((1, 1, 1), 1e30)] * 1000)
        tensor(69077.5...)
    """
    value, exponent = norm_and_exponent(cores)
    return (value.log() + exponent * math.log(2)).to(cores[0].real.dtype)
