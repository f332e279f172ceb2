"""Passes over an unfolding: each reads it once, in blocks of rows that stay in cache, and never copies it as a whole.

An unfolding is taken as a tall matrix, whichever side of the tensor is short. Real products do all the work: complex
numbers are pairs of real ones, and their Gram matrix costs half of what complex products would.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition import compiled_passes
from ttnet.decomposition.unfolding import BLOCK_NUMEL, Unfolding, double
from ttnet.numerics.blas import matmul_for, torch_threads
from ttnet.numerics.linalg import triangular_factor

_SHORT = 1024  # entries of a sum whose rounding errors stay within some units in the last place on any BLAS
_vecdot = np.vecdot if hasattr(np, "vecdot") else functools.partial(np.einsum, "...i,...i->...")  # numpy 2 has it


def _real_embedding(
    v: Tensor,  # (n, r)
) -> Tensor:
    """Give the real matrix that multiplies rows of (real, imaginary) pairs as `v` does complex rows."""
    if not v.is_complex():
        return v
    pairs = torch.stack([torch.view_as_real(v.resolve_conj()), torch.view_as_real(1j * v)], dim=1)
    return pairs.reshape(2 * len(v), -1)  # (n, 2, r, 2) -> (2 n, 2 r)


def _threads_for(u: Unfolding) -> contextlib.AbstractContextManager[None]:
    """Give libraries all threads where an unfolding is large enough for more than one."""
    return torch_threads() if u.numel >= compiled_passes.LEAST_NUMEL else contextlib.nullcontext()


def sum_of_squares(u: Unfolding) -> float:
    """Compute the squared Frobenius norm.

    Args:
        u: The unfolding.

    Returns:
        The sum, accurate to some units in the last place of the dtype of computation; infinite or NaN if an entry is,
        or if it leaves the range of that dtype.

    Example:
        >>> sum_of_squares(Unfolding(torch.ones(3, 4), 1, torch.float64))
        12.0
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(_sum_of_squares(block) for block in u.real_blocks(u.block_rows()))


def _sum_of_squares(block: Tensor) -> float:
    if block.device.type != "cpu":
        return float(block.square().sum(dtype=torch.float64))
    # Many short sums, each too short for its rounding errors to pile up.
    lines = block.view(1, -1) if block.is_contiguous() else block.mT  # as they lie in memory
    length = lines.shape[1] // _SHORT * _SHORT
    short, rest = lines[:, :length].unflatten(1, (-1, _SHORT)).numpy(), lines[:, length:].numpy()
    return float(_vecdot(short, short).sum(dtype=np.float64) + _vecdot(rest, rest).sum(dtype=np.float64))


def gram_matrix(u: Unfolding, dtype: torch.dtype, sample: Sequence[int] | None = None) -> Tensor:
    """Give the matrix of `gram_and_lost` alone.

    Args:
        u: The unfolding X, of n columns.
        dtype: The precision of the products, of the kind of that of `u`.
        sample: As for `gram_and_lost`.

    Returns:
        A matrix of shape (n, n) in double precision; of a sample, scaled up to all rows.

    Example:
        >>> gram_matrix(Unfolding(torch.tensor([[1.0, 1j]]), 1, torch.complex64), torch.complex64)
        tensor([[1.+0.j, 0.+1.j],
                [0.-1.j, 1.+0.j]], dtype=torch.complex128)
    """
    return gram_and_lost(u, dtype, sample)[0]


def gram_and_lost(u: Unfolding, dtype: torch.dtype, sample: Sequence[int] | None = None) -> tuple[Tensor, float]:
    """Compute `X^H X`: products over blocks in one precision, their sum in double precision.

    Args:
        u: The unfolding X, of n columns.
        dtype: The precision of the products, of the kind of that of `u`.
        sample: The blocks of `sample_rows` rows to take, by their places; None for all.

    Returns:
        A matrix of shape (n, n) in double precision, of a sample scaled up to all rows; and what its trace has lost,
        since what is far below a sum that it is added to is dropped from it, and nothing is ever dropped the other way.

    Example:
        >>> gram_and_lost(Unfolding(torch.ones(3, 2), 1, torch.float32), torch.float32)[1]
        0.0
    """
    real = dtype.to_real()
    matrix = u.real_matrix()
    chosen = None if sample is None else _bounds(u, sample)
    if compiled_passes.takes_gram(matrix):
        total, squares = compiled_passes.gram(matrix, real, chosen=chosen)
    else:
        rows = u.block_rows(least=2 * u.shape[1]) if sample is None else sample_rows(u)
        total, squares = _gram_of_blocks(u, dtype, rows, None if sample is None else set(sample).__contains__)
    lost = max(0.0, squares - float(total.diagonal().sum()))
    if chosen:
        scale = u.shape[0] / sum(count for _, count in chosen)
        total, lost = total * scale, lost * scale
    if not dtype.is_complex:
        return total, lost
    pairs = total.unflatten(0, (-1, 2)).unflatten(2, (-1, 2))  # (n, part, n, part)
    return torch.complex(pairs[:, 0, :, 0] + pairs[:, 1, :, 1], pairs[:, 0, :, 1] - pairs[:, 1, :, 0]), lost


