"""The train that a half sweep of the cross approximation makes, with the scale of its values aside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.numerics.linalg import triangular_factor
from ttnet.numerics.scales import split_scale, times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.trains.evaluation import Slices
from ttnet.trains.tensor_train import TensorTrain


@dataclass(frozen=True)
class Interpolant:
    """A train whose cores hold coefficients, with which pivots make up the rest, but for one that holds values.

    No coefficient is much larger than one, and those of the pivots themselves are one. So once the scale of the values
    is split off, products of its cores need nothing of what trains of any cores go through first
    (`ttnet.numerics.train_scales.even_bonds`).

    Attributes:
        cores: Each (r, n, r'), of float64 or complex128.
        exponent: The train is that of the cores times 2**exponent.

    Example:
        >>> core = torch.ones(1, 2, 1, dtype=torch.float64)
        >>> Interpolant.of([core, 3e300 * core], valued=-1).train().full()
        tensor([[3.0000e+300, 3.0000e+300],
                [3.0000e+300, 3.0000e+300]], dtype=torch.float64)
    """

    cores: Sequence[Tensor]
    exponent: int

    @staticmethod
    def of(cores: Sequence[Tensor], *, valued: int) -> Interpolant:
        """Take the scale of the values out.

        Args:
            cores: Those of the train.
            valued: The position of the one that holds values.

        Returns:
            The same train.
        """
        scaled, exponent = split_scale(cores[valued])
        cores = list(cores)
        cores[valued] = scaled
        return Interpolant(cores, int(exponent))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks, the outer ones included."""
        return (1, *(core.shape[2] for core in self.cores))

    def train(self) -> TensorTrain:
        """Give it as a train like any other."""
        return TensorTrain(join_scale(self.cores, self.exponent, self.cores[0].dtype))

    def slices(self) -> Slices:
        """Give what `scaled_entries` takes."""
        steps = [torch.zeros(core.shape[1], dtype=torch.int64, device=core.device) for core in self.cores]
        steps[0] = steps[0] + self.exponent
        return [(core.movedim(1, 0).contiguous(), step) for core, step in zip(self.cores, steps, strict=True)]

    def change_from(self, other: Interpolant) -> float:
        """Compute the norm of the difference from another train of the shape, relative to the own norm.

        The columns of both trains stand side by side, as in the core of their sum, and go through one orthogonalisation
        from the left; so nothing cancels but in the last difference.

        Args:
            other: The other train.

        Returns:
            The ratio, with 0 / 0 = 0.

        Example:
            >>> core = torch.ones(1, 2, 1, dtype=torch.float64)
            >>> one, two = (Interpolant.of([core, scale * core], valued=1) for scale in (1, 2))
            >>> round(one.change_from(two), 12)
            1.0
        """
        left = self.cores[0].new_ones(1, 2)
        own, its = self.exponent, other.exponent
        for core, others in zip(self.cores, other.cores, strict=True):
            a, step = split_scale(_times(left[:, : core.shape[0]], core))
            b, its_step = split_scale(_times(left[:, core.shape[0] :], others))
            own, its = own + int(step), its + int(its_step)
            left = triangular_factor(torch.cat([a, b], dim=1))
        norm = float(torch.linalg.vector_norm(a))
        if not norm:
            return math.inf if b.any() else 0.0
        return float(torch.linalg.vector_norm(a - times_power_of_two(b, its - own))) / norm


def _times(
    left: Tensor,  # (k, r)
    core: Tensor,  # (r, n, r')
) -> Tensor:  # (k n, r')
    return (left @ core.flatten(1)).reshape(-1, core.shape[2])
