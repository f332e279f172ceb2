"""Entries of a tensor as samples of it: for each mode sorted by the slices that they are in."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttnet.solvers.sampled import Measurements, solve_normal

FEW_SLICES = 2**15  # so many are sorted in one pass over the samples


class IndexSamples(Measurements):
    """Entries of a tensor.

    Args:
        indices: Where they are, (samples, d).
        sizes: The mode sizes.

    Example:
        >>> samples = IndexSamples(torch.tensor([[0, 2], [1, 0]]), (2, 3))
        >>> samples.values([torch.tensor([[[3.0], [4.0]]]), torch.ones(1, 3, 1)])
        tensor([3., 4.])
    """

    def __init__(self, indices: Tensor, sizes: Sequence[int]) -> None:
        self._indices, self.sizes, self.count = indices, tuple(sizes), len(indices)
        self._mirrored: IndexSamples | None = None
        self._sorted = [_Sorted(column, size) for column, size in zip(indices.T.contiguous(), sizes, strict=True)]
        self._ahead = self._ways()

    def _ways(self) -> list[Tensor]:
        """For each mode, where the samples of the next one are, or of all."""
        ways = [there.places.index_select(0, following.numbers) for there, following in pairwise(self._sorted)]
        return [*ways, self._sorted[-1].places]

    def arrange(self, mode: int, numbers: Tensor) -> Tensor:
        """Sort numbers by the slices of a mode, zeros being filled in."""
        there = self._sorted[mode]
        return numbers.index_select(0, there.numbers).mul_(there.mask)

    def pass_on(self, mode: int, columns: Tensor) -> Tensor:
        """Bring columns from the order of a mode into that of the next one, or after the last of the samples."""
        count = columns.shape[0]  # which is read sooner than len()
        if count == 1:
            moved = columns[0].index_select(0, self._ahead[mode])[None]
        else:
            moved = columns.gather(1, self._ahead[mode].expand(count, -1))
        return moved.mul_(self._sorted[mode + 1].mask) if mode + 1 < len(self.sizes) else moved

    def contract(self, mode: int, core: Tensor, left: Tensor) -> Tensor:
        """Carry vectors from the left of a core to its right, (r', samples), into the order of the next mode."""
        return self.pass_on(mode, self._through(mode, core, left))

    def _through(self, mode: int, core: Tensor, left: Tensor) -> Tensor:
        """Carry vectors from the left of a core to its right, in the order of its mode."""
        there = self._sorted[mode]
        if left.shape[0] == 1:  # numbers are multiplied sooner than matrices of one
            numbers = core[0].T[..., None]
            return there.join([numbers[:, block.slices] * block.of(left) for block in there.blocks], left)
        slices = core.permute(1, 2, 0)
        found = [(slices[block.slices] @ block.of(left).transpose(0, 1)).transpose(0, 1) for block in there.blocks]
        return there.join(found, left)

    def see(self, mode: int, core: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Give what the samples see of a core between vectors, (1, samples), in the order of its mode."""
        return (self._through(mode, core, left) * right).sum(0, keepdim=True)

    def correct(self, mode: int, left: Tensor, right: Tensor, missed: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Give what to add to a core, (r, n, r'), for the samples to miss least, and what they miss then."""
        there, shape = self._sorted[mode], (self.sizes[mode], left.shape[0], right.shape[0])
        step, still = left.new_zeros(shape), []
        for block in there.blocks:
            products = (block.of(left)[:, None] * block.of(right)).flatten(0, 1)  # (r r', slices, samples of each)
            columns, lacking = products.transpose(0, 1), block.of(missed)
            found = solve_normal(columns, lacking[0, :, :, None], ridge)
            step[block.slices] = found.view(-1, *shape[1:])
            still.append(lacking - (found.mT @ columns).transpose(0, 1))
        return step.transpose(0, 1), there.join(still, missed)

    def scatter(self, mode: int, left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
        """Sum the derivatives of the samples by a core, each times a weight, (r, n, r')."""
        there, weighted = self._sorted[mode], left.conj() * weights
        total = left.new_zeros(self.sizes[mode], left.shape[0], right.shape[0])
        for block in there.blocks:
            total[block.slices] = block.of(weighted).transpose(0, 1) @ block.of(right).transpose(0, 1).mH
        return total.transpose(0, 1)

    def take(self, which: Tensor) -> IndexSamples:
        """Give some of the samples, by their numbers."""
        return IndexSamples(self._indices[which], self.sizes)

    def mirrored(self) -> IndexSamples:
        """Give the samples with the order of modes turned round."""
        if self._mirrored is None:
            self._mirrored = copy.copy(self)
            self._mirrored._indices, self._mirrored.sizes = self._indices.flip(1), self.sizes[::-1]
            self._mirrored._sorted = self._sorted[::-1]
            self._mirrored._ahead = self._mirrored._ways()
            self._mirrored._mirrored = self
        return self._mirrored


class _Block(NamedTuple):
    """Slices with about as many samples each, the shorter ones filled up."""

    slices: Tensor | slice  # g of them
    begin: int  # of their samples, slice by slice
    end: int
    most: int  # samples of one slice, c

    def of(
        self,
        columns: Tensor,  # (r, samples)
    ) -> Tensor:  # (r, g, c)
        """Give the columns of these slices."""
        return columns[:, self.begin : self.end].view(columns.shape[0], -1, self.most)


class _Sorted:
    """Samples sorted by the slices that they are in, for all slices of about the same size in one product.

    Args:
        column: The slice of each sample, (samples,).
        size: How many slices there are.
    """

    def __init__(self, column: Tensor, size: int) -> None:
        counts = column.bincount(minlength=size)
        first = torch.zeros_like(counts)  # the place of each slice's first sample
        self.blocks: list[_Block] = []
        filled = 0
        for slices, most in _alike(counts):
            count = size if isinstance(slices, slice) else len(slices)
            first[slices] = filled + most * torch.arange(count, device=column.device)
            self.blocks.append(_Block(slices, filled, filled + most * count, most))
            filled += most * count
        order = _order(column, size)
        shifts = (first - counts.cumsum(0) + counts).index_select(0, column.index_select(0, order))
        along = torch.arange(len(column), device=column.device) + shifts
        self.places = torch.empty_like(column).scatter_(0, order, along)  # of the samples
        # The numbers of the samples at each place, anything where it is filled up, and ones where there is a sample.
        self.numbers = column.new_zeros(filled).scatter_(0, along, order)
        self.mask = torch.zeros(filled, dtype=torch.float64, device=column.device).scatter_(0, along, 1.0)

    @staticmethod
    def join(
        found: Sequence[Tensor],  # each (r, g, c)
        like: Tensor,
    ) -> Tensor:  # (r, samples)
        """Put together what was found for all blocks."""
        if not found:
            return like
        flat = [each.flatten(1) for each in found]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def _alike(counts: Tensor) -> Iterator[tuple[Tensor | slice, int]]:
    """Divide slices into sets of about as many samples each, none of them empty; give the most, too."""
    sizes = sorted(counts.tolist(), reverse=True)
    if sizes[0] and 2 * sizes[-1] >= sizes[0]:
        yield slice(None), sizes[0]
        return
    by_count = counts.argsort(descending=True)
    begin = 0
    while begin < len(sizes) and sizes[begin]:
        end = next((k for k in range(begin, len(sizes)) if 2 * sizes[k] < sizes[begin]), len(sizes))
        yield by_count[begin:end], sizes[begin]
        begin = end


def _order(column: Tensor, size: int) -> Tensor:
    """Give the numbers of the samples in an order by slices."""
    if column.is_cpu and size <= FEW_SLICES:  # numpy sorts short numbers by counting them
        return torch.from_numpy(column.numpy().astype(np.int16).argsort(kind="stable"))
    return column.argsort(stable=True)
