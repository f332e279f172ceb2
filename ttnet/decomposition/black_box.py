"""A function of indices as the cross approximation sees it: asked in bounded batches, checked and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import split_scale


def log_norm(
    x: Tensor,  # (...)
) -> float:
    """Give the natural logarithm of the Frobenius norm of finite numbers, however large or small.

    Args:
        x: A tensor of at least one entry, of any shape.

    Returns:
        The logarithm; minus infinity if all entries are zero.

    Example:
        >>> log_norm(torch.tensor([3e-300, 4e-300], dtype=torch.float64))  # log(5) - 300 log(10)
        -689.166...
    """
    norm = float(torch.linalg.vector_norm(x))
    if 1e-100 < norm < 1e100:  # where no square that counts leaves the range of doubles
        return math.log(norm)
    scaled, exponent = split_scale(x)
    norm = float(torch.linalg.vector_norm(scaled))
    return math.log(norm) + int(exponent) * math.log(2) if norm else -math.inf


class BudgetSpentError(Exception):
    """The next question would go beyond the evaluations that are allowed.

    Example:
        >>> box = BlackBox(lambda i: i.sum(1), (2, 3), max_evaluations=1)
        >>> try:
        ...     box.entries(torch.tensor([[0, 0], [1, 2]]))
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
        device: Where the indices are given and the values kept.
        batch_size: The largest batch.
        max_evaluations: The largest number of evaluations in all; None for no bound.
        reserve: How many of these `block` leaves for `entries`.

    Attributes:
        evaluations: How often `f` was evaluated.
        log_norm: The natural logarithm of a number that the Frobenius norm of the whole tensor cannot be below.
        precision: The machine epsilon of the values or of the result, whichever is coarser.

    Example:
        >>> box = BlackBox(lambda i: i.sum(1), (2, 3))
        >>> box.entries(torch.tensor([[1, 2]]))
        tensor([3.], dtype=torch.float64)
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
        indices: Tensor,  # (batch, d)
    ) -> Tensor:
        """Give the entries at some indices.

        Args:
            indices: An int64 tensor of shape (batch, d), of any length.

        Returns:
            Finite values of shape (batch,), in double precision.

        Raises:
            BudgetSpentError: If there are more than may still be evaluated; then none is.
            TTTypeError: If `f` gives something else than a tensor or array, or complex values for a real result.
            TTShapeError: If what it gives is of another shape than (batch,).
            TTValueError: If a value is NaN, infinite or beyond the range of the result's dtype.

        Example:
            >>> BlackBox(lambda i: i.sum(1).float(), (2, 3)).entries(torch.tensor([[1, 2], [0, 0]]))
            tensor([3., 0.], dtype=torch.float64)
        """
        # Copies, so that a function that writes into its argument spoils nothing of ours.
        return self._ask(len(indices), lambda start, stop: indices[start:stop].clone(), reserve=0)

    def block(
        self,
        mode: int,
        heads: Tensor,  # (a, mode)
        tails: Tensor,  # (b, d - mode - 1)
    ) -> Tensor:
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
            >>> box.block(0, torch.empty(1, 0, dtype=torch.int64), torch.tensor([[1], [2]]))
            tensor([[[ 1.,  2.],
                     [11., 12.]]], dtype=torch.float64)
        """
        size, width = self._shape[mode], len(tails)

        def indices(start: int, stop: int) -> Tensor:
            # Pairs of a head and an index, all of whose tails are then put beside it: divisions of few numbers.
            pairs = torch.arange(start // width, -(-stop // width), device=self._device)
            left = torch.cat([heads[pairs // size], (pairs % size)[:, None]], dim=1)
            both = [left[:, None].expand(-1, width, -1), tails.expand(len(pairs), -1, -1)]
            skipped = start % width
            return torch.cat(both, dim=2).flatten(0, 1)[skipped : skipped + stop - start]

        values = self._ask(len(heads) * size * width, indices, reserve=self._reserve)
        self.log_norm = max(self.log_norm, log_norm(values))
        return values.reshape(len(heads), size, width)

    def _ask(self, count: int, indices: Callable[[int, int], Tensor], *, reserve: int) -> Tensor:
        if self.evaluations + count > self._limit - reserve:
            raise BudgetSpentError
        parts = []
        for start in range(0, count, self._batch_size):
            batch = indices(start, min(count, start + self._batch_size))
            self.evaluations += len(batch)
            parts.append(self._check(self._f(batch), batch))
        return torch.cat(parts)

    def _check(
        self,
        values: object,
        batch: Tensor,  # (batch, d)
    ) -> Tensor:
        values = as_dense(values, "what f returned").detach().to(self._device)
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
        return wide
