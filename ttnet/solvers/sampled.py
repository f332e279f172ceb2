"""Trains fitted to numbers at samples, core by core: what completion and regression share.

A sample looks at a train through one vector per mode: a unit vector where it is an entry, the values of basis functions
where it is a point. With all cores but one fixed, the train is linear in that one, and least squares give it; with
orthogonal cores around it these are as well conditioned as the samples allow. Every core is corrected by the solution
for what the samples still miss, so the normal equations do not limit the accuracy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr, thin_svd

SUBSPACE_STEPS = 2  # towards new directions
RIDGE = 1e-13  # times the mean square of the samples' vectors, added to the normal equations


class Measurements(ABC):
    """Measurements of a tensor, seen mode by mode.

    What belongs to samples is held in the order that a mode wants it in, and passed on from one mode to the next; after
    the last it is in that of the samples. Samples are columns, so that short vectors of many are multiplied at once.
    """

    sizes: tuple[int, ...]
    count: int

    @abstractmethod
    def arrange(
        self,
        mode: int,
        numbers: Tensor,  # (samples,)
    ) -> Tensor:
        """Bring numbers in the order of the samples into that of a mode; more may be filled up, with zeros."""

    @abstractmethod
    def pass_on(
        self,
        mode: int,
        columns: Tensor,  # (r, samples)
    ) -> Tensor:
        """Bring columns from the order of a mode into that of the next one, or after the last of the samples."""

    @abstractmethod
    def contract(
        self,
        mode: int,
        core: Tensor,  # (r, n, r')
        left: Tensor,  # (r, samples)
    ) -> Tensor:
        """Carry vectors from the left of a core to its right, (r', samples), into the order of the next mode."""

    @abstractmethod
    def see(
        self,
        mode: int,
        core: Tensor,  # (r, n, r')
        left: Tensor,  # (r, samples)
        right: Tensor,  # (r', samples)
    ) -> Tensor:
        """Give what the samples see of a core between vectors, (1, samples), in the order of its mode."""

    @abstractmethod
    def correct(
        self,
        mode: int,
        left: Tensor,  # (r, samples)
        right: Tensor,  # (r', samples)
        missed: Tensor,  # (1, samples)
        ridge: float,
    ) -> tuple[Tensor, Tensor]:
        """Give what to add to a core, (r, n, r'), for the samples to miss least, and what they miss then."""

    @abstractmethod
    def scatter(
        self,
        mode: int,
        left: Tensor,  # (r, samples)
        right: Tensor,  # (r', samples)
        weights: Tensor,  # (1, samples)
    ) -> Tensor:
        """Sum the derivatives of the samples by a core, each times a weight, (r, n, r')."""

    @abstractmethod
    def take(self, which: Tensor) -> Measurements:
        """Give some of the samples, by their numbers."""

    @abstractmethod
    def mirrored(self) -> Measurements:
        """Give the samples with the order of modes turned round."""

    def begin(
        self,
        like: Tensor,
    ) -> Tensor:  # (1, samples)
        """Give the vectors left of the first core."""
        return self.arrange(0, like.new_ones(self.count))[None]

    def values(self, cores: Sequence[Tensor]) -> Tensor:
        """Give what a train is at the samples, (samples,)."""
        vectors = self.begin(cores[0])
        for mode, core in enumerate(cores):
            vectors = self.contract(mode, core, vectors)
        return vectors[0]


def solve_normal(
    columns: Tensor,  # (..., q, samples)
    missed: Tensor,  # (..., samples, 1)
    ridge: float,
) -> Tensor:  # (..., q, 1)
    """Solve least squares by the normal equations, a little regularised; several problems at once.

    Args:
        columns: The matrices, transposed.
        missed: The right-hand sides.
        ridge: What is added to the squares of the singular values, at least.

    Returns:
        The solutions.

    Example:
        >>> solve_normal(torch.eye(2), torch.tensor([[3.0], [4.0]]), 0.0)[:, 0]
        tensor([3.0000, 4.0000])
    """
    adjoint = columns.conj()
    gram = adjoint @ columns.mT
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    least = 4 * gram.shape[-1] * torch.finfo(gram.dtype).eps * diagonal.real.amax(-1, keepdim=True)
    diagonal += least.clamp_min(max(ridge, torch.finfo(gram.dtype).tiny))
    return torch.cholesky_solve(adjoint @ missed, torch.linalg.cholesky(gram))


def half_sweep(
    samples: Measurements,
    cores: list[Tensor],  # each (r, n, r')
    rights: list[Tensor],  # each (r', samples)
    missed: Tensor,  # (1, samples)
) -> tuple[list[Tensor], Tensor]:
    """Correct all cores in turn, from left to right, in place.

    Args:
        samples: The samples.
        cores: The cores, right-orthogonal but for the first; afterwards left-orthogonal but for the last.
        rights: For each core the vectors to its right, in the order of its mode.
        missed: What the train lacks at the samples, in the order of the first mode.

    Returns:
        For each core the vectors to its left, in the order of its mode, and what the train still lacks, in that of the
        last.
    """
    lefts = [samples.begin(missed)]
    for k, core in enumerate(cores):
        left, right = lefts[-1], rights[k]
        size = float(torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right))
        ridge = RIDGE * size**2 / (right.shape[0] * samples.count * core.shape[1])
        step, missed = samples.correct(k, left, right, missed, ridge)
        cores[k] = core + step
        if k + 1 < len(cores):
            cores[k], cores[k + 1] = left_orthogonal(cores[k], cores[k + 1])
            lefts.append(samples.contract(k, cores[k], left))
            missed = samples.pass_on(k, missed)
    return lefts, missed


