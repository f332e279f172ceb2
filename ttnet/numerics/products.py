"""Matrix products by what is fastest here, where no gradient has to flow: torch's BLAS, numpy's, or compiled code."""

from __future__ import annotations

import functools
import os
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ttnet.numerics import compiled_product
from ttnet.numerics.blas import matmul_for, thread_count

_WORTH_A_CHOICE = 2**18  # multiplications
_WORTH_COMPILED = 2**20  # in one product
# In all products of a process together, before any is compiled: that takes libraries as long as compiling does.
_WORTH_COMPILING = 2**33
_WORTH_A_THREAD = 2**22
_CLEARLY = 1.3  # how many times faster compiled products have to be
_multiplied = 0  # so far


def multiply(
    a: Tensor,  # (m, k)
    b: Tensor,  # (k, n)
) -> Tensor:  # (m, n)
    """Multiply two matrices.

    Args:
        a: A matrix of a dtype that LAPACK knows.
        b: Another one of that dtype.

    Returns:
        The product; gradients flow through it.

    Example:
        >>> multiply(torch.ones(2, 3), torch.ones(3, 1))
        tensor([[3.],
                [3.]])
    """
    global _multiplied
    work = a.numel() * b.shape[1]
    if work < _WORTH_A_CHOICE or a.is_complex() or (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
        return a @ b
    a, b, product = a.detach(), b.detach(), a.new_empty(len(a), b.shape[1])
    _multiplied += work
    if work >= _WORTH_COMPILED and _multiplied > _WORTH_COMPILING and _takes(a, b, product):
        _by_compiled(a, b, product, work)
    else:
        matmul_for(a.device, a.dtype)(a, b, product)
    return product


def _takes(a: Tensor, b: Tensor, out: Tensor) -> bool:
    has_choice = os.environ.get("TTNET_BLAS") is None and compiled_product.takes(a, b, out)
    return has_choice and _compiled_is_faster(a.dtype)


def _by_compiled(a: Tensor, b: Tensor, out: Tensor, work: int) -> None:
    parts = min(thread_count(), work // _WORTH_A_THREAD, -(-len(a) // 8))
    if parts < 2:
        compiled_product.multiply(a, b, out)
        return
    rows = -(-len(a) // (8 * parts)) * 8  # whole tiles
    pairs = zip(a.split(rows), out.split(rows), strict=True)
    with ThreadPoolExecutor(parts) as pool:
        for done in [pool.submit(compiled_product.multiply, x, b, y) for x, y in pairs]:
            done.result()


@functools.cache
def _compiled_is_faster(dtype: torch.dtype) -> bool:
    """Measure on one thread, once a process and precision: several threads share what memory gives them alike."""
    a, b, out = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 64, dtype=dtype), torch.empty(1024, 64, dtype=dtype)
    ways = (matmul_for(a.device, dtype), compiled_product.multiply)
    seconds: list[list[float]] = [[], []]
    for _ in range(6):  # in turn, so that whatever else the machine does falls on both
        for way, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way(a, b, out)
            times.append(time.perf_counter() - start)
    return min(seconds[0]) > _CLEARLY * min(seconds[1])
