"""Rounding by random projections: the large cores meet a few random columns instead of each other.

Where the ranks come down a lot, most of the work of rounding goes into what is thrown away. Products with a thin random
train find what to keep at a fraction of that, and products with a second one, independent of it, tell what was missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from ttnet.numerics.linalg import qr, r_factor
from ttnet.numerics.products import multiply
from ttnet.numerics.scales import Exponent, split_scale, times_power_of_two
from ttnet.rounding.budget import RelativeBudget
from ttnet.rounding.exact import round_exactly
from ttnet.rounding.sums import TrainSum, sweep

_FIRST_COLUMNS = 16
_CHECK_COLUMNS = 32
_FAILURE = 1e-10  # the probability that a check lets a larger error pass
_MARGIN = 0.1  # how much of the squared bound may go to what a projection misses

Train = tuple[list[Tensor], Exponent]  # cores, and the exponent of the power of two that multiplies them


class Sketch(NamedTuple):
    """All that lies right of each bond, times random columns.

    Attributes:
        factors: For each inner bond, a tensor of shape (R, columns).
        exponents: For each inner bond: the product is its factor times 2 to this power.
        steps: The number of random cores on the way.
    """

    factors: list[Tensor]
    exponents: list[Exponent]
    steps: int


def round_randomly(x: TrainSum, *, eps: float, max_ranks: Sequence[int | None], dtype: torch.dtype) -> Train | None:
    """Round by projecting onto products with random columns, and trim the outcome exactly.

    With an error bound, ever more columns are taken until an independent check finds the bound kept; it is wrong with
    a probability below 1e-10. Without one, `max_rank` sets their number. Source: Al Daas et al. 2023, "Randomized
    algorithms for rounding in the tensor-train format", randomize-then-orthogonalize; the check is ours.

    Args:
        x: The train, in a dtype that LAPACK knows; no gradient flows.
        eps: The relative error bound, at least 0.
        max_ranks: The largest rank of each inner bond.
        dtype: The dtype of the user's numbers, which sets their precision.

    Returns:
        As `round_exactly`, or None where that costs less, since many columns are needed, or where no check can tell.

    Example:
        >>> one = [torch.ones(1, 40, 64), torch.ones(64, 50, 1)]
        >>> x = TrainSum([one], None, torch.float64)
        >>> cores, exponent = round_randomly(x, eps=1e-6, max_ranks=[None], dtype=torch.float64)
        >>> [tuple(core.shape) for core in cores]
        [(1, 40, 1), (1, 50, 1)]
    """
    useful = _useful_columns(x)
    caps = [
        most if rank is None else min(most, _columns_for(rank)) for most, rank in zip(useful, max_ranks, strict=True)
    ]
    is_capped = max(caps) < max(useful)
    columns = max(caps) if is_capped else max(_FIRST_COLUMNS, max(useful) // 8)
    precision = 100 * torch.finfo(x.dtype).eps
    can_check = precision * _safety(sum(most > _CHECK_COLUMNS for most in useful)) <= math.sqrt(_MARGIN) * eps
    if 2 * columns > max(useful) or not (is_capped or can_check):
        return None

    generator = torch.Generator().manual_seed(0)
    sketches = [draw_sketch(x, [min(columns, cap) for cap in caps], generator)]
    while True:
        check = draw_sketch(x, [_CHECK_COLUMNS] * len(caps), generator) if can_check else None
        train, missed = project(x, sketches, check)
        if missed**2 <= _MARGIN * eps**2:
            return _trim(train, math.sqrt(eps**2 - missed**2), max_ranks, dtype)[0]
        if check is None or is_capped:
            trimmed, is_forced = _trim(train, eps, max_ranks, dtype)
            # Without an error bound, ranks below the number of columns say that nothing was missed, to the last digits.
            # With one, what is unconfirmed will do only if it is max_rank that forbids the bound.
            return trimmed if is_forced or not eps else None
        more = max(columns, _CHECK_COLUMNS)  # the check's own columns, and others
        if 2 * (columns + more) > max(useful):
            return None
        sketches.append(check)
        if more > _CHECK_COLUMNS:
            sketches.append(draw_sketch(x, [more - _CHECK_COLUMNS] * len(caps), generator))
        columns += more


def draw_sketch(x: TrainSum, columns: Sequence[int], generator: torch.Generator) -> Sketch:
    """Contract a train from the right with a random Gaussian one, whose bonds are the columns.

    Where a bond has no more indices than there are columns, or that little lies on its right, the product with the
    random core is left out, and the Gram matrix of what lies on the right is kept exactly.

    Args:
        x: The train.
        columns: The number of columns at each inner bond, at least 1.
        generator: What the random numbers are drawn from, on the CPU.

    Returns:
        The products, whose Gram matrices are in expectation those of what lies right of each bond.

    Example:
        >>> one = [torch.ones(1, 2, 3), torch.ones(3, 4, 1)]
        >>> x = TrainSum([one], None, torch.float64)
        >>> sketch = draw_sketch(x, [2], torch.Generator().manual_seed(0))
        >>> sketch.factors[0].shape, sketch.steps
        (torch.Size([3, 2]), 1)
    """
    factor, steps = x.tail, 0
    exponent: Exponent = 0
    factors: list[Tensor] = []
    exponents: list[Exponent] = []
    for k in range(x.order - 1, 0, -1):
        factor = x.times_right(k, factor).flatten(1)  # (R, n q)
        width = columns[k - 1]
        if factor.shape[1] > width:
            if len(factor) <= width:
                factor = r_factor(factor.mH).mH
            else:
                # Single precision is random enough, and drawn at a multiple of the speed.
                single = torch.complex64 if factor.is_complex() else torch.float32
                omega = torch.randn(factor.shape[1], width, dtype=single, generator=generator) / math.sqrt(width)
                factor = multiply(factor, omega.to(factor))
                steps += 1
        factor, step = split_scale(factor)
        exponent = exponent + step
        factors.append(factor)
        exponents.append(exponent)
    return Sketch(factors[::-1], exponents[::-1], steps)


def project(x: TrainSum, sketches: Sequence[Sketch], check: Sketch | None) -> tuple[Train, float]:
    """Project a train onto the ranges of its products with random columns.

    Args:
        x: The train.
        sketches: The products whose ranges are kept.
        check: One more, independent of them, that tells what is missed.

    Returns:
        The projected train, left-orthogonal, and a bound on the error, relative to its norm: infinite without a check,
        and wrong with a probability below 1e-10 with one.
    """
    losses: list[Tensor] = []

    def find_basis(k: int, c: Tensor) -> tuple[Tensor, Tensor]:  # (r n, R) to (r n, s) and (s, R)
        image = multiply(c, torch.cat([sketch.factors[k] for sketch in sketches], dim=1))
        if image.shape[1] >= min(c.shape):
            u, w = qr(c)
        else:
            u = torch.linalg.qr(image).Q if _is_double(c) else qr(image)[0]
            w = _adjoint_product(u, c)
        if check is not None:
            seen = multiply(c, check.factors[k])
            losses.append(_norm(seen - u @ _adjoint_product(u, seen)))
        return u, w

    cores, exponents = sweep(x, find_basis)
    train = cores, exponents[-1] + x.exponent
    if check is None:
        return train, math.inf
    units = [left + right - exponents[-1] for left, right in zip(exponents, check.exponents, strict=False)]
    loss = math.hypot(*(float(times_power_of_two(a, unit)) for a, unit in zip(losses, units, strict=True)))
    norm = float(_norm(cores[-1]))
    if not loss:
        return train, 0.0
    return train, _safety(check.steps) * loss / norm if norm else math.inf


def _trim(train: Train, eps: float, max_ranks: Sequence[int | None], dtype: torch.dtype) -> tuple[Train, bool]:
    """Round the thin train exactly, and say whether it was `max_rank` that set its ranks."""
    cores, exponent = train
    budget = RelativeBudget(eps=eps, max_ranks=max_ranks, dtype=dtype)
    cores, step = round_exactly(TrainSum([cores], None, cores[0].dtype), budget)
    return (cores, step + exponent), budget.is_forced


def _columns_for(rank: int) -> int:
    """Give the number of columns that find `rank` directions well, for a few more than there are."""
    return rank + max(10, rank // 4)


def _useful_columns(x: TrainSum) -> list[int]:
    """Give, for each inner bond, the largest rank that its unfolding can have."""
    left = list(accumulate(x.shape, mul))
    right = list(accumulate(x.shape[::-1], mul))[::-1]
    return [min(bounds) for bounds in zip(left[:-1], right[1:], x.ranks[1:-1], strict=True)]


def _safety(steps: int) -> float:
    """Bound how many times larger an error can be than a check sees it, but for the probability of failure.

    A random core takes the square of a norm to itself times a mean of independent chi-squares, each divided by its
    degrees of freedom, as many as the columns. By Jensen's inequality the moment of order -t of that factor is at most
    the one of a single such chi-square, m_t; so that of the product is at most m_t**steps, and by Markov's the square
    is less than the true one divided by z with a probability of at most m_t**steps / z**t.
    """
    half = _CHECK_COLUMNS / 2

    def log_square(t: float) -> float:
        log_moment = t * math.log(half) + math.lgamma(half - t) - math.lgamma(half)
        return (steps * log_moment - math.log(_FAILURE)) / t

    return math.exp(min(600.0, min(log_square(half * i / 40) for i in range(1, 40)) / 2)) if steps else 1.0


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dtype=torch.complex128 if x.is_complex() else torch.float64)


def _is_double(x: Tensor) -> bool:
    """Say whether long sums leave enough digits, so that they need no blocks."""
    return x.dtype in (torch.float64, torch.complex128)


def _adjoint_product(
    u: Tensor,  # (m, s)
    c: Tensor,  # (m, n)
) -> Tensor:  # (s, n)
    """Give u^H @ c, the long sum in blocks, so that single precision loses no digits."""
    block = 1024
    if len(u) <= 2 * block or _is_double(u):
        return multiply(u.mH, c)
    cut = len(u) // block * block
    blocks = u[:cut].unflatten(0, (-1, block)).mH @ c[:cut].unflatten(0, (-1, block))
    return blocks.sum(0) + u[cut:].mH @ c[cut:]
