"""The bonds of one step of a sweep: how each is cut, and the cores that come of it.

A step merges some modes of one end into the columns of an unfolding. Its spectrum tells all that is needed to cut the
bonds among them: the unfolding is Q times singular values and right singular vectors, with orthonormal columns in Q, so
the further cuts of those lose what they lose of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ttnet.decomposition.spectrum import Spectrum, by_qr
from ttnet.decomposition.unfolding import Unfolding
from ttnet.numerics.linalg import qr
from ttnet.numerics.truncation import ErrorBudget


def cut_bonds(
    spectrum: Spectrum,
    v: Tensor,  # (n_1 ... n_m r, k): its singular vectors, the modes in the order of `shape`
    shape: Sequence[int],  # (n_1, ..., n_m, r)
    bonds: Sequence[int],
    budget: ErrorBudget,
) -> list[Tensor] | None:
    """Cut the bonds of one step, the outermost one first and the others from the end, and note it in the budget.

    Args:
        spectrum: What is known of the unfolding.
        v: Its right singular vectors.
        shape: The modes merged in the columns, and the rank of the bond behind the last one.
        bonds: The bonds before each mode.
        budget: The budget.

    Returns:
        The cores, with orthonormal rows, none if no rank is smaller than it could be; or None if a cut is not certain.
    """
    *sizes, last = shape
    allowed, max_rank = budget.allowance(spectrum.full_rank, bonds[0])
    choice = spectrum.cut(allowed, max_rank)
    if choice is None:
        return None
    rank, tail = choice
    budget.spend((tail**2 + spectrum.bound) ** 0.5, spectrum.least_kept(rank))
    # X is Q times this, where Q has orthonormal columns: its further cuts lose here what they lose there.
    rest = spectrum.energies[:rank].clamp(min=0).sqrt()[:, None] * v[:, :rank].mH
    cores: list[Tensor] = []
    whole = rank == len(v)
    # Where only rounding noise is cut, what is missed is no more than that, and nobody's bound has to hold it.
    missed = spectrum.missed if budget.left else 0.0
    outside = missed**0.5
    for size, bond in zip(sizes[:0:-1], bonds[:0:-1], strict=True):
        matrix = rest.reshape(-1, size * last)
        inner = by_qr(Unfolding(matrix, 1, matrix.dtype))
        inner = replace(inner, bound=spectrum.bound + missed)
        allowed, max_rank = budget.allowance(inner.full_rank, bond)
        # What is missed need not be orthogonal to what is cut here: their norms may add up as they are.
        choice = inner.cut(math.hypot(allowed, outside) - outside, max_rank)
        if choice is None:
            return None
        rank, tail = choice
        budget.spend((tail * (tail + 2 * outside)) ** 0.5, inner.least_kept(rank))
        whole = whole and rank == size * last
        core = inner.v[:, :rank].mH
        rest = matrix @ core.mH
        cores.insert(0, core.reshape(rank, size, last))
        last = rank
    if whole:
        return []
    rest = rest.reshape(-1, sizes[0] * last)
    core = qr(rest.mT)[0].mT if cores else v[:, : len(rest)].mH
    return [core.reshape(-1, sizes[0], last), *cores]


def identities(shape: Sequence[int], left: bool, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Give the cores of modes that no bond is cut between.

    Args:
        shape: The modes, the outermost one last, and the rank of the bond behind it.
        left: Whether they are seen in a mirror.
        dtype: The dtype of the cores.
        device: Their device.

    Returns:
        Identities, as cores.

    Example:
        >>> [tuple(core.shape) for core in identities((3, 2, 1), False, torch.float64, torch.device("cpu"))]
        [(6, 3, 2), (2, 2, 1)]
    """
    cores: list[Tensor] = []
    *sizes, inner = shape
    for size in reversed(sizes):
        eye = torch.eye(size * inner, dtype=dtype, device=device)
        core = eye.reshape(-1, inner, size).mT if left else eye.reshape(-1, size, inner)
        cores.insert(0, core)
        inner *= size
    return cores


def basis_of(cores: Sequence[Tensor], shape: Sequence[int], left: bool) -> Tensor:
    """Multiply new cores up to the basis of the space they span.

    Args:
        cores: The cores, with orthonormal rows.
        shape: Their modes and the rank of the bond behind the last one.
        left: Whether they are seen in a mirror.

    Returns:
        A matrix of shape (rank, columns), its columns in the order of those of the unfolding.

    Example:
        >>> basis_of([torch.eye(4).reshape(4, 2, 2), torch.eye(2).reshape(2, 2, 1)], (2, 2, 1), False).shape
        torch.Size([4, 4])
    """
    basis = cores[0]
    for core in cores[1:]:
        basis = torch.tensordot(basis, core, 1)
    basis = basis.reshape(len(cores[0]), -1)
    return mirrored(basis, shape) if left else basis


def mirrored(
    matrix: Tensor,  # (k, n_1 ... n_m)
    shape: Sequence[int],  # (n_1, ..., n_m)
) -> Tensor:
    """Reverse the order of the modes that are merged in the columns."""
    tensor = matrix.reshape(-1, *shape)
    return tensor.permute(0, *range(len(shape), 0, -1)).reshape(matrix.shape)
