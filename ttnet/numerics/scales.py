"""Scales and precisions: numbers of any size as entries near one and a power of two, and the dtype to compute in.

A power of two is kept outside of a tensor at no loss, so a train of a thousand cores of 1e120 never overflows on the
way: `split_scale` takes the power out; `ttnet.numerics.train_scales` does so for trains, and puts it back into their
cores.

An exponent is an int where numbers can be read at no cost, which is on the CPU. On other devices, where reading means
waiting, and where there is nothing to read (under `torch.compile` and `vmap`, on the meta device) it is an integer
tensor of shape (), and no step depends on its value. Both add up, and both give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Exponent = int | Tensor


class _Layout(NamedTuple):
    """Where a floating dtype keeps its exponent: `2**k` is the integer `(k + bias) * unit`, taken for a float."""

    floats: torch.dtype
    integers: torch.dtype
    bias: int
    unit: int


_SINGLE = _Layout(torch.float32, torch.int32, 127, 2**23)
_DOUBLE = _Layout(torch.float64, torch.int64, 1023, 2**52)
_LAYOUTS = {
    torch.float32: _SINGLE,
    torch.complex64: _SINGLE,
    torch.float64: _DOUBLE,
    torch.complex128: _DOUBLE,
}


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


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype of a real part, as `dtype.to_real()` does, which `torch.compile` cannot trace.

    Args:
        dtype: A floating or complex dtype.

    Returns:
        The floating dtype of its precision.

    Example:
        >>> real_dtype(torch.complex64), real_dtype(torch.bfloat16)
        (torch.float32, torch.bfloat16)
    """
    reals = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
    return reals.get(dtype, dtype)


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype of a tensor times a complex number, as `torch.result_type` does, which no compiler can trace.

    Args:
        dtype: A floating or complex dtype.

    Returns:
        The complex dtype of its precision; complex64 for bfloat16, of which torch 2.14 makes bcomplex32, in which it
        can neither add nor multiply.

    Example:
        >>> complex_dtype(torch.float64), complex_dtype(torch.bfloat16)
        (torch.complex128, torch.complex64)
    """
    return torch.promote_types(dtype, torch.complex32)


def read(
    x: Tensor,  # ()
) -> float | None:
    """Give the number in a real tensor, or None where it stands for others or there is none.

    Args:
        x: A real tensor of shape ().

    Returns:
        The number; None under `torch.compile`, under `vmap` if it is batched, and on the meta device.

    Example:
        >>> read(torch.tensor(2.0)), read(torch.tensor(2.0, device="meta"))
        (2.0, None)
    """
    if torch.compiler.is_compiling():
        return None
    try:
        return float(x)
    except RuntimeError:  # what vmap, tracers and the meta device raise
        return None


def read_all(
    numbers: Sequence[Tensor],  # each ()
) -> list[float] | None:
    """Give the numbers in real tensors, all in one go, or None where `read` gives None.

    Args:
        numbers: Real tensors of shape (), of one dtype and on one device.

    Returns:
        The numbers, or None.

    Example:
        >>> read_all([torch.tensor(2.0), torch.tensor(0.5)])
        [2.0, 0.5]
    """
    if torch.compiler.is_compiling():
        return None
    try:
        values: list[float] = torch.stack(list(numbers)).tolist()
        return values
    except RuntimeError:
        return None


def count_nonfinite(
    x: Tensor,  # (...)
) -> int:
    """Count the entries that are NaN or infinite.

    Args:
        x: A tensor of any shape and any floating or complex dtype.

    Returns:
        The number of such entries; 0 where they cannot be read.

    Example:
        >>> count_nonfinite(torch.tensor([1.0, float("nan"), float("inf")]))
        2
    """
    count = read(torch.isfinite(x).sum())
    return 0 if count is None else x.numel() - int(count)


def _scale_of(
    x: Tensor,  # (...)
) -> tuple[float | Tensor, Exponent]:
    """Give `2**-e` and e which bring the largest real or imaginary part to [0.5, 1), as constants.

    They are 1 and 0 if that is zero, infinite or NaN, or there is none. If it is subnormal, e is the least one for
    which `2**-e` is a number.
    """
    if not x.numel():
        return 1.0, 0
    x = x.detach()
    # By the two extremes, so that no array of absolute values is formed.
    least, greatest = torch.aminmax(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x)
    if x.device.type != "cpu" or (low := read(least)) is None or (high := read(greatest)) is None:
        return _scales_of(torch.maximum(greatest, -least).to(compute_dtype(least.dtype)))
    exponent = max(-_LAYOUTS[compute_dtype(least.dtype)].bias, math.frexp(max(-low, high))[1])
    return 2.0**-exponent, exponent


def _scales_of(
    sizes: Tensor,  # (...), not negative, of float32 or float64
) -> tuple[Tensor, Tensor]:
    """Do for each of many sizes what `_scale_of` does for one."""
    # By the bits, as inductor cannot compile the integers of torch.frexp among others.
    _, integers, bias, unit = _LAYOUTS[sizes.dtype]
    bits = sizes.view(integers)
    is_normal = (bits >= unit) & sizes.isfinite()
    mantissas = (bits % unit + (bias - 1) * unit).view(sizes.dtype)  # in [0.5, 1)
    exponents = bits // unit - (bias - 1)
    # Subnormal ones have no leading bit.
    is_half = bits >= unit // 2
    exponents = torch.where(is_normal, exponents, is_half.to(integers) - bias)
    # The quotients are powers of two, so nothing is rounded.
    factors = torch.where(is_normal, mantissas / sizes, 2.0**bias / (1 + is_half.to(sizes.dtype)))
    has_scale = sizes.isfinite() & (sizes > 0)
    return torch.where(has_scale, factors, 1.0), torch.where(has_scale, exponents, 0).long()


def max_exponent(
    x: Tensor,  # (...)
) -> Exponent:
    """Give the smallest e for which no real or imaginary part exceeds 2**e in size, as `split_scale` takes it out.

    Args:
        x: A tensor of at least one entry, of any floating or complex dtype.

    Returns:
        The exponent; 0 if all entries are zero, or one is NaN or infinite.

    Example:
        >>> max_exponent(torch.tensor([0.3, -3.0])), max_exponent(torch.zeros(2))
        (2, 0)
    """
    return _scale_of(x)[1]


def powers_of_two(
    exponent: Exponent,  # any integers, of shape (...)
    dtype: torch.dtype,
) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """Give two numbers whose product is 2**exponent.

    Two, since one alone leaves the range where its product with a number does not: 2**1074 times the smallest double
    is 1. Beyond what two can be, 2**2044 in double and 2**252 in single precision, they are as large as can be; and
    beyond 2**-2044 and 2**-252 as small.

    Args:
        exponent: An integer, or an integer tensor of any shape.
        dtype: float32, float64, complex64 or complex128.

    Returns:
        Two floats for an integer, otherwise two real tensors of the precision of `dtype`.

    Example:
        >>> powers_of_two(-3, torch.float32), powers_of_two(torch.tensor(-3), torch.float32)
        ((0.25, 0.5), (tensor(0.2500), tensor(0.5000)))
    """
    floats, integers, bias, unit = _LAYOUTS[dtype]
    if isinstance(exponent, int):
        halves = [max(1 - bias, min(bias, half)) for half in (exponent >> 1, exponent - (exponent >> 1))]
        return 2.0 ** halves[0], 2.0 ** halves[1]
    half = exponent >> 1
    parts = torch.stack([half, exponent - half]).clamp(1 - bias, bias).to(integers)
    first, second = ((parts + bias) * unit).view(floats).unbind()
    return first, second


def times_power_of_two(
    x: Tensor,  # (...)
    exponent: Exponent,
) -> Tensor:
    """Multiply by 2**exponent, exactly unless the result leaves the dtype's range.

    Args:
        x: A tensor of any shape and any floating or complex dtype.
        exponent: Any integer; beyond the range of the dtype the result is infinite or zero, as it has to be. (Not if
            all of `x` is subnormal, where an exponent beyond that of `powers_of_two` counts as the largest of its.)

    Returns:
        The product, of the shape and dtype of `x`; `x` itself if the exponent is 0.

    Example:
        >>> times_power_of_two(torch.tensor([3.0]), -1)
        tensor([1.5000])
    """
    if isinstance(exponent, int) and exponent == 0:
        return x
    dtype = compute_dtype(x.dtype)
    if isinstance(exponent, int) and abs(exponent) < _LAYOUTS[dtype].bias:
        return (x.to(dtype) * 2.0**exponent).to(x.dtype)  # the same in one go
    first, second = powers_of_two(exponent, dtype)
    return (x.to(dtype) * first * second).to(x.dtype)


def split_scale(
    x: Tensor,  # (...)
) -> tuple[Tensor, Exponent]:
    """Split a tensor into entries of size at most one and a power of two: `x = y * 2**exponent`, exactly.

    Args:
        x: A tensor of any shape and any floating or complex dtype.

    Returns:
        `y`, of the shape and dtype of `x`, whose largest real or imaginary part lies in [0.5, 1) (below if it is
        subnormal in `x`; `y` is `x` if it is zero or not finite), and the exponent. The gradient flows through `y`;
        the exponent is a constant.

    Example:
        >>> split_scale(torch.tensor([6.0, 2.0]))
        (tensor([0.7500, 0.2500]), 3)
    """
    factor, exponent = _scale_of(x)
    return x * factor, exponent


def split_excess(
    x: Tensor,  # (...)
) -> tuple[Tensor, Exponent]:
    """Split off a power of two only where entries come near the end of the range: where nothing is squared.

    Args:
        x: A tensor of any shape and any floating or complex dtype.

    Returns:
        `y`, of the shape and dtype of `x`, and the exponent: `x` is `y * 2**exponent`. The exponent is 0 if the largest
        entry lies in the middle half of the dtype's range, otherwise that is brought to the nearer end of it.

    Example:
        >>> split_excess(torch.tensor([1e6, 1e-6])), split_excess(torch.tensor([2.0**100]))
        ((tensor([1.0000e+06, 1.0000e-06]), 0), (tensor([4.6117e+18]), 38))
    """
    exponent = max_exponent(x)
    excess = _excess(exponent, x.dtype)
    return times_power_of_two(x, -excess), excess


def split_row_excess(
    x: Tensor,  # (batch, n)
) -> tuple[Tensor, Tensor]:
    """Split every `x[i]` as `split_excess` does all of `x`.

    Args:
        x: A tensor of float32, float64, complex64 or complex128.

    Returns:
        `y`, of the shape and dtype of `x`, and exponents of shape (batch,): `x[i]` is `y[i] * 2**exponents[i]`.

    Example:
        >>> split_row_excess(torch.tensor([[1.0, 1e-3], [2.0**100, 1.0]]))[1].tolist()
        [0, 38]
    """
    excess = _excess(split_row_scales(x)[1], x.dtype)
    assert isinstance(excess, Tensor)
    return times_power_of_two(x, -excess[:, None]), excess


def _excess(exponent: Exponent, dtype: torch.dtype) -> Exponent:
    half = _LAYOUTS[compute_dtype(dtype)].bias // 2
    if isinstance(exponent, int):
        return exponent - max(-half, min(half, exponent))
    return exponent - exponent.clamp(-half, half)


def split_row_scales(
    x: Tensor,  # (batch, n, ...)
) -> tuple[Tensor, Tensor]:
    """Split every `x[i]` as `split_scale` does all of `x`.

    Args:
        x: A tensor of float32, float64, complex64 or complex128.

    Returns:
        `y`, of the shape and dtype of `x`, and exponents of shape (batch,): `x[i]` is `y[i] * 2**exponents[i]`.

    Example:
        >>> split_row_scales(torch.tensor([[6.0, 2.0], [0.0, 0.0]]))[1].tolist()
        [3, 0]
    """
    parts = torch.view_as_real(x.detach().resolve_conj()) if x.is_complex() else x.detach()
    factors, exponents = _scales_of(parts.abs().flatten(1).amax(1))
    return x * factors.reshape(-1, *[1] * (x.ndim - 1)), exponents
