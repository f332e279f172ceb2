"""The passes over an unfolding that take most of the time, compiled: `X^T X`, `Omega X`, and `X V` with what it misses.

Libraries of matrix products know neither where their operands come from nor what is wanted of them besides: a pass that
is compiled here (`pass_code`) reads memory once and in order, whatever precision and layout, and measures on the way.
Threads take equal parts of the rows. Without llvmlite (extra `fast`), and for what `takes_...` refuse, libraries go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.pass_code import Kind, product_pass, project_pass, turned_pass
from ttnet.numerics import machine_code
from ttnet.numerics.blas import single_threaded, thread_count, torch_threads

LEAST_NUMEL = 2**20  # below which a pass takes a millisecond, and compiling it a hundred
_REPEATED_NUMEL = 2**16  # with which a pass gains by being compiled, once a process has made so many of them
WORTH_COMPILING = 2**28  # that there were so many entries, which took libraries as long as compiling does
THREAD_NUMEL = 2**20  # with which a thread of its own pays
_MOST_GRAM_COLUMNS = 512  # above which the sums of a Gram matrix leave the cache
LEAST_COLUMNS = 16
_MOST_RANK = 128
_MOST_STREAMS = 128  # columns that memory is read ahead along
BLOCK_NUMEL = 2**15
LEAST_ROWS = 256  # of a block of a Gram matrix, so that sums are seldom taken to memory
SKETCH_ROWS = 32  # of one of a sketch, of which there are fewer sums
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_NUMPY = {"float32": np.float32, "float64": np.float64}
_passed = 0  # entries, by passes that are not worth compiling on their own


def threads_of_passes() -> AbstractContextManager[None]:
    """Give the context for a sequence of passes and small steps between them: threads are those of compiled passes.

    Returns:
        The context; without llvmlite, threads are those of the libraries.

    Example:
        >>> with threads_of_passes():
        ...     pass
    """
    return single_threaded() if machine_code.is_available() else torch_threads()


def takes_gram(x: Tensor | None) -> TypeGuard[Tensor]:
    """Say whether a Gram matrix is found by compiled code.

    Args:
        x: The unfolding as a real matrix, if its memory makes one.

    Returns:
        Whether its memory, its size and this machine are such that it takes less time.

    Example:
        >>> takes_gram(torch.ones(3, 2))
        False
    """
    return _takes(x) and x.shape[1] <= _MOST_GRAM_COLUMNS


def takes_projection(x: Tensor | None, out: Tensor) -> TypeGuard[Tensor]:
    """Say whether a product with few columns is found by compiled code.

    Args:
        x: The unfolding as a real matrix, if its memory makes one.
        out: Where the product goes.

    Returns:
        As for `takes_gram`.

    Example:
        >>> takes_projection(torch.ones(3, 2), torch.ones(3, 1))
        False
    """
    return _takes(x) and out.dtype in _DTYPES and 1 in out.stride() and out.shape[1] <= _MOST_RANK


def takes_sketch(x: Tensor | None) -> TypeGuard[Tensor]:
    """Say whether combinations of rows are found by compiled code.

    Args:
        x: The unfolding as a real matrix, if its memory makes one.

    Returns:
        As for `takes_gram`.

    Example:
        >>> takes_sketch(torch.ones(3, 2))
        False
    """
    return _takes(x)


def _takes(x: Tensor | None) -> TypeGuard[Tensor]:
    return (
        x is not None
        and x.dtype in _DTYPES
        and 1 in x.stride()
        and x.shape[1] >= LEAST_COLUMNS
        and os.environ.get("TTNET_BLAS") is None
        and machine_code.is_available()
        and _is_worth(x.numel())
    )


def _is_worth(numel: int) -> bool:
    """Say whether a pass over so many entries is to be compiled, and count them if they alone are too few."""
    global _passed
    if LEAST_NUMEL > numel >= _REPEATED_NUMEL:
        _passed += numel
        return _passed > WORTH_COMPILING
    return numel >= LEAST_NUMEL


def gram(
    x: Tensor,  # (m, n), real
    dtype: torch.dtype,
    width: int | None = None,
    chosen: Sequence[tuple[int, int]] | None = None,
) -> tuple[Tensor, float]:
    """Compute `X^T X`: products in one precision, sums over blocks in double precision; and the sum of all squares.

    Args:
        x: X, with entries that lie together along one side.
        dtype: float32 or float64.
        width: Bytes of a vector; None for as many as the machine has.
        chosen: The first row and the number of rows of each block that is to be taken; None for all rows.

    Returns:
        A symmetric matrix of shape (n, n), of float64, and what its trace would be if no product had been rounded.
    """
    layout = _Layout.of(x, dtype, width)
    run = product_pass(layout.kind, True)
    rows = max(LEAST_ROWS, layout.block_rows)
    size = layout.columns

    def sum_over(bounds: Sequence[tuple[int, int]]) -> np.ndarray:
        block, sums = layout.new(rows, size), np.zeros(size * size + 1)
        for start, count in bounds:
            sizes = (count, x.shape[1], layout.step, size, rows, size)
            run(layout.address(start), *sizes, _address(block), 0, _address(sums))
        return sums

    if chosen is None:
        total = _sum_of_parts(lambda start, count: sum_over([(start, count)]), len(x), x.shape[1], rows)
    else:
        numel = max(count for _, count in chosen) * x.shape[1]
        total = _sum_of_parts(lambda first, count: sum_over(chosen[first : first + count]), len(chosen), numel, 1)
    upper = torch.from_numpy(total[:-1].reshape(size, size)[: x.shape[1], : x.shape[1]])
    return upper.triu() + upper.triu(1).mT, float(total[-1])


def sketch(
    x: Tensor,  # (m, n), real
    omega: Tensor,  # (k, b), real
    starts: Sequence[int],
    signs: Tensor,  # (number of blocks, k)
    dtype: torch.dtype,
    width: int | None = None,
) -> Tensor:
    """Combine rows of X: the sum over some blocks of b rows of `omega` times a block, with signs of its own.

    Args:
        x: X, with entries that lie together along one side.
        omega: What a block is multiplied with, from the left; of the last block there may be fewer rows.
        starts: The first row of each block.
        signs: What the rows of each block's product are multiplied with.
        dtype: The precision of the products, float32 or float64; their sum is in double precision.
        width: Bytes of a vector; None for as many as the machine has.

    Returns:
        A matrix of shape (k, n), of float64.
    """
    layout = _Layout.of(x, dtype, width)
    run = product_pass(layout.kind, False)
    rows, size = max(SKETCH_ROWS, layout.block_rows), layout.columns
    k, b = omega.shape
    height = -(-k // layout.kind.tile_rows) * layout.kind.tile_rows

    def part(first: int, count: int) -> np.ndarray:
        block, other, sums = layout.new(rows, size), layout.new(b, height), np.zeros((height, size))
        for place in range(first, first + count):
            np.multiply(omega.numpy().T, signs[place].numpy(), out=other[:, :k], casting="same_kind")
            sizes = (min(b, len(x) - starts[place]), x.shape[1], layout.step, size, rows, height)
            run(layout.address(starts[place]), *sizes, _address(block), _address(other), _address(sums))
        return sums[:k]

    return torch.from_numpy(_sum_of_parts(part, len(starts), b * x.shape[1], 1)[:, : x.shape[1]])


def project(
    x: Tensor,  # (m, n), real
    v: Tensor,  # (n, r), real, with orthonormal columns
    out: Tensor,  # (m, r), real
    dtype: torch.dtype,
    measured: str | None,
    width: int | None = None,
) -> tuple[float, float]:
    """Multiply `X V` into a given matrix, and measure what the caller wants to know of it.

    Args:
        x: X, with entries that lie together along one side.
        v: V.
        out: The product, with entries that lie together along one side.
        dtype: The precision of the products, float32 or float64.
        measured: As for `unfolding_kernels.project`.
        width: Bytes of a vector; None for as many as the machine has.

    Returns:
        As `unfolding_kernels.project`.
    """
    layout, result = _Layout.of(x, dtype, width), _Layout.of(out, dtype, width)
    looks_ahead = not layout.kind.is_turned or x.shape[1] <= _MOST_STREAMS
    if layout.kind == result.kind and layout.kind.is_turned and x.dtype == dtype and measured != "entries":
        run = turned_pass(layout.kind, measured)
    else:
        run = project_pass(layout.kind, result.kind, measured, looks_ahead)
    rows, size, rank = layout.block_rows, layout.columns, result.columns
    right, back = layout.new(size, rank), layout.new(rank, size)
    right[: len(v), : v.shape[1]] = v.numpy()
    back[: v.shape[1], : len(v)] = v.numpy().T

    def part(start: int, count: int) -> np.ndarray:
        block, product, sums = layout.new(rows, size), layout.new(rows, rank), np.zeros(2)
        sizes = (count, x.shape[1], layout.step, size, v.shape[1], result.step, rank, rows)
        arrays = (right, back, block, product, sums)
        run(layout.address(start), result.address(start), *sizes, *map(_address, arrays))
        return sums

    squares, second = _sum_of_parts(part, len(x), x.shape[1], rows).tolist()
    return squares, squares - second if measured == "norms" else second


@dataclass(frozen=True)
class _Layout:
    """A matrix in memory, and the blocks that it is copied to."""

    x: Tensor
    kind: Kind
    step: int  # entries from one row to the next one, or from one column if columns lie together

    @classmethod
    def of(cls, x: Tensor, dtype: torch.dtype, width: int | None) -> _Layout:
        is_turned = x.stride(1) != 1
        width = machine_code.registers().width if width is None else width
        return cls(x, Kind(_DTYPES[x.dtype], _DTYPES[dtype], is_turned, width), x.stride(1 if is_turned else 0))

    @property
    def columns(self) -> int:
        """The columns of a block, whose rows must not all fall on the same lines of the cache."""
        columns = -(-self.x.shape[1] // self.kind.unit) * self.kind.unit
        is_page = columns * machine_code.ITEMSIZE[self.kind.computed] % 4096 == 0
        return columns + self.kind.unit if is_page else columns

    @property
    def block_rows(self) -> int:
        unit = self.kind.unit
        return max(unit, BLOCK_NUMEL // self.columns // unit * unit)

    def new(self, rows: int, columns: int) -> np.ndarray:
        """Give a matrix of zeros that starts where a line of the cache does."""
        itemsize = machine_code.ITEMSIZE[self.kind.computed]
        memory = np.zeros(rows * columns * itemsize + 64, np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start : start + rows * columns * itemsize].view(_NUMPY[self.kind.computed]).reshape(rows, columns)

    def address(self, row: int) -> int:
        return self.x.data_ptr() + row * self.x.stride(0) * self.x.element_size()


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _sum_of_parts(part: Callable[[int, int], np.ndarray], rows: int, columns: int, unit: int) -> np.ndarray:
    """Add up what a function of first row and number of rows gives for as many parts as torch has threads.

    Each part has as many rows as pay for a thread, and a multiple of `unit` of them but for the last one.
    """
    threads = max(1, min(thread_count(), rows * columns // THREAD_NUMEL))
    size = -(-rows // (threads * unit)) * unit
    first, *others = [(start, min(size, rows - start)) for start in range(0, rows, size)]
    if not others:
        return part(*first)
    with ThreadPoolExecutor(len(others)) as pool:
        pending = [pool.submit(part, *bounds) for bounds in others]
        total = part(*first)
        for each in pending:
            total += each.result()
    return total
