"""One sweep of alternating minimal energy over the cores of the unknown.

Core after core, the others are held and the Galerkin system of this one is solved. Then its basis takes in a few
directions from an approximation z of the residual, itself a train of small ranks that is improved in the same sweep:
so ranks grow to where the equation asks for it. Source: Dolgov & Savostyanov 2014, "Alternating minimal energy methods
for linear systems in higher dimensions", algorithm 5 with the residual approximated as in its section 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr, thin_svd
from ttnet.solvers.interfaces import (
    OperatorCore,
    advance_operator,
    advance_train,
    middle_of_product,
    mirrored,
    through_operator,
    through_train,
)
from ttnet.solvers.local_system import LocalSystem

LEAST_KICK, LARGEST_KICK = 4, 12  # how many directions a basis takes in: a fifth of its rank, within these


@dataclass
class _Side:
    """The interfaces from one end, one for each core: what is known of the other end does not stand in them."""

    operator: list[Tensor]  # <x| A |x>, each (i, a, i)
    rhs: list[Tensor]  # <x | b>, each (i, p)
    z_operator: list[Tensor]  # <z| A |x>, each (zi, a, i)
    z_rhs: list[Tensor]  # <z | b>, each (zi, p)

    @classmethod
    def ends(cls, one: Tensor, order: int) -> _Side:
        return cls([one[None]] * order, [one] * order, [one[None]] * order, [one] * order)

    def reversed(self) -> _Side:
        return _Side(self.operator[::-1], self.rhs[::-1], self.z_operator[::-1], self.z_rhs[::-1])


class AmenState:
    """The unknown x, the residual's approximation z, and their interfaces, in the order in which a sweep meets them.

    Args:
        a: The operator's cores, each (a, n, n, b).
        b: The right-hand side's cores, each (p, n, q), of a norm near one.
        x: The cores to begin with, each but the first right-orthogonal.
        z: The cores of what approximates the residual, each but the first right-orthogonal.
        hermitian: Whether the operator is Hermitian.
        max_ranks: The largest rank of each inner bond.
        sites: How many cores are solved for at a time, 1 or 2.
        generator: Draws directions of z where it has fewer than it may have.

    Example:
        >>> eye, ones = torch.eye(2)[None, :, :, None], torch.ones(1, 2, 1) / 2**0.5
        >>> state = AmenState([eye] * 3, [ones] * 3, [ones] * 3, [ones] * 3, hermitian=True, max_ranks=[None] * 2,
        ...                   sites=1, generator=torch.Generator().manual_seed(0))
        >>> state.sweep(tol=1e-6, loose=0.1)[0] < 1e-6
        True
    """

    def __init__(
        self,
        a: Sequence[Tensor],
        b: Sequence[Tensor],
        x: Sequence[Tensor],
        z: Sequence[Tensor],
        *,
        hermitian: bool,
        max_ranks: Sequence[int | None],
        sites: int,
        generator: torch.Generator,
    ) -> None:
        self._there = [OperatorCore(core) for core in a]
        self._back = [core.mirrored() for core in reversed(self._there)]
        self._pairs: dict[tuple[bool, int], OperatorCore] = {}
        self._b, self._x, self._z = list(b), list(x), list(z)
        self._b_back = [core.contiguous() for core in mirrored(b)]
        self._hermitian, self._sites, self._generator = hermitian, min(sites, len(b)), generator
        self._max_ranks = list(max_ranks)
        self.is_mirrored = False
        self.met_singular = False  # whether a local matrix was
        self._left, self._right = (_Side.ends(b[0].new_ones(1, 1), len(b)) for _ in range(2))
        self.turn()
        for k in range(len(b) - 1):
            self._approach(k)
        self.turn()

    def turn(self) -> None:
        """Look at everything from the other end.

        Example:
            >>> eye, ones = torch.eye(2)[None, :, :, None], torch.ones(1, 2, 1) / 2**0.5
            >>> state = AmenState([eye], [ones], [ones], [ones], hermitian=True, max_ranks=[], sites=1,
            ...                   generator=torch.Generator().manual_seed(0))
            >>> state.turn()
            >>> state.is_mirrored
            True
        """
        self.is_mirrored = not self.is_mirrored
        self._there, self._back = self._back, self._there
        self._b, self._b_back = self._b_back, self._b
        self._x, self._z = mirrored(self._x), mirrored(self._z)
        self._max_ranks.reverse()
        self._left, self._right = self._right.reversed(), self._left.reversed()

    @property
    def cores(self) -> list[Tensor]:
        """The cores of x, from the first mode to the last."""
        return mirrored(self._x) if self.is_mirrored else list(self._x)

    def sweep(self, *, tol: float, loose: float) -> tuple[float, float, float]:
        """Go over all cores once; `turn` before the next sweep.

        Args:
            tol: The relative residual that local systems are solved to.
            loose: By what factor they are solved at least, if that is not so far.

        Returns:
            The largest relative residual that was met, before each solution; the largest relative change of a core; and
            the norm of the part of the residual that z sees in the end, which the whole is not below.

        Example:
            >>> eye, ones = torch.eye(2)[None, :, :, None], torch.ones(1, 2, 1) / 2**0.5
            >>> state = AmenState([2 * eye] * 2, [ones] * 2, [ones] * 2, [ones] * 2, hermitian=True,
            ...                   max_ranks=[None], sites=1, generator=torch.Generator().manual_seed(0))
            >>> [round(value, 4) for value in state.sweep(tol=1e-6, loose=0.1)]
            [3.0, 3.0, 0.0]
        """
        worst = change = 0.0
        order = len(self._b)
        steps = order if self._sites == 1 else order - 1
        for k in range(steps):
            system, f, v = self._local_problem(k)
            met = system.residual(f, v)
            left, new = met, v
            if met > tol:
                found, residual = system.solve(f, v, tol=max(tol, loose * met))
                self.met_singular = self.met_singular or system.is_singular
                if residual < met:
                    new, left = found, residual
                    size = float(torch.linalg.vector_norm(new)) or 1.0
                    change = max(change, float(torch.linalg.vector_norm(new - v)) / size)
            worst = max(worst, met)
            if k == order - 1:
                self._x[k] = new
            else:
                self._split(k, system, f, new, bound=max(tol, 1.5 * left, loose * met))
        return worst, change, self._last_z()

    def _approach(self, k: int) -> None:
        """Take the interfaces over core k as it is."""
        x, z, a, b, left = self._x[k], self._z[k], self._there[k], self._b[k], self._left
        left.operator[k + 1] = advance_operator(left.operator[k], x, a, x)
        left.rhs[k + 1] = advance_train(left.rhs[k], x, b)
        left.z_operator[k + 1] = advance_operator(left.z_operator[k], z, a, x)
        left.z_rhs[k + 1] = advance_train(left.z_rhs[k], z, b)

    def _local_problem(self, k: int) -> tuple[LocalSystem, Tensor, Tensor]:
        """Give the system of core k, or of cores k and k + 1, its right-hand side, and what the unknown is so far."""
        left, right = self._left, self._right
        if self._sites == 1:
            core, v, last, seen = self._there[k], self._x[k], k, through_train(left.rhs[k], self._b[k])
        else:
            core, last = self._pair(k), k + 1
            seen = through_train(left.rhs[k], torch.tensordot(self._b[k], self._b[k + 1], 1).flatten(1, 2))
            v = torch.tensordot(self._x[k], self._x[k + 1], 1).flatten(1, 2)
        f = seen @ right.rhs[last].mT
        return LocalSystem(left.operator[k], core, right.operator[last], hermitian=self._hermitian), f, v

    def _pair(self, k: int) -> OperatorCore:
        key = self.is_mirrored, k
        if key not in self._pairs:
            both = torch.tensordot(self._there[k].core, self._there[k + 1].core, 1)  # (a, m, n, m', n', b)
            self._pairs[key] = OperatorCore(both.transpose(2, 3).flatten(3, 4).flatten(1, 2))
        return self._pairs[key]

    def _split(self, k: int, system: LocalSystem, f: Tensor, v: Tensor, *, bound: float) -> None:
        """Cut the solution's rank down to what its residual bears, take in directions of z, and go one core on."""
        i, n = self._x[k].shape[:2]
        left, right, operator = self._left, self._right, self._there[k]
        u, w = self._truncate(system, f, v.reshape(i * n, -1), bound, self._max_ranks[k])
        if self._sites == 1:
            core, z_right = (u @ w).view(v.shape), right.z_operator[k]
        else:
            core, self._x[k + 1] = u.reshape(i, n, -1), w.reshape(w.shape[0], -1, v.shape[2])
            z_right = advance_operator(
                right.z_operator[k + 1],
                self._z[k + 1].transpose(0, 2),
                self._there[k + 1].mirrored(),
                self._x[k + 1].transpose(0, 2),
            )
            w = torch.eye(w.shape[0], dtype=w.dtype, device=w.device)
        given = through_train(left.rhs[k], self._b[k])
        directions = given @ right.z_rhs[k].mT - middle_of_product(left.operator[k], operator, z_right, core)
        most = self._max_ranks[k]
        room = directions.shape[2] if most is None else max(0, most - u.shape[1])
        basis, factor = plain_qr(torch.cat([u, directions.flatten(0, 1)[:, :room]], 1))
        x = self._x[k] = basis.view(i, n, -1)
        inside = factor[:, : u.shape[1]] @ w
        self._x[k + 1] = torch.tensordot(inside, self._x[k + 1], 1)
        left.operator[k + 1] = advance_operator(left.operator[k], x, operator, x)
        left.rhs[k + 1] = basis.mH @ given.view(i * n, -1)
        self._improve_z(k, x, z_right @ inside.mT, u.shape[1])

    def _truncate(
        self, system: LocalSystem, f: Tensor, v: Tensor, bound: float, max_rank: int | None
    ) -> tuple[Tensor, Tensor]:
        """Give `u @ w` of the smallest rank whose residual is within a bound, with orthonormal columns in `u`."""
        u, s, w = thin_svd(v)
        w = s[:, None] * w
        low, high = 0, min(len(s), max_rank or len(s))
        while high - low > 1:
            middle = (low + high) // 2
            if system.residual(f, (u[:, :middle] @ w[:middle]).view(f.shape)) <= bound:
                high = middle
            else:
                low = middle
        return u[:, :high], w[:high]

    def _improve_z(self, k: int, x: Tensor, z_right: Tensor, rank: int) -> None:
        """Let core k of z be the residual seen through its others, orthogonalise it, and go one core on."""
        left = self._left
        given = through_train(left.z_rhs[k], self._b[k])
        product = through_operator(left.z_operator[k], self._there[k], x)  # (i, m, b, s)
        i, n, b, s = product.shape
        columns = (given @ self._right.z_rhs[k].mT).view(i * n, -1)
        columns = columns - product.view(i * n, b * s) @ z_right.reshape(-1, b * s).mT
        wanted = min(len(columns), max(LEAST_KICK, min(LARGEST_KICK, rank // 5)))
        if (missing := wanted - columns.shape[1]) > 0:
            random = torch.randn(len(columns), missing, dtype=columns.dtype, generator=self._generator)
            columns = torch.cat([columns, random.to(columns.device)], 1)
        basis = plain_qr(columns)[0]
        self._z[k] = basis.view(i, n, -1)
        left.z_operator[k + 1] = (basis.mH @ product.view(i * n, b * s)).view(-1, b, s)
        left.z_rhs[k + 1] = basis.mH @ given.view(i * n, -1)

    def _last_z(self) -> float:
        """Let the last core of z be the residual seen through its others; give its norm."""
        left, right = self._left, self._right
        given = through_train(left.z_rhs[-1], self._b[-1]) @ right.z_rhs[-1].mT
        seen = given - middle_of_product(left.z_operator[-1], self._there[-1], right.z_operator[-1], self._x[-1])
        size = float(torch.linalg.vector_norm(seen))
        self._z[-1] = seen / (size or 1.0)
        return size
