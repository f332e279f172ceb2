"""Scales and precisions: numbers of any size as entries near one and a power of two, and the dtype to compute in.

A power of two is kept outside of a tensor at no loss, so a train of a thousand cores of 1e120 never overflows on the
way: `split_scale` takes the power out, `join_scale` puts it back into the cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype in which to factorise: LAPACK knows no half precision, so that is taken to single.

    Args:
        dtype: A floating or complex dtype.

    Returns:
        float32 for bfloat16 and float16, complex64 for complex32, otherwise `dtype`.

    Example:
        >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
        (torch.float32, torch.complex128)
    """
    halves = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.complex32: torch.complex64}
    return halves.get(dtype, dtype)


def count_nonfinite(
    x: Tensor,  # (...)
) -> int:
    """Count the entries that are NaN or infinite.

    Args:
        x: A tensor of any shape and any floating or complex dtype.

    Returns:
        The number of such entries.

    Example:
        >>> count_nonfinite(torch.tensor([1.0, float("nan"), float("inf")]))
        2
    """
    return x.numel() - int(torch.isfinite(x).sum())


def max_exponent(
    x: Tensor,  # (...)
) -> int:
    """Give the smallest e for which no real or imaginary part exceeds 2**e in size.

    Args:
        x: A tensor of at least one finite entry, of any floating or complex dtype.

    Returns:
        The exponent; 0 if all entries are zero.

    Example:
        >>> max_exponent(torch.tensor([0.3, -3.0])), max_exponent(torch.zeros(2))
        (2, 0)
    """
    x = x.detach()
    parts = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    # Via the two extremes, so that no array of absolute values is formed.
    low, high = torch.aminmax(parts)
    return math.frexp(max(-float(low), float(high)))[1]


def times_power_of_two(
    x: Tensor,  # (...)
    exponent: int,
) -> Tensor:
    """Multiply by 2**exponent, exactly unless the result leaves the dtype's range.

    Args:
        x: A tensor of any shape and any floating or complex dtype.
        exponent: Any integer; beyond the range of the dtype the result is infinite or zero, as it has to be.

    Returns:
        The product, of the shape and dtype of `x`; `x` itself if the exponent is 0.

    Example:
        >>> times_power_of_two(torch.tensor([3.0]), -1)
        tensor([1.5000])
    """
    # In steps: 2.0**1074 is infinite although 2**1074 times the smallest double is 1. A real dtype's own range
    # bounds each step, and no more than a handful of them can matter.
    step = max(1, int(math.log2(torch.finfo(x.dtype).max)) - 1)
    exponent = max(-8 * step, min(8 * step, exponent))
    while exponent:
        part = max(-step, min(step, exponent))
        x = x * 2.0**part
        exponent -= part
    return x


def split_scale(
    x: Tensor,  # (...)
) -> tuple[Tensor, int]:
    """Split a tensor into entries of size at most one and a power of two: `x = y * 2**exponent`, exactly.

    Args:
        x: A tensor of at least one finite entry, of any floating or complex dtype.

    Returns:
        `y`, of the shape and dtype of `x`, whose largest entry lies in [0.5, 1), and the exponent. The gradient flows
        through `y`; the exponent is a constant.

    Example:
        >>> split_scale(torch.tensor([6.0, 2.0]))
        (tensor([0.7500, 0.2500]), 3)
    """
    exponent = max_exponent(x)
    return times_power_of_two(x, -exponent), exponent


def split_scales(
    cores: Sequence[Tensor],  # each (r, ..., r')
    dtype: torch.dtype,
) -> tuple[list[Tensor], int]:
    """Cast cores to a dtype and take all their scales out: the train is that of the new cores times 2**exponent.

    Args:
        cores: Cores with finite entries.
        dtype: The dtype of the new cores.

    Returns:
        The new cores, with entries of size at most one, and the exponent.

    Example:
        >>> cores, exponent = split_scales([torch.full((1, 2, 1), 1e30)] * 10, torch.float64)
        >>> exponent, float(cores[0].max())
        (1000, 0.788...)
    """
    pairs = [split_scale(core.to(dtype)) for core in cores]
    return [core for core, _ in pairs], sum(exponent for _, exponent in pairs)


def join_scale(
    cores: Sequence[Tensor],  # each (r, ..., r'); all but the last with entries of size at most about one
    exponent: int,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Put a scale back into cores: into the last one if its dtype can hold it, otherwise evenly into all.

    So a train stays left-orthogonal whenever its norm is a number of its dtype, and a train whose norm is not
    (1e600, say) is still held to full precision.

    Args:
        cores: Cores whose train is to be multiplied.
        exponent: The train is multiplied by 2**exponent.
        dtype: The dtype of the result.

    Returns:
        The new cores.

    Example:
        >>> cores = [torch.ones(1, 1, 1, dtype=torch.float64)] * 4
        >>> [float(core) for core in join_scale(cores, 3, torch.float64)]
        [1.0, 1.0, 1.0, 8.0]
        >>> [float(core) for core in join_scale(cores, 4004, torch.float64)] == [2.0**1001] * 4
        True
    """
    info = torch.finfo(dtype)
    top = max_exponent(cores[-1]) + exponent
    # From below: leave room for entries somewhat smaller than the largest before they lose digits.
    lowest, highest = math.log2(info.tiny) - math.log2(info.eps) / 2, math.log2(info.max)
    if lowest < top < highest:
        powers = [0] * (len(cores) - 1) + [exponent]
    else:
        share, rest = divmod(exponent, len(cores))
        powers = [share + (k < rest) for k in range(len(cores))]
    return [times_power_of_two(core, power).to(dtype) for core, power in zip(cores, powers, strict=True)]
