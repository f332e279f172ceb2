"""A function of indices as the cross approximation sees it: asked in bounded batches, checked and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import split_scale

# Arrays in the place of tensors, since a step of the search is some hundred numbers, and most of its time the calls.
Indices = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
"""Of float64 or complex128."""


def norm(
    x: Values,  # (...)
) -> float:
    """Give the Frobenius norm, infinite where it overflows: by torch, which does not warn of that.

    Args:
        x: An array of any shape.

    Returns:
        The norm.

    Example:
        >>> norm(np.array([3.0, 4.0]))
        5.0
    """
    return float(torch.linalg.vector_norm(torch.from_numpy(x)))


def log_norm(
    x: Values,  # (...)
) -> float:
    """Give the natural logarithm of the Frobenius norm of finite numbers, however large or small.

    Args:
        x: An array of at least one entry, of any shape.

    Returns:
        The logarithm; minus infinity if all entries are zero.

    Example:
        >>> log_norm(np.array([3e-300, 4e-300]))  # log(5) - 300 log(10)
        -689.166...
    """
    size = norm(x)
    if 1e-100 < size < 1e100:  # where no square that counts leaves the range of doubles
        return math.log(size)
    scaled, exponent = split_scale(torch.from_numpy(x))
    size = norm(scaled.numpy())
    return math.log(size) + int(exponent) * math.log(2) if size else -math.inf


def with_all(
    heads: Indices,  # (a, k)
    size: int,
) -> Indices:
    """Put every index of one more mode behind every row.

    Args:
        heads: The rows.
        size: The size of that mode.

    Returns:
        An array of shape (a * size, k + 1).

    Example:
        >>> with_all(np.array([[5], [6]]), 2).tolist()
        [[5, 0], [5, 1], [6, 0], [6, 1]]
    """
    count, width = heads.shape
    longer = np.empty((count, size, width + 1), dtype=np.int64)
    longer[:, :, :width] = heads[:, None]
    longer[:, :, width] = np.arange(size)
    return longer.reshape(-1, width + 1)


def all_indices(shape: Sequence[int]) -> Indices:
    """Give the indices of all entries in order, for however many modes.

    Args:
        shape: The mode sizes.

    Returns:
        An array of shape (entries, d).

    Example:
        >>> all_indices((2, 2)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    indices = np.empty((1, 0), dtype=np.int64)
    for size in shape:
        indices = with_all(indices, size)
    return indices


class BudgetSpentError(Exception):
    """The next question would go beyond the evaluations that are allowed.

    Example:
        >>> box = BlackBox(lambda i: i.sum(1), (2, 3), max_evaluations=1)
        >>> try:
        ...     box.entries(np.array([[0, 0], [1, 2]]))
        ... except BudgetSpentError:
        ...     print(box.evaluations)
        0
    """


class BlackBox:
    """A function of indices, of which nothing is known but its values.

    Args:
        f: Takes an int64 tensor of shape (batch, d) and gives a tensor or numpy array of shape (batch,).
        shape: The mode sizes.
        dtype: The dtype of the result; None for that of the values.
        device: Where `f` is given its indices; whatever it returns is taken to the CPU.
        batch_size: The largest batch.
        max_evaluations: The largest number of evaluations in all; None for no bound.
        reserve: How many of these `block` leaves for `entries`.

    Attributes:
        evaluations: How often `f` was evaluated.
        log_norm: The natural logarithm of a number that the Frobenius norm of the whole tensor cannot be below.
        precision: The machine epsilon of the values or of the result, whichever is coarser.

    Example:
        >>> box = BlackBox(lambda i: i.sum(1), (2, 3))
        >>> box.entries(np.array([[1, 2]]))
        array([3.])
    """

    def __init__(
        self,
        f: Callable[[Tensor], Any],
        shape: Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 65536,
        max_evaluations: int | None = None,
        reserve: int = 0,
    ) -> None:
        self._f = f
        self._shape = shape
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._limit = math.inf if max_evaluations is None else max_evaluations
        self._reserve = reserve
        self._dtype = dtype
        self.evaluations = 0
        self.log_norm = -math.inf
        self.precision = 0.0 if dtype is None else torch.finfo(dtype).eps

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the result; float64 until the first values show another one."""
        return torch.float64 if self._dtype is None else self._dtype

    def entries(
        self,
        indices: Indices,  # (batch, d)
    ) -> Values:
        """Give the entries at some indices.

        Args:
            indices: An array of shape (batch, d), of any length.

        Returns:
            Finite values of shape (batch,), in double precision.

        Raises:
            BudgetSpentError: If there are more than may still be evaluated; then none is.
            TTTypeError: If `f` gives something else than a tensor or array, or complex values for a real result.
            TTShapeError: If what it gives is of another shape than (batch,).
            TTValueError: If a value is NaN, infinite or beyond the range of the result's dtype.

        Example:
            >>> BlackBox(lambda i: i.sum(1).float(), (2, 3)).entries(np.array([[1, 2], [0, 0]]))
            array([3., 0.])
        """
        # Copies, so that a function that writes into its argument spoils nothing of ours.
        return self._ask(len(indices), lambda start, stop: indices[start:stop].copy(), reserve=0)

    def block(
        self,
        mode: int,
        heads: Indices,  # (a, mode)
        tails: Indices,  # (b, d - mode - 1)
    ) -> Values:
        """Give the fibres along a mode for all pairs of what comes before it and what comes after it.

        Args:
            mode: The mode, from 0.
            heads: Indices of the modes before it, no row twice.
            tails: Indices of the modes after it, no row twice.

        Returns:
            Finite values of shape (a, n, b), in double precision.

        Raises:
            BudgetSpentError: As for `entries`, which also has a reserve that no block is paid from.
            TTTypeError: As for `entries`.
            TTShapeError: As for `entries`.
            TTValueError: As for `entries`.

        Example:
            >>> box = BlackBox(lambda i: 10 * i[:, 0] + i[:, 1], (2, 3))
            >>> box.block(0, np.empty((1, 0), dtype=np.int64), np.array([[1], [2]]))
            array([[[ 1.,  2.],
                    [11., 12.]]])
        """
        size, width, order = self._shape[mode], len(tails), len(self._shape)
        longer = with_all(heads, size)

        def indices(start: int, stop: int) -> Indices:
            own = longer[start // width : -(-stop // width), None]
            rows = np.empty((len(own), width, order), dtype=np.int64)
            rows[:, :, : mode + 1] = own
            rows[:, :, mode + 1 :] = tails
            skipped = start % width
            return rows.reshape(-1, order)[skipped : skipped + stop - start]

        values = self._ask(len(heads) * size * width, indices, reserve=self._reserve)
        self.log_norm = max(self.log_norm, log_norm(values))
        return values.reshape(len(heads), size, width)

    def _ask(self, count: int, indices: Callable[[int, int], Indices], *, reserve: int) -> Values:
        if self.evaluations + count > self._limit - reserve:
            raise BudgetSpentError
        parts = []
        for start in range(0, count, self._batch_size):
            batch = torch.from_numpy(indices(start, min(count, start + self._batch_size))).to(self._device)
            self.evaluations += len(batch)
            parts.append(self._check(self._f(batch), batch))
        return np.concatenate(parts)  # a copy, as `f` may return the same memory again and again

    def _check(
        self,
        values: object,
        batch: Tensor,  # (batch, d)
    ) -> Values:
        values = as_dense(values, "what f returned").detach().cpu()
        if values.shape != batch.shape[:1]:
            raise TTShapeError(
                f"f returned the shape {tuple(values.shape)} for a batch of {len(batch)} entries; expected "
                f"({len(batch)},), one value per row."
            )
        if self._dtype is None:
            self._dtype = values.dtype
        if values.is_complex() and not self.dtype.is_complex:
            raise TTTypeError(
                f"f returned the dtype {values.dtype} where the result is to have {self.dtype}; pass "
                f"dtype=torch.complex128, or let f return real values."
            )
        wide = values.to(torch.complex128 if self.dtype.is_complex else torch.float64)
        # The norm says of nearly all batches that nothing in them is too large, in one pass.
        largest = float(torch.linalg.vector_norm(wide))
        if not largest < torch.finfo(self.dtype).max and not (fits := torch.isfinite(values.to(self.dtype))).all():
            at = int((~fits).nonzero()[0])
            raise TTValueError(
                f"f returned {values[at].item()} at the index {tuple(batch[at].tolist())}; expected a finite number "
                f"within the range of {self.dtype}."
            )
        self.precision = max(self.precision, torch.finfo(values.dtype).eps)
        array: Values = wide.resolve_conj().resolve_neg().numpy()
        return array