def _sum_by_rows(block: Tensor) -> float:
    """Sum up squares row by row, so that small rows are not dropped beside large ones."""
    if block.device.type != "cpu":
        return float(block.square().sum(1, dtype=torch.float64).sum())
    rows = block.numpy()
    return float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.longdouble))  # with digits to spare where there are any


def sample_rows(u: Unfolding) -> int:
    """Give the number of rows of a block of a sample.

    Args:
        u: The unfolding.

    Returns:
        The number; the last block may have fewer.

    Example:
        >>> sample_rows(Unfolding(torch.ones(9, 4), 1, torch.float32)) >= 8
        True
    """
    return max(2 * u.shape[1], BLOCK_NUMEL["cpu"] // u.shape[1])  # on other devices, too: small enough to have many


def draw_sample(count: int, every: int, generator: torch.Generator) -> list[int]:
    """Choose one of so many things in a row, again and again.

    Args:
        count: How many things there are.
        every: How many to take one of, at random.
        generator: The source of random numbers, on the CPU.

    Returns:
        The places of those taken.

    Example:
        >>> draw_sample(3, 1, torch.Generator())
        [0, 1, 2]
    """
    offsets = torch.randint(every, (count // every + 1,), generator=generator).tolist()
    return [place for place in range(count) if place % every == offsets[place // every]]


def _bounds(u: Unfolding, sample: Sequence[int]) -> list[tuple[int, int]]:
    """Give the first row and the number of rows of some blocks."""
    rows = sample_rows(u)
    return [(rows * place, min(rows, u.shape[0] - rows * place)) for place in sample]


def _gram_of_blocks(
    u: Unfolding, dtype: torch.dtype, rows: int, chosen: Callable[[int], bool] | None
) -> tuple[Tensor, float]:
    n = u.shape[1] * (2 if dtype.is_complex else 1)
    total = torch.zeros(n, n, dtype=torch.float64, device=u.device)
    part = torch.empty(n, n, dtype=dtype.to_real(), device=u.device)
    squares: list[float] = []
    matmul = matmul_for(u.device, dtype.to_real(), symmetric=n)
    with _threads_for(u):
        for block in u.real_blocks(rows, dtype, chosen):
            matmul(block.mT, block, part)
            total += part
            squares.append(_sum_by_rows(block))
    return (total + total.mT) / 2, math.fsum(squares)  # symmetric, which not every library's product is by itself


def triangle(u: Unfolding) -> Tensor:
    """Compute a matrix R of few rows with `R^H R = X^H X` by orthogonal transformations alone, and so without loss.

    Blocks are factorised many at a time, and their triangles again (TSQR, Demmel et al. 2012); Q is never formed.

    Args:
        u: The unfolding X, of n columns.

    Returns:
        A matrix of shape (m, n), m at most max(n, 1024), in double precision.

    Example:
        >>> triangle(Unfolding(torch.ones(9, 1), 1, torch.float64)).abs()
        tensor([[3.]], dtype=torch.float64)
    """
    n = u.shape[1]
    height = max(1024, 8 * n)
    stack: list[Tensor] = []
    with _threads_for(u):
        for block in u.blocks(u.block_rows(least=height), double(u.dtype)):
            stack.append(triangular_factor(block))
            if len(stack) * n >= height:
                stack = [triangular_factor(torch.cat(stack))]
        return triangular_factor(torch.cat(stack))


def project(
    u: Unfolding,
    v: Tensor,  # (n, r)
    out: Tensor,  # (rows, r)
    dtype: torch.dtype | None = None,
    *,
    measure: str | None = None,
) -> tuple[float, float]:
    """Multiply `X V` into a given matrix, and measure it, or how much of X lies outside of V's columns, on the way.

    Args:
        u: The unfolding X, of n columns.
        v: V, whose columns are orthonormal.
        out: The product, of the dtype of `u`.
        dtype: The precision of the products, of the kind of that of `u`, which None stands for.
        measure: What: the "product" alone; what is outside by the "norms" of X and the product, whose difference shows
            nothing below the root of the precision, or by the "entries" of `X - X V V^H`, at twice the cost; or
            nothing, if None.

    Returns:
        `||X||**2` and `||X - X V V^H||**2`; 0 and `||X V||**2` if the product is measured; or zeros.

    Example:
        >>> x, out = torch.eye(3, dtype=torch.float64), torch.empty(3, 1, dtype=torch.float64)
        >>> project(Unfolding(x, 1, torch.float64), x[:, :1], out, torch.float64, measure="entries")
        (3.0, 2.0)
    """
    dtype = u.dtype if dtype is None else dtype
    right = _real_embedding(v.to(dtype)).contiguous()
    matrix = u.real_matrix()
    whole = torch.view_as_real(out).flatten(1) if out.is_complex() and out.is_contiguous() else out
    if compiled_passes.takes_projection(matrix, whole):
        return compiled_passes.project(matrix, right, whole, right.dtype, measure)
    with _threads_for(u):
        return _project_blocks(u, v, right, out, dtype, measure)


def _project_blocks(
    u: Unfolding, v: Tensor, right: Tensor, out: Tensor, dtype: torch.dtype, measure: str | None
) -> tuple[float, float]:
    matmul = matmul_for(u.device, dtype.to_real())
    back = _real_embedding(v.to(dtype).mH).contiguous() if measure == "entries" else right
    direct = out.dtype == dtype and not dtype.is_complex
    squares = lost = 0.0
    buffer, difference = torch.empty(0), torch.empty(0)
    start = 0
    for block in u.real_blocks(u.block_rows(least=64), dtype):
        target = out[start : start + len(block)]
        start += len(block)
        if direct:
            product = target
        else:
            if len(buffer) != len(block):
                buffer = block.new_empty(len(block), right.shape[1])
            product = buffer
        matmul(block, right, product)
        if not direct:
            target.copy_(torch.view_as_complex(product.unflatten(1, (-1, 2))) if dtype.is_complex else product)
        if measure is None:
            continue
        if measure == "product":
            lost += _sum_of_squares(product)
            continue
        part = _sum_of_squares(block)
        squares += part
        if measure == "norms":
            lost += part - _sum_of_squares(product)
        else:
            if difference.shape != block.shape:
                difference = torch.empty_like(block)  # in the same layout, so that both are read along memory
            matmul(product, back, difference)
            lost += _sum_of_squares(difference.sub_(block))
    return squares, lost


def sketch(u: Unfolding, size: int, dtype: torch.dtype, generator: torch.Generator, every: int = 1) -> Tensor:
    """Multiply by random rows from the left: `Omega X`.

    A row of Omega is a Gaussian vector over the rows of a block, repeated for all blocks with random signs, so that it
    costs nothing to draw.

    Args:
        u: The unfolding X, of n columns.
        size: The number of rows of Omega.
        dtype: The precision of the products, of the kind of that of `u`.
        generator: The source of random numbers, on the CPU.
        every: How many blocks to read one of, at random; where there are not twice as many, all are read.

    Returns:
        A matrix of shape (size, n) in double precision. A row's expected square norm is `||X||**2`.

    Example:
        >>> u = Unfolding(torch.ones(9, 4), 1, torch.float32)
        >>> sketch(u, 2, torch.float32, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 4])
    """
    real = dtype.to_real()
    rows = u.block_rows(least=4 * size)
    blocks = -(-u.shape[0] // rows)
    every = every if blocks >= 2 * every else 1
    omega = torch.randn(size, min(rows, u.shape[0]), generator=generator, dtype=torch.float64)
    omega = omega.mul_(every**0.5).to(device=u.device, dtype=real)
    chosen = draw_sample(blocks, every, generator)
    signs = torch.randint(2, (len(chosen), size), generator=generator).mul_(2).sub_(1).to(torch.float64)
    matrix = u.real_matrix()
    if compiled_passes.takes_sketch(matrix):
        total = compiled_passes.sketch(matrix, omega, [rows * place for place in chosen], signs, real)
    else:
        total = _sketch_of_blocks(u, omega, rows, chosen, signs, dtype)
    return torch.view_as_complex(total.unflatten(1, (-1, 2))) if dtype.is_complex else total


def _sketch_of_blocks(
    u: Unfolding, omega: Tensor, rows: int, chosen: Sequence[int], signs: Tensor, dtype: torch.dtype
) -> Tensor:
    n = u.shape[1] * (2 if dtype.is_complex else 1)
    total = torch.zeros(len(omega), n, dtype=torch.float64, device=u.device)
    part = torch.empty(len(omega), n, dtype=omega.dtype, device=u.device)
    matmul = matmul_for(u.device, omega.dtype)
    with _threads_for(u):
        for block, sign in zip(u.real_blocks(rows, dtype, set(chosen).__contains__), signs.to(total), strict=True):
            matmul(omega[:, : len(block)], block, part)
            total.addcmul_(part.to(torch.float64), sign[:, None])
    return total
