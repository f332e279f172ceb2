"""TT-SVD of many small tensors at once: one factorisation a bond for all of them, with an error bound for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.decomposition.in_memory import zero_cores
from ttnet.decomposition.tt_svd import tt_svd
from ttnet.decomposition.unfolding import double
from ttnet.errors import TTShapeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import compute_dtype
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import ErrorBudget, check_eps, check_max_rank, check_readable, dtype_for_bound
from ttnet.trains.tensor_train import TensorTrain

_ENTRIES = 2**22  # of the tensors that are worked on at once, which caches hold in part and any memory holds
_ROUNDING = 8  # machine epsilons, relative to the squared norm, of sums of squares and of a Gram matrix's eigenvalues
_MARGIN = 20  # how many times that a cut must be for the eigenvalues to tell where it is
_MISSES = 1 / 20  # how much of a cut, in squares, may be left to directions that are not looked at
_WORTH_PIVOTS = 8  # columns from which on LAPACK takes longer than to look for the few that matter


def tt_svd_batch(
    x: Tensor | npt.NDArray[Any],  # (batch, n_1, ..., n_d)
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> list[TensorTrain]:
    """Decompose each tensor of a batch as `tt_svd` does, all of them in each step.

    It is for many small tensors, where calls take longer than their arithmetic; a large tensor alone is faster by
    `tt_svd`. All computing is in double precision. Bonds that may be cut by more than the rounding of a Gram matrix are
    cut by its eigenvectors, the others by SVDs. Source: Oseledets 2011, "Tensor-Train Decomposition", Algorithm 1; the
    bound holds for each tensor by Theorem 2.2 there, and what one bond leaves of it goes to the later ones.

    Args:
        x: Tensors of one shape, stacked along the first dimension, in any dtype that `tt_svd` takes; any scale each.
        eps: Bound on the relative Frobenius error of each, at least 0; see `tt_svd`.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.

    Returns:
        A train for each tensor, of ranks of its own, left-orthogonal, of the dtype and on the device of `x`. If `x`
        requires gradients, they are those of `tt_svd`, which is then called for one tensor after the other.

    Raises:
        TTTypeError: If an argument is of the wrong type, or entries of `x` are masked or no numbers.
        TTShapeError: If `x` has no dimension for the batch, a mode is empty, or `max_rank` has the wrong number of
            entries.
        TTValueError: If an argument is out of range, or a tensor has entries that are NaN or infinite; its place is
            told.

    Example:
        >>> i = torch.arange(8.0)
        >>> x = torch.stack([(k * (i[:, None, None] + i[:, None] + i)).sin() for k in (0.1, 0.2, 0.3)])
        >>> [train.ranks for train in tt_svd_batch(x, eps=1e-5)]
        [(1, 2, 2, 1), (1, 2, 2, 1), (1, 2, 2, 1)]
    """
    x = as_dense(x)
    if x.ndim == 0:
        raise TTShapeError("x has no dimension; expected the batch first, and the modes after it.")
    batch, shape = x.shape[0], tuple(x.shape[1:])
    bound = check_eps(eps)
    max_ranks = check_max_rank(max_rank, max(0, len(shape) - 1))
    if 0 in shape:
        raise TTShapeError(f"x has shape {tuple(x.shape)}; every mode must have size at least 1.")
    if not batch:
        return []
    check_readable(x, "x")
    if (x.requires_grad and torch.is_grad_enabled()) or len(shape) < 2:
        return [tt_svd(item, eps=eps, max_rank=max_rank) for item in x]
    dtype = dtype_for_bound(x.dtype, bound, len(shape))
    computed = double(compute_dtype(dtype))
    budget = ErrorBudget(norm=1.0, eps=bound, max_ranks=max_ranks, dtype=dtype, arithmetic=computed)
    ranks = max_ranks if bound < 1 else [1] * len(max_ranks)
    trains: list[TensorTrain] = []
    for start in range(0, batch, size := max(1, _ENTRIES // math.prod(shape))):
        part, exponents, squares = _scaled(x.detach()[start : start + size], computed, start)
        cores, kept = _cut_all(part, squares, budget, ranks, shape)
        trains += _apart(cores, kept, exponents, shape, dtype)
        if max_rank is None:
            for place in _beyond(cores, squares, budget, bound):
                trains[start + place] = tt_svd(x.detach()[start + place], eps=eps, method="svd")
    return trains


def _scaled(
    x: Tensor,  # (batch, n_1, ..., n_d)
    dtype: torch.dtype,
    start: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give tensors in double precision whose squares are numbers, the exponents taken out, and the squares' sums."""
    flat = x.reshape(len(x), -1).to(dtype)
    norms = torch.linalg.vector_norm(flat, dim=1)
    if bool((((norms > 1e-100) & (norms < 1e100)) | (norms == 0)).all()) and not bool((norms == 0).any()):
        return flat, torch.zeros(len(x), dtype=torch.int32, device=x.device), norms.square()
    largest = torch.linalg.vector_norm(flat, torch.inf, dim=1)
    if not bool(largest.isfinite().all()):
        place = start + int((~largest.isfinite()).nonzero()[0])
        raise TTValueError(f"x[{place}] holds NaN or infinite entries; expected finite numbers.")
    exponents = torch.frexp(largest).exponent
    half = torch.div(exponents, 2, rounding_mode="floor")  # in two steps, as 2**1074 is no float
    for part in (half, exponents - half):
        flat = flat * torch.exp2(-part.to(norms.dtype))[:, None]
    return flat, exponents, torch.linalg.vector_norm(flat, dim=1).square()


