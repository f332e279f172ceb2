"""Right singular values and vectors of an unfolding, with a bound on what rounding hides; and the cut they certify.

Let X be an unfolding and V the singular vectors kept of it. What a cut to V loses is read off the computed singular
values, and that reading is wrong by at most `bound`, in the square: for a Gram matrix G with a rounding error dG the
true loss is `tr((1 - V V^H) (G + dG))`, and the trace of the first part is the sum of the dropped eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.decomposition.unfolding import Unfolding
from ttnet.decomposition.unfolding_kernels import gram_and_lost, triangle


class OutOfRange(Exception):
    """Numbers of a size that squares and products do not stay in range of, or NaN or infinite ones, or zeros.

    Example:
        >>> try:
        ...     check_range(float("inf"), 10)
        ... except OutOfRange:
        ...     print("to be scaled")
        to be scaled
    """


def check_range(squares: float, numel: int) -> None:
    """Refuse numbers that have to be scaled, or looked at, before anything is computed of them.

    Args:
        squares: The sum of their squares.
        numel: How many there are.

    Raises:
        OutOfRange: If it is not far from over- and underflow, in single precision, whatever theirs is: products may be
            taken in it.

    Example:
        >>> check_range(1.0, 10)
    """
    if not (squares / numel > 1e-24 and squares < 1e24):
        raise OutOfRange


@dataclass(frozen=True)
class Spectrum:
    """What is known of the row space of an unfolding X of n columns.

    Args:
        energies: The squared singular values, descending, of shape (k,), in double precision; rounding may leave the
            smallest ones below zero.
        v: The right singular vectors, of shape (n, k), with orthonormal columns, in double precision.
        full_rank: The largest rank that X may have.
        bound: By how much, at most, the square of a loss differs from the sum of dropped energies and of what is
            missed, because of rounding.
        squares: The squared Frobenius norm of X.
        missed: The squared Frobenius norm of the part of X outside of `v`, which every cut loses.
        least: The smallest rank whose loss is known.
        seen: A matrix whose columns span those of `v`, and its product with X, if they are at hand.

    Example:
        >>> by_qr(Unfolding(torch.diag(torch.tensor([1.0, 2.0])), 1, torch.float32)).energies
        tensor([4., 1.], dtype=torch.float64)
    """

    energies: Tensor
    v: Tensor
    full_rank: int
    bound: float
    squares: float
    missed: float = 0.0
    least: int = 1
    seen: tuple[Tensor, Tensor] | None = None

    def cut(self, allowed: float, max_rank: int | None) -> tuple[int, float] | None:
        """Choose the smallest rank whose loss is allowed, if the spectrum is known well enough to tell.

        A rank chosen for its loss is certified if loss and bound together are allowed, and the bound is at most half
        of the allowance (in squares), so that it costs little rank. A rank that the largest allowed one or the size of
        X forces is certified if the energy dropped there (or the last one kept, where none is dropped) is 100 times
        what is not known or missed: then the choice of vectors costs at most 1 % in the square of the error.

        Args:
            allowed: The largest loss.
            max_rank: The largest rank, which goes before `allowed`.

        Returns:
            The rank, at least 1, and the norm of what is dropped and missed, without the bound; or None if another
            method has to look.

        Example:
            >>> s = Spectrum(torch.tensor([4.0, 1.0, 1e-15]), torch.eye(3), full_rank=3, bound=1e-14, squares=5.0)
            >>> s.cut(1.5, None), s.cut(1e-8, None), s.cut(1e-8, 1)
            ((1, 1.0), None, (1, 1.0))
        """
        tails = self.energies.flip(0).cumsum(0).flip(0).clamp(min=0).tolist()
        tails.append(0.0)
        forced = min(self.full_rank, len(tails) - 1, len(tails) if max_rank is None else max_rank)
        if self.bound <= allowed**2 / 2:
            wanted = max(self.least, sum(tail + self.missed + self.bound > allowed**2 for tail in tails))
            if wanted <= forced:
                return wanted, (tails[wanted] + self.missed) ** 0.5
        if forced < self.least:
            return None
        unknown = self.bound + self.missed
        if forced < len(tails) - 1 or self.full_rank > forced:
            clear = tails[forced] >= 100 * unknown
        else:
            clear = tails[forced - 1] >= 100 * unknown
        return (forced, (tails[forced] + self.missed) ** 0.5) if clear else None

    def least_kept(self, rank: int) -> float:
        """Say what the smallest singular value that a cut keeps is at least.

        Args:
            rank: The rank of the cut, at least 1.

        Returns:
            That of the energies, less what rounding may have added to it.

        Example:
            >>> Spectrum(torch.tensor([4.0, 1.0]), torch.eye(2), full_rank=2, bound=0.0, squares=5.0).least_kept(2)
            1.0
        """
        return max(0.0, float(self.energies[rank - 1]) - self.bound) ** 0.5


def gram_bound(n: int, norm: float, dtype: torch.dtype) -> float:
    """Bound the rounding in the Gram matrix of an unfolding and in its eigenvalues, as any projector sees it.

    The constants are measured ones: random, positive, constant, smooth, decaying and low-rank data of 16 to 256 columns
    stay below them (tests/ttnet/test_unfolding_kernels.py, docs/tt_svd.md).

    Args:
        n: The number of columns.
        norm: The Frobenius norm of the unfolding.
        dtype: The precision of the products; sum and eigenvalues are in double precision.

    Returns:
        The bound for `Spectrum`.

    Example:
        >>> gram_bound(64, 1.0, torch.float64) ** 0.5, gram_bound(64, 1.0, torch.float32) ** 0.5
        (7.3...e-08, 0.00097...)
    """
    products = (4 + n / 16) * torch.finfo(dtype).eps
    return (products + (12 + n / 16) * torch.finfo(torch.float64).eps) * norm**2


def by_gram(u: Unfolding, norm: float | None, dtype: torch.dtype) -> Spectrum:
    """Take the eigenvalues of the Gram matrix: one pass of symmetric products.

    Args:
        u: The unfolding.
        norm: Its Frobenius norm; None if it is not known yet.
        dtype: The precision of the products; the sum is in double precision.

    Returns:
        The spectrum, of all columns.

    Raises:
        OutOfRange: If the norm was not known and the entries have to be scaled first.

    Example:
        >>> by_gram(Unfolding(torch.diag(torch.tensor([1.0, 2.0])), 1, torch.float32), 5**0.5, torch.float64).energies
        tensor([4., 1.], dtype=torch.float64)
    """
    gram, lost = gram_and_lost(u, dtype)
    if norm is None:
        squares = float(gram.diagonal().real.sum()) + lost
        check_range(squares, u.numel)
        norm = squares**0.5
    return of_gram(gram, min(u.shape), norm, dtype, lost)


def of_gram(
    gram: Tensor,  # (n, n)
    full_rank: int,
    norm: float,
    dtype: torch.dtype,
    lost: float = 0.0,
) -> Spectrum:
    """Read the spectrum off a Gram matrix.

    Args:
        gram: `X^H X`, in double precision.
        full_rank: The largest rank that X may have.
        norm: The Frobenius norm of X.
        dtype: The precision of the products.
        lost: What its trace has lost by rounding, which any projector may see.

    Returns:
        The spectrum, of all columns.

    Example:
        >>> of_gram(torch.eye(2, dtype=torch.float64), 2, 2**0.5, torch.float64).energies
        tensor([1., 1.], dtype=torch.float64)
    """
    energies, v = torch.linalg.eigh(gram)
    return Spectrum(energies.flip(0), v.flip(1), full_rank, gram_bound(len(gram), norm, dtype) + lost, norm**2)


def by_qr(u: Unfolding, *, measured: bool = True) -> Spectrum:
    """Take the singular values of the triangle of a QR factorisation: accurate to the precision of the numbers.

    Args:
        u: The unfolding.
        measured: Whether its norm is known to be in range.

    Returns:
        The spectrum, whose bound is 0, so that it certifies every cut.

    Raises:
        OutOfRange: If the norm was not known and the entries have to be scaled first.

    Example:
        >>> by_qr(Unfolding(torch.ones(2, 1, 2), 1, torch.float64)).cut(1e-9, None)
        (1, ...)
    """
    r = triangle(u)
    if not measured:
        check_range(float(r.abs().square().sum()), u.numel)
    return of_triangle(r, min(u.shape))


def of_triangle(
    r: Tensor,  # (m, n)
    full_rank: int,
) -> Spectrum:
    """Read the spectrum off a triangle.

    Args:
        r: A matrix with `r^H r = X^H X`, found without loss.
        full_rank: The largest rank that X may have.

    Returns:
        The spectrum, whose bound is 0.

    Example:
        >>> of_triangle(torch.tensor([[2.0]]), 1).energies
        tensor([4.])
    """
    _, s, vh = torch.linalg.svd(r, full_matrices=False)
    energies = s.square()
    return Spectrum(energies, vh.mH, full_rank, 0.0, float(energies.sum()))
