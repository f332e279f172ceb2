"""Arithmetic on matrices held as products of thin factors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# CPU libraries multiply by a matrix with a side shorter than this at a fraction of their speed, forward and backward,
# unless its long side is contiguous. From so many tokens on, that pays for a copy of the matrix.
_THIN = 16
_MANY_TOKENS = 32
_MANY_HALF_TOKENS = 128


def along(
    matrix: Tensor,  # (m, n)
) -> Tensor:  # (m, n)
    """Store a thin matrix with the entries of its long side next to each other.

    Args:
        matrix: Shape `(m, n)`.

    Returns:
        The same matrix, copied only where its short side is below 16 and it is stored otherwise.

    Example:
        >>> along(torch.ones(4096, 5)).stride(), along(torch.ones(4096, 64)).stride()
        ((1, 4096), (64, 1))
    """
    rows, columns = matrix.shape
    if min(rows, columns) >= _THIN or matrix.stride(0 if rows > columns else 1) == 1:
        return matrix
    return matrix.mT.contiguous().mT if rows > columns else matrix.contiguous()


def pays_along(
    x: Tensor,  # (*batch, m)
    rank: int,
) -> bool:
    """Tell whether a product of tokens with thin matrices gains by `along`, the copies included.

    Args:
        x: The tokens, `(*batch, m)`.
        rank: The short side of the matrices.

    Returns:
        Whether it does.

    Example:
        >>> [pays_along(torch.ones(tokens, 64), rank=5) for tokens in (31, 32)]
        [False, True]
    """
    many = _MANY_TOKENS if x.element_size() >= 4 else _MANY_HALF_TOKENS
    return rank < _THIN and x.device.type == "cpu" and x.numel() >= many * x.shape[-1]


def times_thin(
    x: Tensor,  # (tokens, m)
    left: Tensor,  # (m, t)
    right: Tensor,  # (t, n)
    scale: float,
    to: Tensor | None = None,  # (tokens, n)
    shift: Tensor | None = None,  # (m,)
) -> Tensor:  # (tokens, n)
    """Compute `scale * (x - shift) @ left @ right`, or add it to something, as two skinny products.

    Args:
        x: Shape `(tokens, m)`.
        left: Shape `(m, t)`.
        right: Shape `(t, n)`.
        scale: The factor.
        to: What the product is added to, of shape `(tokens, n)` and the dtype of the product; that takes one pass over
            the result instead of three, for product, factor and sum.
        shift: What is taken off every token, of shape `(m,)`; without a pass over the tokens.

    Returns:
        The result, of shape `(tokens, n)`.

    Example:
        >>> times_thin(torch.ones(1, 3), torch.ones(3, 2), torch.ones(2, 4), scale=0.5)
        tensor([[3., 3., 3., 3.]])
    """
    if pays_along(x, left.shape[1]):
        left, right = along(left), along(right)
        inner = torch.mm(left.mT, x.mT).mT  # faster than `x @ left`, and so is its backward pass
    else:
        inner = torch.mm(x, left)
    if shift is not None:
        inner = inner - shift @ left
    if to is not None:
        return torch.addmm(to, inner, right, alpha=scale)
    return torch.mm(inner * scale, right) if len(x) < right.shape[1] else torch.mm(inner, right * scale)


def thin_svd(
    left: Tensor,  # (m, k)
    right: Tensor,  # (k, n)
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the singular value decomposition of a product of thin factors, without forming the product.

    Args:
        left: Shape `(m, k)`.
        right: Shape `(k, n)`.

    Returns:
        `u` of shape `(m, t)`, `s` of shape `(t,)`, descending, and `v` of shape `(t, n)` in float64, where t is at
        most the smallest of m, k and n.

    Example:
        >>> u, s, v = thin_svd(torch.ones(4, 2), torch.ones(2, 9))
        >>> [round(float(value), 6) for value in s]
        [12.0, 0.0]
    """
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double().mT)
    u, s, v = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return q_left @ u, s, v @ q_right.mT