def _cut_all(
    x: Tensor,  # (batch, n_1 ... n_d)
    squares: Tensor,  # (batch,)
    budget: ErrorBudget,
    max_ranks: Sequence[int | None],
    sizes: Sequence[int],
) -> tuple[list[Tensor], Tensor]:
    """Cut bond by bond from the left: cores (batch, r, n, r') with zeros beyond each one's ranks, and these ranks."""
    batch, rest = len(x), x
    left = budget.left**2 * squares
    cores, ranks = [], []
    for k, size in enumerate(sizes[:-1]):
        matrix = rest.reshape(batch, -1, math.prod(sizes[k + 1 :]))  # (batch, r n, remaining modes)
        floor = budget.noise(min(matrix.shape[1:])) ** 2
        allowed = torch.maximum(left / (len(sizes) - 1 - k), floor * squares)  # (batch,)
        u, rest, kept, lost = _cut(matrix, allowed, squares, max_ranks[k])
        left = (left - lost).clamp(min=0)
        cores.append(u.reshape(batch, -1, size, u.shape[2]))
        ranks.append(kept)
    return [*cores, rest.reshape(batch, -1, sizes[-1], 1)], torch.stack(ranks, 1)


def _beyond(cores: Sequence[Tensor], squares: Tensor, budget: ErrorBudget, bound: float) -> list[int]:
    """Tell which trains are farther than the bound from their tensors: the cores being orthonormal, by Pythagoras."""
    errors = squares - torch.linalg.vector_norm(cores[-1].flatten(1), dim=1).square()
    rounding = _ROUNDING * torch.finfo(squares.dtype).eps * squares
    if not bound**2 > _MARGIN * _ROUNDING * torch.finfo(squares.dtype).eps:  # then every cut was by SVD
        return []
    return (errors > bound**2 * squares + rounding).nonzero()[:, 0].tolist()


