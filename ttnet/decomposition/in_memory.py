"""TT-SVD of a tensor in memory, to the cores of a train."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.decomposition import plan
from ttnet.decomposition.spectrum import OutOfRange, check_range
from ttnet.decomposition.sweep import Sweep
from ttnet.decomposition.unfolding_kernels import Unfolding, double, sum_of_squares
from ttnet.errors import TTShapeError, TTValueError
from ttnet.numerics.scales import compute_dtype, count_nonfinite, max_exponent, times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import ErrorBudget, check_eps, check_max_rank, check_method, check_readable

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
    kept = compute_dtype(x.dtype)
    dtype = double(kept) if is_small else kept  # which costs nothing there
    arithmetic = dtype if exact else double(dtype)
    budget = ErrorBudget(norm=1.0, eps=bound, max_ranks=max_ranks, dtype=x.dtype, arithmetic=arithmetic)
    if not exact:
        with contextlib.suppress(OutOfRange):
            cores = Sweep(x.detach(), dtype, 0, None, budget, method).run()
            return finish(cores, 0, x.dtype)
    exponent, norm = _measure(x.detach())
    if x.ndim < 2:
        return [x.reshape(1, *x.shape, 1).clone()]
    if norm == 0 and not differentiable:
        return zero_cores(x.shape, x)
    if exact:
        cores = _exact(times_power_of_two(x.to(dtype), -exponent), budget.for_norm(norm))
    else:
        cores = Sweep(x.detach(), dtype, exponent, norm, budget.for_norm(norm), method).run()
    return finish(cores, exponent, x.dtype)


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
