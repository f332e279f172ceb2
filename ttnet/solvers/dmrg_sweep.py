"""One DMRG sweep over a block of vectors, which share all cores but one.

At each step the lowest eigenvectors of the operator, as seen through the other cores, are found; their ranks are cut,
and the basis takes in a few directions of what the operator makes of it. Sources: Dolgov et al. 2014, "Computation of
extreme eigenvalues in higher dimensions using block tensor train format", section 3; Hubig et al. 2015, "Strictly
single-site DMRG algorithm with subspace expansion", section IV, with random mixtures in the place of all directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr
from ttnet.solvers.channels import Channels, Side, interface_after
from ttnet.solvers.interfaces import mirrored, split
from ttnet.solvers.local_product import Coupling, LocalProduct
from ttnet.solvers.ritz import lowest_pairs

DENSE_SIZE = 60  # up to here a local matrix is diagonalised whole,
HARD_SIZE, EARLY_HARD_SIZE = 600, 200  # and up to there, or there in the first sweeps,
GAIN = 0.15  # where an iteration leaves more than this share of a residual
EXPANSION = 2  # how many directions a basis takes in at each step
LOCAL_STEPS = 24  # of the iteration for a local problem
EARLY_STEPS, EARLY_SWEEPS = 6, 2  # the same in the first sweeps, whose bases are poor
EXPLORED_SIZE, EXPLORING_STEPS = 400, 100  # the same where a sweep explores


class BlockState:
    """k vectors that share all cores but the one where the sweep is, and the operator's interfaces.

    Args:
        a: The operator's cores, Hermitian.
        x: The cores whose bases to begin with, each but the first right-orthogonal.
        count: How many vectors.
        max_ranks: The largest rank of each inner bond.
        sites: How many cores are solved for at a time, 1 or 2.
        generator: Draws the directions of expansions, and vectors where there are too few.

    Attributes:
        is_mirrored: Whether the next sweep goes from right to left.

    Example:
        >>> x = [torch.eye(2, dtype=torch.float64)[:1, :, None]]
        >>> a = [torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))[None, :, :, None]]
        >>> BlockState(a, x, 1, [], 1, torch.Generator().manual_seed(0)).sweep(cut=1e-6)
        tensor([1.], dtype=torch.float64)
    """

    def __init__(
        self,
        a: Sequence[Tensor],  # each (a, n, n, b)
        x: Sequence[Tensor],  # each (r, n, s)
        count: int,
        max_ranks: Sequence[int | None],
        sites: int,
        generator: torch.Generator,
    ) -> None:
        self._there, self._back = Channels(a), Channels([core.transpose(0, 3) for core in reversed(a)])
        self._couplings: dict[tuple[Side, Side], Coupling] = {}
        self._x, self._count, self._sites, self._generator = list(x), count, sites, generator
        self._max_ranks = list(max_ranks)
        self._scale = 1.0  # of the eigenvalues, or of A if that is larger
        self._centre = self._x[0][None]  # (vectors, r, n, s), in the place of the core where the sweep begins
        self.is_mirrored = False
        self._sweeps = 0
        self._left, self._right = [self._there.first()] * len(a), [self._back.first()] * len(a)
        for k, core in enumerate(mirrored(self._x)[:-1]):
            self._right[-2 - k] = self._back.advance(k, self._right[-1 - k], core)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that all vectors share."""
        ranks = (1, *(core.shape[2] for core in self._x[:-1]), 1)
        return ranks[::-1] if self.is_mirrored else ranks

    def turn(self) -> None:
        """Look at everything from the other end.

        Example:
            >>> x = [torch.eye(2, dtype=torch.float64)[:1, :, None]]
            >>> a = [torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))[None, :, :, None]]
            >>> state = BlockState(a, x, 1, [], 1, torch.Generator().manual_seed(0))
            >>> state.turn()
            >>> state.ranks
            (1, 1)
        """
        self.is_mirrored = not self.is_mirrored
        self._there, self._back = self._back, self._there
        self._x = mirrored(self._x)
        self._centre = self._centre.transpose(1, 3)
        self._max_ranks.reverse()
        self._left, self._right = self._right[::-1], self._left[::-1]

    def vectors(self) -> list[list[Tensor]]:
        """Take the vectors apart, after a sweep and a turn.

        Returns:
            The cores of each vector.

        Example:
            >>> x = [torch.eye(2, dtype=torch.float64)[:1, :, None]]
            >>> a = [torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))[None, :, :, None]]
            >>> state = BlockState(a, x, 1, [], 1, torch.Generator().manual_seed(0))
            >>> _ = state.sweep(cut=1e-6)
            >>> state.turn()
            >>> state.vectors()[0][0].abs().flatten()
            tensor([0., 1.], dtype=torch.float64)
        """
        found = [[core, *self._x[1:]] for core in self._centre]
        return [mirrored(cores) if self.is_mirrored else cores for cores in found]

    def sweep(self, *, cut: float, explore: bool = False) -> Tensor:
        """Go over all bonds once; `turn` before the next sweep.

        Args:
            cut: The Frobenius norm that each bond may lose of each vector, relative to its own.
            explore: Look into random directions, too. Those that A makes of eigenvectors are no new ones.

        Returns:
            The lowest eigenvalues (k,) of the last local problem.

        Example:
            >>> x = [torch.eye(2, dtype=torch.float64)[:1, :, None]]
            >>> a = [torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))[None, :, :, None]]
            >>> state = BlockState(a, x, 1, [], 1, torch.Generator().manual_seed(0))
            >>> state.sweep(cut=1e-6)
            tensor([1.], dtype=torch.float64)
        """
        order, values = len(self._x), torch.empty(0)
        self._sweeps += 1
        for k in range(order - self._sites + 1):
            product, start = self._local(k)
            values, rows = self._solve(product, start, cut * self._scale / (2 * math.sqrt(order)), explore)
            self._scale = max(1.0, float(values.abs().max()))
            if self._sites == 2 or k < order - 1:
                self._split(k, product, rows, cut, explore)
            else:
                self._centre = rows.view(-1, *self._centre.shape[1:])
        return values

    def _local(self, k: int) -> tuple[LocalProduct, Tensor]:
        """Give the local matrix of a step, and the vectors there, as rows."""
        last = k + self._sites - 1
        right = self._back.side(len(self._x) - 1 - last, with_core=self._sites == 2)
        key = self._there.side(k, with_core=True), right
        if key not in self._couplings:
            self._couplings[key] = Coupling(*key, self._centre)
        start = self._centre
        if self._sites == 2:
            following = self._x[last]
            start = start.reshape(-1, len(following)) @ following.reshape(len(following), -1)
        product = LocalProduct(self._couplings[key], self._left[k], self._right[last])
        return product, start.reshape(-1, product.size)

    def _solve(self, product: LocalProduct, start: Tensor, bound: float, explore: bool) -> tuple[Tensor, Tensor]:
        """Give the lowest eigenvalues of a local problem, and their vectors, as rows."""
        k = min(self._count, product.size)
        if product.size <= max(EXPLORED_SIZE if explore else DENSE_SIZE, 4 * k):
            values, vectors = torch.linalg.eigh(product.matrix())
            return values[:k], vectors[:, :k].mT
        wanted = k + explore
        if len(start) < wanted:
            missing = torch.randn(wanted - len(start), product.size, dtype=start.dtype, generator=self._generator)
            start = torch.cat([start, missing.to(start.device)])
        # A vector that is random to begin with takes many steps to come down to what is sought.
        gain, steps = GAIN, EARLY_STEPS if self._sweeps <= EARLY_SWEEPS else LOCAL_STEPS
        if explore:
            gain, steps = 0.0, EXPLORING_STEPS
        values, rows, left = lowest_pairs(product, start, bound=bound, gain=gain, steps=steps)
        if left > GAIN and product.size <= (EARLY_HARD_SIZE if steps == EARLY_STEPS else HARD_SIZE):
            values, vectors = torch.linalg.eigh(product.matrix())
            return values[:k], vectors[:, :k].mT
        return values[:k], rows[:k]

    def _split(self, k: int, product: LocalProduct, rows: Tensor, cut: float, explore: bool) -> None:
        """Cut ranks down, expand the basis by a few directions of `A v` or any at all, and go one core on."""
        left, n = self._centre.shape[1:3]
        count, s = len(rows), product.shape[-1]
        matrix = rows.view(count, left * n, -1).transpose(0, 1).reshape(left * n, -1)  # (r n, vectors n' s)
        most = self._max_ranks[k] or len(matrix)
        u, w = split(matrix, cut * count**0.5, most)
        core = u.view(left, n, -1)
        side = self._there.side(k, with_core=True)
        seen = side.through(product.left, core)
        extra = min(EXPANSION, most - u.shape[1], len(u) - u.shape[1])
        if extra > 0:
            if explore:
                new = torch.randn(len(u), extra, dtype=u.dtype, generator=self._generator).to(u.device)
            else:
                directions = seen.reshape(len(u), -1)
                mix = torch.randn(directions.shape[1], extra, dtype=u.dtype, generator=self._generator)
                new = directions @ mix.to(u.device)
            added = beside(u, new).view(left, n, -1)
            core = torch.cat([core, added], 2)
            seen = torch.cat([seen, side.through(product.left, added)], 3)
            w = torch.cat([w, w.new_zeros(extra, w.shape[1])])
        self._x[k] = core
        self._left[k + 1] = interface_after(core, seen)
        w = w.view(len(w), count, -1).transpose(0, 1)  # (vectors, r', n' s or s)
        if self._sites == 1:
            w = w @ self._x[k + 1].flatten(1)
        self._centre = w.reshape(count, core.shape[2], -1, s if self._sites == 2 else self._x[k + 1].shape[2])


def beside(
    u: Tensor,  # (n, r), of orthonormal columns
    new: Tensor,  # (n, k)
) -> Tensor:  # (n, k)
    """Give orthonormal columns that are orthogonal to others, and span with them what they did."""
    for _ in range(2):
        new, factor = plain_qr(new - u @ (u.mH @ new))
    if not bool((factor.diagonal().abs() > 0.5).all()):
        # There was little but rounding errors beside u.
        new = plain_qr(torch.cat([u, new], 1))[0][:, u.shape[1] :]
    return new
