"""Single entries of a train, many at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTIndexError, TTShapeError, TTTypeError
from ttnet.numerics.dense import check_unmasked
from ttnet.numerics.scales import Exponent, compute_dtype, powers_of_two, read, split_row_scales, times_power_of_two
from ttnet.numerics.train_scales import even_bonds
from ttnet.trains.checks import expect_train
from ttnet.trains.tensor_train import TensorTrain

_CHUNK = 2**17  # entries of core slices, or of products with all of them, at a time
_FEW_SLICES = 4  # so few are all multiplied sooner than each row's is gathered


def evaluate(
    tt: TensorTrain,
    indices: Tensor | npt.NDArray[Any],  # (batch, d)
) -> Tensor:
    """Give the entries of a train at many indices, in O(batch * d * r**2).

    Source: Oseledets 2011, "Tensor-Train Decomposition", eq. 1.2. Each row keeps a scale of its own on the way, so the
    product of a thousand cores neither over- nor underflows unless its value does.

    Args:
        tt: The train, of order d.
        indices: A tensor or numpy array of ints of shape (batch, d), one entry a row, each index from 0 to the size of
            its mode less 1.

    Returns:
        A tensor of shape (batch,), of the dtype and on the device of `tt`. Gradients flow to the cores.

    Raises:
        TTTypeError: If `tt` is not a train, or `indices` not an array of ints, all of them unmasked.
        TTShapeError: If `indices` has another shape.
        TTIndexError: If an index is negative or beyond its mode.

    Example:
        >>> import ttnet
        >>> tt = ttnet.random((4, 5, 6), 2, seed=0)
        >>> values = evaluate(tt, torch.tensor([[0, 0, 0], [3, 4, 5]]))
        >>> torch.allclose(values, tt.full()[[0, 3], [0, 4], [0, 5]])
        True
    """
    expect_train(tt, "tt")
    return scaled_entries(scaled_slices(tt), check_indices(indices, tt)).to(tt.dtype)


Slices = Sequence[tuple[Tensor, Tensor]]
"""Per mode the slices of the core, (n, r, r'), with entries of size at most one, and the exponents of each, (n,)."""


def scaled_slices(tt: TensorTrain) -> Slices:
    """Split the slices of all cores into numbers near one and powers of two, for `scaled_entries`.

    Args:
        tt: The train.

    Returns:
        The slices, in single precision at least, and their exponents.

    Example:
        >>> [(slices, exponents)] = scaled_slices(TensorTrain([torch.tensor([[[6.0], [1.0]]])]))
        >>> slices.flatten(), exponents.tolist()
        (tensor([0.7500, 0.1250]), [3, 3])
    """
    cores, exponent = even_bonds([core.to(compute_dtype(tt.dtype)) for core in tt.cores])
    slices = [_scaled(core.movedim(1, 0).contiguous() if tt.ndim else core[None]) for core in cores]
    first, steps = slices[0]
    return [(first, steps + exponent), *slices[1:]]


def _scaled(
    slices: Tensor,  # (n, r, r')
) -> tuple[Tensor, Tensor]:  # (n, r, r') and (n,)
    """Split the scales off slices: one power of two where they are of much the same size, which is sooner done."""
    sizes = torch.view_as_real(slices.detach().resolve_conj()) if slices.is_complex() else slices.detach()
    least, most = torch.aminmax(sizes.abs().flatten(1).amax(1))
    low, high = read(least), read(most)
    if low is None or high is None or not high <= 2.0**16 * low:
        return split_row_scales(slices)
    exponent = math.frexp(high)[1]
    return times_power_of_two(slices, -exponent), torch.full((len(slices),), exponent, device=slices.device)


def scaled_entries(
    slices: Slices,
    indices: Tensor,  # (batch, d), within range
    exponent: Exponent = 0,
) -> Tensor:
    """Give entries of a train times a power of two, which may have a range that the entries themselves leave.

    Args:
        slices: What `scaled_slices` gives for a train of order d.
        indices: An int64 tensor of shape (batch, d) on the device of the train.
        exponent: The entries are multiplied by 2**exponent.

    Returns:
        A tensor of shape (batch,), in single precision at least.

    Example:
        >>> slices = scaled_slices(TensorTrain([torch.full((1, 2, 1), 2.0)] * 1000))
        >>> scaled_entries(slices, torch.zeros(1, 1000, dtype=torch.int64), -998)
        tensor([4.])
    """
    if not indices.shape[1]:  # a scalar is the one slice of what has no mode
        indices = indices.new_zeros(len(indices), 1)
    starts = list(itertools.accumulate((len(steps) for _, steps in slices), initial=0))[:-1]
    starts_of_modes = torch.tensor(starts, device=indices.device)
    steps = torch.cat([steps for _, steps in slices])
    matrices = [scaled for scaled, _ in slices]
    # Many rows begin with the same indices, and many end with the same ones: those products are made once.
    head = _Table(matrices, len(indices), matrices[0])
    tail = _Table([each.mT for each in reversed(matrices[len(head.sizes) :])], len(indices), matrices[0])
    middle = slice(len(head.sizes), len(matrices) - len(tail.sizes))
    chunk = max(1, _CHUNK // max(_width(scaled) for scaled in matrices))
    parts = []
    for rows in indices.split(chunk):
        columns = rows.T.contiguous()
        values, first = head.at(columns)  # (rows, r)
        others, last = tail.at(columns.flip(0))
        exponents = exponent + steps[rows + starts_of_modes].sum(1) + first + last
        for scaled, index in zip(matrices[middle], columns[middle], strict=True):
            values = _times_slices(values, scaled, index)
            if not _keeps_digits(values):
                values, step = split_row_scales(values)
                exponents = exponents + step
        before, after = powers_of_two(exponents, values.dtype)
        parts.append((values * others).sum(1) * before * after)
    return torch.cat(parts)


class _Table:
    """The products of the slices of the first modes at all their indices, which are to be no more than the rows.

    Args:
        slices: Those of all modes, each (n, r, r').
        rows: How many entries there will be.
        like: A tensor of their dtype and device.
    """

    def __init__(self, slices: Sequence[Tensor], rows: int, like: Tensor) -> None:
        self.sizes: list[int] = []  # of the modes
        self._values = like.new_ones(1, 1)  # (all indices, r)
        self._exponents = torch.zeros(1, dtype=torch.int64, device=self._values.device)
        for each in slices:
            size = len(each)
            count = len(self._values) * size
            if count > rows or count * each.shape[2] > _CHUNK:
                break
            self.sizes.append(size)
            self._values = (self._values @ each.movedim(0, 1).flatten(1)).reshape(-1, each.shape[2])
            self._exponents = self._exponents.repeat_interleave(size)
            if not _keeps_digits(self._values):
                self._values, step = split_row_scales(self._values)
                self._exponents = self._exponents + step

    def at(
        self,
        columns: Tensor,  # (d, rows)
    ) -> tuple[Tensor, Tensor]:  # (rows, r) and (rows,)
        """Give the product at the first indices of each row, and its exponent."""
        place = torch.zeros_like(columns[0])
        for size, column in zip(self.sizes, columns, strict=False):
            place = place * size + column
        return self._values.index_select(0, place), self._exponents.index_select(0, place)


def _times_slices(
    values: Tensor,  # (rows, r)
    slices: Tensor,  # (n, r, r')
    index: Tensor,  # (rows,)
) -> Tensor:  # (rows, r')
    count, rank, width = slices.shape
    if rank == 1:
        return values * slices[:, 0].index_select(0, index)
    if count > _FEW_SLICES:
        return (values[:, None] @ slices.index_select(0, index))[:, 0]
    products = values @ slices.movedim(0, 1).flatten(1)  # with all of them, in one product
    own = torch.arange(0, count * len(index), count, device=index.device) + index
    return products.view(-1, width).index_select(0, own)


def _width(
    slices: Tensor,  # (n, r, r')
) -> int:
    """How many numbers `_times_slices` makes for each row on its way."""
    count, rank, width = slices.shape
    return width * (rank if count > _FEW_SLICES else count)


def _keeps_digits(
    values: Tensor,  # (rows, r)
) -> bool:
    """Say whether every row is far from the ends of the range, as far as a step with entries of at most one leads."""
    if not len(values):
        return True
    limit = torch.finfo(values.dtype).max ** 0.25
    least, most = torch.aminmax(values.detach().abs().amax(1))
    low, high = read(least), read(most)
    if low is None or high is None:
        return False
    return (1 / limit < low and high < limit) or high == 0


def check_indices(indices: object, tt: TensorTrain) -> Tensor:
    """Give indices of entries of a train as int64, on its device.

    Args:
        indices: A tensor or numpy array of ints of shape (batch, d), each index from 0 to the size of its mode less 1.
        tt: The train.

    Returns:
        The indices.

    Raises:
        TTTypeError: If they are no array of ints, all of them unmasked.
        TTShapeError: If they have another shape.
        TTIndexError: If an index is negative or beyond its mode.

    Example:
        >>> import ttnet
        >>> check_indices(np.array([[0, 2]]), ttnet.ones((2, 3)))
        tensor([[0, 2]])
    """
    if isinstance(indices, np.ndarray):
        check_unmasked(indices, "indices")
        if indices.dtype.kind not in "iu":
            raise TTTypeError(f"indices has dtype {indices.dtype}; expected ints.")
        indices = torch.from_numpy(indices.astype(np.int64))
    if not isinstance(indices, Tensor):
        raise TTTypeError(f"indices is a {type(indices).__name__}; expected a torch.Tensor or numpy.ndarray of ints.")
    if indices.layout != torch.strided:
        raise TTTypeError(f"indices has the layout {indices.layout}; expected a dense tensor, as its to_dense() gives.")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TTTypeError(f"indices has dtype {indices.dtype}; expected ints.")
    if indices.ndim != 2 or indices.shape[1] != tt.ndim:
        raise TTShapeError(
            f"indices has shape {tuple(indices.shape)}; expected (batch, {tt.ndim}): one row per entry, with one index "
            f"per mode."
        )
    indices = indices.to(tt.device, torch.int64)
    sizes = torch.tensor(tt.shape, dtype=torch.int64, device=tt.device)
    outside = (indices < 0) | (indices >= sizes)
    if read(outside.any()):
        row, mode = outside.nonzero()[0].tolist()
        raise TTIndexError(
            f"indices[{row}] holds {int(indices[row, mode])} for mode {mode} of size {tt.shape[mode]}; expected 0 to "
            f"{tt.shape[mode] - 1}."
        )
    return indices
