"""What a sweep sees of the rest of a train: operators and right-hand sides contracted from one end to a bond.

An interface of an operator has shape (i, a, r): the bond of the train on the left of `<x| A |y>`, that of A, that of
the train on the right; one of a train has shape (i, p). The way back of a sweep is the way there in the mirror, so only
interfaces from the left are ever computed. Source: Holtz, Rohwedder & Schneider 2012, "The alternating linear scheme
for tensor optimization in the tensor train format".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr, thin_svd, triangular_factor
from ttnet.numerics.scales import compute_dtype, split_scale, times_power_of_two
from ttnet.numerics.train_scales import split_scales
from ttnet.trains.chain import CoreChain
from ttnet.trains.orthogonal import right_orthogonalise

CLEAR = 100  # machine epsilons that the square of a loss has to be above to be seen in squares of matrices
NOISE = 10  # machine epsilons, relative to the norm, that a bond may lose where noise is taken out


class OperatorCore:
    """A core of an operator, laid out for products: as a matrix (m b, a n).

    Args:
        core: Of shape (a, m, n, b).

    Example:
        >>> OperatorCore(torch.ones(2, 3, 4, 5)).matrix.shape
        torch.Size([15, 8])
    """

    def __init__(
        self,
        core: Tensor,  # (a, m, n, b)
    ) -> None:
        self.core = core
        a, m, n, b = core.shape
        self.shape = a, m, n, b
        self.matrix = core.permute(1, 3, 0, 2).reshape(m * b, a * n)

    @cached_property
    def terms(self) -> Tensor:
        """The matrices on the mode, flat, one for each index of both bonds: (a b, m n)."""
        a, m, n, b = self.shape
        return self.core.permute(0, 3, 1, 2).reshape(a * b, m * n)

    @cached_property
    def traces(self) -> Tensor:
        """Their traces, (a, b)."""
        return self.core.diagonal(dim1=1, dim2=2).sum(-1)

    @cached_property
    def gram(self) -> Tensor:
        """Their inner products, with the indices of the bond on the left before those on the right: (a a, b b)."""
        a, _, _, b = self.shape
        gram = self.terms.conj() @ self.terms.mT
        return gram.view(a, b, a, b).transpose(1, 2).reshape(a * a, b * b)

    def mirrored(self) -> OperatorCore:
        """Give the core as it is met on the way back.

        Returns:
            The core with its bonds exchanged.

        Example:
            >>> OperatorCore(torch.ones(2, 3, 4, 5)).mirrored().shape
            (5, 3, 4, 2)
        """
        return OperatorCore(self.core.transpose(0, 3))


def mirrored(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> list[Tensor]:
    """Give the cores of a train whose modes stand in reverse.

    Args:
        cores: The cores.

    Returns:
        As many, as views.

    Example:
        >>> [tuple(core.shape) for core in mirrored([torch.ones(1, 2, 3), torch.ones(3, 4, 1)])]
        [(1, 4, 3), (3, 2, 1)]
    """
    return [core.transpose(0, 2) for core in reversed(cores)]


def through_operator(
    left: Tensor,  # (i, a, r)
    core: OperatorCore,  # (a, m, n, b)
    x: Tensor,  # (r, n, s)
) -> Tensor:  # (i, m, b, s)
    """Multiply an interface by a core of the operator and by one of the train on its right.

    Args:
        left: The interface.
        core: The operator's core.
        x: The train's core.

    Returns:
        What is open: the left train's bond and mode, the operator's bond, the right train's bond.

    Example:
        >>> core = OperatorCore(torch.ones(2, 3, 4, 5))
        >>> through_operator(torch.ones(7, 2, 6), core, torch.ones(6, 4, 8)).shape
        torch.Size([7, 3, 5, 8])
    """
    i, a, r = left.shape
    _, m, n, b = core.shape
    s = x.shape[2]
    t = left.reshape(i * a, r) @ x.reshape(r, n * s)
    return (core.matrix @ t.reshape(i, a * n, s)).reshape(i, m, b, s)


def advance_operator(
    left: Tensor,  # (i, a, r)
    bra: Tensor,  # (i, m, j)
    core: OperatorCore,  # (a, m, n, b)
    ket: Tensor,  # (r, n, s)
) -> Tensor:  # (j, b, s)
    """Take an interface of `<bra| A |ket>` over one more core.

    Args:
        left: The interface so far.
        bra: The core of the train on the left, to be conjugated.
        core: The operator's core.
        ket: The core of the train on the right.

    Returns:
        The interface at the next bond.

    Example:
        >>> advance_operator(torch.ones(1, 1, 1), torch.ones(1, 3, 2), OperatorCore(torch.ones(1, 3, 3, 4)),
        ...                  torch.ones(1, 3, 5)).shape
        torch.Size([2, 4, 5])
    """
    t = through_operator(left, core, ket)
    i, m, b, s = t.shape
    return (bra.reshape(i * m, -1).mH @ t.reshape(i * m, b * s)).reshape(-1, b, s)


def advance_train(
    left: Tensor,  # (i, p)
    bra: Tensor,  # (i, n, j)
    ket: Tensor,  # (p, n, q)
) -> Tensor:  # (j, q)
    """Take an interface of `<bra | ket>` over one more core.

    Args:
        left: The interface so far.
        bra: The core of the train on the left, to be conjugated.
        ket: The core of the train on the right.

    Returns:
        The interface at the next bond.

    Example:
        >>> advance_train(torch.ones(1, 1), torch.ones(1, 3, 2), torch.ones(1, 3, 5)).shape
        torch.Size([2, 5])
    """
    t = through_train(left, ket)
    return bra.reshape(-1, bra.shape[2]).mH @ t.flatten(0, 1)


def through_train(
    left: Tensor,  # (i, p)
    core: Tensor,  # (p, n, q)
) -> Tensor:  # (i, n, q)
    """Multiply an interface by a core of the train on its right.

    Args:
        left: The interface.
        core: The train's core.

    Returns:
        What is open: the left train's bond, the mode, the right train's bond.

    Example:
        >>> through_train(torch.ones(2, 1), torch.ones(1, 3, 4)).shape
        torch.Size([2, 3, 4])
    """
    p, n, q = core.shape
    return (left @ core.reshape(p, n * q)).view(len(left), n, q)


def middle_of_product(
    left: Tensor,  # (i, a, r)
    core: OperatorCore,  # (a, m, n, b)
    right: Tensor,  # (j, b, s)
    x: Tensor,  # (r, n, s)
) -> Tensor:  # (i, m, j)
    """Give what a sweep sees of `A x` at one core of x: the product with the local matrix.

    Args:
        left: The interface from the left.
        core: The operator's core.
        right: The interface from the right.
        x: The train's core.

    Returns:
        The product.

    Example:
        >>> core = OperatorCore(torch.ones(2, 3, 3, 2))
        >>> middle_of_product(torch.ones(4, 2, 5), core, torch.ones(6, 2, 7), torch.ones(5, 3, 7)).shape
        torch.Size([4, 3, 6])
    """
    t = through_operator(left, core, x)
    i, m, b, s = t.shape
    return (t.reshape(i * m, b * s) @ right.reshape(-1, b * s).mT).reshape(i, m, -1)


def prepare_train(x: CoreChain, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Make a train right-orthogonal and of norm one, but for a power of two.

    Args:
        x: A train of order 1 or more.
        dtype: The dtype to compute in.

    Returns:
        The cores, of a norm from 1/2 to 1 (0 for a zero train), and an exponent: x is theirs times 2**exponent.

    Example:
        >>> import ttnet
        >>> cores, exponent = prepare_train(ttnet.ones((4,) * 1000), torch.float64)
        >>> float(cores[0].norm()), exponent
        (0.5..., 1001)
    """
    cores, exponent = right_orthogonalise([core.detach().to(dtype) for core in x.cores])
    norm = torch.linalg.vector_norm(cores[0])
    _, own = split_scale(norm[None])
    cores[0] = times_power_of_two(cores[0], -own)
    return [core.contiguous() for core in cores], int(exponent) + int(own)


