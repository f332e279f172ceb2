"""One time step on the manifold of trains: the time-dependent variational principle, one core or two at a time.

The flow projected onto the manifold's tangent space is split into flows of single cores, forwards in time, and of the
bonds between them, backwards; a sweep there and back makes a step of second order. Source: Haegeman et al. 2016,
"Unifying time evolution and optimization with matrix product states".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr, truncated_svd
from ttnet.solvers.exponentials import exponential_times
from ttnet.solvers.interfaces import OperatorCore, advance_operator, middle_of_product, mirrored

LOCAL = 1e-2  # of the tolerance, for a local problem


class TdvpState:
    """A train with its centre at the first core, and the interfaces of `<x| A |x>`.

    Args:
        a: The operator's cores, each (a, n, n, b).
        x: The train's cores, each but the first right-orthogonal.
        max_ranks: The largest rank of each inner bond, which two cores at a time keep to.
        sites: How many cores evolve together: 1 keeps the ranks, 2 lets them follow.

    Example:
        >>> spin = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> state = TdvpState([spin[None, :, :, None]], [torch.eye(2, dtype=torch.float64)[:1, :, None]], [], 1)
        >>> state.step(torch.pi / 4, tol=1e-9, cut=1e-9)
        >>> state.cores[0].flatten()
        tensor([ 0.7071, -0.7071], dtype=torch.float64)
    """

    def __init__(self, a: Sequence[Tensor], x: Sequence[Tensor], max_ranks: Sequence[int | None], sites: int) -> None:
        self._there = [OperatorCore(core) for core in a]
        self._back = [core.mirrored() for core in reversed(self._there)]
        self._pairs: dict[tuple[bool, int], OperatorCore] = {}
        self._is_mirrored = False
        self._x, self._max_ranks, self._sites = list(x), list(max_ranks), min(sites, len(x))
        one = a[0].new_ones(1, 1, 1)
        self._left, self._right = [one] * len(a), [one] * len(a)
        backwards = mirrored(self._x)
        for k in range(len(a) - 1):
            core = backwards[k]
            self._right[-2 - k] = advance_operator(self._right[-1 - k], core, self._back[k], core)

    @property
    def cores(self) -> list[Tensor]:
        """The train's cores."""
        return list(self._x)

    def copy(self) -> TdvpState:
        """Give a state that goes its own way from here.

        Returns:
            The copy, which shares tensors, since none is ever changed.

        Example:
            >>> state = TdvpState([torch.eye(2)[None, :, :, None]], [torch.ones(1, 2, 1)], [], 1)
            >>> state.copy().cores[0] is state.cores[0]
            True
        """
        other = copy.copy(self)
        other._x, other._max_ranks = list(self._x), list(self._max_ranks)
        other._left, other._right = list(self._left), list(self._right)
        return other

    def scale(self, factor: float) -> None:
        """Multiply the train by a number.

        Args:
            factor: The number.

        Example:
            >>> state = TdvpState([torch.eye(2)[None, :, :, None]], [torch.ones(1, 2, 1)], [], 1)
            >>> state.scale(2.0)
            >>> float(state.cores[0].sum())
            4.0
        """
        self._x[0] = self._x[0] * factor

    def step(self, time: float, *, tol: float, cut: float) -> None:
        """Go on in time, by a sweep there and one back.

        Args:
            time: How far.
            tol: The relative error that the step may make.
            cut: The relative Frobenius norm that each bond may lose, where ranks follow.

        Example:
            >>> state = TdvpState([torch.eye(2)[None, :, :, None]], [torch.ones(1, 2, 1)], [], 1)
            >>> state.step(1.0, tol=1e-6, cut=1e-6)
            >>> round(float(state.cores[0].sum()), 2)
            5.44
        """
        for _ in range(2):
            self._sweep(time / 2, LOCAL * tol / len(self._x), cut)
            self._turn()

    def _turn(self) -> None:
        self._is_mirrored = not self._is_mirrored
        self._there, self._back = self._back, self._there
        self._x = mirrored(self._x)
        self._max_ranks.reverse()
        self._left, self._right = self._right[::-1], self._left[::-1]

    def _sweep(self, time: float, tol: float, cut: float) -> None:
        order = len(self._x)
        for k in range(order - self._sites + 1):
            last = k + self._sites - 1
            if self._sites == 1:
                core = self._flow(self._x[k], self._left[k], self._there[k], self._right[k], time, tol)
            else:
                both = torch.tensordot(self._x[k], self._x[k + 1], 1).flatten(1, 2)
                core = self._flow(both, self._left[k], self._pair(k), self._right[last], time, tol)
            if last == k == order - 1:
                self._x[k] = core
                return
            left, n = self._x[k].shape[:2]
            if self._sites == 1:
                q, s = plain_qr(core.flatten(0, 1))
            else:
                matrix = core.reshape(left * n, -1)
                q, s, _ = truncated_svd(matrix, cut * float(torch.linalg.vector_norm(matrix)), self._max_ranks[k])
            self._x[k] = q.reshape(left, n, -1)
            self._left[k + 1] = advance_operator(self._left[k], self._x[k], self._there[k], self._x[k])
            if self._sites == 1:
                s = self._bond_flow(s, self._left[k + 1], self._right[k], -time, tol)
                self._x[k + 1] = torch.tensordot(s, self._x[k + 1], 1)
                continue
            self._x[k + 1] = s.reshape(s.shape[0], -1, core.shape[2])
            if last < order - 1:
                self._x[last] = self._flow(
                    self._x[last], self._left[last], self._there[last], self._right[last], -time, tol
                )

    def _pair(self, k: int) -> OperatorCore:
        key = self._is_mirrored, k
        if key not in self._pairs:
            both = torch.tensordot(self._there[k].core, self._there[k + 1].core, 1)
            self._pairs[key] = OperatorCore(both.transpose(2, 3).flatten(3, 4).flatten(1, 2))
        return self._pairs[key]

    def _flow(
        self,
        core: Tensor,  # (r, n, s)
        left: Tensor,  # (r, a, r)
        operator: OperatorCore,
        right: Tensor,  # (s, b, s)
        time: float,
        tol: float,
    ) -> Tensor:
        """Let a core flow, all others being held."""

        def product(v: Tensor) -> Tensor:
            return middle_of_product(left, operator, right, v.reshape(core.shape)).flatten()

        return exponential_times(product, core.flatten(), time, tol=tol).reshape(core.shape)

    def _bond_flow(
        self,
        bond: Tensor,  # (r, s)
        left: Tensor,  # (r, b, r)
        right: Tensor,  # (s, b, s)
        time: float,
        tol: float,
    ) -> Tensor:
        """Let what is between two cores flow."""
        (r, b, _), (s, _, _) = left.shape, right.shape

        def product(v: Tensor) -> Tensor:
            t = (left.reshape(r * b, r) @ v.reshape(bond.shape)).reshape(r, b * s)
            return (t @ right.reshape(s, b * s).mT).flatten()

        return exponential_times(product, bond.flatten(), time, tol=tol).reshape(bond.shape)
