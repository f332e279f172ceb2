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

import torch
from torch import Tensor

from ttnet.decomposition.maxvol import maxvol_rows
from ttnet.numerics.linalg import column_basis
from ttnet.numerics.scales import split_scale

TEST_ROWS = 8  # how many rows of a superblock are first compared with the cross

Fibres = Callable[[int, Tensor, Tensor], Tensor]
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
        ...     return 10.0 * heads[:, :1, None] + torch.arange(3)[:, None] + 0 * tails.sum()
        >>> mirrored(fibres, 2)(0, torch.empty(1, 0), torch.tensor([[1]]))
        tensor([[[10.],
                 [11.],
                 [12.]]])
    """

    def mirror(mode: int, heads: Tensor, tails: Tensor) -> Tensor:
        return fibres(order - 1 - mode, tails.flip(1), heads.flip(1)).permute(2, 1, 0)

    return mirror


def half_sweep(
    fibres: Fibres,
    shape: Sequence[int],
    tails: Sequence[Tensor],  # each (s, d - k - 1)
    *,
    cut: float,
    max_ranks: Sequence[int | None],
    generator: torch.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """Go over all bonds from the left, choose the heads anew and so make a train.

    Source: Savostyanov & Oseledets 2011, "Fast adaptive interpolation of multi-dimensional arrays in tensor train
    format", Algorithm 2, with a cross in place of their whole superblock.

    Args:
        fibres: Gives the values of the function.
        shape: The mode sizes, at least one.
        tails: The tails of the pivots after each mode, no row twice; after the last mode the one empty tail.
        cut: The relative Frobenius error at which the factors of a superblock are cut off.
        max_ranks: The largest rank of each inner bond.
        generator: Draws the rows to be compared, on the CPU.

    Returns:
        The cores of the train, and the heads of the new pivots at each inner bond, of shape (r_k, k).

    Example:
        >>> from ttnet.decomposition.black_box import BlackBox
        >>> box = BlackBox(lambda i: i.sum(1) + 1.0, (4, 5, 6))
        >>> tails = [torch.zeros(1, 2 - k, dtype=torch.int64) for k in range(3)]
        >>> cores, heads = half_sweep(box.block, (4, 5, 6), tails, cut=1e-9, max_ranks=[None, None],
        ...                           generator=torch.Generator().manual_seed(0))
        >>> [core.shape[-1] for core in cores]
        [2, 2, 1]
    """
    heads = tails[-1]
    cores, all_heads = [], []
    block = fibres(0, heads, tails[0])  # (r, n, s)
    for k, max_rank in enumerate(max_ranks):
        superblock = _Superblock(fibres, k, heads, shape[k], tails[k + 1])
        rows, coefficients = superblock.cross(block.flatten(0, 1), cut, max_rank, generator)
        cores.append(coefficients.reshape(len(heads), shape[k], -1))
        block = superblock.values(rows).reshape(len(rows), shape[k + 1], -1)
        heads = superblock.heads[rows]
        all_heads.append(heads)
    return [*cores, block], all_heads


class _Superblock:
    """The matrix of all heads and tails about one bond, of which each row is asked for once at most."""

    def __init__(
        self,
        fibres: Fibres,
        mode: int,
        heads: Tensor,  # (r, mode)
        size: int,
        tails: Tensor,  # (s, d - mode - 2)
    ) -> None:
        self._fibres = fibres
        self._mode = mode
        self._old_heads = heads
        self._tails = tails
        indices = torch.arange(size, device=heads.device)[:, None].expand(len(heads), -1, -1)
        pairs = [heads[:, None].expand(-1, size, -1), indices]
        self.heads = torch.cat(pairs, dim=2).flatten(0, 1)  # (r n, mode + 1)
        self._places: dict[int, int] = {}  # of the rows asked for, in `_values`
        self._values: Tensor | None = None  # (rows asked for, n' s)

    def values(self, rows: list[int]) -> Tensor:
        """Give rows of the matrix."""
        if new := [row for row in rows if row not in self._places]:
            values = self._fibres(self._mode + 1, self.heads[new], self._tails).flatten(1)
            self._places.update(zip(new, range(len(self._places), len(self._places) + len(new)), strict=True))
            self._values = values if self._values is None else torch.cat([self._values, values])
            if len(new) == len(self._places) == len(rows):
                return values
        assert self._values is not None
        return self._values[[self._places[row] for row in rows]]

    def columns(
        self,
        columns: Tensor,  # (b,)
    ) -> Tensor:
        """Give columns of the matrix."""
        index, tail = columns // len(self._tails), columns % len(self._tails)
        tails = torch.cat([index[:, None], self._tails[tail]], dim=1)
        return self._fibres(self._mode, self._old_heads, tails).flatten(0, 1)

    def unknown_rows(self, rows: list[int], count: int, generator: torch.Generator) -> list[int]:
        """Draw some of the rows that were not asked for yet, and are not among these."""
        rest = [row for row in range(len(self.heads)) if row not in self._places and row not in rows]
        return [rest[k] for k in torch.randperm(len(rest), generator=generator, device="cpu")[:count].tolist()]

    def cross(
        self,
        matrix: Tensor,  # (r n, s): the columns to begin with
        cut: float,
        max_rank: int | None,
        generator: torch.Generator,
    ) -> tuple[list[int], Tensor]:
        """Give pivot rows, and the coefficients (r n, r') with which they make up all the rows."""
        rank, limit, tests = 0, 0, TEST_ROWS
        while True:
            scaled, norm = _near_one(matrix)
            u, _ = column_basis(scaled, cut * norm, max_rank)
            rows = maxvol_rows(u)
            grown, rank = len(rows) > rank, len(rows)
            # One visit lets the rank grow by half: tails that are still poorly placed ask for more than is needed.
            limit = limit or min(rank + max(TEST_ROWS, rank // 2), max_rank or len(self.heads))
            others = self.unknown_rows(rows, tests, generator) if grown and rank < limit else []
            if not others:
                break
            values, _ = _near_one(self.values(rows + others))
            norm, error = _compare(u, rows, others, values[:rank], values[rank:])
            # Four times the cut, since interpolation from rows is not quite as good as the projection that was cut.
            allowed = 4 * cut * norm * math.sqrt(len(others) / len(self.heads))
            if float(torch.linalg.vector_norm(error)) <= allowed:
                break
            v, _ = column_basis(error.mT, allowed, limit - rank)
            columns = torch.tensor(maxvol_rows(v), device=matrix.device)
            matrix = torch.cat([matrix, self.columns(columns)], dim=1)
            tests *= 2
        return rows, torch.linalg.solve(u[rows], u, left=False)


def _near_one(
    matrix: Tensor,  # (m, n)
) -> tuple[Tensor, float]:
    """Take the scale out of a matrix whose squares might leave the range of doubles; give its norm, too."""
    norm = float(torch.linalg.vector_norm(matrix))
    if 1e-100 < norm < 1e100:
        return matrix, norm
    scaled, _ = split_scale(matrix)
    return scaled, float(torch.linalg.vector_norm(scaled))


def _compare(
    u: Tensor,  # (r n, r'): an orthonormal basis of the columns
    rows: list[int],  # r' of them: the pivots
    others: list[int],  # p of them
    known: Tensor,  # (r', n' s): the values in the pivots' rows
    tested: Tensor,  # (p, n' s): the values in the others
) -> tuple[float, Tensor]:
    """Give the norm of the superblock as the cross has it, and what the cross is wrong by in the other rows."""
    weights = torch.linalg.solve(u[rows], known)  # the superblock is u @ weights
    return float(torch.linalg.vector_norm(weights)), tested - u[others] @ weights
