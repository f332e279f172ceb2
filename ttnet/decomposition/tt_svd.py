"""TT-SVD: a dense tensor to a train, by one truncated SVD a bond."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.decomposition import plan
from ttnet.decomposition.array_source import ArrayLike, check_array, entry_dtype, read
from ttnet.decomposition.out_of_core import ArraySweep, PassProgress, check_memory_limit
from ttnet.decomposition.spectrum import OutOfRange, check_range
from ttnet.decomposition.sweep import Sweep
from ttnet.decomposition.unfolding_kernels import Unfolding, double, sum_of_squares
from ttnet.errors import TTShapeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import compute_dtype, count_nonfinite, max_exponent, times_power_of_two
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import ErrorBudget, check_eps, check_max_rank, check_method, check_readable
from ttnet.trains.tensor_train import TensorTrain

METHODS = ("auto", "svd", "qr", "gram", "randomized")


def tt_svd(
    x: Tensor | npt.NDArray[Any] | ArrayLike,  # (n_1, ..., n_d)
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "auto",
    memory: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[PassProgress], object] | None = None,
) -> TensorTrain:
    """Decompose a dense tensor into a train of small ranks that keeps an error bound.

    `||x - tt|| <= eps ||x||` is guaranteed, in the Frobenius norm, unless `max_rank` forbids it; then the error is at
    most sqrt(order - 1) times that of the best train of those ranks. Source: Oseledets 2011, "Tensor-Train
    Decomposition", Algorithm 1, Theorem 2.2; here what one bond leaves of the error budget goes to the later ones.

    Args:
        x: A tensor or numpy array of any order, strides and scale; every mode of size at least 1. Integers and bools
            are taken as float64, which holds integers up to 2**53. Also any array with `shape`, `dtype` and slicing,
            such as a numpy memory map or one of h5py, zarr or dask: it is read in slabs, each once or twice, and on a
            dask cluster where they are.
        eps: Bound on the relative Frobenius error, at least 0. None or 0 cuts only what is rounding noise, as does any
            bound below the precision of the dtype: some ten times its machine epsilon, growing with the square roots of
            the order and of the unfoldings' shorter sides. From 1 on, all ranks are 1. For bfloat16 and float16,
            computed in float32, casting the result back costs about `order * machine epsilon / 2`, and a bound
            below that cannot hold.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        method: How the singular values of the unfoldings are found. Every method keeps the promises above.
            "svd" factorises each unfolding from the left; "qr" takes passes that read it in blocks, by orthogonal
            transformations only; "gram" takes Gram matrices, accumulated in double precision; "randomized" takes
            verified random combinations of rows. What a method cannot certify is done by the next more exact one.
            "auto" chooses by size, bound and expected ranks; the page on TT-SVD in the documentation tells its rule.
            If `x` requires gradients, all methods are "svd".
        memory: Bytes to use at most for an array that is read in slabs, at least 2**20; None for 2**30. If given, a
            tensor or numpy array is read in slabs, too, without gradients.
        checkpoint: A folder in which to keep what finished passes over the slabs have found. A run that was
            interrupted goes on after them if called again with the same arguments; when it is done, they are removed.
        callback: Called with a `PassProgress` after every slab.

    Returns:
        A train of the dtype and device of `x`, with storage of its own, left-orthogonal if the norm of `x` is a number
        of its dtype, and up to evenly spread powers of two if not. Gradients are right for losses that depend on the
        tensor alone, not on the choice of its cores, and finite for any `x`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If a mode is empty, or `max_rank` has the wrong number of entries.
        TTValueError: If an argument is out of range, or `x` has entries that are NaN or infinite.
        TTFileError: If the checkpoint is of another decomposition, or cannot be written.

    Example:
        >>> i = torch.arange(8.0)
        >>> x = (i[:, None, None] + i[:, None] + i).sin()  # ranks 2, by the addition theorem
        >>> tt = tt_svd(x, eps=1e-5)
        >>> tt.ranks, bool((tt.full() - x).norm() <= 1e-5 * x.norm())
        ((1, 2, 2, 1), True)
    """
    check_method(method, METHODS)
    bound = check_eps(eps)
    in_slabs = memory is not None or not isinstance(x, Tensor | np.ndarray) or isinstance(x, np.memmap)
    if in_slabs or checkpoint is not None or callback is not None:
        return _in_slabs(x, bound, max_rank, method, memory, checkpoint, callback)
    x = as_dense(x)
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
            return _train(cores, 0, x.dtype)
    exponent, norm = _measure(x.detach())
    if x.ndim < 2:
        return TensorTrain([x.reshape(1, *x.shape, 1).clone()])
    if norm == 0 and not differentiable:
        return TensorTrain([_unit(size, x) for size in x.shape[:-1]] + [x.new_zeros(1, x.shape[-1], 1)])
    if exact:
        cores = _exact(times_power_of_two(x.to(dtype), -exponent), budget.for_norm(norm))
    else:
        cores = Sweep(x.detach(), dtype, exponent, norm, budget.for_norm(norm), method).run()
    return _train(cores, exponent, x.dtype)


def _train(cores: Sequence[Tensor], exponent: int, dtype: torch.dtype) -> TensorTrain:
    return TensorTrain([core.contiguous() for core in join_scale(cores, exponent, dtype)])


def _in_slabs(
    x: ArrayLike,
    eps: float,
    max_rank: int | Sequence[int] | None,
    method: str,
    memory: int | None,
    checkpoint: str | os.PathLike[str] | None,
    callback: Callable[[PassProgress], object] | None,
) -> TensorTrain:
    """Decompose an array that need not fit into memory."""
    dtype = entry_dtype(x)
    shape = tuple(map(int, x.shape))
    max_ranks = check_max_rank(max_rank, max(0, len(shape) - 1))
    memory = check_memory_limit(memory)
    check_array(x)
    if len(shape) < 2:
        return tt_svd(read(x, (slice(None),) * len(shape)), eps=eps)
    sweep = ArraySweep(
        x.detach() if isinstance(x, Tensor) else x,
        eps=eps,
        max_ranks=max_ranks,
        method=method,
        memory=memory,
        checkpoint=checkpoint,
        callback=callback,
    )
    cores, exponent = sweep.run()
    if not cores:
        like = torch.empty(0, dtype=dtype)
        return TensorTrain([_unit(size, like) for size in shape[:-1]] + [like.new_zeros(1, shape[-1], 1)])
    return _train(cores, exponent, dtype)


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


def _unit(size: int, like: Tensor) -> Tensor:
    """Give a core (1, size, 1) of norm 1."""
    core = like.new_zeros(1, size, 1)
    core[0, 0, 0] = 1
    return core
