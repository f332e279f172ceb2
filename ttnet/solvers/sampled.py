"""Trains fitted to numbers at samples, core by core: what completion and regression share.

A sample looks at a train through one vector per mode: a unit vector where it is an entry, the values of basis functions
where it is a point. With all cores but one fixed, the train is linear in that one, and least squares give it; with
orthogonal cores around it these are as well conditioned as the samples allow. Every core is corrected by the solution
for what the samples still miss, so the normal equations do not limit the accuracy.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ttnet.solvers.manifold import retract_cores
from ttnet.solvers.tangent_space import TangentSpace, TangentVector

CG_STEPS = 5  # count as a sweep
SUBSPACE_STEPS = 2  # towards new directions
RIDGE = 1e-13  # times the mean square of the samples' vectors, added to the normal equations


class Measurements(ABC):
    """Measurements of a tensor, seen mode by mode."""

    sizes: tuple[int, ...]
    count: int

    @abstractmethod
    def contract(
        self,
        mode: int,
        core: Tensor,  # (r, n, r')
        left: Tensor,  # (samples, r)
    ) -> Tensor:
        """Carry vectors from the left of a core to its right, (samples, r')."""

    @abstractmethod
    def correct(
        self,
        mode: int,
        left: Tensor,  # (samples, r)
        right: Tensor,  # (samples, r')
        missed: Tensor,  # (samples,)
        ridge: float,
    ) -> tuple[Tensor, Tensor]:
        """Give what to add to a core, (r, n, r'), for the samples to miss least, and what they see of it."""

    @abstractmethod
    def scatter(
        self,
        mode: int,
        left: Tensor,  # (samples, r)
        right: Tensor,  # (samples, r')
        weights: Tensor,  # (samples,)
    ) -> Tensor:
        """Sum the derivatives of the samples by a core, each times a weight, (r, n, r')."""

    @abstractmethod
    def take(self, which: Tensor) -> Measurements:
        """Give some of the samples, by their numbers."""

    @abstractmethod
    def mirrored(self) -> Measurements:
        """Give the samples with the order of modes turned round."""

    def values(self, cores: Sequence[Tensor]) -> Tensor:
        """Give what a train is at the samples, (samples,)."""
        vectors = cores[0].new_ones(self.count, 1)
        for mode, core in enumerate(cores):
            vectors = self.contract(mode, core, vectors)
        return vectors[:, 0]


def solve_normal(
    rows: Tensor,  # (..., samples, q)
    missed: Tensor,  # (..., samples, 1)
    ridge: float,
) -> Tensor:  # (..., q, 1)
    """Solve least squares by the normal equations, a little regularised; several problems at once.

    Args:
        rows: The matrices.
        missed: The right-hand sides.
        ridge: What is added to the squares of the singular values, at least.

    Returns:
        The solutions.

    Example:
        >>> solve_normal(torch.eye(2), torch.tensor([[3.0], [4.0]]), 0.0)[:, 0]
        tensor([3.0000, 4.0000])
    """
    gram = rows.mH @ rows
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    least = 4 * gram.shape[-1] * torch.finfo(gram.dtype).eps * diagonal.real.amax(-1, keepdim=True)
    added = least.clamp_min(ridge)
    diagonal += torch.where(added > 0, added, 1.0)
    return torch.cholesky_solve(rows.mH @ missed, torch.linalg.cholesky(gram))


def half_sweep(
    samples: Measurements,
    cores: list[Tensor],  # each (r, n, r')
    rights: list[Tensor],  # each (samples, r')
    missed: Tensor,  # (samples,)
) -> list[Tensor]:
    """Correct all cores in turn, from left to right, in place.

    Args:
        samples: The samples.
        cores: The cores, right-orthogonal but for the first; afterwards left-orthogonal but for the last.
        rights: For each core the vectors to its right.
        missed: What the train lacks at the samples; brought up to date.

    Returns:
        For each core the vectors to its left.
    """
    lefts = [missed.new_ones(len(missed), 1)]
    for k, core in enumerate(cores):
        left, right = lefts[-1], rights[k]
        size = float(torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right))
        ridge = RIDGE * size**2 / (right.numel() * core.shape[1])
        step, seen = samples.correct(k, left, right, missed, ridge)
        missed -= seen
        cores[k] = core + step
        if k + 1 < len(cores):
            q, r = torch.linalg.qr(cores[k].flatten(0, 1))
            cores[k] = q.reshape(core.shape[0], core.shape[1], -1)
            cores[k + 1] = torch.tensordot(r, cores[k + 1], 1)
            lefts.append(samples.contract(k, cores[k], left))
    return lefts


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
    missed = values - samples.values(cores)
    while True:
        for forward, side in enumerate(sides):
            cores, rights = mirrored_cores(cores), lefts[::-1]
            lefts = half_sweep(side, cores, rights, missed)
            yield (list(cores) if forward else mirrored_cores(cores)), float(torch.linalg.vector_norm(missed))


