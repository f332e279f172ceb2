"""Matrix factorisations that hold at any aspect ratio and any rank.

Two habits of this module carry the promises of the rest:

- *Long matrices of single precision are factorised in blocks.* There LAPACK's rounding error grows with the long side
  (for a matrix of 4 x 2,000,000 it spoils three of the seven digits); a tree of small QR factorisations (TSQR, Demmel
  et al. 2012, "Communication-optimal parallel and sequential QR and LU factorizations") keeps it at machine precision.
  In double precision the error does not grow, and blocks would cost up to three times as much.
- *Gradients never divide by zero.* Both factorisations are only ever used in products that a change of basis between
  the two factors leaves alone, and for such losses the basis may be taken to move as little as possible. That removes
  the terms 1 / (s_i^2 - s_j^2) among kept singular values, which make the usual derivatives infinite.
"""

from __future__ import annotations

import bisect
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ttnet.errors import TTValueError

_BLOCK_ROWS = 1024
_NEARLY_SQUARE = 1.25  # a side as a part of the other, up to which a QR factorisation before an SVD saves nothing
_FEW = 512  # entries, likewise


def qr(
    matrix: Tensor,  # (m, n)
) -> tuple[Tensor, Tensor]:
    """Factorise `matrix = q @ r` with orthonormal columns in `q`, at machine precision however long the matrix.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128.

    Returns:
        `q` of shape (m, k) and `r` of shape (k, n) with k = min(m, n). Gradients are right for losses that a change
        of basis between the factors leaves alone, and finite for a matrix of any rank.

    Example:
        >>> q, r = qr(torch.eye(3, 2))
        >>> torch.allclose(q @ r, torch.eye(3, 2))
        True
    """
    q, r = (_QR if torch.compiler.is_compiling() else _ForwardQR).apply(matrix)
    return q, r


def truncated_svd(
    matrix: Tensor,  # (m, n)
    max_tail: float,
    max_rank: int | None,
) -> tuple[Tensor, Tensor, float]:
    """Split `matrix` into `u @ w` with orthonormal columns in `u`, of the smallest rank that a bound allows.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128, of entries neither huge nor tiny.
        max_tail: The largest Frobenius norm of `matrix - u @ w`, at least 0.
        max_rank: The largest rank, which goes before `max_tail`; at least 1.

    Returns:
        `u` of shape (m, r), `w` of shape (r, n), with r >= 1, and the Frobenius norm of what was cut off. Gradients
        are as for `qr`; where a cut runs through equal singular values, which has no derivative, they are finite.

    Example:
        >>> u, w, tail = truncated_svd(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 1.5, None)
        >>> u.shape, w.shape, tail
        (torch.Size([3, 2]), torch.Size([2, 3]), 1.0)
    """
    if not matrix.requires_grad:  # which saves a quarter of the calls
        u, w, tail, *_ = _truncated(matrix, max_tail, max_rank)
    else:
        u, w, tail = _TruncatedSVD.apply(matrix, max_tail, max_rank)
    return u, w, tail


def _truncated(
    matrix: Tensor,  # (m, n)
    max_tail: float,
    max_rank: int | None,
) -> tuple[Tensor, Tensor, float, Tensor, Tensor]:
    """Give what `truncated_svd` does, and all left singular vectors and values."""
    rows, columns = matrix.shape
    if max(rows, columns) <= _NEARLY_SQUARE * min(rows, columns) or matrix.numel() <= _FEW:
        u, s, _ = thin_svd(matrix)
        rank, tail = _choose_rank(s, max_tail, max_rank)
        kept = u[:, :rank].contiguous()
        w = kept.mH @ matrix
    elif rows < columns:
        # Only the small factor of C^T = Q R is needed: C = R^T Q^T has the left singular vectors of R^T.
        u, s, _ = thin_svd(_blocked_qr(matrix.mT, "r")[1].mT)
        rank, tail = _choose_rank(s, max_tail, max_rank)
        kept = u[:, :rank].contiguous()
        w = kept.mH @ matrix
    else:
        # Not U^H C: a sum over the long side is as inexact as a long factorisation.
        q, r = _blocked_qr(matrix, "reduced")
        inner, s, _ = thin_svd(r)
        rank, tail = _choose_rank(s, max_tail, max_rank)
        w = inner[:, :rank].mH @ r
        u = q @ inner
        kept = u[:, :rank].contiguous()
    return kept, w, tail, u, s


