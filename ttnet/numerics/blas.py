"""Matrix products by whichever BLAS is faster here: torch's, or that of numpy, which shares the same memory.

A decomposition spends its time in skinny products `X^T X` and `X V`. On a CPU whose maker did not write torch's BLAS,
numpy's OpenBLAS does them up to 2.6 times faster, since it uses the widest vectors there; and of a symmetric product it
computes one half only, which pays on other CPUs, too, if there are many columns. So which one to take is measured once
per process, precision and kind of product, by products that take a millisecond. numpy has to win clearly, so that the
noise of a clock does not decide; the environment variable `TTNET_BLAS`, "numpy" or "torch", decides without measuring.
Here is also how many threads either of them takes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

Matmul = Callable[[Tensor, Tensor, Tensor], object]  # (m, k), (k, n), out (m, n)

_CLEARLY = 1.3  # how many times faster numpy has to be
_ROWS = 1024  # of the products that are measured
_COLUMNS = (64, 256)
# Multiplications up to which OpenBLAS takes a product straight from the operands, without first copying them into an
# order of its own. A copy pays in large products, but skinny ones take up to 1.8 times as long with it.
_SMALL = 900_000
_FEWEST_ROWS = 6
_outside: ContextVar[int | None] = ContextVar("threads outside of single_threaded", default=None)
_lock = threading.Lock()
_inside, _before = 0, 1  # how many are in `single_threaded`, and torch's threads before the first of them


def _torch_matmul(a: Tensor, b: Tensor, out: Tensor) -> object:
    return torch.mm(a, b, out=out)


def _numpy_matmul(a: Tensor, b: Tensor, out: Tensor) -> object:
    x, y, product = a.numpy(), b.numpy(), out.numpy()
    rows = _SMALL // y.size
    if rows < _FEWEST_ROWS or len(x) <= rows or not (x.flags.c_contiguous and y.flags.c_contiguous):
        return np.matmul(x, y, out=product)
    for start in range(0, len(x), rows):
        np.matmul(x[start : start + rows], y, out=product[start : start + rows])
    return out


def matmul_for(device: torch.device, dtype: torch.dtype, symmetric: int | None = None) -> Matmul:
    """Give the faster function for real products into a given matrix.

    Args:
        device: Where the matrices are.
        dtype: float32 or float64.
        symmetric: The number of columns of `x`, for products `x.mT @ x`; `None` for all others.

    Returns:
        A function of two matrices and the output. `matmul(x.mT, x, out)` is recognised as symmetric.

    Example:
        >>> x, out = torch.ones(3, 2), torch.empty(2, 2)
        >>> _ = matmul_for(x.device, x.dtype, symmetric=2)(x.mT, x, out)
        >>> out
        tensor([[3., 3.],
                [3., 3.]])
    """
    if device.type != "cpu":
        return _torch_matmul
    threads = thread_count()
    choice = os.environ.get("TTNET_BLAS")
    if choice is None:
        columns = None if symmetric is None else _COLUMNS[0] if symmetric**2 <= math.prod(_COLUMNS) else _COLUMNS[1]
        choice = "numpy" if _numpy_follows(threads) and _numpy_is_faster(dtype, threads, columns) else "torch"
    return _numpy_matmul if choice == "numpy" else _torch_matmul


def thread_count() -> int:
    """Give how many threads a pass over much memory may take: torch's, or what torch had before `single_threaded`.

    Returns:
        The number.

    Example:
        >>> thread_count() == torch.get_num_threads()
        True
    """
    return _outside.get() or torch.get_num_threads()


@contextlib.contextmanager
def torch_threads() -> Iterator[None]:
    """Let libraries take `thread_count()` threads, numpy's products too, for as long as the context lasts.

    Example:
        >>> with torch_threads():
        ...     pass
    """
    with _limited(thread_count()):
        yield


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let libraries take one thread: for small steps between passes that have threads of their own.

    The threads of a library go on looking for work for milliseconds after each call, and meanwhile take the place of
    those that have some.

    Example:
        >>> with single_threaded():
        ...     pass
    """
    global _inside, _before
    with _lock:  # several threads of Python may be here, of which the later ones see what the first one has set
        _before = _before if _inside else torch.get_num_threads()
        _inside += 1
    token = _outside.set(_before)
    try:
        with _limited(1):
            yield
    finally:
        _outside.reset(token)
        with _lock:
            _inside -= 1


@contextlib.contextmanager
def _limited(count: int) -> Iterator[None]:
    before = thread_count() if count == 1 else torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        controller = _controller()
        with contextlib.nullcontext() if controller is None else controller.limit(limits=count, user_api="blas"):
            yield
    finally:
        if before != count:
            torch.set_num_threads(before)


@functools.cache
def _controller() -> Any:
    """Give what sets numpy's threads, or None without the (optional) package threadpoolctl."""
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None


@functools.cache
def _numpy_follows(threads: int) -> bool:
    """Say whether numpy computes with as many threads as torch; if not, taking it would oversubscribe the machine."""
    if _controller() is not None:
        return True
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    given = [os.environ[name] for name in names if os.environ.get(name, "").isdigit()]
    return (int(given[0]) if given else os.cpu_count()) == threads


@functools.cache
def _numpy_is_faster(dtype: torch.dtype, threads: int, symmetric: int | None) -> bool:
    x = torch.ones(_ROWS, symmetric or _COLUMNS[1], dtype=dtype)
    a, b = (x, x.new_ones(x.shape[1], _COLUMNS[0])) if symmetric is None else (x.mT, x)
    out = x.new_empty(len(a), b.shape[1])
    seconds: dict[Matmul, list[float]] = {_torch_matmul: [], _numpy_matmul: []}
    with torch_threads():
        for _ in range(6):  # in turn, so that whatever else the machine does falls on both
            for matmul, times in seconds.items():
                start = time.perf_counter()
                matmul(a, b, out)
                times.append(time.perf_counter() - start)
    return min(seconds[_torch_matmul]) > _CLEARLY * min(seconds[_numpy_matmul])