def _orthogonalised(samples: Measurements, cores: list[Tensor], like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Make all cores but the last left-orthogonal; give the vectors left of each, too."""
    done, lefts = list(cores), [like.new_ones(samples.count, 1)]
    for k in range(len(done) - 1):
        q, r = torch.linalg.qr(done[k].flatten(0, 1))
        done[k] = q.reshape(done[k].shape[0], done[k].shape[1], -1)
        done[k + 1] = torch.tensordot(r, done[k + 1], 1)
        lefts.append(samples.contract(k, done[k], lefts[-1]))
    return done, lefts


def conjugate_gradients(
    samples: Measurements, values: Tensor, cores: list[Tensor]
) -> Iterator[tuple[list[Tensor], float]]:
    """Fit cores by nonlinear conjugate gradients on the manifold of their ranks, some steps at a time; see `Level`.

    Source: Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", Algorithm 1.

    Args:
        samples: The samples.
        values: The numbers there, (samples,).
        cores: Where to begin.

    Yields:
        The cores, and the norm of what they miss.
    """
    direction: TangentVector | None = None
    last: TangentVector | None = None
    missed = values - samples.values(cores)
    for step in itertools.count(1):
        space = TangentSpace(cores)
        descent = projected(samples, space, missed)
        if direction is None or last is None:
            direction = descent
        else:  # Polak-Ribiere, begun anew where it would not go down
            carried, before = (space.project_cores(each.train().cores) for each in (direction, last))
            growth = descent.dot(descent - before).real / last.dot(last).real
            direction = descent + carried * max(0.0, float(growth))
            direction = direction if float(descent.dot(direction).real) > 0 else descent
        last = descent
        ahead = samples.values(direction.train().cores)
        size = torch.vdot(ahead, ahead).real
        if not size > 0:
            yield cores, float(torch.linalg.vector_norm(missed))
            continue
        length = float(torch.vdot(ahead, missed).real / size)
        cores = retract_cores(direction * length)
        missed = values - samples.values(cores)
        if step % CG_STEPS == 0:
            yield cores, float(torch.linalg.vector_norm(missed))


def projected(
    samples: Measurements,
    space: TangentSpace,
    weights: Tensor,  # (samples,)
) -> TangentVector:
    """Project onto a tangent space the tensor that has weighted samples for its inner products.

    Args:
        samples: The samples.
        space: The tangent space.
        weights: A number for each sample; for entries, the tensor has these there, and zeros elsewhere.

    Returns:
        The projection: times -1, the Riemannian gradient of half the squared errors, if the weights are what is missed.

    Example:
        >>> import ttnet
        >>> from ttnet.solvers.completion import IndexSamples
        >>> space = TangentSpace(ttnet.ones((2, 3)).cores)
        >>> projected(IndexSamples(torch.tensor([[0, 0]]), (2, 3)), space, torch.ones(1)).norm()
        tensor(0.8165)
    """
    mirror = samples.mirrored()
    rights = [weights.new_ones(samples.count, 1)]
    for k, core in enumerate(mirrored_cores(space.right)[:-1]):
        rights.append(mirror.contract(k, core, rights[-1]))
    left = weights.new_ones(samples.count, 1)
    cores = []
    for k, right in enumerate(reversed(rights)):
        cores.append(samples.scatter(k, left, right, weights))
        if k + 1 < len(rights):
            left = samples.contract(k, space.left[k], left)
    return space.gauged(cores)


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
        >>> from ttnet.solvers.completion import IndexSamples
        >>> samples, y = IndexSamples(torch.tensor([[0, 0], [1, 1]]), (2, 2)), torch.tensor([0.0, 3.0])
        >>> cores = [torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[1.0], [0.0]]])]
        >>> larger = enlarged(samples, cores, y - samples.values(cores), [1], torch.Generator().manual_seed(0))
        >>> larger[0][0, :, 1].abs(), bool(larger[1][1].any())
        (tensor([0., 1.]), False)
    """
    back, order = samples.mirrored(), len(cores)
    mirrored, rights = _orthogonalised(back, mirrored_cores(cores), missed)
    done, rights = mirrored_cores(mirrored), rights[::-1]
    left = rights[-1]
    for k, more in enumerate(extra):
        rank, size, after = done[k].shape
        unfolding = done[k].flatten(0, 1)
        if more:
            following = done[k + 1].shape[1:]
            probe = torch.randn(*following, more + 2, dtype=unfolding.dtype, generator=generator).to(unfolding.device)
            for turn in range(SUBSPACE_STEPS):
                beyond = back.contract(order - 2 - k, probe.permute(1, 0, 2), rights[k + 1])
                gradient = samples.scatter(k, left, beyond, missed).flatten(0, 1)
                column = torch.linalg.svd(gradient, full_matrices=False)[0]  # the most important first
                if turn + 1 < SUBSPACE_STEPS:
                    before = samples.contract(k, column.reshape(rank, size, -1), left)
                    both = samples.scatter(k + 1, before, rights[k + 1], missed).permute(1, 2, 0)
                    probe = torch.linalg.qr(both.flatten(0, 1))[0]
                    probe = probe.reshape(*following, -1)
            unfolding = torch.cat([unfolding, column[:, :more]], 1)
        q, r = torch.linalg.qr(unfolding)
        done[k] = q.reshape(rank, size, -1)
        done[k + 1] = torch.tensordot(r[:, :after], done[k + 1], 1)
        left = samples.contract(k, done[k], left)
    return done
