"""The leading singular vectors of an unfolding from random combinations of its rows, verified against all of it.

Source: Halko, Martinsson, Tropp 2011, "Finding Structure with Randomness", Algorithm 4.2 and section 4.3; here the
sketch is one of the short side, and of a sample of the rows first, since what it finds is verified anyway. It grows in
blocks, and is given up as soon as the singular values are seen to fall off too slowly for it to pay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttnet.decomposition.plan import SAMPLE
from ttnet.decomposition.spectrum import Spectrum, by_gram, by_qr, check_range, gram_bound
from ttnet.decomposition.unfolding import Unfolding, double
from ttnet.decomposition.unfolding_kernels import project, sketch

PROBES = 4  # rows of a sketch that are kept back to estimate what the others miss
_MISSES = 0.1  # how much of the allowance, in the square, may lie outside of the sketch
_TRIMMED = 1 / 16  # how much of that, as a sketch of all rows sees it, may be left out so as to multiply less


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
    has_sample = u.shape[0] > 2 * SAMPLE * u.block_rows(least=4 * max_size)
    for every in (SAMPLE, 1) if has_sample else (1,):
        goal = _MISSES * allowed**2
        # Some probes' estimate is noisy, more so from a sample: they have to see less than may be missed.
        v = _row_space(u, norm, goal / (2 * every) ** 0.5, size, max_size, dtype, generator, every)
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
    basis = drawn.mH  # of all rows but the last ones
    part = goal
    taken, missed_before = 0, 0.0
    while size > 0:
        drawn = torch.cat([drawn, sketch(u, size, dtype, generator, every)])
        squares = float(drawn.abs().square().sum()) / len(drawn)  # on average
        if norm is None:
            check_range(squares, u.numel)
            goal = part * squares
        fresh, probes = drawn[taken:-PROBES], drawn[-PROBES:]
        basis = _extended(basis, fresh)
        misses = (probes - (probes @ basis) @ basis.mH).abs().square().sum(1)
        missed, noise = float(misses.mean()), 2 * float(misses.std()) / PROBES**0.5
        if missed <= goal:
            basis = _extended(basis, probes)
            a, s, _ = torch.linalg.svd((drawn @ basis).mH)
            tails = s.square().flip(0).cumsum(0).flip(0) / len(drawn)
            # A sample sees the faint directions less well; those of rounding nobody need catch.
            rounding = (torch.finfo(u.dtype).eps / 2) ** 2 * float(tails[0])
            spare = min(_TRIMMED * goal, max(_TRIMMED / every**2 * goal, rounding))
            return basis @ a[:, : max(1, int((tails > spare).sum()))]
        # What is missed falls ever more slowly, so that a straight line tells the least that is needed.
        fall = ((missed_before or squares) - missed + noise) / len(fresh)
        taken, missed_before = taken + len(fresh), missed
        if missed - goal > fall * (max_size - PROBES - taken):
            return None
        size = min(len(drawn), max_size - len(drawn))
    return None


def _extended(
    basis: Tensor,  # (n, k)
    rows: Tensor,  # (m, n)
) -> Tensor:  # (n, at most k + m)
    """Extend an orthonormal basis by the directions of some rows that are not rounding."""
    noise = 100 * torch.finfo(rows.dtype).eps * float(rows.norm())
    q, r = torch.linalg.qr(rows.mH - basis @ (rows @ basis).mH)
    q = q[:, r.diagonal().abs() > noise]
    q, _ = torch.linalg.qr(q - basis @ (basis.mH @ q))  # once leaves rounding of what was projected out
    return torch.cat([basis, q], 1)


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