def best_factors(
    left: Tensor,  # (m, k)
    right: Tensor,  # (k, n)
    r: int,
) -> tuple[Tensor, Tensor]:  # (m, r), (r, n)
    """Round a product of thin factors to a rank, as nearly as that allows.

    Args:
        left: Shape `(m, k)`.
        right: Shape `(k, n)`.
        r: The new inner size, at least 1.

    Returns:
        Factors of shapes `(m, r)` and `(r, n)` in float64, whose columns and rows have equal norms; those that the
        product's rank leaves over are zero.

    Example:
        >>> new_left, new_right = best_factors(torch.ones(4, 3), torch.ones(3, 9), r=2)
        >>> new_left.shape, new_right.shape, torch.allclose(new_left @ new_right, 3 * torch.ones(4, 9).double())
        (torch.Size([4, 2]), torch.Size([2, 9]), True)
    """
    u, s, v = thin_svd(left, right)
    root = s[:r].sqrt()
    room = (0, r - len(root))
    return F.pad(u[:, :r] * root, room), F.pad((root[:, None] * v[:r]).mT, room).mT


@torch.no_grad()
def product_error(
    left: Tensor,  # (m, k)
    right: Tensor,  # (k, n)
    new_left: Tensor,  # (m, l)
    new_right: Tensor,  # (l, n)
) -> float:
    """Measure how far one product of thin factors is from another, without forming either.

    Args:
        left: Shape `(m, k)`.
        right: Shape `(k, n)`.
        new_left: Shape `(m, l)`.
        new_right: Shape `(l, n)`.

    Returns:
        The Frobenius norm of `left @ right - new_left @ new_right`, relative to that of `left @ right`, and without
        the cancellation of squared norms; 0 where `left @ right` is zero.

    Example:
        >>> product_error(torch.eye(2), torch.eye(2), torch.eye(2), 1.5 * torch.eye(2))
        0.5
    """
    norm = torch.linalg.vector_norm(thin_svd(left, right)[1])
    difference = thin_svd(torch.cat([left, new_left.to(left)], dim=1), torch.cat([right, -new_right.to(right)]))[1]
    return float(torch.linalg.vector_norm(difference) / norm) if norm else 0.0


def leading_factors(
    weight: Tensor,  # (m, n)
    rank: int,
) -> tuple[Tensor, Tensor]:
    """Approximate a matrix by the product of two thin factors of equal norms, near its best one of that rank.

    Args:
        weight: The matrix, of any floating dtype.
        rank: At least 1; capped by the matrix's sides.

    Returns:
        Factors of shapes `(m, rank)` and `(rank, n)` in float32, the same on every call. Source: Halko et al. 2011,
        "Finding structure with randomness", algorithm 4.4, with the random numbers fixed and four power iterations.

    Example:
        >>> left, right = leading_factors(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2)
        >>> torch.allclose(left @ right, torch.diag(torch.tensor([3.0, 2.0, 0.0])), atol=1e-5)
        True
    """
    weight = weight.float()
    rank = min(rank, *weight.shape)
    size = min(2 * rank + 8, *weight.shape)
    generator = torch.Generator().manual_seed(0)
    basis = weight @ torch.randn(weight.shape[1], size, generator=generator).to(weight.device)
    for _ in range(4):
        basis = weight @ torch.linalg.qr(weight.mT @ torch.linalg.qr(basis)[0])[0]
    basis = torch.linalg.qr(basis)[0]  # (m, size)
    u, s, v = torch.linalg.svd(basis.mT @ weight, full_matrices=False)
    root = s[:rank].sqrt()
    return basis @ u[:, :rank] * root, root[:, None] * v[:rank]


def thinnest_product(factors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Multiply a chain of matrices into two, cut at its thinnest bond.

    Args:
        factors: At least two matrices, each with as many columns as the next one has rows.

    Returns:
        `left` of shape `(m, r)` and `right` of shape `(r, n)`, where r is the smallest size between the
        factors and `left @ right` is the product of them all.

    Example:
        >>> left, right = thinnest_product([torch.ones(9, 4), torch.ones(4, 2), torch.ones(2, 7)])
        >>> tuple(left.shape), tuple(right.shape)
        ((9, 2), (2, 7))
    """
    bonds = [factor.shape[1] for factor in factors[:-1]]
    cut = bonds.index(min(bonds)) + 1
    left, right = factors[cut - 1], factors[cut]
    # From the cut outwards, so that every product on the way is thin.
    for factor in reversed(factors[: cut - 1]):
        left = factor @ left
    for factor in factors[cut + 1 :]:
        right = right @ factor
    return left, right
