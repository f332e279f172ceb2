"""The search for ranks of trains that are fitted to samples: held-out ones decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from ttnet.solvers.result import SolverProgress, SolverStatus
from ttnet.solvers.sampled import Level, Measurements, attainable, enlarged, least_squares
from ttnet.trains.tensor_train import TensorTrain

LEVEL_SWEEPS = 30  # at most, for one choice of ranks
SLOW = 0.9  # a sweep that leaves more than this share of the training error is slow,
STILL = 0.99  # and one that leaves more than this share counts as two;
SLOW_SWEEPS = 4  # as many of them one after the other end a level,
HOPELESS = 100  # as does a held-out error so many times the least one
PATIENCE = 3  # how many times all ranks may grow without gain
GAIN = 0.9  # the share of the held-out error that larger ranks have to come down to
SHARES = (0.5, 1.0, 2.0)  # of the held-out error, that the directions left out may make up,
TOLD = 0.7  # and the error from which on samples have told nothing
FAR = 100  # times tol: a held-out error that is worth another start,
FURTHER_STARTS = 5  # at most,
ALIKE = 1.3  # and none after two that come to errors of about the same size, as they do where noise is what is left


@dataclass
class Adaptation:
    """A search for ranks: fits to most samples, and held-out ones that decide.

    Ranks grow, all by one as long as the held-out error comes down with them, then each on its own; and directions no
    larger than the error are left out again, which may lead out of a fit to what is not there. A search that ends with
    a large error has met noise, or was led astray by what it found first: others, from other cores of rank 1, tell, and
    the best counts. Source:
    Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", section 4.4; Grasedyck, Kluge,
    Krämer 2015, "Variants of alternating least squares tensor completion in the tensor train format".

    Attributes:
        samples: Those to fit.
        values: The numbers there, (samples,).
        held: Those that are held out.
        held_values: The numbers there.
        cores: Where to begin.
        bounds: The largest rank of each inner bond, or None.
        tol: The relative held-out error to reach.
        max_sweeps: The largest number of sweeps.
        generator: Draws new directions.
        callback: As for the solvers.
        level: Fits cores of fixed ranks.
        again: The same for further starts, or None for `level`.
        wider: Cores of larger ranks to go on from where `cores` need no more sweeps, or None.
        error: The least held-out error so far, that of `cores`.
        history: One record a sweep.
    """

    samples: Measurements
    values: Tensor
    held: Measurements
    held_values: Tensor
    cores: list[Tensor]
    bounds: list[int | None]
    tol: float
    max_sweeps: int
    generator: torch.Generator
    callback: Callable[[SolverProgress], object] | None
    level: Level = least_squares
    again: Level | None = None
    wider: list[Tensor] | None = None
    error: float = math.inf
    history: list[SolverProgress] = field(default_factory=list)

    def run(self) -> SolverStatus:
        """Search until the held-out error is small enough, or nothing brings it down; `cores` are the best so far."""
        status = self._search()
        for _ in range(FURTHER_STARTS):
            before = self.error, self.cores
            if status is not None or self._is_full() or self.error <= FAR * self.tol:
                break
            outer = [core.new_empty(1, core.shape[1], 1) for core in self.cores]
            self.error, self.cores, self.level = math.inf, self._drawn(outer), self.again or self.level
            try:
                status = self._search()
            finally:  # also where an exception ends it
                found = self.error
                if before[0] <= found:
                    self.error, self.cores = before
            if max(found, before[0]) <= ALIKE * min(found, before[0]):
                break
        if status is None:
            return SolverStatus.MAX_RANK if self._is_full() else SolverStatus.DATA_SPENT
        return status

    def _search(self) -> SolverStatus | None:
        """Search from the cores; None where nothing brings the error down any further."""
        bonds = range(len(self.cores) - 1)
        if self.wider is None:
            status = self._level(self.cores)
        else:
            self.error, wider, self.wider = self.held_error(self.cores), self.wider, None
            status = self._level(wider)
        failures, current = 0, self.cores
        while status is None and failures < PATIENCE:  # all ranks by one, also where the first steps do not help
            larger = self._enlarged(current, bonds)
            if larger is None:
                break
            before = self.error
            status = self._level(larger)
            if status is None and self.error >= GAIN * before:  # what was there may have led astray
                status = self._level(self._drawn(larger))
            failures = 0 if self.error < GAIN * before else failures + 1
            current = self.cores if failures == 0 else larger
        gained = True
        while status is None and gained:
            start = self.error
            for step in (self._larger, self._smaller):
                status = step() if status is None else status
            gained = self.error < GAIN * start
        return status

    def _larger(self) -> SolverStatus | None:
        """Let ranks grow, each on its own, as long as that brings the error down."""
        gained = True
        while gained:
            gained = False
            for bond in range(len(self.cores) - 1):
                larger = self._enlarged(self.cores, [bond])
                if larger is None:
                    continue
                before = self.error
                status = self._level(larger)
                if status is not None:
                    return status
                gained |= self.error < GAIN * before
        return None

    def _smaller(self) -> SolverStatus | None:
        """Leave out directions that are no larger than the error, which samples do not tell, and fit the others."""
        for share in SHARES:
            train = TensorTrain(self.cores)
            if self.error >= TOLD or train.ndim == 1:
                break
            smaller = train.round(eps=min(share * self.error, TOLD))
            if smaller.ranks != train.ranks:
                status = self._level([core.contiguous() for core in smaller.cores])
                if status is not None:
                    return status
        return None

    def _level(self, cores: list[Tensor]) -> SolverStatus | None:
        """Fit cores of fixed ranks; keep the best of them."""
        last, slow, best = math.inf, 0, self.error
        size = float(torch.linalg.vector_norm(self.values))
        for found, missed in islice(self.level(self.samples, self.values, cores), LEVEL_SWEEPS):
            error = self.held_error(found)
            if error < self.error:
                self.error, self.cores = error, list(found)
            ranks = (1, *(core.shape[2] for core in found))
            self.history.append(SolverProgress(len(self.history) + 1, ranks, error, math.inf))
            stopped = self.callback is not None and bool(self.callback(self.history[-1]))
            if self.error <= self.tol:
                return SolverStatus.CONVERGED
            if stopped:
                return SolverStatus.STOPPED
            if len(self.history) == self.max_sweeps:
                return SolverStatus.MAX_SWEEPS
            slow = slow + 1 + (missed > STILL * last) if missed > SLOW * last else 0
            # Products that have found what there is of them get no better; near none of it they may yet.
            patience = 1 if max(ranks) == 1 and missed < SLOW * size else SLOW_SWEEPS
            if slow >= patience or (math.isfinite(best) and error > HOPELESS * self.error):
                return None
            last = missed
        return None

    def held_error(self, cores: Sequence[Tensor]) -> float:
        """Give the relative error of cores on the samples that are held out."""
        size = float(torch.linalg.vector_norm(self.held_values))
        error = float(torch.linalg.vector_norm(self.held.values(cores) - self.held_values))
        return error / size if size else error

    def _enlarged(self, cores: Sequence[Tensor], bonds: Sequence[int]) -> list[Tensor] | None:
        """Give cores with one more index of some bonds, which does not yet change the tensor; None if full."""
        ranks = [core.shape[2] for core in cores[:-1]]
        sizes = self.samples.sizes
        wanted = [rank + (bond in bonds) for bond, rank in enumerate(ranks)]
        capped = [rank if bound is None else min(rank, bound) for rank, bound in zip(wanted, self.bounds, strict=True)]
        wanted = attainable(capped, sizes)
        outer = [1, *wanted, 1]
        unknowns = sum(r * n * s for r, n, s in zip(outer, sizes, outer[1:], strict=False))
        unknowns -= sum(rank * rank for rank in wanted)
        if wanted == ranks or any(a < b for a, b in zip(wanted, ranks, strict=True)) or unknowns > self.samples.count:
            return None
        extra = [most - rank for most, rank in zip(wanted, ranks, strict=True)]
        return enlarged(self.samples, cores, self.values - self.samples.values(cores), extra, self.generator)

    def _drawn(self, like: Sequence[Tensor]) -> list[Tensor]:
        """Give random cores of the shapes of others, of a tensor about as large as the numbers."""
        drawn = [torch.randn(core.shape, dtype=core.dtype, generator=self.generator) for core in like]
        drawn = [core.to(like[0].device) / math.sqrt(core.shape[0]) for core in drawn]
        return [*drawn[:-1], drawn[-1] * (torch.linalg.vector_norm(self.values) / math.sqrt(len(self.values)))]

    def _is_full(self) -> bool:
        ranks = [core.shape[2] for core in self.cores[:-1]]
        return any(rank == bound for rank, bound in zip(ranks, self.bounds, strict=True))
