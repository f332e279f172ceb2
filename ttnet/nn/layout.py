"""The modes and ranks of a matrix held as the cores of a train, in either layout."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.modes import capped_ranks, choose_modes, choose_paired_modes, num_parameters
from ttnet.nn.orders import CoreShape
from ttnet.numerics.truncation import check_ranks
from ttnet.trains.chain import check_shape

LAYOUTS = ("interleaved", "aligned")

Modes = str | Sequence[Sequence[int]]

_SMOOTH = (2, 3, 5, 7)


@dataclass(frozen=True)
class Layout:
    """How a matrix `(rows, cols)` is held: in which layout, modes and ranks.

    Args:
        kind: `"aligned"` for a train whose modes are those of the rows and then those of the columns, so that the bond
            between the two bounds the rank of the matrix; `"interleaved"` for a TT-matrix, each core of which has a
            mode of the rows and one of the columns.
        row_modes: The modes of the rows; at least one.
        col_modes: The modes of the columns; at least one, and as many as of the rows if interleaved.
        ranks: The ranks of all bonds, the outer ones included.

    Raises:
        TTTypeError: If a mode or a rank is not an integer.
        TTShapeError: If the modes or ranks do not fit together.
        TTValueError: If the kind is unknown, or a rank is below 1.

    Example:
        >>> layout = Layout.choose(64, 32, kind="interleaved", ranks=4, modes=((8, 8), (4, 8)))
        >>> layout.core_shapes, layout.num_parameters
        (((1, 8, 4, 4), (4, 8, 8, 1)), 384)
        >>> Layout.choose(64, 32, kind="aligned", ranks=4).core_shapes
        ((1, 16, 4), (4, 4, 4), (4, 2, 4), (4, 16, 1))
    """

    kind: str
    row_modes: tuple[int, ...]
    col_modes: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        check_layout(self.kind)
        rows, cols = check_shape(self.row_modes, "row modes"), check_shape(self.col_modes, "column modes")
        if not rows or not cols:
            raise TTShapeError(f"modes is {(rows, cols)}; expected at least one mode for either side.")
        if self.kind == "interleaved" and len(rows) != len(cols):
            raise TTShapeError(
                f"modes is {(rows, cols)} with layout 'interleaved'; expected as many modes on either side: give a "
                "core that has only one of the two the other mode 1."
            )
        if len(self.ranks) != self.order + 1 or (self.ranks[0], self.ranks[-1]) != (1, 1):
            raise TTShapeError(
                f"ranks is {self.ranks}; expected {self.order + 1} ranks for {self.order} cores, the first and the "
                "last of them 1."
            )
        check_ranks(self.ranks, len(self.ranks), "ranks")

    @classmethod
    def choose(cls, rows: int, cols: int, *, kind: str, ranks: int | Sequence[int], modes: Modes = "auto") -> Layout:
        """Choose the modes of a matrix, and cap its ranks.

        Args:
            rows: Number of rows, at least 1.
            cols: Number of columns, at least 1.
            kind: `"aligned"` or `"interleaved"`.
            ranks: The largest rank, capped at every bond by the sizes left and right of it; or, for modes that are
                given, one rank for each inner bond.
            modes: `"auto"` for the fewest parameters at that rank; or the modes of the rows and those of the columns.

        Returns:
            The layout.

        Raises:
            TTTypeError: If an argument is of the wrong type.
            TTShapeError: If modes or ranks do not fit.
            TTValueError: If a value is out of range.

        Example:
            >>> Layout.choose(768, 64, kind="aligned", ranks=5).row_modes
            (16, 4, 4, 3)
        """
        check_layout(kind)
        if isinstance(modes, str):
            if modes != "auto":
                raise TTValueError(f"modes is {modes!r}; expected 'auto' or the modes of either side.")
            if not isinstance(ranks, numbers.Integral):
                raise TTTypeError(f"ranks is {ranks!r} with modes 'auto'; expected an int, or give the modes as well.")
            rank = check_ranks(ranks, 1, "ranks")[0]
            modes = (choose_modes if kind == "aligned" else choose_paired_modes)(rows, cols, rank=rank)
        row_modes, col_modes = check_modes(modes, rows, cols)
        unranked = cls.unranked(kind, row_modes, col_modes)
        values = check_ranks(ranks, unranked.order - 1, "ranks")
        if isinstance(ranks, numbers.Integral):
            return replace(unranked, ranks=capped_ranks(unranked.sizes, int(ranks)))
        return replace(unranked, ranks=(1, *values, 1))

    @classmethod
    def unranked(cls, kind: str, row_modes: tuple[int, ...], col_modes: tuple[int, ...]) -> Layout:
        """Give the layout of some modes with ranks of 1.

        Args:
            kind: `"aligned"` or `"interleaved"`.
            row_modes: The modes of the rows.
            col_modes: The modes of the columns.

        Returns:
            The layout.

        Example:
            >>> Layout.unranked("aligned", (8,), (4,)).ranks
            (1, 1, 1)
        """
        order = len(row_modes) + (len(col_modes) if kind == "aligned" else 0)
        return cls(kind, row_modes, col_modes, (1,) * (order + 1))

    @property
    def order(self) -> int:
        """Number of cores."""
        return len(self.row_modes) + (len(self.col_modes) if self.kind == "aligned" else 0)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The row mode and the column mode of each core, one of which is 1 in an aligned train."""
        if self.kind == "aligned":
            return (*((m, 1) for m in self.row_modes), *((1, n) for n in self.col_modes))
        return tuple(zip(self.row_modes, self.col_modes, strict=True))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The mode of each core, `m_k n_k`."""
        return tuple(m * n for m, n in self.pairs)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.row_modes)

    @property
    def cols(self) -> int:
        """Number of columns."""
        return math.prod(self.col_modes)

    @property
    def pair_shapes(self) -> tuple[CoreShape, ...]:
        """The shapes of the cores as those of a TT-matrix, `(r, m, n, r')`."""
        return tuple((r, m, n, s) for r, (m, n), s in zip(self.ranks[:-1], self.pairs, self.ranks[1:], strict=True))

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the cores: `(r, n, r')` in an aligned train, `(r, m, n, r')` in an interleaved one."""
        if self.kind == "interleaved":
            return self.pair_shapes
        return tuple((r, m * n, s) for r, m, n, s in self.pair_shapes)

    @property
    def num_parameters(self) -> int:
        """Number of entries of all cores."""
        return num_parameters(self.sizes, self.ranks)

    def with_ranks(self, ranks: Sequence[int]) -> Layout:
        """Give the same modes with other ranks.

        Args:
            ranks: The ranks of all bonds, the outer ones included.

        Returns:
            The layout.

        Example:
            >>> Layout("aligned", (8,), (4,), (1, 4, 1)).with_ranks((1, 2, 1)).num_parameters
            24
        """
        return replace(self, ranks=tuple(ranks))


