"""The leading singular vectors of an unfolding from some of its rows, or combinations of them, verified against all.

Source: Halko, Martinsson, Tropp 2011, "Finding Structure with Randomness", Algorithm 4.2 and section 4.3; here the
sketch is one of the short side, and of a sample of the rows first, since what it finds is verified anyway. It grows in
blocks, and is given up as soon as the singular values are seen to fall off too slowly for it to pay. Of a short side of
few columns a sample shows all singular values at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.decomposition.plan import SAMPLE
from ttnet.decomposition.spectrum import Spectrum, by_gram, by_qr, check_range, gram_bound
from ttnet.decomposition.unfolding import Unfolding, double
from ttnet.decomposition.unfolding_kernels import draw_sample, gram_matrix, project, sample_rows, sketch

PROBES = 4  # rows of a sketch that are kept back to estimate what the others miss
_MISSES = 0.1  # how much of the allowance, in the square, may lie outside of the sketch and not be foretold
_UNCLEAR = (0.9, 1.1)  # what a sample says of a loss, as a part of the allowance, is right to this
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
    generator = _seeded()
    has_sample = u.shape[0] > 2 * SAMPLE * u.block_rows(least=4 * size)
    for every in (SAMPLE, 1) if has_sample else (1,):
        goal = _MISSES * allowed**2
        # Some probes' estimate is noisy, more so from a sample: they have to see less than may be missed.
        v = _row_space(u, norm, goal / (2 * every) ** 0.5, size, max_size, dtype, generator, every)
        if v is None:
            return None
        seen = _measured(u, v, norm, goal, dtype)
        if seen is not None:
            return _within(u, v, seen)
        size = min(max_size, max(size, v.shape[1] + PROBES))
    return None


def by_sample(
    u: Unfolding,
    norm: float | None,
    allowed: float,
    max_size: int,
    dtype: torch.dtype,
) -> Spectrum | None:
    """Find the part of an unfolding that a sample of its rows says to be needed, and measure what lies outside.

    What lies outside may be most of an allowed loss, as noise is, if the sample has foretold it but for a tenth of that
    loss: so no direction is missed that matters.

    Args:
        u: The unfolding X, of n columns, n few and rows many.
        norm: Its Frobenius norm; None if it is not known yet.
        allowed: The loss that a cut may cause, or its part of the norm if that is not known.
        max_size: The largest number of columns that pays.
        dtype: The precision of the product, of the kind of that of `u`.

    Returns:
        The spectrum with its product, or None if more columns are needed, the sample leaves the rank open between more
        than two, it was a bad one, or squares of numbers are too coarse for the loss. Where it leaves no doubt,
        singular vectors and values are the sample's, and only a cut that keeps all of them is known.

    Raises:
        OutOfRange: If the norm was not known and the entries have to be scaled first.

    Example:
        >>> x = torch.ones(5000, 10, dtype=torch.float64)
        >>> by_sample(Unfolding(x, 1, torch.float64), 50000**0.5, 1e-3, 5, torch.float64).cut(1e-3, None)[0]
        1
    """
    if not 2 * gram_bound(u.shape[1], norm or 1.0, torch.float64) <= allowed**2 < (norm or 1.0) ** 2:
        return None  # squares do not show what may be lost, or all may be
    count = -(-u.shape[0] // sample_rows(u))
    sample = draw_sample(count, SAMPLE if count >= 2 * SAMPLE else 1, _seeded())  # of a few, all
    wide = double(u.dtype)
    single = torch.complex64 if wide.is_complex else torch.float32
    resolves = gram_bound(u.shape[1], norm or 1.0, torch.float32) <= _MISSES * allowed**2
    gram = gram_matrix(u, single if resolves else wide, sample)
    squares = float(gram.diagonal().real.sum()) if norm is None else norm**2
    if norm is None:
        check_range(squares, u.numel)
        allowed *= squares**0.5
    energies, v = torch.linalg.eigh(gram)
    tails = energies.clamp(min=0).cumsum(0).flip(0)  # of all columns, of all but the first one, ...
    size, least = (max(1, int((tails > part * allowed**2).sum())) for part in _UNCLEAR)
    if size > max_size or size >= len(tails) or size > least + 1:
        return None
    energies, v = energies.flip(0)[:size], v.flip(1)[:, :size]
    part = squares if norm is None else 1.0
    seen = _measured(u, v, norm, _MISSES * allowed**2 / part, dtype, float(tails[size]) / part)
    if seen is None:
        return None
    without_last = seen.missed + float(torch.linalg.vector_norm(seen.product[:, -1])) ** 2
    might_do = without_last <= seen.goal / _MISSES or seen.missed < seen.foretold - seen.goal
    if size > least or might_do:  # fewer columns
        return _within(u, v, seen)
    return Spectrum(energies, v, min(u.shape), 0.0, seen.norm**2, seen.missed, size, (v, seen.product))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0x7E450)  # so that a decomposition is the same every time


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
    noise = torch.finfo(rows.dtype).eps * float(rows.norm())
    q, r = torch.linalg.qr(rows.mH - basis @ (rows @ basis).mH)
    q = q[:, r.diagonal().abs() > noise]
    # Once leaves rounding of what was projected out, and that may be most of a faint direction.
    for _ in range(2 if basis.shape[1] else 0):
        q, _ = torch.linalg.qr(q - basis @ (basis.mH @ q))
    return torch.cat([basis, q], 1)


@dataclass(frozen=True)
class _Seen:
    """What the pass over all entries shows: the product, the norm of X, and in squares what is missed and was to be."""

    product: Tensor
    norm: float
    missed: float
    goal: float
    foretold: float


def _measured(
    u: Unfolding,
    v: Tensor,  # (n, k)
    norm: float | None,
    goal: float,
    dtype: torch.dtype,
    foretold: float = 0.0,
) -> _Seen | None:
    """Multiply by the columns of `v`, if no more than a goal beyond what is foretold lies outside of them."""
    k = v.shape[1]
    eps = torch.finfo(dtype).eps
    product = u.new_product(k)
    # Of sums of squares; in single precision that of products, as in a Gram matrix.
    resolution = (8 if torch.finfo(dtype).bits == 64 else 8 + len(v) / 16) * eps
    by = "norms" if resolution <= goal / (2 * (1.0 if norm is None else norm**2)) else "entries"
    squares, missed = project(u, v, product, dtype, measure=by)
    if norm is None:
        check_range(squares, u.numel)
        norm = squares**0.5
        goal, foretold = goal * squares, foretold * squares
    if by == "norms":
        missed = max(0.0, missed) + resolution * norm**2
    else:
        missed += (4 * eps * norm) ** 2
    return _Seen(product, norm, missed, goal, foretold) if missed <= foretold + goal else None


def _within(
    u: Unfolding,
    v: Tensor,  # (n, k)
    seen: _Seen,
) -> Spectrum:
    """Give the spectrum of X within the columns of `v`."""
    y = Unfolding(seen.product, 1, u.dtype)
    by_squares = gram_bound(v.shape[1], seen.norm, torch.float64) <= seen.goal
    inner = by_gram(y, seen.norm, double(u.dtype)) if by_squares else by_qr(y)
    energies, vectors, product = inner.energies, v @ inner.v, (v, seen.product)
    return Spectrum(energies, vectors, min(u.shape), inner.bound, seen.norm**2, seen.missed, seen=product)
