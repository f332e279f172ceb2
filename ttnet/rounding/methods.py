"""The choice among the methods of rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.numerics.blas import torch_threads
from ttnet.numerics.scales import compute_dtype
from ttnet.numerics.train_scales import join_scale
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.exact import round_exactly
from ttnet.rounding.gram import round_by_gram
from ttnet.rounding.randomized import round_randomly
from ttnet.rounding.sums import TrainSum

METHODS = ("auto", "svd", "gram", "randomized")

# Below, singular values drown in the noise of their squares; and small products cost no more than their overhead.
GRAM_EPS = 1e-6
GRAM_RANK = 32


def choose_method(method: str, *, dtype: torch.dtype, rank: int, eps: float, max_rank: int | None, grad: bool) -> str:
    """Say which method to try first.

    Args:
        method: What the user asked for.
        dtype: The dtype of the result.
        rank: The largest rank to start from.
        eps: The relative error bound.
        max_rank: The largest rank allowed at any bond, or None.
        grad: Whether gradients are to flow.

    Returns:
        "svd", "gram" or "randomized".

    Example:
        >>> choose_method("auto", dtype=torch.float64, rank=100, eps=1e-4, max_rank=None, grad=False)
        'gram'
        >>> choose_method("auto", dtype=torch.float32, rank=100, eps=1e-4, max_rank=None, grad=False)
        'svd'
    """
    if grad:
        return "svd"
    if method != "auto":
        return method
    has_digits = eps >= GRAM_EPS or (max_rank is not None and 2 * max_rank <= rank)
    is_double = dtype in (torch.float64, torch.complex128)
    return "gram" if is_double and rank >= GRAM_RANK and has_digits else "svd"


def round_cores(
    summands: Sequence[Sequence[Tensor]],  # each (r, n, r')
    weights: Tensor | None,  # (number of summands,)
    *,
    dtype: torch.dtype,
    eps: float,
    max_ranks: Sequence[int | None],
    method: str,
) -> list[Tensor]:  # each (r, n, r')
    """Round a sum of trains by the method asked for, or the next one that keeps the bound.

    Args:
        summands: The cores of each train, all of one shape and of order 1 or more, and finite.
        weights: A finite factor for each of them; None for ones.
        dtype: The dtype of the result.
        eps: The relative error bound, at least 0.
        max_ranks: The largest rank of each inner bond, or None.
        method: One of `METHODS`.

    Returns:
        The cores of the rounded sum.

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 3, 1)]
        >>> cores = round_cores([one, one], None, dtype=torch.float32, eps=0.0, max_ranks=[None], method="auto")
        >>> [tuple(core.shape) for core in cores]
        [(1, 2, 1), (1, 3, 1)]
    """
    given = [core for cores in summands for core in cores] + ([] if weights is None else [weights])
    grad = torch.is_grad_enabled() and any(value.requires_grad for value in given)
    x = TrainSum(summands, weights, compute_dtype(dtype))
    limit = max((rank for rank in max_ranks if rank is not None), default=None)

    def choose(method: str) -> str:
        return choose_method(method, dtype=dtype, rank=max(x.ranks), eps=eps, max_rank=limit, grad=grad)

    def budget() -> RelativeBudget:
        return RelativeBudget(eps=eps, max_ranks=max_ranks, dtype=dtype)

    method = choose(method) if x.order > 1 else "svd"
    with torch_threads():
        result = None
        if method == "randomized":
            result = round_randomly(x, eps=eps, max_ranks=max_ranks, dtype=dtype)
            method = "randomized" if result else choose("auto")
        if method == "gram":
            double = torch.complex128 if dtype.is_complex else torch.float64
            result = round_by_gram(x if x.dtype == double else TrainSum(summands, weights, double), budget())
        cores, exponent = result or round_exactly(x, budget())
    return join_scale(cores, exponent, dtype)
