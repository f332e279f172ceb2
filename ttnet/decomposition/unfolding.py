"""An unfolding of a tensor: a tall matrix that is read in blocks of rows and never copied as a whole.

Whichever side of the tensor is short makes the columns. Complex numbers can be seen as pairs of real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ttnet.numerics.scales import times_power_of_two

BLOCK_NUMEL = {"cpu": 2**17}  # entries of a block; 1 MiB in double precision
_DEVICE_BLOCK_NUMEL = 2**24
_NUMPY_DTYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


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

    def real_matrix(self) -> Tensor | None:
        """View it as a real matrix, as `real_blocks` gives it; None if it has to be copied or changed for that.

        Returns:
            The matrix, in the dtype that it is stored in.
        """
        x = self._x
        if self._exponent or x.device.type != "cpu" or x.is_conj() or x.is_neg():
            return None
        try:
            matrix = x.view(self.shape)
            return torch.view_as_real(matrix).view(len(matrix), -1) if x.is_complex() else matrix
        except RuntimeError:  # strides that make no matrix
            return None

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
