"""Which ranks to spend a number of parameters on: what every bond would lose, and where a parameter gains most.

The squared error of a TT-SVD is at most the sum of what its bonds cut off (Oseledets 2011, "Tensor-Train
Decomposition", Theorem 2.2), and what a cut at a bond costs is known from the singular values of the unfolding there.
So ranks are raised one by one, each time where the error falls most for each parameter spent, over the bonds of one
matrix or of all matrices of a model. That alone would give up a large matrix of even singular values for others that
gain more, and a model is no better than its worst layer: a matrix that loses more than it keeps is served before.
"""

from __future__ import annotations

import heapq
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn.layout import Layout
from ttnet.numerics.scales import split_scale

_MOST_LOST = 0.5  # of a squared norm; beyond it more is lost than kept


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What a matrix loses when the bonds of its train are cut.

    Args:
        layout: The layout whose bonds they are; its ranks are 1.
        tails: For every inner bond the squared errors of cuts to rank 0, 1, 2, ..., relative to the squared norm.

    Example:
        >>> spectrum = Spectrum.of(torch.diag(torch.tensor([2.0, 1.0, 0.0])), Layout("aligned", (3,), (3,), (1, 1, 1)))
        >>> [round(tail, 3) for tail in spectrum.tails[0]]
        [1.0, 0.2, 0.0, 0.0]
    """

    layout: Layout
    tails: tuple[tuple[float, ...], ...]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        matrix: Tensor,  # (rows, cols)
        layout: Layout,
    ) -> Spectrum:
        """Work out the spectra of a matrix.

        Args:
            matrix: The matrix, of finite entries; whitened, if the error of an output is what counts.
            layout: Its modes; the ranks do not matter.

        Returns:
            The spectra, from the eigenvalues of Gram matrices in double precision, which is enough for squares.
        """
        tensor = train_tensor(
            split_scale(matrix)[0].to(torch.complex128 if matrix.is_complex() else torch.float64), layout
        )
        tails = []
        for bond in range(1, layout.order):
            unfolding = tensor.reshape(math.prod(layout.sizes[:bond]), -1)
            wide = unfolding if unfolding.shape[0] <= unfolding.shape[1] else unfolding.mH
            values = torch.linalg.eigvalsh(wide @ wide.mH).clamp(min=0)  # ascending
            sums = torch.cat([values.new_zeros(1), values.cumsum(0)]).flip(0)
            tails.append(tuple((sums / sums[0] if sums[0] > 0 else sums).tolist()))
        return cls(layout.with_ranks((1,) * (layout.order + 1)), tuple(tails))

    def bound(self, layout: Layout) -> float:
        """Bound the squared relative error of a TT-SVD with the ranks of a layout.

        Args:
            layout: The layout of the spectrum, with ranks.

        Returns:
            The bound.
        """
        return self._lost(layout.ranks)

    def _lost(self, ranks: Sequence[int]) -> float:
        return sum(tail[min(rank, len(tail) - 1)] for tail, rank in zip(self.tails, ranks[1:-1], strict=True))


def spend(spectra: Sequence[Spectrum], budget: int) -> list[Layout]:
    """Choose the ranks of the trains of some matrices within a common number of parameters.

    First the matrix that loses most is served, until none loses more than it keeps, which is half of its squared norm;
    what is left goes where the squared relative errors fall most for each parameter. So no matrix is given up for
    the others, though its parameters may gain less than theirs.

    Args:
        spectra: The spectra of the matrices.
        budget: The most parameters of all trains together.

    Returns:
        For each matrix the layout with the ranks chosen, each at least 1.

    Raises:
        TTTypeError: If the budget is no integer.
        TTValueError: If the budget does not suffice for ranks of 1.

    Example:
        >>> layout = Layout("aligned", (4,), (4,), (1, 1, 1))
        >>> flat, steep = torch.eye(4), torch.diag(torch.tensor([8.0, 1.0, 1.0, 1.0]))
        >>> [chosen.ranks for chosen in spend([Spectrum.of(m, layout) for m in (flat, steep)], 40)]
        [(1, 4, 1), (1, 1, 1)]
    """
    if isinstance(budget, bool) or not isinstance(budget, numbers.Integral):
        raise TTTypeError(f"budget is {budget!r}; expected a number of parameters, an integer.")
    left = int(budget) - sum(spectrum.layout.num_parameters for spectrum in spectra)
    if left < 0:
        raise TTValueError(f"budget is {budget}; expected at least {budget - left} parameters, which ranks of 1 take.")
    chosen = [[1] * (spectrum.layout.order + 1) for spectrum in spectra]
    # Minus the loss where it is too large, minus the gain a parameter, the matrix, its bond, the parameters.
    heap: list[tuple[float, float, int, int, int]] = []

    def offer(number: int) -> None:
        spectrum, ranks = spectra[number], chosen[number]
        best = _best_step(spectrum, ranks, left)
        if best is not None:
            lost = spectrum._lost(ranks)
            heapq.heappush(heap, (-lost if lost > _MOST_LOST else 0.0, -best[0], number, *best[1:]))

    for number in range(len(spectra)):
        offer(number)
    while heap:
        *_, number, bond, cost = heapq.heappop(heap)
        if cost <= left:
            chosen[number][bond] += 1
            left -= cost
        offer(number)
    return [spectrum.layout.with_ranks(ranks) for spectrum, ranks in zip(spectra, chosen, strict=True)]


def _best_step(spectrum: Spectrum, ranks: Sequence[int], left: int) -> tuple[float, int, int] | None:
    """Find the bond whose next rank gains most a parameter: the gain, the bond and its parameters."""
    sizes, best = spectrum.layout.sizes, None
    for bond in range(1, len(sizes)):
        rank, tail = ranks[bond], spectrum.tails[bond - 1]
        before, after = ranks[bond - 1] * sizes[bond - 1], sizes[bond] * ranks[bond + 1]
        cost = before + after
        # A rank above what its neighbours let through would be wasted until they grow.
        if rank >= min(before, after, len(tail) - 1) or cost > left:
            continue
        gain = (tail[rank] - tail[rank + 1]) / cost
        if tail[rank] > 1e-15 and gain > 0 and (best is None or gain > best[0]):
            best = gain, bond, cost
    return best


def train_tensor(
    matrix: Tensor,  # (rows, cols)
    layout: Layout,
) -> Tensor:  # (size_1, ..., size_d)
    """Reorder a matrix as the tensor whose train the layout is.

    Args:
        matrix: The matrix.
        layout: The modes.

    Returns:
        The tensor, of the shape `layout.sizes`.

    Example:
        >>> train_tensor(torch.ones(6, 4), Layout("interleaved", (2, 3), (2, 2), (1, 1, 1))).shape
        torch.Size([4, 6])
    """
    if layout.kind == "aligned":
        return matrix.reshape(layout.sizes)
    d = layout.order
    pairs = [axis for k in range(d) for axis in (k, d + k)]
    return matrix.reshape(*layout.row_modes, *layout.col_modes).permute(pairs).reshape(layout.sizes)
