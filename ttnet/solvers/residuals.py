"""Residuals as they are: computed from the operator and the answer, not from what a solver saw on its way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ttnet.numerics.linalg import plain_qr, triangular_factor
from ttnet.numerics.scales import times_power_of_two
from ttnet.solvers.channels import Channels, interface_after
from ttnet.solvers.interfaces import OperatorCore, through_operator
from ttnet.trains.tensor_train import TensorTrain

SYMMETRY = 1e3  # machine epsilons that `A - A.H` may have, relative to A
ORTHONORMAL = 100  # machine epsilons, by which the Gram matrix of rows may miss the identity
ORTHOGONAL = 1e-8  # how much of A.H @ r may be left, relative to A and r, where A counts as singular
EXACT_RANK = 100  # of `A v`, up to where a residual is orthogonalised
SKETCH = 64  # random combinations of what that takes too long for
LOOK_RANK = 8  # of the residual that is looked at for that


def residual_cores(
    a: Sequence[Tensor],  # each (a, m, n, b)
    b: Sequence[Tensor],  # each (p, m, q)
    x: Sequence[Tensor],  # each (r, n, s)
    exponent: int,
) -> list[Tensor]:
    """Give the cores of `b - 2**exponent * A x`, of ranks that add up.

    Args:
        a: The operator's cores.
        b: The right-hand side's cores.
        x: The cores of the unknown.
        exponent: Of x.

    Returns:
        The cores.

    Example:
        >>> eye, one = torch.eye(2)[None, :, :, None], torch.ones(1, 2, 1)
        >>> float(residual_cores([eye], [one], [one], 1)[0].sum())
        -2.0
    """
    last = len(b) - 1

    def product(k: int, operator: Tensor, unknown: Tensor) -> Tensor:
        found = torch.tensordot(operator, unknown, ([2], [1])).permute(0, 3, 1, 2, 4)  # (a, r, m, b, s)
        found = found.flatten(3, 4).flatten(0, 1)
        found = times_power_of_two(found, exponent) if k == last else found
        return -found if k == 0 else found

    return _sum(b, (product(k, operator, unknown) for k, (operator, unknown) in enumerate(zip(a, x, strict=True))))


def _sum(
    train: Sequence[Tensor],  # each (p, m, q)
    other: Iterable[Tensor],  # each (r, m, s)
) -> list[Tensor]:
    """Give the cores of the sum of two trains whose tails are of about one size, of ranks that add up."""
    last, cores = len(train) - 1, []
    for k, (x, y) in enumerate(zip(train, other, strict=True)):
        if last == 0:
            cores.append(x + y)
        elif k in (0, last):
            cores.append(torch.cat([x, y], 0 if k else 2))
        else:
            (p, m, q), (r, _, s) = x.shape, y.shape
            core = y.new_zeros(p + r, m, q + s)
            core[:p, :, :q] = x
            core[p:, :, q:] = y
            cores.append(core)
    return cores


def relative_residual(
    a: Sequence[Tensor],  # each (a, m, n, b)
    b: Sequence[Tensor],  # each (p, m, q)
    x: Sequence[Tensor],  # each (r, n, s)
) -> float:
    """Give the norm of `b - A x`, relative to that of b.

    Args:
        a: The operator's cores, as `prepare_operator` gives them.
        b: The right-hand side's cores, right-orthogonal but for the first.
        x: The cores of the unknown, orthogonal but for one.

    Returns:
        The relative residual.

    Example:
        >>> eye, one = torch.eye(2)[None, :, :, None], torch.ones(1, 2, 1)
        >>> relative_residual([eye], [one], [one])
        0.0
    """
    return _norm(residual_cores(a, b, x, 0)) / float(torch.linalg.vector_norm(b[0]))


def is_hermitian(
    a: Sequence[Tensor],  # each (a, n, n, b)
) -> bool:
    """Say whether an operator is its own conjugate transpose, up to rounding errors.

    Args:
        a: The operator's cores, as `prepare_operator` gives them.

    Returns:
        Whether it is.

    Example:
        >>> is_hermitian([torch.eye(2)[None, :, :, None]]), is_hermitian([torch.ones(2, 2).triu()[None, :, :, None]])
        (True, False)
    """
    return antihermitian_part(a) <= SYMMETRY * torch.finfo(a[0].dtype).eps


def antihermitian_part(
    a: Sequence[Tensor],  # each (a, n, n, b)
) -> float:
    """Give the norm of `A - A.H`, relative to that of A.

    Args:
        a: The operator's cores, as `prepare_operator` gives them.

    Returns:
        The relative norm; 0 for a zero operator.

    Example:
        >>> antihermitian_part([torch.tensor([[0.0, 1.0], [-1.0, 0.0]])[None, :, :, None]])
        2.0
    """
    adjoint = [core.transpose(1, 2).conj().resolve_conj() for core in a]
    if all(torch.equal(core, other) for core, other in zip(a, adjoint, strict=True)):
        return 0.0
    own = [core.flatten(1, 2) for core in a]
    first, *others = (core.flatten(1, 2) for core in adjoint)
    size = _norm(_sum(own, [-first, *others]))
    return size / _norm(own) if size else 0.0


def is_orthogonal_to_range(
    a: Sequence[Tensor],  # each (a, n, n, b)
    b: Sequence[Tensor],  # each (p, n, q)
    x: Sequence[Tensor],  # each (r, n, s)
) -> bool:
    """Say whether the residual of x is orthogonal to the range of A: whether no other x has a smaller one.

    Args:
        a: The operator's cores.
        b: The right-hand side's cores.
        x: The cores of the unknown.

    Returns:
        Whether it is, up to a small part.

    Example:
        >>> a = torch.diag(torch.tensor([1.0, 0.0]))[None, :, :, None]
        >>> is_orthogonal_to_range([a], [torch.ones(1, 2, 1)], [torch.tensor([[[1.0], [0.0]]])])
        True
    """
    residual = TensorTrain(residual_cores(a, b, x, 0))
    residual = residual.round(max_rank=LOOK_RANK) if residual.ndim > 1 else residual
    adjoint = [core.transpose(1, 2).conj().resolve_conj() for core in a]
    return log_share_left(adjoint, residual.cores) <= math.log(ORTHOGONAL)


def eigen_residual(
    a: Sequence[Tensor],  # each (a, m, n, b)
    v: Sequence[Tensor],  # each (r, n, s), of norm one
    value: float,
) -> float:
    """Give the norm of `A v - value v`.

    It is computed without taking a difference of squares, whose rounding would show as about the root of the machine
    epsilon times the value. What A makes of v is split by the site where it leaves the bases that v has on the left,
    and by the one where it leaves those on the right; what leaves them at one site or at two neighbours is computed, as
    for the variance of Hubig, Haegeman & Schollwoeck 2018, "Error estimates for extrapolations with matrix-product
    states". That is all for sums of terms of neighbours; what A moves farther apart is estimated from `SKETCH` random
    combinations, to about a fifth of it. Small ranks are orthogonalised, which is exact.

    Args:
        a: The operator's cores, as `prepare_operator` gives them.
        v: The cores of a vector of norm one.
        value: The eigenvalue.

    Returns:
        The norm.

    Example:
        >>> a = torch.diag(torch.tensor([1.0, 3.0]))[None, :, :, None]
        >>> eigen_residual([a], [torch.tensor([[[1.0], [0.0]]])], 1.0)
        0.0
    """
    if max(core.shape[0] * operator.shape[0] for operator, core in zip(a, v, strict=True)) <= EXACT_RANK:
        return _norm(residual_cores(a, [v[0] * value, *v[1:]], v, 0))
    there = Channels(a)
    # Where all of A on the left is a multiple of the identity, nothing leaves the bases there.
    begun = [core[there.open[k]][..., there.open[k + 1]] for k, core in enumerate(a)]
    back = Channels([core.transpose(0, 3) for core in reversed(begun)])
    is_far = any(back.side(k, with_core=True).goes_on for k in range(len(a)))
    v = _right_orthogonal(v)
    left, centre = there.first(), v[0]
    sites: list[tuple[Tensor, Tensor, Tensor]] = []  # the interface, the core with the norm in it, its left basis
    for k in range(len(a)):
        basis, rest = plain_qr(centre.flatten(0, 1))
        sites.append((left, centre, basis))
        left = there.advance(k, left, basis.view(*centre.shape[:2], -1))
        centre = torch.tensordot(rest, v[k + 1], 1) if k + 1 < len(v) else rest
    # What stays in the bases is a multiple of v.
    square = abs(complex((left.sum() + there.known[-1].get(0, 0.0) - value) * centre.sum())) ** 2
    generator = torch.Generator().manual_seed(0)
    right = back.first()
    near = v[0].new_ones(1, begun[-1].shape[3])  # (j m, b s), what is on the right, as the bases after one site see it
    leaving = near[:0]  # what of it leaves the bases at that site
    farther: list[Tensor] = []  # (SKETCH, b s), combinations of what leaves them after it
    for k in reversed(range(len(v))):
        (interface, core, basis), side = sites[k], there.side(k, with_core=True)
        rows = side.through(side.rows(interface), core).flatten(2, 3).flatten(0, 1)  # (i m, b s)
        rows = rows - basis @ (basis.mH @ rows)
        for beside in (near, *farther):
            square += float(torch.linalg.vector_norm(rows @ beside.mT)) ** 2
        if not k:
            break
        core, number = v[k].transpose(0, 2), len(v) - 1 - k  # (s, n, r)
        if is_far:
            combined = sum(farther, _combined(leaving, generator))
            farther = [_combined(_through(combined, OperatorCore(begun[k]).mirrored(), core), generator)]
        side = back.side(number, with_core=True)
        seen = side.through(side.rows(right), core, every=True)
        near = seen.flatten(2, 3).flatten(0, 1)
        right = interface_after(core, seen[:, :, back.open[number + 1]])
        if is_far:
            bra = core.flatten(0, 1)
            leaving = near - bra @ (bra.mH @ near)
    return math.sqrt(square)


def _right_orthogonal(
    cores: Sequence[Tensor],  # each (r, n, s), of a train of norm one
) -> list[Tensor]:
    """Make all cores but the first right-orthogonal, where they are not yet: those that a sweep leaves are."""
    found = list(cores)
    for k in range(len(found) - 1, 0, -1):
        rows = found[k].flatten(1)
        gram = rows @ rows.mH
        gram.diagonal().sub_(1.0)
        if float(torch.linalg.vector_norm(gram)) > ORTHONORMAL * torch.finfo(rows.dtype).eps:
            q, factor = plain_qr(rows.mH)
            found[k] = q.mH.reshape(-1, *found[k].shape[1:])
            found[k - 1] = torch.tensordot(found[k - 1], factor.mH, 1)
    return found


def _through(
    left: Tensor,  # (i, a r)
    operator: OperatorCore,  # (a, m, n, b)
    core: Tensor,  # (r, n, s)
) -> Tensor:  # (i m, b s)
    """Take rows over one more core."""
    found = through_operator(left.view(len(left), operator.shape[0], core.shape[0]), operator, core)
    return found.flatten(2, 3).flatten(0, 1)


def _combined(
    rows: Tensor,  # (k, n)
    generator: torch.Generator,
) -> Tensor:  # (SKETCH, n)
    """Give `SKETCH` random combinations of rows, whose mean square is that of the rows."""
    weights = torch.randn(SKETCH, len(rows), generator=generator, dtype=torch.float64) * SKETCH**-0.5
    return weights.to(rows) @ rows


def log_share_left(
    a: Sequence[Tensor],  # each (a, m, n, b)
    x: Sequence[Tensor],  # each (r, n, s)
) -> float:
    """Give the logarithm of `||A x|| / (||A|| ||x||)`, with the root of the mean square singular value for `||A||`.

    Args:
        a: The operator's cores.
        x: The cores of a train.

    Returns:
        The logarithm; very low for a vector of A's null space.

    Example:
        >>> share = log_share_left([torch.eye(2)[None, :, :, None]], [torch.ones(1, 2, 1)])
        >>> abs(share) < 1e-6
        True
    """
    zero = [core.new_zeros(1, core.shape[1], 1) for core in a]
    left = float(TensorTrain(residual_cores(a, zero, x, 0)).log_norm())
    size = float(TensorTrain([core.flatten(1, 2) for core in a]).log_norm())
    size -= sum(math.log(core.shape[2]) for core in a) / 2
    return left if left == -math.inf else left - size - float(TensorTrain(x).log_norm())


def _norm(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> float:
    """Give the norm of a train whose tails are all of about its size, by orthogonalisation, which does not cancel."""
    carried = cores[-1].new_ones(1, 1)
    for core in reversed(cores):
        tail = torch.tensordot(core, carried, 1).flatten(1)  # (r, n q)
        carried = tail if len(tail) >= tail.shape[1] else triangular_factor(tail.mH).mH
    return float(torch.linalg.vector_norm(carried))
