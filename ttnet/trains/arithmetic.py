"""The algebra of trains, on their cores: sums, products, inner products and norms.

Ranks add up in sums and multiply in products (Oseledets 2011, "Tensor-Train Decomposition", section 4); rounding
brings them down again. A scalar, a train of order 0, is one core of shape (1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttnet.numerics.linalg import r_factor
from ttnet.numerics.memory import check_memory, check_product
from ttnet.numerics.scales import (
    Exponent,
    complex_dtype,
    compute_dtype,
    powers_of_two,
    real_dtype,
    split_scale,
    times_power_of_two,
)
from ttnet.numerics.train_scales import join_scale, level, split_scales


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
    if len(cores) == 1:
        return cores[0].reshape(shape).clone()  # what one writes to it is not to reach the core
    # Scales apart, so that large and small cores meet before anything overflows.
    scaled, exponent = split_scales(cores, compute_dtype(cores[0].dtype))
    first, *middle, last = scaled
    left = first.flatten(0, -2)  # (n_1 ... n_k, r)
    for core in middle:
        left, step = split_scale((left @ core.flatten(1)).reshape(-1, core.shape[-1]))
        exponent = exponent + step
    # Half the scale goes in on either side of the last product: it costs one pass over the result, and neither the
    # factors nor the sums come near the end of the range before the result does.
    before, after = powers_of_two(exponent, left.dtype)
    return (left @ (last * before).flatten(1)).mul_(after).reshape(shape).to(cores[0].dtype)


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
    dtype = torch.promote_types(a[0].dtype, b[0].dtype)
    a, b = level(a, dtype), level(b, dtype)  # 1e200 and 1e-200 side by side in one core would be 1 and 0
    first = torch.cat([a[0], b[0]], dim=-1)
    last = torch.cat([a[-1], b[-1]], dim=0)
    return [first, *(_block_diagonal(x, y) for x, y in zip(a[1:-1], b[1:-1], strict=True)), last]


def _block_diagonal(
    x: Tensor,  # (r, n, r')
    y: Tensor,  # (s, n, s')
) -> Tensor:
    above = torch.cat([x, x.new_zeros(x.shape[0], x.shape[1], y.shape[2])], dim=2)
    below = torch.cat([y.new_zeros(y.shape[0], x.shape[1], x.shape[2]), y], dim=2)
    return torch.cat([above, below])


def scale(
    cores: Sequence[Tensor],  # each (r, n, r')
    scalar: complex | Tensor,  # ()
    operation: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    """Multiply or divide a train by a scalar of any size, in its last core or, where that ends, in all of them.

    Args:
        cores: The cores of a train of any scales.
        scalar: A number or tensor of shape (), on the CPU or the device of the cores.
        operation: `torch.mul` or `torch.div`.

    Returns:
        Cores of the dtype of `scaled_dtype`.

    Example:
        >>> [core.flatten().tolist() for core in scale([torch.ones(1, 2, 1), torch.ones(1, 1, 1)], 3.0, torch.mul)]
        [[1.0, 1.0], [3.0]]
    """
    dtype = scaled_dtype(cores[-1].dtype, scalar)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    number, power = split_scale(torch.as_tensor(scalar, dtype=wide, device=cores[-1].device))
    # By numbers that enlarge nothing, complex entries neither, so that what is large stays within the range.
    factor, exponent = (0.5, power + 1) if operation is torch.mul else (4.0, 2 - power)
    first = [core.to(compute_dtype(core.dtype)) for core in cores]
    return join_scale([*first[:-1], operation(first[-1], number * factor)], exponent, dtype)


def scaled_dtype(dtype: torch.dtype, scalar: complex | Tensor) -> torch.dtype:
    """Give the dtype of a train times a scalar, which lends its kind and not its width.

    Args:
        dtype: The dtype of a train.
        scalar: A number or tensor of shape ().

    Returns:
        `dtype`, or the complex dtype of its precision where the scalar is complex.

    Example:
        >>> scaled_dtype(torch.float32, 2.0), scaled_dtype(torch.float32, torch.tensor(2j))
        (torch.float32, torch.complex64)
    """
    is_complex = scalar.is_complex() if isinstance(scalar, Tensor) else isinstance(scalar, complex)
    return complex_dtype(dtype) if is_complex else dtype


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
    dtype = torch.promote_types(a[0].dtype, b[0].dtype)
    check_product(max(x.numel() * len(y) * y.shape[-1] for x, y in zip(a, b, strict=True)), dtype, a[0].device)
    products = []
    for x, y in zip(a, b, strict=True):
        product = x[:, None, :, :, None] * y[None, :, :, None, :]  # (r, s, n, r', s')
        products.append(product.flatten(3, 4).flatten(0, 1))
    return products


def dot_and_exponent(
    a: Sequence[Tensor],  # each (r, n, r')
    b: Sequence[Tensor],  # each (s, n, s')
) -> tuple[Tensor, Exponent]:
    """Sum conj(a) * b over all entries, in O(order * n * r**3) (Oseledets 2011, Algorithm 4).

    Args:
        a: The cores of a train, which is conjugated.
        b: The cores of a train of the same shape.

    Returns:
        A tensor of shape (), of single precision at least, and an exponent: the sum is the one times 2 to the power of
        the other.

    Example:
        >>> value, exponent = dot_and_exponent([torch.ones(1, 4, 1)] * 2, [torch.ones(1, 4, 1)] * 2)
        >>> value * 2**exponent
        tensor(16.)
    """
    dtype = compute_dtype(torch.promote_types(a[0].dtype, b[0].dtype))
    if a[0].ndim == 2:
        (x, y), exponent = split_scales([a[0], b[0]], dtype)
        return (x.conj() * y).reshape(()), exponent
    scaled, exponent = split_scales([*a, *b], dtype)
    x, y = scaled[0].flatten(0, 1), scaled[len(a)].flatten(0, 1)  # (n, r'), (n, s')
    left = x.mH @ y  # (r', s'): the product of all cores so far
    for x, y in zip(scaled[1 : len(a)], scaled[len(a) + 1 :], strict=True):
        left, step = split_scale(left)
        exponent = exponent + step
        right = (left @ y.flatten(1)).reshape(-1, y.shape[-1])  # (r n, s')
        left = x.flatten(0, 1).mH @ right
    return left.reshape(()), exponent


def dot(
    a: Sequence[Tensor],  # each (r, n, r')
    b: Sequence[Tensor],  # each (s, n, s')
) -> Tensor:
    """Sum conj(a) * b over all entries.

    Args:
        a: The cores of a train, which is conjugated.
        b: The cores of a train of the same shape.

    Returns:
        A tensor of shape (); infinite or zero if the sum leaves the range of the dtype.

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 2, 1)]
        >>> dot(one, one)
        tensor(4.)
    """
    value, exponent = dot_and_exponent(a, b)
    return times_power_of_two(value, exponent).to(torch.promote_types(a[0].dtype, b[0].dtype))


def slogdot(
    a: Sequence[Tensor],  # each (r, n, r')
    b: Sequence[Tensor],  # each (s, n, s')
) -> tuple[Tensor, Tensor]:
    """Give the sum of conj(a) * b over all entries as a sign and the logarithm of its size, which never overflows.

    Args:
        a: The cores of a train, which is conjugated.
        b: The cores of a train of the same shape.

    Returns:
        Two tensors of shape (), as `TensorTrain.slogdot` gives them.

    Example:
        >>> slogdot([torch.full((1, 1, 1), -1e30)] * 1001, [torch.full((1, 1, 1), 1e30)] * 1001)
        (tensor(-1.), tensor(138293.2...))
    """
    value, exponent = dot_and_exponent(a, b)
    dtype = torch.promote_types(a[0].dtype, b[0].dtype)
    return value.sgn().to(dtype), _log(value.abs(), exponent).to(real_dtype(dtype))


def _log(
    value: Tensor,  # (), real
    exponent: Exponent,
) -> Tensor:
    """Give the natural logarithm of value * 2**exponent."""
    return value.log() + math.log(2) * torch.as_tensor(exponent, dtype=value.dtype, device=value.device)


def norm_and_exponent(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> tuple[Tensor, Exponent]:
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
    scaled, exponent = split_scales(cores, compute_dtype(cores[0].dtype))
    carried = r_factor(scaled[0].flatten(0, -2))  # (r, r')
    for core in scaled[1:]:
        carried, step = split_scale(carried)
        exponent = exponent + step
        carried = r_factor((carried @ core.flatten(1)).reshape(-1, core.shape[-1]))  # of (r n, r')
    # A factorisation may turn an infinite entry into finite ones.
    doubt = 0 * sum(core.detach().sum().abs() for core in scaled)
    return carried.abs().reshape(()) + doubt, exponent


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
    return times_power_of_two(value, exponent).to(real_dtype(cores[0].dtype))


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
    return _log(value, exponent).to(real_dtype(cores[0].dtype))