def _cut(
    matrix: Tensor,  # (batch, m, n)
    allowed: Tensor,  # (batch,)
    squares: Tensor,  # (batch,)
    max_rank: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split matrices into `u @ w`: with zero columns and rows beyond their ranks, those, and the squares cut off."""
    rows, cols = matrix.shape[1:]
    noise = _ROUNDING * torch.finfo(squares.dtype).eps * squares  # of eigenvalues of a Gram matrix
    by_gram = bool((allowed >= _MARGIN * noise).all())
    if not by_gram:
        u, values, wh = torch.linalg.svd(matrix, full_matrices=False)
        kept, lost = _count(values.square(), allowed, max_rank)
        mask = _mask(kept, values)
        u, w = u[:, :, : mask.shape[1]] * mask[:, None], (values[:, : mask.shape[1], None] * wh[:, : mask.shape[1]])
        return u, w * mask[:, :, None], kept, lost
    wide = rows <= cols
    values, vectors, missed = _eigenpairs(matrix @ matrix.mH if wide else matrix.mH @ matrix, _MISSES * allowed)
    missed = missed + noise
    kept, lost = _count(values.flip(1).clamp(min=0), allowed - missed, max_rank)
    mask = _mask(kept, values)
    vectors = vectors[:, :, -mask.shape[1] :].flip(2) * mask[:, None]
    if wide:
        return vectors, vectors.mH @ matrix, kept, lost + missed
    u, w = torch.linalg.qr(matrix @ vectors)  # columns that are masked are the last ones, whose rows of w are zero
    return u * mask[:, None], (w * mask[:, :, None]) @ vectors.mH, kept, lost + missed


def _eigenpairs(
    gram: Tensor,  # (batch, n, n)
    goal: Tensor,  # (batch,)
) -> tuple[Tensor, Tensor, Tensor]:
    """Give eigenvalues, ascending, and eigenvectors of all of a Gram matrix but a part of a trace up to a goal, and it.

    LAPACK takes one matrix after the other. So a Cholesky factorisation with pivots, a step of all of them together,
    finds the few directions that matter first (Harbrecht, Peters, Schneider 2012, "On the low-rank approximation by
    the pivoted Cholesky decomposition").
    """
    factor, missed = _pivoted_cholesky(gram, goal) if gram.shape[1] >= _WORTH_PIVOTS else (None, goal)
    if factor is None:
        return *torch.linalg.eigh(gram), torch.zeros_like(goal)
    q, r = torch.linalg.qr(factor)
    values, vectors = torch.linalg.eigh(r @ r.mH)
    return values, q @ vectors, missed


def _pivoted_cholesky(
    gram: Tensor,  # (batch, n, n)
    goal: Tensor,  # (batch,)
) -> tuple[Tensor | None, Tensor]:
    """Give factors (batch, n, k), k <= n / 2, whose squares leave no more than a goal of a trace, or None."""
    places = torch.arange(len(gram), device=gram.device)
    left = gram.diagonal(dim1=1, dim2=2).real.clone()
    factor = gram.new_zeros(*gram.shape[:2], gram.shape[1] // 2)
    for k in range(factor.shape[2]):
        largest, pivot = left.max(1)
        column = gram[places, :, pivot] - (factor[:, :, :k] @ factor[places, pivot, :k, None].conj())[:, :, 0]
        column = column * torch.where(left.sum(1) > goal, largest.clamp(min=1e-300).rsqrt(), 0)[:, None]
        factor[:, :, k] = column
        left = (left - column.abs().square()).clamp(min=0)
        missed = left.sum(1)
        if bool((missed <= goal).all()):
            return factor[:, :, : k + 1], missed
    return None, goal


def _count(
    values: Tensor,  # (batch, r): squared singular values, descending
    allowed: Tensor,  # (batch,)
    max_rank: int | None,
) -> tuple[Tensor, Tensor]:
    """Count what stays of each, and sum up what goes."""
    tails = values.flip(1).cumsum(1)  # of the smallest one, two, ...
    kept = values.shape[1] - (tails <= allowed[:, None]).sum(1)
    kept = kept.clamp(1, values.shape[1] if max_rank is None else max_rank)
    gone = values.shape[1] - kept
    lost = tails.gather(1, (gone - 1).clamp(min=0)[:, None])[:, 0]
    return kept, torch.where(gone > 0, lost, 0)


def _mask(kept: Tensor, like: Tensor) -> Tensor:  # (batch,) -> (batch, the largest rank)
    return (torch.arange(int(kept.max()), device=kept.device) < kept[:, None]).to(like.dtype)


def _apart(
    cores: list[Tensor],  # each (batch, r, n, r')
    ranks: Tensor,  # (batch, bonds)
    exponents: Tensor,  # (batch,)
    shape: Sequence[int],
    dtype: torch.dtype,
) -> list[TensorTrain]:
    """Give each tensor its own cores, of its own ranks, dtype and scale."""
    powers = exponents.tolist()
    zero = (cores[-1].flatten(1) == 0).all(1).tolist()
    within = max(map(abs, powers)) < math.log2(torch.finfo(dtype).max) - 24
    if within:  # the norm is a number of the dtype, so it goes into the last core
        cores[-1] = torch.ldexp(cores[-1], exponents[:, None, None, None])
        cores = [core.to(dtype) for core in cores]
    sides = ranks.tolist()
    if within and not any(zero) and all(own == sides[0] for own in sides):
        # Copies, as a view would be saved with the whole batch.
        copies = zip(*(torch.unbind_copy(core) for core in cores), strict=True)  # type: ignore[func-returns-value]
        return [TensorTrain.unchecked(own) for own in copies]
    trains = []
    for k, bonds in enumerate(sides):
        if zero[k]:
            trains.append(TensorTrain.unchecked(zero_cores(shape, cores[0].new_empty(0, dtype=dtype))))
            continue
        bonds = [1, *bonds, 1]
        own = [core[k, : bonds[j], :, : bonds[j + 1]].clone() for j, core in enumerate(cores)]
        trains.append(TensorTrain.unchecked(own if within else join_scale(own, powers[k], dtype)))
    return trains
