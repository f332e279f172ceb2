"""The product of two matrices, compiled for the processor at hand (extra `fast`).

A library may know a processor less well than LLVM does, and use vectors of half its width. The second factor is brought
into the order in which it is used, a panel at a time that stays in cache; tiles of some rows by three vectors of
columns keep their sums in registers. Source of the blocking: Goto & van de Geijn 2008, "Anatomy of High-Performance
Matrix Multiplication".
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ttnet.numerics import machine_code
from ttnet.numerics.machine_code import Code, Function, Int

_VECTORS = 3  # of a tile, and of a strip of the second factor
_DEPTH = 192  # rows of a panel: a strip of them stays in the first cache
_STRIPS = 20  # of a panel, which stays in the second one
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def takes(a: Tensor, b: Tensor, out: Tensor) -> bool:
    """Say whether the product of two matrices can be compiled.

    Args:
        a: The first factor.
        b: The second one.
        out: Where the product goes.

    Returns:
        Whether they are real, of one precision, and have entries that lie together along one side.

    Example:
        >>> takes(torch.ones(2, 3).to(torch.complex64), torch.ones(3, 2), torch.ones(2, 2))
        False
    """
    dtype = a.dtype
    if dtype not in _DTYPES or a.shape[1] != b.shape[0] or not machine_code.is_available():
        return False
    for x in (a, b, out):
        if x.dtype != dtype or x.device.type != "cpu" or x.is_neg() or not x.numel() or 1 not in x.stride():
            return False
    return True


def multiply(
    a: Tensor,  # (m, k)
    b: Tensor,  # (k, n)
    out: Tensor,  # (m, n)
    width: int | None = None,
) -> Tensor:
    """Multiply two matrices into a third one; `takes` tells which, and nothing is checked here.

    Args:
        a: The first factor.
        b: The second one.
        out: The product, of which nothing is read.
        width: Bytes of a vector; None for as many as the machine has.

    Returns:
        `out`.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("llvmlite")
        >>> multiply(torch.ones(2, 3), torch.ones(3, 1), torch.empty(2, 1))
        tensor([[3.],
                [3.]])
    """
    if out.stride(1) != 1:
        multiply(b.mT, a.mT, out.mT, width)
        return out
    (m, k), n = a.shape, b.shape[1]
    width = machine_code.registers().width if width is None else width
    steps = [x.stride(0 if x.stride(1) == 1 else 1) for x in (a, b)]
    run = _product(_DTYPES[a.dtype], a.stride(1) != 1, b.stride(1) != 1, width)
    columns = min(n, _STRIPS * _VECTORS * width // a.element_size())
    memory = np.empty(_DEPTH * (columns * a.element_size() + _VECTORS * width) + 64, np.uint8)
    start = memory.ctypes.data
    run(a.data_ptr(), b.data_ptr(), out.data_ptr(), start + -start % 64, m, n, k, *steps, out.stride(0))
    return out


@functools.cache
def _product(dtype: str, a_turned: bool, b_turned: bool, width: int) -> Callable[..., None]:
    """Compile the product: addresses of the factors, the product and memory for a panel; sizes; and steps."""
    names = ("m", "n", "k", "a_step", "b_step", "out_step")
    f = Function(dict.fromkeys(("a", "b", "out", "panel"), dtype) | dict.fromkeys(names, "int"), width)
    m, n, k, a_step, _, out_step = (f.integer(name) for name in names)
    lanes = width // machine_code.ITEMSIZE[dtype]
    height = 8 if machine_code.registers().count >= 32 else 4
    wide, stride = _VECTORS * lanes, a_step if a_turned else f.integer(1)
    with f.loop(0, n, _STRIPS * wide) as first, f.loop(0, k, _DEPTH) as top:
        columns, depth = f.min(n - first, f.integer(_STRIPS * wide)), f.min(k - top, f.integer(_DEPTH))
        _pack(f, b_turned, lanes, first, top, columns, depth)
        with f.loop(0, columns, wide) as column:
            needed = f.min((columns - column + (lanes - 1)) // lanes, f.integer(_VECTORS))
            for vectors in range(1, _VECTORS + 1):
                with f.when("==", needed, vectors), f.loop(0, m, height) as i:
                    # Rows behind the last one are that one again.
                    rows = [f.min(i + row, m - 1) for row in range(height)]
                    starts = [f.at("a", row + top * a_step if a_turned else row * a_step + top) for row in rows]
                    sums = _tile(f, starts, stride, column * _DEPTH, depth, vectors, lanes)
                    places = [f.at("out", row * out_step + first + column) for row in rows]
                    masks = [f.first(columns - column - q * lanes, lanes) for q in range(vectors)]
                    with f.when(">", top, 0):
                        for place, totals in zip(places, sums, strict=True):
                            for q, total in enumerate(totals):
                                before = f.load(f.at(place, q * lanes), lanes, masks[q])
                                f.store(f.add(f.build.load(total), before), total)
                    for place, totals in zip(places, sums, strict=True):
                        for q, total in enumerate(totals):
                            f.store(f.build.load(total), f.at(place, q * lanes), masks[q])
    return f.compile()


def _tile(
    f: Function, starts: list[Code], step: Int, strip: Int, depth: Int, vectors: int, lanes: int
) -> list[list[Code]]:
    """Multiply some rows of the first factor with a strip of the panel: a variable for each vector of the product."""
    zeros = f.zeros(_kind(f, starts), lanes)
    sums = [[f.variable(zeros) for _ in range(vectors)] for _ in starts]
    with f.loop(0, depth) as p:
        line = [f.load(f.at("panel", strip + p * (_VECTORS * lanes) + q * lanes), lanes) for q in range(vectors)]
        for start, totals in zip(starts, sums, strict=True):
            number = f.splat(f.load(f.at(start, p * step)), lanes)
            for q, total in enumerate(totals):
                f.store(f.multiply_add(number, line[q], f.build.load(total)), total)
    return sums


def _kind(f: Function, starts: list[Code]) -> str:
    return "float64" if starts[0].type.pointee == f.zeros("float64", 1).type.element else "float32"


def _pack(f: Function, is_turned: bool, lanes: int, first: Int, top: Int, columns: Int, depth: Int) -> None:
    """Copy a panel of the second factor, strip by strip, with zeros behind its last column."""
    step, wide = f.integer("b_step"), _VECTORS * lanes

    def place(row: Int, column: Int) -> Code:
        return f.at("panel", column // wide * (wide * _DEPTH) + row * wide + column % wide)

    if is_turned:
        with f.loop(0, columns, lanes) as column, f.loop(0, depth, lanes) as row:
            mask = f.first(depth - row, lanes)
            lines = [
                f.load(f.at("b", (first + f.min(column + q, columns - 1)) * step + top + row), lanes, mask)
                for q in range(lanes)
            ]
            for q, line in enumerate(f.transpose(lines)):
                f.store(line, place(row + q, column))
    else:
        with f.loop(0, columns, lanes) as column:
            mask = f.first(columns - column, lanes)
            with f.loop(0, depth) as row:
                f.store(f.load(f.at("b", (top + row) * step + first + column), lanes, mask), place(row, column))
