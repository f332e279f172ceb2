"""TT-SVD of a tensor in memory, to the cores of a train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttnet.decomposition import plan
from ttnet.decomposition.spectrum import OutOfRange, check_range
from ttnet.decomposition.storage import ArrayLike, Storage, mirrored
from ttnet.decomposition.sweep import Sweep
from ttnet.decomposition.unfolding import Unfolding, double
from ttnet.decomposition.unfolding_kernels import sum_of_squares
from ttnet.errors import TTShapeError, TTValueError
from ttnet.numerics.linalg import qr
from ttnet.numerics.scales import compute_dtype, count_nonfinite, max_exponent, times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import (
    ErrorBudget,
    check_eps,
    check_max_rank,
    check_method,
    check_readable,
    dtype_for_bound,
)

METHODS = ("auto", "svd", "qr", "gram", "randomized")


def dense_cores(
    x: Tensor,  # (n_1, ..., n_d)
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "auto",
) -> list[Tensor]:  # each (r, n, r')
    """Decompose a tensor, floating or complex, as `tt_svd` says.

    Args:
        x: The tensor, of any order, strides and scale; every mode of size at least 1.
        eps: Bound on the relative Frobenius error; see `tt_svd`.
        max_rank: Bound on the ranks; see `tt_svd`.
        method: See `tt_svd`.

    Returns:
        The cores; of order 0, one of shape (1, 1).

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If a mode is empty, or `max_rank` has the wrong number of entries.
        TTValueError: If an argument is out of range, or `x` has entries that are NaN or infinite.

    Example:
        >>> [tuple(core.shape) for core in dense_cores(torch.ones(2, 3, 4))]
        [(1, 2, 1), (1, 3, 1), (1, 4, 1)]
    """
    check_method(method, METHODS)
    bound = check_eps(eps)
    max_ranks = check_max_rank(max_rank, max(0, x.ndim - 1))
    if 0 in x.shape:
        raise TTShapeError(f"x has shape {tuple(x.shape)}; every mode must have size at least 1.")
    check_readable(x, "x")
    differentiable = x.requires_grad and torch.is_grad_enabled()
    is_small = method == "auto" and x.numel() <= plan.SMALL_NUMEL and not differentiable
    exact = method == "svd" or differentiable or is_small or x.ndim < 2
    if x.ndim < 2:
        _measure(x.detach())  # which refuses what is not finite
        return [x.reshape(1, *x.shape, 1).clone()]
    dtype = dtype_for_bound(x.dtype, bound, x.ndim)
    if not exact:
        sweep = partial(_sweep, eps=bound, method=method, dtype=dtype)
        cores, exponent = along_storage(sweep, x.detach(), max_ranks)
    else:
        exponent, norm = _measure(x.detach())
        computed = double(compute_dtype(dtype)) if is_small else compute_dtype(dtype)  # which costs nothing there
        budget = ErrorBudget(norm=norm, eps=bound, max_ranks=max_ranks, dtype=dtype, arithmetic=computed)
        is_zero = norm == 0 and not differentiable
        cores = [] if is_zero else _exact(times_power_of_two(x.to(computed), -exponent), budget)
    return finish(cores, exponent, dtype) if cores else zero_cores(x.shape, x.new_empty(0, dtype=dtype))


def along_storage(
    decompose: Callable[[Any, Sequence[int | None]], tuple[list[Tensor], int]],
    x: ArrayLike,
    max_ranks: Sequence[int | None],
) -> tuple[list[Tensor], int]:
    """Decompose an array with its axes reversed if its first axis is the fastest, and reverse the train.

    Args:
        decompose: Takes an array and the largest ranks, and gives left-orthogonal cores and an exponent.
        x: The array.
        max_ranks: The largest rank of each inner bond.

    Returns:
        Left-orthogonal cores of a train of `x`, none if it is zero, and an exponent.

    Example:
        >>> along_storage(lambda x, max_ranks: (dense_cores(x), 0), torch.ones(3, 2).T, [None])[0][0].shape
        torch.Size([1, 2, 1])
    """
    if not Storage.of(x).is_fortran:
        return decompose(x, max_ranks)
    cores, exponent = decompose(mirrored(x), max_ranks[::-1])
    cores = [core.permute(2, 1, 0) for core in reversed(cores)]
    for k in range(len(cores) - 1):
        u, w = qr(cores[k].flatten(0, 1))  # (r n, s), (s, r')
        cores[k] = u.reshape(*cores[k].shape[:2], -1)
        cores[k + 1] = torch.tensordot(w, cores[k + 1], 1)
    return cores, exponent


def _sweep(
    x: Tensor,  # (n_1, ..., n_d)
    max_ranks: Sequence[int | None],
    *,
    eps: float,
    method: str,
    dtype: torch.dtype,
) -> tuple[list[Tensor], int]:
    """Decompose a tensor from both its ends: the cores, none if it is zero, and an exponent."""
    computed = compute_dtype(dtype)
    budget = ErrorBudget(norm=1.0, eps=eps, max_ranks=max_ranks, dtype=dtype, arithmetic=double(computed))
    with contextlib.suppress(OutOfRange):
        return Sweep(x, computed, 0, None, budget, method).run(), 0
    exponent, norm = _measure(x)
    if norm == 0:
        return [], 0
    return Sweep(x, computed, exponent, norm, budget.for_norm(norm), method).run(), exponent


def finish(cores: Sequence[Tensor], exponent: int, dtype: torch.dtype) -> list[Tensor]:
    """Give a decomposition's cores their dtype and scale, and memory of their own.

    Args:
        cores: The cores that a sweep has found.
        exponent: The train is theirs times 2**exponent.
        dtype: The dtype of the result.

    Returns:
        The cores of the train.

    Example:
        >>> finish([torch.ones(1, 2, 1)], 1, torch.float32)[0].flatten()
        tensor([2., 2.])
    """
    return [core.contiguous() for core in join_scale(cores, exponent, dtype)]


def zero_cores(shape: Sequence[int], like: Tensor) -> list[Tensor]:
    """Give the cores of a train of zeros, left-orthogonal and of ranks 1.

    Args:
        shape: The mode sizes, at least one.
        like: A tensor of the dtype and on the device of the result.

    Returns:
        The cores.

    Example:
        >>> [core.flatten().tolist() for core in zero_cores((2, 3), torch.empty(0))]
        [[1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    *sizes, last = shape
    cores = [like.new_zeros(1, size, 1) for size in sizes]
    for core in cores:
        core[0, 0, 0] = 1
    return [*cores, like.new_zeros(1, last, 1)]


def _exact(
    rest: Tensor,  # (n_1, ..., n_d)
    budget: ErrorBudget,
) -> list[Tensor]:
    """Cut bond by bond from the left, differentiably."""
    *sizes, last = rest.shape
    cores = []
    rank = 1
    for size in sizes:
        u, rest = budget.cut(rest.reshape(rank * size, -1))  # (r n, r'), (r', remaining modes)
        cores.append(u.reshape(rank, size, -1))
        rank = u.shape[1]
    return [*cores, rest.reshape(rank, last, 1)]


def _measure(
    x: Tensor,  # (n_1, ..., n_d), without gradients
) -> tuple[int, float]:
    """Give an exponent and the Frobenius norm of x times 2**-exponent, which no square or product of it overflows."""
    if x.ndim == 0:
        x = x[None]
    dtype = compute_dtype(x.dtype)
    squares = sum_of_squares(Unfolding(x, 1, dtype))
    with contextlib.suppress(OutOfRange):
        check_range(squares, x.numel())
        return 0, squares**0.5
    if count := count_nonfinite(x):
        raise TTValueError(f"x holds NaN or infinite entries, {count} of {x.numel()}; expected finite numbers.")
    exponent = int(max_exponent(x))
    return exponent, sum_of_squares(Unfolding(x, 1, dtype, exponent=exponent)) ** 0.5