def column_basis(
    matrix: Tensor,  # (m, n)
    max_tail: float,
    max_rank: int | None,
) -> tuple[Tensor, float]:
    """Give the `u` of `truncated_svd(matrix, ...)` alone, at less cost and without gradients.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128, of entries neither huge nor tiny.
        max_tail: The largest Frobenius norm of `matrix - u @ u.mH @ matrix`, at least 0.
        max_rank: The largest rank, which goes before `max_tail`; at least 1.

    Returns:
        `u` of shape (m, r), with r >= 1, and the Frobenius norm of what was cut off.

    Example:
        >>> u, tail = column_basis(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 1.5, None)
        >>> u.shape, tail
        (torch.Size([3, 2]), 1.0)
    """
    rows, columns = matrix.shape
    q = None
    if columns > 2 * rows:
        matrix = _blocked_qr(matrix.mT, "r")[1].mT  # as in `_TruncatedSVD`
    elif rows > 2 * columns and matrix.dtype in (torch.float32, torch.complex64):
        q, matrix = _blocked_qr(matrix, "reduced")  # which LAPACK's SVD would do, too, but not in blocks
    u, s, _ = thin_svd(matrix)
    rank, tail = _choose_rank(s, max_tail, max_rank)
    kept = u[:, :rank]
    return kept.contiguous() if q is None else q @ kept, tail


def thin_svd(
    matrix: Tensor,  # (m, n)
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the thin singular value decomposition `matrix = u @ diag(s) @ vh`, with torch's gradients.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128.

    Returns:
        `u` of shape (m, k), `s` of shape (k,), descending, and `vh` of shape (k, n), with k = min(m, n).

    Example:
        >>> thin_svd(torch.diag(torch.tensor([1.0, 2.0])))[1]
        tensor([2., 1.])
    """
    u, s, vh = torch.linalg.svd(wide(matrix), full_matrices=False)
    if u.dtype == matrix.dtype:
        return u, s, vh
    return u.to(matrix.dtype), s.to(matrix.real.dtype), vh.to(matrix.dtype)


def wide(
    matrix: Tensor,  # (m, n)
) -> Tensor:
    """Give a matrix in the precision in which LAPACK can be trusted with it.

    MKL's QR factorisation of complex64 gives NaN for some matrices of finite entries, such as constant ones of 20 x 20,
    and so does its SVD where one side is almost twice the other or more, which begins with one.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128.

    Returns:
        The matrix in complex128 if it is of complex64, and otherwise itself.

    Example:
        >>> wide(torch.ones(2, 2, dtype=torch.complex64)).dtype
        torch.complex128
    """
    return matrix.to(torch.complex128) if matrix.dtype == torch.complex64 else matrix


def r_factor(
    matrix: Tensor,  # (m, n)
) -> Tensor:
    """Give the `r` of `qr(matrix)` alone, as a differentiable function.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128.

    Returns:
        `r` of shape (min(m, n), n).

    Example:
        >>> r_factor(torch.tensor([[3.0], [4.0]])).abs()
        tensor([[5.]])
    """
    return qr(matrix)[1]


def plain_qr(
    matrix: Tensor,  # (m, n)
) -> tuple[Tensor, Tensor]:
    """Give `qr(matrix)` at less cost and without gradients.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128.

    Returns:
        `q` of shape (m, k) and `r` of shape (k, n) with k = min(m, n).

    Example:
        >>> q, r = plain_qr(torch.eye(3, 2))
        >>> torch.allclose(q @ r, torch.eye(3, 2))
        True
    """
    return _blocked_qr(matrix, "reduced")


def triangular_factor(
    matrix: Tensor,  # (m, n)
) -> Tensor:
    """Give the `r` of `qr(matrix)` alone, at less cost and without gradients.

    Args:
        matrix: A matrix of float32, float64, complex64 or complex128.

    Returns:
        `r` of shape (min(m, n), n).

    Example:
        >>> triangular_factor(torch.tensor([[3.0], [4.0]])).abs()
        tensor([[5.]])
    """
    return _blocked_qr(matrix, "r")[1]


def _blocked_qr(
    matrix: Tensor,  # (m, n)
    mode: str,
) -> tuple[Tensor, Tensor]:
    if matrix.dtype == torch.complex64:
        q, r = torch.linalg.qr(wide(matrix), mode=mode)
        return q.to(matrix.dtype), r.to(matrix.dtype)
    rows, columns = matrix.shape
    block = max(_BLOCK_ROWS, 4 * columns)
    if rows < 2 * block or matrix.dtype in (torch.float64, torch.complex128):
        q, r = torch.linalg.qr(matrix, mode=mode)
        return q, r
    cut = rows // block * block
    q, r = torch.linalg.qr(matrix[:cut].reshape(-1, block, columns), mode=mode)  # (b, block, n), (b, n, n)
    q_top, r_top = _blocked_qr(torch.cat([r.reshape(-1, columns), matrix[cut:]]), mode)
    if mode == "r":
        return q_top, r_top
    inner = len(r) * columns
    q_blocks = q @ q_top[:inner].reshape(-1, columns, columns)
    return torch.cat([q_blocks.reshape(cut, columns), q_top[inner:]]), r_top


def _choose_rank(
    s: Tensor,  # (k,): singular values, descending
    max_tail: float,
    max_rank: int | None,
) -> tuple[int, float]:
    """Give the smallest rank whose tail has a norm of at most `max_tail`, and that norm."""
    tails = list(itertools.accumulate(reversed(s.tolist()), math.hypot))  # tails[k]: of the last k + 1 values
    rank = max(1, len(tails) - bisect.bisect_right(tails, max_tail))
    rank = rank if max_rank is None else min(rank, max_rank)
    return rank, tails[-1 - rank] if rank < len(tails) else 0.0


class _QR(torch.autograd.Function):
    """With Q^H dQ = 0 for the gauge: dQ = (1 - Q Q^H) dC R^-1 and dR = Q^H dC."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor]:
        return _blocked_qr(matrix, "reduced")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor | None, grad_r: Tensor | None) -> Tensor:
        q, r = ctx.saved_tensors
        grad = torch.zeros_like(q @ r) if grad_r is None else q @ grad_r
        if grad_q is not None and q.shape[0] > q.shape[1]:
            outside = grad_q - q @ (q.mH @ grad_q)
            grad = grad + outside @ torch.linalg.pinv(r).mH
        return grad


