"""Approximate inverses of local matrices `B = sum over a, b of L_a x A_ab x R_b`.

Where B is close to a Kronecker sum `X + Y + Z` of matrices on its three modes, as it is for Laplacians on ordinary
modes, that sum is inverted in its eigenbasis (Lynch, Rice & Thomas 1964, "Direct solution of partial difference
equations by tensor product methods"). The closest one has the partial traces of B. Otherwise blocks on the diagonal
are inverted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ttnet.numerics.scales import complex_dtype
from ttnet.solvers.interfaces import OperatorCore

Inverse = Callable[[Tensor], Tensor]

BLOCK_SIZE = 250  # the largest block that is inverted
CLOSE = 0.3  # how far B may be from a Kronecker sum, relative to what that has beside its mean
MANY_TERMS = 64  # of B, for which it is not worth while to ask how close it is
SKEWED = 1e4  # the largest condition of eigenvectors that a Kronecker sum is inverted with


def kronecker_sum_inverse(
    left: Tensor,  # (i, a, i)
    core: OperatorCore,  # (a, n, n, b)
    right: Tensor,  # (j, b, j)
    *,
    hermitian: bool,
) -> Inverse | None:
    """Invert the Kronecker sum that is closest to B, if it is close.

    Args:
        left: The matrices L.
        core: The matrices A.
        right: The matrices R.
        hermitian: Whether B is Hermitian, and hoped to be positive definite.

    Returns:
        The inverse, as a function of a vector (i n j,), Hermitian and positive definite if B is Hermitian; None if no
        Kronecker sum is close, or its eigenvectors are nearly dependent.

    Example:
        >>> d = torch.diag(torch.tensor([1.0, 2.0]))
        >>> unit = torch.eye(2)
        >>> left = torch.stack([unit, d], 1)  # of the sum of d on the first mode and d on the second
        >>> core = OperatorCore(torch.stack([d, unit])[..., None])
        >>> inverse = kronecker_sum_inverse(left, core, torch.ones(1, 1, 1), hermitian=True)
        >>> inverse(torch.ones(4))
        tensor([0.5000, 0.3333, 0.3333, 0.2500])
    """
    (i, a, _), (_, n, _, b), j = left.shape, core.shape, right.shape[0]
    if a * b > MANY_TERMS:
        return None
    flat_l, flat_r = (side.transpose(0, 1).reshape(len(side[0]), -1) for side in (left, right))  # (a, i i), (b, j j)
    trace_l, trace_r = flat_l[:, :: i + 1].sum(1), flat_r[:, :: j + 1].sum(1)
    to_l, to_r = core.traces @ trace_r, trace_l @ core.traces
    mean = (trace_l @ to_l) / (i * n * j)
    parts = [
        (to_l @ flat_l).view(i, i) / (n * j),
        (torch.outer(trace_l, trace_r).view(-1) @ core.terms).view(n, n) / (i * j),
        (to_r @ flat_r).view(j, j) / (i * n),
    ]
    for part in parts:
        part.diagonal().sub_(mean)
    size = i * n * j
    beside = sum(float(torch.linalg.vector_norm(part)) ** 2 * size / len(part) for part in parts)
    gram_l, gram_r = (flat.conj() @ flat.mT for flat in (flat_l, flat_r))
    whole = float((gram_l.view(-1) @ core.gram @ gram_r.view(-1)).real)
    rest = whole - beside - size * float(mean.abs()) ** 2
    if rest > CLOSE**2 * beside + 1e3 * torch.finfo(flat_l.dtype).eps * whole:
        return None
    return _hermitian_inverse(parts, mean) if hermitian else _general_inverse(parts, mean)


def _hermitian_inverse(parts: list[Tensor], mean: Tensor) -> Inverse:
    pairs = [torch.linalg.eigh((part + part.mH) / 2) for part in parts]
    (p, u), (q, v), (r, w) = pairs
    values = p[:, None, None] + q[:, None] + r + mean.real
    # What is left of B beside the sum may have made the smallest of these negative.
    inverse = 1 / values.clamp_min(1e-8 * float(values.abs().max()) + torch.finfo(values.dtype).tiny)
    shape = values.shape

    def apply(f: Tensor) -> Tensor:
        return _transform(_transform(f.reshape(shape), u.mH, v.mH, w.mH) * inverse, u, v, w).flatten()

    return apply


def _general_inverse(parts: list[Tensor], mean: Tensor) -> Inverse | None:
    bases, inverses, values = [], [], mean.to(complex_dtype(mean.dtype)).reshape(1, 1, 1)
    for axis, part in enumerate(parts):
        own, basis = torch.linalg.eig(part)
        inverse, info = torch.linalg.inv_ex(basis)
        condition = float(torch.linalg.matrix_norm(basis) * torch.linalg.matrix_norm(inverse)) / len(part)
        if int(info) or not condition < SKEWED:
            return None
        bases.append(basis)
        inverses.append(inverse)
        values = values + own.reshape([-1 if k == axis else 1 for k in range(3)])
    size = values.abs()
    quotient = 1 / torch.where(size > 1e-8 * size.max(), values, torch.ones_like(values))
    shape = values.shape

    def apply(f: Tensor) -> Tensor:
        inside = _transform(f.reshape(shape).to(values.dtype), *inverses) * quotient
        found = _transform(inside, *bases).flatten()
        return found if f.is_complex() else found.real

    return apply


def _transform(
    f: Tensor,  # (i, n, j)
    x: Tensor,  # (i', i)
    y: Tensor,  # (n', n)
    z: Tensor,  # (j', j)
) -> Tensor:  # (i', n', j')
    """Multiply by a matrix on each mode."""
    i, n, j = f.shape
    f = (x @ f.reshape(i, n * j)).reshape(-1, n, j)
    return (y @ f) @ z.mT


def block_inverse(
    left: Tensor,  # (i, a, i)
    core: Tensor,  # (a, n, n, b)
    right: Tensor,  # (j, b, j)
) -> Inverse:
    """Invert blocks on the diagonal of B: for each index of the right bond, or of both, as their size allows.

    Args:
        left: The matrices L.
        core: The matrices A.
        right: The matrices R.

    Returns:
        The inverse, as a function of a vector (i n j,): the identity if all blocks are too large.

    Example:
        >>> block_inverse(torch.ones(1, 1, 1), 2 * torch.eye(3)[None, :, :, None], torch.ones(1, 1, 1))(torch.ones(3))
        tensor([0.5000, 0.5000, 0.5000])
    """
    (i, a, _), (_, n, _, b), j = left.shape, core.shape, right.shape[0]
    ends = right.diagonal(dim1=0, dim2=2)  # (b, j)
    if i * n <= BLOCK_SIZE:
        blocks = left.transpose(1, 2).reshape(i * i, a) @ core.reshape(a, n * n * b)
        blocks = blocks.reshape(i, i, n, n, b).transpose(1, 2).reshape(-1, b) @ ends
        inverse = _inverses(blocks.reshape(i * n, i * n, j).permute(2, 0, 1))  # (j, i n, i n)
        return lambda f: (inverse @ f.reshape(i * n, j).mT[:, :, None])[:, :, 0].mT.flatten()
    if n <= BLOCK_SIZE:
        beginnings = left.diagonal(dim1=0, dim2=2).mT  # (i, a)
        inverse = _inverses(torch.einsum("ia,amnb,bj->ijmn", beginnings, core, ends))
        return lambda f: (inverse @ f.reshape(i, n, j).transpose(1, 2)[..., None])[..., 0].transpose(1, 2).flatten()
    return lambda f: f


def _inverses(
    blocks: Tensor,  # (..., n, n)
) -> Tensor:
    """Invert a batch of matrices; the identity stands for what has no inverse."""
    inverse, info = torch.linalg.inv_ex(blocks)
    if not info.any() and math.isfinite(inverse.sum().abs()):
        return inverse
    bad = (info != 0) | ~torch.isfinite(inverse).flatten(-2).all(-1)
    eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    return torch.where(bad[..., None, None], eye, inverse)