def left_orthogonal(
    core: Tensor,  # (r, n, s)
    following: Tensor,  # (s, m, t)
) -> tuple[Tensor, Tensor]:
    """Make a core left-orthogonal, and take the rest into the next one.

    Args:
        core: The core.
        following: The next one.

    Returns:
        The two, with the same product.

    Example:
        >>> q, following = left_orthogonal(torch.full((1, 4, 1), -2.0), torch.ones(1, 3, 1))
        >>> q.norm(), following.abs().flatten()
        (tensor(1.0000), tensor([4.0000, 4.0000, 4.0000]))
    """
    q, factor = plain_qr(core.flatten(0, 1))
    return q.view(*core.shape[:2], -1), (factor @ following.flatten(1)).view(-1, *following.shape[1:])


def mirrored_cores(cores: Sequence[Tensor]) -> list[Tensor]:
    """Turn the order of modes round.

    Args:
        cores: The cores of a train.

    Returns:
        Those of the same tensor with its modes in reverse.

    Example:
        >>> [core.shape for core in mirrored_cores([torch.ones(1, 2, 3), torch.ones(3, 4, 1)])]
        [torch.Size([1, 4, 3]), torch.Size([3, 2, 1])]
    """
    return [core.permute(2, 1, 0) for core in reversed(cores)]


