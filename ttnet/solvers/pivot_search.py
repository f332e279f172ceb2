"""The largest value of a black-box function of indices, among those that a cross approximation would look at.

At each bond some heads, the first k indices of an entry, and tails, the others, are kept as pivots. All entries of a
head, any index of the next mode and a tail are evaluated; the heads of the next bond are rows of nearly maximal volume
among these, of values that are mapped so that the largest stand out, since a submatrix of maximal volume has an entry
nearly as large as any; and those with the largest values themselves.

Source: Sozykin et al. 2022, "TTOpt: A maximum volume quantized tensor train-based optimization and its application to
reinforcement learning".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ttnet.decomposition.black_box import BlackBox, Indices, Values
from ttnet.decomposition.cross_sweep import mirrored
from ttnet.decomposition.maxvol import maxvol
from ttnet.numerics.linalg import truncated_svd


class PivotSearch:
    """The state of a search: its pivots, and the best entry so far.

    Args:
        box: The function.
        shape: The mode sizes.
        sign: 1 for the largest value, -1 for the smallest.
        beam: How many pivots are kept at each bond.
        generator: Draws the first pivots and some more before each sweep, on the CPU.

    Attributes:
        index: Of the best entry so far.
        value: The entry.

    Example:
        >>> box = BlackBox(lambda i: 1 - ((i - 3.0) ** 2).sum(1), (8,) * 5)
        >>> search = PivotSearch(box, (8,) * 5, 1, 4, torch.Generator().manual_seed(0))
        >>> search.sweep()
        >>> search.index, search.value
        ((3, 3, 3, 3, 3), 1.0)
    """

    def __init__(
        self,
        box: BlackBox,
        shape: Sequence[int],
        sign: int,
        beam: int,
        generator: torch.Generator,
    ) -> None:
        self._box, self._shape, self._sign, self._beam = box, tuple(shape), sign, beam
        self._generator = generator
        first = self._draw(beam)
        values = box.entries(first)
        at = int((sign * values).argmax())
        self.index, self.value = tuple(first[at].tolist()), float(values[at])
        self._tails = [first[:, k:] for k in range(1, len(self._shape))]

    def sweep(self) -> None:
        """Go over all modes, there and back.

        Raises:
            BudgetSpentError: If the evaluations are spent; the best entry so far is kept.

        Example:
            >>> box = BlackBox(lambda i: i.sum(1), (3, 3))
            >>> search = PivotSearch(box, (3, 3), -1, 2, torch.Generator().manual_seed(0))
            >>> search.sweep()
            >>> search.value
            0.0
        """
        self._half_sweep(backward=False)
        self._half_sweep(backward=True)

    def _draw(self, count: int) -> Indices:
        draws = [torch.randint(n, (count,), generator=self._generator, device="cpu").numpy() for n in self._shape]
        return np.stack(draws, axis=1) if draws else np.empty((1, 0), dtype=np.int64)

    def _half_sweep(self, *, backward: bool) -> None:
        order, shape = len(self._shape), self._shape
        fibres = mirrored(self._box.block, order) if backward else self._box.block
        shape = shape[::-1] if backward else shape
        fresh = np.concatenate([np.array([self.index], dtype=np.int64), self._draw(1)])
        fresh = fresh[:, ::-1] if backward else fresh
        pairs = [np.concatenate([tails, fresh[:, k:]]) for k, tails in enumerate(self._tails, start=1)]
        heads = fresh[:1, :0]
        all_tails = [*(np.unique(tails, axis=0) for tails in pairs), heads]  # after the last mode there is nothing
        found = []
        for k, size in enumerate(shape):
            block = self._sign * fibres(k, heads, all_tails[k])  # (a, n, b)
            self._look(block, heads, all_tails[k], backward=backward)
            rows = self._choose(block.reshape(len(heads) * size, -1))
            heads = np.concatenate([heads[rows // size], (rows % size)[:, None]], axis=1)
            found.append(heads)
        self._tails = [head[:, ::-1] for head in reversed(found[:-1])]

    def _look(
        self,
        block: Values,  # (a, n, b)
        heads: Indices,  # (a, k)
        tails: Indices,  # (b, d - k - 1)
        *,
        backward: bool,
    ) -> None:
        _, size, width = block.shape
        at = int(block.argmax())
        value = self._sign * float(block.flat[at])
        if self._sign * value > self._sign * self.value:
            row, tail = divmod(at, width)
            index = [*heads[row // size].tolist(), row % size, *tails[tail].tolist()]
            self.index, self.value = tuple(index[::-1] if backward else index), value

    def _choose(
        self,
        values: Values,  # (m, b)
    ) -> Indices:  # (at most beam,)
        """Give rows of nearly the largest volume and those of the largest values, half of the beam each."""
        matrix = torch.from_numpy(values)
        below = (self._sign * self.value - matrix).clamp(min=0)  # 0 for the best
        unit = float(below.median()) or float(below.max()) or 1.0
        u, _, _ = truncated_svd(1 / (1 + below / unit), 1e-9, min(max(1, self._beam // 2), *matrix.shape))
        rows = maxvol(u.numpy())[0].tolist()
        largest = matrix.amax(1).argsort(descending=True, stable=True)[: self._beam].tolist()
        return np.array(list(dict.fromkeys([largest[0], *rows, *largest]))[: self._beam])
