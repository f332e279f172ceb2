"""The leading singular vectors of an unfolding from random combinations of its rows, verified against all of it.

Source: Halko, Martinsson, Tropp 2011, "Finding Structure with Randomness", Algorithm 4.2 and section 4.3; here the
sketch is one of the short side, and of a sample of the rows first, since what it finds is verified anyway. It grows in
blocks, and is given up as soon as the singular values are seen to fall off too slowly for it to pay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttnet.decomposition.spectrum import Spectrum, by_gram, by_qr, check_range, gram_bound
from ttnet.decomposition.unfolding import Unfolding, double
from ttnet.decomposition.unfolding_kernels import project, sketch

PROBES = 4  # rows of a sketch that are kept back to estimate what the others miss
_MISSES = 0.1  # how much of the allowance, in the square, may lie outside of the sketch
_TRIMMED = 1 / 16  # how much of that, as a sketch of all rows sees it, may be left out so as to multiply less
_SAMPLE = 8  # one block of how many makes the sample


def by_sketch(
    u: Unfolding,
    norm: float | None,
    allowed: float,
    size: int,
    max_size: int,
    dtype: torch.dtype,
) -> Spectrum | None:
    """Find the part of an unfolding that carries all but a fraction of an allowed loss.

    Args:
        u: The unfolding X, of n columns.
        norm: Its Frobenius norm; None if it is not known yet.
        allowed: The loss that a cut may cause, or its part of the norm if that is not known. What is missed is at most
            a tenth of it, in squares.
        size: The number of rows of the first sketch, `PROBES` included.
        max_size: The largest number of columns that pays.
        dtype: The precision of the products, of the kind of that of `u`.

    Returns:
        The spectrum with its product, or None if the singular values fall off too slowly.

    Raises:
        OutOfRange: If the norm was not known and the entries have to be scaled first.

    Example:
        >>> x = torch.ones(50, 40, dtype=torch.float64)
        >>> s = by_sketch(Unfolding(x, 1, torch.float64), 2000**0.5, 1e-12, 6, 8, torch.float64)
        >>> s.cut(1e-9, None)[0], s.v.shape
        (1, torch.Size([40, 1]))
    """
    # Seeded, so that a decomposition is the same every time.
    generator = torch.Generator().manual_seed(0x7E450)
    has_sample = u.shape[0] > 2 * _SAMPLE * u.block_rows(least=4 * max_size)
    for every in (_SAMPLE, 1) if has_sample else (1,):
        goal = _MISSES * allowed**2
        v = _row_space(u, norm, goal / every**0.5, size, max_size, dtype, generator, every)
        if v is None:
            return None
        found = _verified(u, v, norm, goal, dtype)
        if found is not None:
            return found
        size = min(max_size, max(size, v.shape[1] + PROBES))
    return None


def _row_space(
    u: Unfolding,
    norm: float | None,
    goal: float,
    size: int,
    max_size: int,
    dtype: torch.dtype,
    generator: torch.Generator,
    every: int,
) -> Tensor | None:
    """Give an orthonormal basis outside of which a sketch sees no more than a goal; None if that needs too many."""
    drawn = torch.empty(0, u.shape[1], dtype=double(u.dtype), device=u.device)
    part = goal
    while len(drawn) + size <= max_size:
        drawn = torch.cat([drawn, sketch(u, size, dtype, generator, every)])
        if norm is None:
            squares = float(drawn.abs().square().sum()) / len(drawn)  # on average
            check_range(squares, u.numel)
            goal = part * squares
        missed = _missed(drawn, len(drawn) - PROBES)
        if missed <= goal:
            _, s, vh = torch.linalg.svd(drawn, full_matrices=False)
            tails = s.square().flip(0).cumsum(0).flip(0) / len(drawn)
            # A sample sees the faint directions less well; those of rounding nobody need catch.
            noise = (torch.finfo(u.dtype).eps / 2) ** 2 * float(tails[0])
            spare = min(_TRIMMED * goal, max(_TRIMMED / every**2 * goal, noise))
            return vh[: max(1, int((tails > spare).sum()))].mH
        # Where values fall off geometrically, twice the rows bring down the rest by the same factor twice.
        if missed**3 > goal * _missed(drawn, len(drawn) // 2) ** 2:
            return None
        size = len(drawn)
    return None


def _missed(
    drawn: Tensor,  # (m, n): rows of a sketch of X
    k: int,
) -> float:
    """Estimate the squared norm of X outside of the space of the first k rows, from the last few ones."""
    basis, _ = torch.linalg.qr(drawn[:k].mH)  # (n, k)
    probes = drawn[-PROBES:]
    return float((probes - (probes @ basis) @ basis.mH).abs().square().sum()) / PROBES


def _verified(
    u: Unfolding,
    v: Tensor,  # (n, k)
    norm: float | None,
    goal: float,
    dtype: torch.dtype,
) -> Spectrum | None:
    """Give the spectrum within the columns of `v`, if no more than the goal lies outside of them."""
    k = v.shape[1]
    eps = torch.finfo(dtype).eps
    product = u.new_product(k)
    resolution = 8 * eps  # of sums of squares
    resolved = resolution <= goal / (4 * (1.0 if norm is None else norm**2))
    by = "norms" if torch.finfo(dtype).bits == 64 and resolved else "entries"
    squares, missed = project(u, v, product, dtype, measure=by)
    if norm is None:
        check_range(squares, u.numel)
        norm = squares**0.5
        goal *= squares
    if by == "norms":
        missed = max(0.0, missed) + resolution * norm**2
    else:
        missed += (4 * eps * norm) ** 2
    if dtype != u.dtype:
        missed += (torch.finfo(u.dtype).eps / 2 * norm) ** 2  # the product is kept in the coarser one
    if not missed <= goal:
        return None
    y = Unfolding(product, 1, u.dtype)
    resolved = gram_bound(k, norm, torch.float64) <= goal
    inner = by_gram(y, norm, double(u.dtype)) if resolved else by_qr(y)
    return Spectrum(inner.energies, v @ inner.v, min(u.shape), inner.bound + missed, norm**2, (v, product))