def prepare_operator(a: CoreChain, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Scale the cores of an operator so that its tails, and so what sweeps see of it, are of about one size.

    A tail is the operator made of the last cores alone. After this the mean square of its singular values is one.

    Args:
        a: An operator.
        dtype: The dtype to compute in.

    Returns:
        The cores, and an exponent: the operator is theirs times 2**exponent.

    Example:
        >>> import ttnet
        >>> cores, exponent = prepare_operator(2.0 * ttnet.eye((3,) * 10), torch.float64)
        >>> round(max(float(core.max()) for core in cores), 6), exponent
        (1.0, 1)
    """
    cores, exponent = split_scales([core.detach() for core in a.cores], compute_dtype(dtype))
    total = int(exponent)
    carried = cores[-1].new_ones(1, 1)
    for k in range(len(cores) - 1, -1, -1):
        core = torch.tensordot(cores[k], carried, 1)
        core = core / core.shape[1] ** 0.5
        size = float(torch.linalg.vector_norm(core))
        power = round(math.log2(size)) if size > 0 else 0
        cores[k] = times_power_of_two(cores[k], -power).to(dtype).contiguous()
        total += power
        carried = triangular_factor(times_power_of_two(core, -power).flatten(1).mT).mT
    return cores, total


def split(
    matrix: Tensor,  # (m, n)
    tail: float,
    most: int | None = None,
) -> tuple[Tensor, Tensor]:  # (m, r), (r, n)
    """Split a matrix of entries near one into `u @ w` of the smallest rank whose loss is within a bound.

    Args:
        matrix: The matrix.
        tail: The largest Frobenius norm of the loss.
        most: The largest rank, which goes before that.

    Returns:
        `u`, of orthonormal columns, one at least; and `w`.

    Example:
        >>> u, w = split(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 1.1)
        >>> u.shape, w.shape
        (torch.Size([3, 2]), torch.Size([2, 3]))
    """
    rows, columns = matrix.shape
    size = float(torch.linalg.vector_norm(matrix))
    if tail**2 < CLEAR * torch.finfo(matrix.dtype).eps * size**2:
        u, s, vh = thin_svd(matrix)
        rank = _kept(s.square().flip(0), tail, most)
        return u[:, :rank].contiguous(), s[:rank, None] * vh[:rank]
    if rows <= columns:
        squares, vectors = torch.linalg.eigh(matrix @ matrix.mH)
        u = vectors[:, rows - _kept(squares, tail, most) :].flip(1)
        return u, u.mH @ matrix
    squares, vectors = torch.linalg.eigh(matrix.mH @ matrix)
    vectors = vectors[:, columns - _kept(squares, tail, most) :].flip(1)
    u, factor = plain_qr(matrix @ vectors)
    return u, factor @ vectors.mH


def _kept(squares: Tensor, tail: float, most: int | None) -> int:
    """Say how many singular values to keep, given their squares, ascending."""
    lost = squares.cumsum(0)  # the squares of what cuts lose
    return max(1, min(int((lost > tail**2).sum()), most or len(lost)))


def trim(
    cores: Sequence[Tensor],  # each (r, n, s)
    *,
    is_orthogonal: bool = False,
) -> list[Tensor]:
    """Take the directions out of a train's bonds that are rounding noise.

    Args:
        cores: The cores of a train whose norm and tails are near one.
        is_orthogonal: Whether all but the first are right-orthogonal.

    Returns:
        The cores, left-orthogonal but for the last.

    Example:
        >>> x = torch.ones(1, 3, 2, dtype=torch.float64)
        >>> [core.shape for core in trim([x, x.transpose(0, 2)])]
        [torch.Size([1, 3, 1]), torch.Size([1, 3, 1])]
    """
    centre, others = cores[0], list(cores[1:])
    if not is_orthogonal:
        centre, others = cores[-1], []
        for core in reversed(cores[:-1]):
            q, factor = plain_qr(centre.flatten(1).mH)
            others.insert(0, q.mH.reshape(-1, *centre.shape[1:]))
            centre = torch.tensordot(core, factor.mH, 1)
    tail = NOISE * torch.finfo(centre.dtype).eps * float(torch.linalg.vector_norm(centre))
    found = []
    for core in others:
        matrix = centre.flatten(0, 1)
        u, w = plain_qr(matrix)
        if not _exceeds(w, tail):
            u, w = split(matrix, tail)
        found.append(u.view(*centre.shape[:2], -1))
        centre = torch.tensordot(w, core, 1)
    return [*found, centre]


def _exceeds(
    factor: Tensor,  # (m, n), upper triangular
    bound: float,
) -> bool:
    """Say whether the smallest singular value is sure to be above a bound, as that of a small inverse is."""
    if len(factor) < factor.shape[1]:
        return False
    eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=True)
    return bound * float(torch.linalg.vector_norm(inverse)) < 1