class _ForwardQR(_QR):
    """With the same formulas the other way round, which `torch.compile` does not take."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        q, r = ctx.saved_tensors
        tangent_r = q.mH @ tangent
        if q.shape[0] <= q.shape[1]:
            return torch.zeros_like(q), tangent_r
        return (tangent - q @ tangent_r) @ torch.linalg.pinv(r), tangent_r


class _TruncatedSVD(torch.autograd.Function):
    """C = U S V^H cut after r terms, U_1 the kept columns and U_2 the rest, W_i = U_i^H C.

    With U_1^H dU_1 = 0 for the gauge: dU_1 = U_2 K + (1 - U U^H) dC V_1 S_1^-1 and dW_1 = U_1^H dC + K^H W_2, where
    K_ji (s_i^2 - s_j^2) = (U_2^H dC W_1^H + W_2 dC^H U_1)_ji. Only kept against dropped values are ever divided.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, max_tail: float, max_rank: int | None) -> tuple[Tensor, Tensor, float]:
        kept, w, tail, u, s = _truncated(matrix, max_tail, max_rank)
        ctx.save_for_backward(matrix, u, s)
        ctx.rank = kept.shape[1]
        return kept, w, tail

    @staticmethod
    def backward(ctx: Any, grad_u: Tensor, grad_w: Tensor, _: None) -> tuple[Tensor, None, None]:
        # Not `once_differentiable`: `torch.autograd.grad` never meets its error, and leaves out terms in silence.
        if torch.is_grad_enabled():
            raise TTValueError("create_graph is True, but a choice of ranks has no second derivatives; expected False.")
        matrix, u, s = ctx.saved_tensors
        rank = ctx.rank
        u_1, u_2, s_1, s_2 = u[:, :rank], u[:, rank:], s[:rank], s[rank:]
        w = u.mH @ matrix
        w_1, w_2 = w[:rank], w[rank:]
        gaps = (s_1 - s_2[:, None]) * (s_1 + s_2[:, None])  # (dropped, kept), not negative
        inverse = torch.where(gaps > torch.finfo(s.dtype).eps * s_1**2, 1 / gaps, 0)
        k = (u_2.mH @ grad_u + w_2 @ grad_w.mH) * inverse
        grad = u_1 @ (grad_w + k.mH @ w_2) + (u_2 @ k) @ w_1
        if u.shape[0] > u.shape[1]:
            outside = grad_u - u @ (u.mH @ grad_u)
            grad = grad + (outside * torch.where(s_1 > 0, s_1**-2, 0)) @ w_1
        return grad, None, None
