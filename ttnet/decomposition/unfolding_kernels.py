"""Passes over an unfolding: each reads it once, in blocks of rows that stay in cache, and never copies it as a whole.

An unfolding is taken as a tall matrix, whichever side of the tensor is short. Real products do all the work: complex
numbers are pairs of real ones, and their Gram matrix costs half of what complex products would.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ttnet.numerics.blas import matmul_for
from ttnet.numerics.linalg import triangular_factor
from ttnet.numerics.scales import times_power_of_two

BLOCK_NUMEL = {"cpu": 2**17}  # entries of a block; 1 MiB in double precision
_DEVICE_BLOCK_NUMEL = 2**24
_SHORT = 1024  # entries of a sum whose rounding errors stay within some units in the last place on any BLAS
_NUMPY_DTYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}
_vecdot = np.vecdot if hasattr(np, "vecdot") else functools.partial(np.einsum, "...i,...i->...")  # numpy 2 has it


def double(dtype: torch.dtype) -> torch.dtype:
    """Give the double precision of the same kind.

    Args:
        dtype: A floating or complex dtype.

    Returns:
        complex128 or float64.

    Example:
        >>> double(torch.complex64)
        torch.complex128
    """
    return torch.complex128 if dtype.is_complex else torch.float64


class Unfolding:
    """A tensor as a tall matrix, read in blocks of rows: some axes of one end make the columns, the others the rows.

    Args:
        x: The tensor, of any dtype and strides.
        axes: How many axes make the columns.
        dtype: The dtype to compute in: float32, float64, complex64 or complex128.
        side: Whether the columns are the first axes ("left") or the last ones ("right").
        exponent: Entries are read times 2**-exponent.

    Example:
        >>> u = Unfolding(torch.arange(6.0).reshape(3, 1, 2), 1, torch.float64)
        >>> u.shape, [block.tolist() for block in u.blocks(2)]
        ((3, 2), [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]]])
    """

    def __init__(self, x: Tensor, axes: int, dtype: torch.dtype, *, side: str = "right", exponent: int = 0) -> None:
        self._left = side == "left"
        self._x = x.permute(*range(axes, x.ndim), *range(axes)) if self._left else x
        self._axes = axes
        self._exponent = exponent
        self.dtype = dtype
        self.device = x.device
        self.shape = (math.prod(self._x.shape[:-axes]), math.prod(self._x.shape[-axes:]))
        self.numel = math.prod(self.shape)

    def new_product(self, columns: int) -> Tensor:
        """Give memory for this matrix times another one, laid out so that `fold` need not copy.

        Args:
            columns: The columns of the other one.

        Returns:
            A matrix of shape (rows, columns), not initialised.
        """
        shape = (self.shape[0], columns)
        return self._empty(shape[::-1]).mT if self._left else self._empty(shape)

    def _empty(self, shape: tuple[int, int]) -> Tensor:
        if self.device.type != "cpu":
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        # numpy asks the system for huge pages: without them, touching new memory costs as much as the product itself.
        return torch.from_numpy(np.empty(shape, dtype=_NUMPY_DTYPES[self.dtype]))

    def fold(self, product: Tensor) -> Tensor:
        """Give a product the axes of the tensor back, one axis in the place of those that made the columns.

        Args:
            product: A matrix of shape (rows, r).

        Returns:
            The tensor.
        """
        row_axes = self._x.shape[: -self._axes]
        if self._left:
            return product.mT.reshape(-1, *row_axes)
        return product.reshape(*row_axes, -1)

    def blocks(
        self, rows: int, dtype: torch.dtype | None = None, chosen: Callable[[int], bool] | None = None
    ) -> Iterator[Tensor]:
        """Give the blocks from top to bottom.

        Args:
            rows: The largest number of rows of a block.
            dtype: Another dtype to compute in.
            chosen: Tells which blocks to give by their places; None for all.

        Yields:
            Matrices, of which each is valid until the next one is asked for.
        """
        dtype = self.dtype if dtype is None else dtype
        buffer: Tensor | None = None
        for place, piece in enumerate(_pieces(self._x, self._axes, rows)):
            if chosen is not None and not chosen(place):
                continue
            if piece.dtype == dtype and not self._exponent and not piece.is_conj() and not piece.is_neg():
                yield piece
                continue
            if buffer is None:
                shape = (rows, self.shape[1])
                if self._left and not dtype.is_complex:  # so that copying runs along the memory of the tensor
                    buffer = torch.empty(shape[::-1], dtype=dtype, device=self.device).mT
                else:
                    buffer = torch.empty(shape, dtype=dtype, device=self.device)
            if self._exponent:  # from half precision first, but to single precision only when the range is right
                piece = times_power_of_two(piece.to(self.dtype), -self._exponent)
            yield buffer[: len(piece)].copy_(piece)

    def real_blocks(
        self, rows: int, dtype: torch.dtype | None = None, chosen: Callable[[int], bool] | None = None
    ) -> Iterator[Tensor]:
        """Give the blocks as real matrices: with two columns, real and imaginary part, for every complex one.

        Args:
            rows: The largest number of rows of a block.
            dtype: Another dtype to compute in.
            chosen: Tells which blocks to give by their places; None for all.

        Yields:
            Matrices, of which each is valid until the next one is asked for.
        """
        return map(as_real, self.blocks(rows, dtype, chosen))

    def block_rows(self, least: int = 1) -> int:
        """Give a number of rows with which a block fits into the cache.

        Args:
            least: The smallest number that will do.

        Returns:
            The number.
        """
        numel = BLOCK_NUMEL.get(self.device.type, _DEVICE_BLOCK_NUMEL)
        return max(least, 1, numel // self.shape[1])


def _pieces(x: Tensor, column_axes: int, rows: int) -> Iterator[Tensor]:
    cut = x.ndim - column_axes
    height, width = math.prod(x.shape[:cut]), math.prod(x.shape[cut:])
    try:
        matrix = x.view(height, width)
    except RuntimeError:  # strides that make no matrix: copy a piece at a time
        if height <= rows:
            yield x.reshape(height, width)
            return
        inner = height // len(x)
        for part in x.split(max(1, rows // inner)):
            yield from _pieces(part if len(part) > 1 else part[0], column_axes, rows)
        return
    yield from matrix.split(rows)


def as_real(
    block: Tensor,  # (b, n)
) -> Tensor:
    """View a matrix as a real one, with two columns for every complex one.

    Args:
        block: A real or complex matrix.

    Returns:
        A real matrix of shape (b, n) or (b, 2 n); a view if `block` is real or contiguous.

    Example:
        >>> as_real(torch.tensor([[1 + 2j, 3j]]))
        tensor([[1., 2., 0., 3.]])
    """
    return torch.view_as_real(block.contiguous()).flatten(1) if block.is_complex() else block


def _real_embedding(
    v: Tensor,  # (n, r)
) -> Tensor:
    """Give the real matrix that multiplies rows of (real, imaginary) pairs as `v` does complex rows."""
    if not v.is_complex():
        return v
    pairs = torch.stack([torch.view_as_real(v.resolve_conj()), torch.view_as_real(1j * v)], dim=1)
    return pairs.reshape(2 * len(v), -1)  # (n, 2, r, 2) -> (2 n, 2 r)


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


def gram_matrix(u: Unfolding, dtype: torch.dtype) -> Tensor:
    """Compute `X^H X`: products over blocks in one precision, their sum in double precision.

    Args:
        u: The unfolding X, of n columns.
        dtype: The precision of the products, of the kind of that of `u`.

    Returns:
        A matrix of shape (n, n) in double precision.

    Example:
        >>> gram_matrix(Unfolding(torch.tensor([[1.0, 1j]]), 1, torch.complex64), torch.complex64)
        tensor([[1.+0.j, 0.+1.j],
                [0.-1.j, 1.+0.j]], dtype=torch.complex128)
    """
    real = dtype.to_real()
    n = u.shape[1] * (2 if dtype.is_complex else 1)
    total = torch.zeros(n, n, dtype=torch.float64, device=u.device)
    part = torch.empty(n, n, dtype=real, device=u.device)
    matmul = matmul_for(u.device, real)
    for block in u.real_blocks(u.block_rows(least=2 * u.shape[1]), dtype):
        matmul(block.mT, block, part)
        total += part
    total = (total + total.mT) / 2  # which not every library's product is by itself
    if not dtype.is_complex:
        return total
    pairs = total.unflatten(0, (-1, 2)).unflatten(2, (-1, 2))  # (n, part, n, part)
    return torch.complex(pairs[:, 0, :, 0] + pairs[:, 1, :, 1], pairs[:, 0, :, 1] - pairs[:, 1, :, 0])


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
    missed: str | None = None,
) -> tuple[float, float]:
    """Multiply `X V` into a given matrix, and measure on the way how much of X lies outside of V's columns.

    Args:
        u: The unfolding X, of n columns.
        v: V, whose columns are orthonormal.
        out: The product, of the dtype of `u`.
        dtype: The precision of the products, of the kind of that of `u`, which None stands for.
        missed: How to measure: by the "norms" of X and the product, whose difference shows nothing below the root of
            the precision; by the "entries" of `X - X V V^H`, at twice the cost; or None, not at all.

    Returns:
        `||X||**2` and `||X - X V V^H||**2`, or zeros.

    Example:
        >>> x, out = torch.eye(3, dtype=torch.float64), torch.empty(3, 1, dtype=torch.float64)
        >>> project(Unfolding(x, 1, torch.float64), x[:, :1], out, torch.float64, missed="entries")
        (3.0, 2.0)
    """
    dtype = u.dtype if dtype is None else dtype
    matmul = matmul_for(u.device, dtype.to_real())
    right = _real_embedding(v.to(dtype)).contiguous()
    back = _real_embedding(v.to(dtype).mH).contiguous() if missed == "entries" else right
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
        if missed is None:
            continue
        part = _sum_of_squares(block)
        squares += part
        if missed == "norms":
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
        every: How many blocks to read one of, at random.

    Returns:
        A matrix of shape (size, n) in double precision. A row's expected square norm is `||X||**2`.

    Example:
        >>> u = Unfolding(torch.ones(9, 4), 1, torch.float32)
        >>> sketch(u, 2, torch.float32, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 4])
    """
    real = dtype.to_real()
    rows = u.block_rows(least=4 * size)
    omega = torch.randn(size, min(rows, u.shape[0]), generator=generator, dtype=torch.float64)
    omega = omega.mul_(every**0.5).to(device=u.device, dtype=real)
    matmul = matmul_for(u.device, real)
    n = u.shape[1] * (2 if dtype.is_complex else 1)
    total = torch.zeros(size, n, dtype=torch.float64, device=u.device)
    part = torch.empty(size, n, dtype=real, device=u.device)
    places = torch.randint(every, (-(-u.shape[0] // (rows * every)) + 1,), generator=generator).tolist()

    def chosen(place: int) -> bool:
        return place % every == places[place // every % len(places)]

    for block in u.real_blocks(rows, dtype, chosen):
        matmul(omega[:, : len(block)], block, part)
        signs = torch.randint(2, (size, 1), generator=generator).mul_(2).sub_(1)
        total.addcmul_(part.to(torch.float64), signs.to(total))
    return torch.view_as_complex(total.unflatten(1, (-1, 2))) if dtype.is_complex else total
