"""The train that a half sweep of the cross approximation makes, with the scale of its values aside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition.black_box import Indices, Values, norm
from ttnet.numerics.linalg import column_basis, triangular_factor
from ttnet.numerics.scales import compute_dtype, split_scale, times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.rounding.budget import RelativeBudget
from ttnet.trains.evaluation import scaled_entries
from ttnet.trains.tensor_train import TensorTrain

_SAFE = 300  # the largest power of two of values whose products are formed as they are
_CHUNK = 2**17  # numbers in a table of products, or of those that are looked up in it at a time


@dataclass(frozen=True)
class Interpolant:
    """A train whose cores hold coefficients, with which pivots make up the rest, but for one that holds values.

    No coefficient is much larger than one, and those of the pivots themselves are one. So once the scale of the values
    is split off, products of its cores need nothing of what trains of any cores go through first
    (`ttnet.numerics.train_scales.even_bonds`). The same holds once it is rounded, with orthonormal columns in the place
    of coefficients.

    Attributes:
        cores: Each (r, n, r'), on the CPU; of float64 or complex128, or of the dtype that it was rounded in.
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
        dtype = self.cores[0].dtype
        return TensorTrain(join_scale([core.to(compute_dtype(dtype)) for core in self.cores], self.exponent, dtype))

    def rounded(self, *, eps: float, max_ranks: Sequence[int | None], dtype: torch.dtype) -> Interpolant:
        """Round it, and cast it while the scale of its values is aside.

        As `ttnet.rounding.exact.round_exactly`, with fewer calls: the scales and the bonds of any train need more care.
        Single precision may hold every entry, but not the norm, which is in one core now.

        Args:
            eps: The relative error bound.
            max_ranks: The largest rank of each inner bond, or None.
            dtype: The dtype of the new cores.

        Returns:
            The rounded one.

        Example:
            >>> core = torch.ones(2, 2, 2, dtype=torch.float64)
            >>> x = Interpolant.of([core[:1], core, core[:, :, :1]], valued=-1)
            >>> x.rounded(eps=1e-6, max_ranks=[None, None], dtype=torch.float32).ranks
            (1, 1, 1, 1)
        """
        cores = [core.numpy() for core in self.cores]
        budget = RelativeBudget(eps=eps, max_ranks=max_ranks, dtype=self.cores[0].dtype)
        carried, exponent = np.ones((1, 1)), self.exponent  # (s, r)
        found = []
        for core, factor in zip(cores[:-1], _right_factors(cores), strict=True):
            c = _times(carried, core)  # (s n, r')
            image = torch.from_numpy(c @ factor)
            budget.measure(image)
            u, tail = column_basis(image, *budget.allowance(min(image.shape)))
            budget.spend(tail)
            found.append(u.reshape(len(carried), core.shape[1], -1))
            carried, step = _near_one((u.mH @ torch.from_numpy(c)).numpy())
            exponent += step
        last, by = split_scale(torch.from_numpy(_times(carried, cores[-1]).reshape(len(carried), -1, 1)))
        return Interpolant([core.to(dtype) for core in [*found, last]], exponent + int(by))

    def entries(
        self,
        indices: Indices,  # (batch, d)
        exponent: int,
    ) -> Values:
        """Give entries times a power of two.

        Args:
            indices: Those of the entries, at least one of them.
            exponent: The entries are multiplied by 2**exponent, to be no larger than some few.

        Returns:
            An array of shape (batch,). What is below 1e-200 may count as zero.

        Example:
            >>> core = torch.ones(1, 2, 1, dtype=torch.float64)
            >>> Interpolant.of([core, 3e300 * core], valued=-1).entries(np.array([[0, 1]]), -1000)
            array([0.279...])
        """
        double = torch.complex128 if self.cores[0].is_complex() else torch.float64
        cores, total = [core.to(double) for core in self.cores], self.exponent + exponent
        # Coefficients are of size one, so that products of them are lost only where they are nothing beside the others.
        if total <= _SAFE:
            values: Values = times_power_of_two(_products(cores, torch.from_numpy(indices)), total).numpy()
            if np.isfinite(values).all():
                return values
        steps = [torch.zeros(core.shape[1], dtype=torch.int64, device="cpu") for core in cores]
        steps[0] += self.exponent
        slices = [(core.movedim(1, 0).contiguous(), step) for core, step in zip(cores, steps, strict=True)]
        return scaled_entries(slices, torch.from_numpy(indices), exponent).numpy()

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
        left = np.ones((1, 2))
        own, its = self.exponent, other.exponent
        for core, others in zip(self.cores, other.cores, strict=True):
            a, step = _near_one(_times(left[:, : core.shape[0]], core.numpy()))
            b, its_step = _near_one(_times(left[:, core.shape[0] :], others.numpy()))
            own, its = own + step, its + its_step
            left = triangular_factor(torch.from_numpy(np.concatenate([a, b], axis=1))).numpy()
        if not a.any():
            return math.inf if b.any() else 0.0
        scaled = times_power_of_two(torch.from_numpy(b), its - own).numpy()
        return norm(a - scaled) / norm(a)


def _right_factors(
    cores: Sequence[Values],  # each (r, n, r')
) -> list[Values]:
    """Give, for each inner bond, an `f` of shape (r, q), of any scale, with `f f^H` that of what lies on its right."""
    factor = np.ones((1, 1))
    factors = []
    for core in reversed(cores[1:]):
        factor = (core.reshape(-1, core.shape[2]) @ factor).reshape(len(core), -1)
        if factor.shape[0] < factor.shape[1]:
            factor = triangular_factor(torch.from_numpy(factor.T)).numpy().T
        factor, _ = _near_one(factor)
        factors.append(factor)
    return factors[::-1]


def _times(
    left: Values,  # (k, r)
    core: Values,  # (r, n, r')
) -> Values:  # (k n, r')
    return (left @ core.reshape(len(core), -1)).reshape(-1, core.shape[2])


def _near_one(
    x: Values,  # (m, n)
) -> tuple[Values, int]:
    """Split a power of two off numbers that are far from one."""
    if 1e-50 < norm(x) < 1e50:
        return x, 0
    scaled, exponent = split_scale(torch.from_numpy(x))
    return scaled.numpy(), int(exponent)


def _products(
    cores: Sequence[Tensor],  # each (r, n, r')
    indices: Tensor,  # (batch, d)
) -> Tensor:  # (batch,)
    """Multiply the slices of cores at indices; those of neighbours are one core where that has few slices for it."""
    cores, columns, count = list(cores), list(indices.T.contiguous()), len(indices)

    def join(k: int) -> bool:
        a, b = cores[k : k + 2]
        size = a.shape[1] * b.shape[1]
        if size > count or len(a) * size * b.shape[2] > _CHUNK:
            return False
        cores[k : k + 2] = [(a.flatten(0, 1) @ b.flatten(1)).reshape(len(a), size, -1)]
        columns[k : k + 2] = [columns[k] * b.shape[1] + columns[k + 1]]
        return True

    # At the ends first, where there are vectors in the place of matrices.
    while len(cores) > 1 and join(0):
        pass
    while len(cores) > 1 and join(len(cores) - 2):
        pass
    k = 1
    while k < len(cores) - 2:
        k += not join(k)
    values = cores[0][0].index_select(0, columns[0])  # (batch, r)
    for core, column in zip(cores[1:], columns[1:], strict=True):
        slices = core.movedim(1, 0).contiguous()  # (n, r, r')
        if core.shape[2] == 1:
            values = (values * slices[:, :, 0].index_select(0, column)).sum(1, keepdim=True)
            continue
        rows = max(1, _CHUNK // (len(core) * core.shape[2]))
        pairs = zip(values.split(rows), column.split(rows), strict=True)
        values = torch.cat([(part[:, None] @ slices.index_select(0, at))[:, 0] for part, at in pairs])
    return values[:, 0]
