"""The error budget of a train whose norm comes to light bond by bond, and may be no number of its dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.numerics.truncation import ErrorBudget


class RelativeBudget:
    """What each bond may lose, in whatever unit its unfolding is given.

    The squared norm of what is still there is that of the train less what was cut off. So each unfolding's own norm
    tells how large the train's is in its unit, and no scale has to be carried along.

    Args:
        eps: The relative error bound, at least 0; from 1 on, every rank is 1.
        max_ranks: The largest rank of each inner bond.
        dtype: The dtype of the user's numbers, which sets their precision.

    Attributes:
        norm: The Frobenius norm of the unfolding last measured.
        unit: The norm of the whole train in the unit of that unfolding.
        is_forced: Whether any bond lost more than its allowance, as `max_rank` demands.

    Example:
        >>> budget = RelativeBudget(eps=0.5, max_ranks=[None, None], dtype=torch.float64)
        >>> budget.measure(torch.full((2, 2), 1e3))
        >>> budget.unit, budget.allowance(2)
        (2000.0, (707.1..., None))
        >>> budget.spend(0.0)
    """

    def __init__(self, *, eps: float, max_ranks: Sequence[int | None], dtype: torch.dtype) -> None:
        self._budget = ErrorBudget(norm=1.0, eps=eps, max_ranks=max_ranks, dtype=dtype)
        self._kept = 1.0
        self._allowance = 0.0
        self.norm = self.unit = 1.0
        self.is_forced = False

    def measure(
        self,
        matrix: Tensor,  # (m, n): the unfolding at the next bond, of entries neither huge nor tiny
    ) -> None:
        """Take the unit of the next bond from its unfolding.

        Args:
            matrix: The unfolding, or any other with the same singular values.
        """
        double = torch.complex128 if matrix.is_complex() else torch.float64
        self.norm = float(torch.linalg.vector_norm(matrix.detach(), dtype=double))
        self.unit = self.norm / self._kept or 1.0

    def allowance(self, size: int) -> tuple[float, int | None]:
        """Say how far the bond last measured may be cut.

        Args:
            size: The shorter side of its unfolding.

        Returns:
            The largest Frobenius norm of what is cut off, in the bond's unit, and the largest rank or None.
        """
        share, max_rank = self._budget.allowance(size)
        self._allowance = share * self.unit
        return self._allowance, max_rank

    def spend(self, tail: float, doubt: float = 0.0) -> None:
        """Note what the bond last measured was cut by.

        Args:
            tail: The Frobenius norm of what was cut off, in the bond's unit.
            doubt: That of what may have to be added to it, orthogonal to it.
        """
        self.is_forced |= tail > self._allowance
        self._budget.spend(math.hypot(tail, doubt) / self.unit)
        if self.norm:
            # The largest singular value is always kept, so this never cancels; and far below there is only noise.
            self._kept = max(1e-200, self._kept * math.sqrt(max(0.0, 1 - (tail / self.norm) ** 2)))