def attainable(ranks: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Bring inner ranks down to what trains of a shape can have.

    Args:
        ranks: The inner ranks.
        sizes: The mode sizes.

    Returns:
        The inner ranks.

    Example:
        >>> attainable([5, 5], [2, 2, 3])
        [2, 3]
    """
    outer = [1, *ranks, 1]
    for k, size in enumerate(sizes[:-1]):
        outer[k + 1] = min(outer[k + 1], outer[k] * size)
    for k in range(len(sizes) - 1, 0, -1):
        outer[k] = min(outer[k], outer[k + 1] * sizes[k])
    return outer[1:-1]


Level = Callable[[Measurements, Tensor, list[Tensor]], Iterator[tuple[list[Tensor], float]]]
"""Fits cores of fixed ranks to numbers at samples: after each sweep gives the cores and the norm of what is missed."""


def least_squares(samples: Measurements, values: Tensor, cores: list[Tensor]) -> Iterator[tuple[list[Tensor], float]]:
    """Fit cores by alternating least squares, a half sweep at a time; see `Level`.

    Source: Grasedyck, Kluge, Krämer 2015, "Variants of alternating least squares tensor completion in the tensor train
    format", section 3.

    Args:
        samples: The samples.
        values: The numbers there, (samples,).
        cores: Where to begin.

    Yields:
        The cores, and the norm of what they miss.
    """
    sides = (samples.mirrored(), samples)
    # The first half sweep is one from the right: bases at the left may have directions that the tensor does not yet
    # use, which orthogonal bases at the right would lose.
    cores, lefts = _orthogonalised(samples, cores, values)
    found = samples.contract(len(cores) - 1, cores[-1], lefts[-1])[0]
    missed = sides[0].arrange(0, values - found)[None]
    while True:
        for forward, side in enumerate(sides):
            cores, rights = mirrored_cores(cores), lefts[::-1]
            lefts, missed = half_sweep(side, cores, rights, missed)
            yield (list(cores) if forward else mirrored_cores(cores)), float(torch.linalg.vector_norm(missed))


def _orthogonalised(samples: Measurements, cores: list[Tensor], like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Make all cores but the last left-orthogonal; give the vectors left of each, too, in the order of its mode."""
    done, lefts = list(cores), [samples.begin(like)]
    for k in range(len(done) - 1):
        done[k], done[k + 1] = left_orthogonal(done[k], done[k + 1])
        lefts.append(samples.contract(k, done[k], lefts[-1]))
    return done, lefts


def enlarged(
    samples: Measurements,
    cores: Sequence[Tensor],  # each (r, n, r')
    missed: Tensor,  # (samples,)
    extra: Sequence[int],
    generator: torch.Generator,
) -> list[Tensor]:
    """Give some bonds more indices, which do not yet change the tensor, for what the train lacks most.

    A new index of a bond is a column of the core before it. Of such, the best is the first singular vector of the
    derivative with respect to both cores beside the bond at once; subspace iterations find it.

    Args:
        samples: The samples.
        cores: The cores.
        missed: What the train lacks at the samples.
        extra: How many indices each bond gets.
        generator: Draws where to begin, on the CPU.

    Returns:
        The larger cores, left-orthogonal but for the last.

    Example:
        >>> from ttnet.solvers.entries import IndexSamples
        >>> samples, y = IndexSamples(torch.tensor([[0, 0], [1, 1]]), (2, 2)), torch.tensor([0.0, 3.0])
        >>> cores = [torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[1.0], [0.0]]])]
        >>> larger = enlarged(samples, cores, y - samples.values(cores), [1], torch.Generator().manual_seed(0))
        >>> larger[0][0, :, 1].abs(), bool(larger[1][1].any())
        (tensor([0., 1.]), False)
    """
    back, order = samples.mirrored(), len(cores)
    mirrored, rights = _orthogonalised(back, mirrored_cores(cores), missed)
    done, rights = mirrored_cores(mirrored), rights[::-1]
    left, here = samples.begin(missed), samples.arrange(0, missed)[None]
    for k, more in enumerate(extra):
        rank, size, after = done[k].shape
        unfolding, there = done[k].flatten(0, 1), samples.pass_on(k, here)
        if more:
            following = done[k + 1].shape[1:]
            probe = torch.randn(*following, more + 2, dtype=unfolding.dtype, generator=generator).to(unfolding.device)
            for turn in range(SUBSPACE_STEPS):
                beyond = back.contract(order - 2 - k, probe.permute(1, 0, 2), rights[k + 1])
                gradient = samples.scatter(k, left, beyond, here).flatten(0, 1)
                column = thin_svd(gradient)[0]  # the most important first
                if turn + 1 < SUBSPACE_STEPS:
                    before = samples.contract(k, column.reshape(rank, size, -1), left)
                    both = samples.scatter(k + 1, before, rights[k + 1], there).permute(1, 2, 0)
                    probe = plain_qr(both.flatten(0, 1))[0]
                    probe = probe.reshape(*following, -1)
            unfolding = torch.cat([unfolding, column[:, :more]], 1)
        q, r = plain_qr(unfolding)
        done[k] = q.reshape(rank, size, -1)
        done[k + 1] = torch.tensordot(r[:, :after], done[k + 1], 1)
        left, here = samples.contract(k, done[k], left), there
    return done
