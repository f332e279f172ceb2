"""One half sweep of the cross approximation: from the first bond to the last, a superblock of two modes at each.

At bond k the entries of the tensor are seen as a matrix, the *superblock*. A row is a *head*, which fixes the first
k modes, made of a pivot of the bond before and any index of mode k. A column is a *tail*, which fixes the others, made
of any index of mode k + 1 and a pivot of the bond after. The superblock has n**2 r**2 entries, of which a matrix cross
asks for some n r**2: all columns that are pivots already, all rows that these make pivots, and a few rows more, at
random. Where the cross is wrong in those, its worst columns become pivots too, and so on until it is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.black_box import Indices, Values, norm, with_all
from ttnet.decomposition.maxvol import maxvol
from ttnet.numerics.linalg import column_basis
from ttnet.numerics.scales import split_scale

TEST_ROWS = 8  # how many rows of a superblock are first compared with the cross

Fibres = Callable[[int, Indices, Indices], Values]
"""From a mode, heads (a, mode) and tails (b, d - mode - 1) to values (a, n, b)."""


def mirrored(fibres: Fibres, order: int) -> Fibres:
    """Give the fibres of the tensor whose modes stand in reverse.

    Args:
        fibres: Those of the tensor itself.
        order: The number of its modes.

    Returns:
        The function for the mirrored tensor.

    Example:
        >>> def fibres(mode, heads, tails):
        ...     return 10.0 * heads[:, :1, None] + np.arange(3)[:, None] + 0 * tails.sum()
        >>> mirrored(fibres, 2)(0, np.empty((1, 0), dtype=np.int64), np.array([[1]]))
        array([[[10.],
                [11.],
                [12.]]])
    """

    def mirror(mode: int, heads: Indices, tails: Indices) -> Values:
        return fibres(order - 1 - mode, tails[:, ::-1], heads[:, ::-1]).transpose(2, 1, 0)

    return mirror


def half_sweep(
    fibres: Fibres,
    shape: Sequence[int],
    tails: Sequence[Indices],  # each (s, d - k - 1)
    *,
    cut: float,
    max_ranks: Sequence[int | None],
    generator: np.random.Generator,
) -> tuple[list[Tensor], list[Indices]]:
    """Go over all bonds from the left, choose the heads anew and so make a train.

    Source: Savostyanov & Oseledets 2011, "Fast adaptive interpolation of multi-dimensional arrays in tensor train
    format", Algorithm 2, with a cross in place of their whole superblock.

    Args:
        fibres: Gives the values of the function.
        shape: The mode sizes, at least one.
        tails: The tails of the pivots after each mode, no row twice; after the last mode the one empty tail.
        cut: The relative Frobenius error at which the factors of a superblock are cut off.
        max_ranks: The largest rank of each inner bond.
        generator: Draws the rows to be compared.

    Returns:
        The cores of the train, on the CPU, and the heads of the new pivots at each inner bond, of shape (r_k, k).

    Example:
        >>> from ttnet.decomposition.black_box import BlackBox
        >>> box = BlackBox(lambda i: i.sum(1) + 1.0, (4, 5, 6))
        >>> tails = [np.zeros((1, 2 - k), dtype=np.int64) for k in range(3)]
        >>> cores, heads = half_sweep(box.block, (4, 5, 6), tails, cut=1e-9, max_ranks=[None, None],
        ...                           generator=np.random.default_rng(0))
        >>> [core.shape[-1] for core in cores]
        [2, 2, 1]
    """
    heads = tails[-1]
    cores, all_heads = [], []
    block = fibres(0, heads, tails[0])  # (r, n, s)
    for k, max_rank in enumerate(max_ranks):
        superblock = _Superblock(fibres, k, heads, shape[k], tails[k + 1])
        rows, coefficients = superblock.cross(block.reshape(len(superblock.heads), -1), cut, max_rank, generator)
        cores.append(coefficients.reshape(len(heads), shape[k], -1))
        block = superblock.values(rows).reshape(len(rows), shape[k + 1], -1)
        heads = superblock.heads[rows]
        all_heads.append(heads)
    return [torch.from_numpy(core) for core in [*cores, np.ascontiguousarray(block)]], all_heads


class _Superblock:
    """The matrix of all heads and tails about one bond, of which each row is asked for once at most."""

    def __init__(
        self,
        fibres: Fibres,
        mode: int,
        heads: Indices,  # (r, mode)
        size: int,
        tails: Indices,  # (s, d - mode - 2)
    ) -> None:
        self._fibres = fibres
        self._mode = mode
        self._old_heads = heads
        self._tails = tails
        self.heads = with_all(heads, size)  # (r n, mode + 1)
        self._places = np.full(len(self.heads), -1)  # of the rows, in `_values`, if they were asked for
        self._values: Values | None = None  # (rows asked for, n' s)

    def values(
        self,
        rows: Indices,  # (a,), none twice
    ) -> Values:
        """Give rows of the matrix."""
        new = rows[self._places[rows] < 0]
        if len(new):
            values = self._fibres(self._mode + 1, self.heads[new], self._tails).reshape(len(new), -1)
            known = 0 if self._values is None else len(self._values)
            self._places[new] = np.arange(known, known + len(new))
            self._values = values if self._values is None else np.concatenate([self._values, values])
        assert self._values is not None
        return self._values[self._places[rows]]

    def columns(
        self,
        columns: Indices,  # (b,)
    ) -> Values:
        """Give columns of the matrix."""
        index, tail = np.divmod(columns, len(self._tails))
        tails = np.concatenate([index[:, None], self._tails[tail]], axis=1)
        return self._fibres(self._mode, self._old_heads, tails).reshape(len(self.heads), -1)

    def unknown_rows(
        self,
        rows: Indices,  # (a,)
        count: int,
        generator: np.random.Generator,
    ) -> Indices:
        """Draw some of the rows that were not asked for yet, and are not among these."""
        is_unknown = self._places < 0
        is_unknown[rows] = False
        return generator.permutation(np.flatnonzero(is_unknown))[:count]

    def cross(
        self,
        matrix: Values,  # (r n, s): the columns to begin with
        cut: float,
        max_rank: int | None,
        generator: np.random.Generator,
    ) -> tuple[Indices, Values]:
        """Give pivot rows, and the coefficients (r n, r') with which they make up all the rows."""
        rank, limit, tests, is_enough = 0, 0, TEST_ROWS, False
        while True:
            scaled, size = _near_one(matrix)
            u, _ = column_basis(torch.from_numpy(scaled), cut * size, max_rank)
            rows, coefficients = maxvol(u.numpy())
            grown, rank = len(rows) > rank, len(rows)
            # One visit lets the rank grow by half: tails that are still poorly placed ask for more than is needed.
            limit = limit or min(rank + max(TEST_ROWS, rank // 2), max_rank or len(self.heads))
            others = self.unknown_rows(rows, tests, generator) if grown and rank < limit and not is_enough else rows[:0]
            if not len(others):
                return rows, coefficients
            values, _ = _near_one(self.values(np.concatenate([rows, others])))
            error = values[rank:] - coefficients[others] @ values[:rank]
            # Four times the cut, since interpolation from rows is not quite as good as the projection that was cut.
            allowed = 4 * cut * _norm_of_product(coefficients, values[:rank])
            allowed *= math.sqrt(len(others) / len(self.heads))
            if norm(error) <= allowed:
                return rows, coefficients
            v, _ = column_basis(torch.from_numpy(error).mT, allowed, limit - rank)
            # Where many random rows are wrong, and that by far fewer columns, nothing else is likely to be missing.
            wrong = np.count_nonzero(np.square(np.abs(error)).sum(axis=1) > allowed**2 / len(others))
            is_enough = 3 * v.shape[1] <= int(wrong)
            matrix = np.concatenate([matrix, self.columns(maxvol(v.numpy())[0])], axis=1)
            tests *= 2


def _near_one(
    matrix: Values,  # (m, n)
) -> tuple[Values, float]:
    """Take the scale out of a matrix whose squares might leave the range of doubles; give its norm, too."""
    size = norm(matrix)
    if 1e-100 < size < 1e100:
        return matrix, size
    scaled: Values = split_scale(torch.from_numpy(matrix))[0].numpy()
    return scaled, norm(scaled)


def _norm_of_product(
    a: Values,  # (m, r)
    b: Values,  # (r, n)
) -> float:
    """Compute the norm of a @ b in O((m + n) r**2), which of a whole superblock is less than the product itself."""
    squares = np.vdot(b, (a.conj().T @ a) @ b).real
    return math.sqrt(max(0.0, float(squares)))