def check_layout(kind: str) -> None:
    """Refuse a layout that does not exist.

    Args:
        kind: What the user asked for.

    Raises:
        TTValueError: For anything but the two.

    Example:
        >>> check_layout("aligned")
    """
    if kind not in LAYOUTS:
        raise TTValueError(f"layout is {kind!r}; expected {' or '.join(map(repr, LAYOUTS))}.")


def check_modes(modes: Any, rows: int | None, cols: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the modes of either side, which must multiply to its size.

    Args:
        modes: What the user gave.
        rows: Number of rows; None for any.
        cols: Number of columns.

    Returns:
        The modes of the rows and those of the columns.

    Raises:
        TTTypeError: If it is not two sequences of ints.
        TTShapeError: If a product is wrong.

    Example:
        >>> check_modes([[4, 4], [8]], 16, 8)
        ((4, 4), (8,))
    """
    if isinstance(modes, str) or not isinstance(modes, Sequence) or len(modes) != 2:
        raise TTTypeError(f"modes is {modes!r}; expected 'auto' or two sequences, such as ((8, 8), (4, 16)).")
    sides = check_shape(modes[0], "modes[0]"), check_shape(modes[1], "modes[1]")
    for k, (side, size) in enumerate(zip(sides, (rows, cols), strict=True)):
        if size is not None and math.prod(side) != size:
            raise TTShapeError(f"modes[{k}] is {side}, which multiplies to {math.prod(side)}; expected {size}.")
    return sides


def check_size(size: object, name: str) -> int:
    """Give a size as an int of at least 1.

    Args:
        size: What the user gave.
        name: What the caller calls it.

    Returns:
        The size.

    Raises:
        TTTypeError: If it is not an integer.
        TTValueError: If it is below 1.

    Example:
        >>> check_size(3, "in_features")
        3
    """
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        raise TTTypeError(f"{name} is {size!r}; expected an integer of at least 1.")
    if size < 1:
        raise TTValueError(f"{name} is {size}; expected an integer of at least 1.")
    return int(size)


@cache
def padded_size(size: int) -> int:
    """Give the smallest number not below `size` that has no prime factor above 7.

    Args:
        size: At least 1.

    Returns:
        The number: at most a few per cent above a size of some hundreds, and a few per mille above a vocabulary's.

    Example:
        >>> padded_size(30522), padded_size(50257), padded_size(32000)
        (30618, 50400, 32000)
    """
    while not _is_smooth(size):
        size += 1
    return size


def _is_smooth(size: int) -> bool:
    for prime in _SMOOTH:
        while size % prime == 0:
            size //= prime
    return size == 1
