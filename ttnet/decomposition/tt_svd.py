"""TT-SVD: a dense tensor to a train, by one truncated SVD a bond."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.decomposition.array_source import PassProgress, check_memory_limit
from ttnet.decomposition.in_memory import METHODS, along_storage, dense_cores, finish, zero_cores
from ttnet.decomposition.out_of_core import ArraySweep
from ttnet.decomposition.storage import ArrayLike, opened, read
from ttnet.numerics.dense import as_dense
from ttnet.numerics.truncation import check_eps, check_max_rank, check_method, dtype_for_bound
from ttnet.trains.tensor_train import TensorTrain


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
            are taken as float64, which holds integers up to 2**53. Also any array with `shape` and slicing, such as a
            numpy memory map or one of h5py, zarr, netCDF4 or dask: it is read in slabs, each once or twice, and on a
            dask cluster where they are. What its slices hold counts, not its `dtype`. Masked entries are refused.
        eps: Bound on the relative Frobenius error, at least 0. None or 0 cuts only what is rounding noise, as does any
            bound below the precision of the dtype: some ten times its machine epsilon, growing with the square roots of
            the order and of the unfoldings' shorter sides. From 1 on, all ranks are 1. bfloat16 and float16 are
            computed in float32, and casting cores back costs up to half a machine epsilon each; under a bound of no
            more than `order * machine epsilon / 2` the train is left in float32.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        method: How the singular values of the unfoldings are found. Every method keeps the promises above.
            "svd" factorises each unfolding from the left; "qr" takes passes that read it in blocks, by orthogonal
            transformations only; "gram" takes Gram matrices, accumulated in double precision; "randomized" takes
            verified random combinations of rows, or a sample of them. What a method cannot certify is done by the next
            more exact one.
            "auto" chooses by size, bound and expected ranks; the page on TT-SVD in the documentation tells its rule.
            If `x` requires gradients, all methods are "svd".
        memory: Bytes to use at most for an array that is read in slabs, at least 2**20; None for 2**30. If given, a
            tensor or numpy array is read in slabs, too, without gradients.
        checkpoint: A folder in which to keep what finished passes over the slabs have found. A run that was
            interrupted goes on after them if called again with the same arguments; when it is done, they are removed.
        callback: Called with a `PassProgress` after every slab.

    Returns:
        A train of the dtype (but for half precision under a tight bound) and device of `x`, with storage of its own,
        left-orthogonal if the norm of `x` is a number of its dtype, and up to evenly spread powers of two if not.
        Gradients are right for losses that depend on the tensor alone, not on the choice of its cores, and finite for
        any `x`.

    Raises:
        TTTypeError: If an argument is of the wrong type, or entries of `x` are masked or no numbers.
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
    in_slabs = memory is not None or not isinstance(x, Tensor | np.ndarray) or isinstance(x, np.memmap)
    if in_slabs or checkpoint is not None or callback is not None:
        return TensorTrain(_in_slabs(x, eps, max_rank, method, memory, checkpoint, callback))
    return TensorTrain(dense_cores(as_dense(x), eps=eps, max_rank=max_rank, method=method))


def _in_slabs(
    x: ArrayLike,
    eps: float | None,
    max_rank: int | Sequence[int] | None,
    method: str,
    memory: int | None,
    checkpoint: str | os.PathLike[str] | None,
    callback: Callable[[PassProgress], object] | None,
) -> list[Tensor]:
    """Decompose an array that need not fit into memory."""
    check_method(method, METHODS)
    bound = check_eps(eps)
    x, entries = opened(x.detach() if isinstance(x, Tensor) else x)
    shape = tuple(map(int, x.shape))
    max_ranks = check_max_rank(max_rank, max(0, len(shape) - 1))
    memory = check_memory_limit(memory)
    if len(shape) < 2:
        return dense_cores(read(x, (slice(None),) * len(shape)), eps=bound)
    dtype = dtype_for_bound(entries, bound, len(shape))

    def sweep(array: ArrayLike, max_ranks: Sequence[int | None]) -> tuple[list[Tensor], int]:
        return ArraySweep(
            array,
            entries=entries,
            dtype=dtype,
            eps=bound,
            max_ranks=max_ranks,
            method=method,
            memory=memory,
            checkpoint=checkpoint,
            is_mirrored=array is not x,
            callback=callback,
        ).run()

    cores, exponent = along_storage(sweep, x, max_ranks)
    return finish(cores, exponent, dtype) if cores else zero_cores(shape, torch.empty(0, dtype=dtype))
