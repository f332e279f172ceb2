"""How operators are put together: sums along a chain, and their ranks brought down to the least there can be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.errors import TTTypeError
from ttnet.trains.chain import check_dtype
from ttnet.trains.tt_matrix import TTMatrix

# A row is a combination of others if what they leave of it is below this share of it; entries are exact or nearly so.
_NOTHING = 1e-12


def finish(
    cores: Sequence[Tensor],  # each (r, m, n, r'), float64 or complex128
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> TTMatrix:
    """Make a TT-matrix of the least ranks.

    Args:
        cores: The cores, of any ranks, in double precision on the CPU.
        dtype: The dtype wanted; None for that of the cores.
        device: The device wanted; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or real where the cores are complex.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> finish([eye[None, :, :, None].repeat(1, 1, 1, 2), eye[None, :, :, None].repeat(2, 1, 1, 1)], None, None)
        TTMatrix([2x2]-1-[2x2], float64)
    """
    wanted = check_dtype(cores[0].dtype if dtype is None else dtype)
    if cores[0].is_complex() and not wanted.is_complex:
        raise TTTypeError(
            f"dtype is {wanted}, but matrices are complex; expected a complex dtype, or None, or pass the real parts."
        )
    where = torch.get_default_device() if device is None else device
    return TTMatrix([core.to(wanted).to(where) for core in least_ranks(cores)])


def least_ranks(
    cores: Sequence[Tensor],  # each (r, m, n, r')
) -> list[Tensor]:
    """Bring ranks down to those of the unfoldings by elimination, which leaves small integers what they are.

    An SVD would do the same, and make a dense matrix of irrational numbers of every sparse one.

    Args:
        cores: The cores, in double precision on the CPU.

    Returns:
        The cores of the same operator.

    Example:
        >>> core = torch.ones(1, 1, 1, 3, dtype=torch.float64)
        >>> [tuple(core.shape) for core in least_ranks([core, core.transpose(0, 3)])]
        [(1, 1, 1, 1), (1, 1, 1, 1)]
    """
    cores = list(cores)
    for k in range(len(cores) - 1, 0, -1):
        kept, weights = _independent_rows(cores[k].flatten(1))
        cores[k] = cores[k][kept]
        cores[k - 1] = torch.tensordot(cores[k - 1], weights, 1)
    for k in range(len(cores) - 1):
        kept, weights = _independent_rows(cores[k].flatten(0, 2).mT)
        cores[k] = cores[k][..., kept]
        cores[k + 1] = torch.tensordot(weights.mT, cores[k + 1], 1)
    return cores


def _independent_rows(
    matrix: Tensor,  # (r, n)
) -> tuple[list[int], Tensor]:
    """Give rows that all the others are combinations of, and the weights (r, kept) of these combinations.

    This is Gaussian elimination with complete pivoting: after each step, `matrix = weights @ matrix[kept] + rest`.
    """
    rest = matrix.clone()
    sizes = matrix.abs().amax(1)
    kept: list[int] = []
    multipliers: list[Tensor] = []
    while len(kept) < min(matrix.shape):
        shares = torch.where(sizes > 0, rest.abs().amax(1) / sizes, torch.zeros_like(sizes))
        shares[kept] = 0
        row = int(shares.argmax())
        if not shares[row] > _NOTHING:
            break
        column = int(rest[row].abs().argmax())
        multiplier = rest[:, column] / rest[row, column]
        rest = rest - torch.outer(multiplier, rest[row])
        rest[row] = 0
        kept.append(row)
        multipliers.append(multiplier)
    if not kept:  # a zero operator still has ranks of 1
        return [0], torch.zeros(len(matrix), 1, dtype=matrix.dtype)
    lower = torch.stack(multipliers, 1)  # (r, kept), of matrix = lower @ (what was left of the rows kept)
    unit = lower[kept].tril()
    weights = torch.linalg.solve_triangular(unit, lower, upper=False, left=False, unitriangular=True)
    weights[kept] = torch.eye(len(kept), dtype=matrix.dtype)
    order = sorted(range(len(kept)), key=kept.__getitem__)
    return [kept[i] for i in order], weights[:, order]


def identity_cores(
    chain: Sequence[Tensor],  # each (r, n, n, r')
) -> list[Tensor]:
    """Give the identity on the modes of a chain.

    Args:
        chain: The cores of an operator.

    Returns:
        As many cores, of ranks 1.

    Example:
        >>> identity_cores([torch.ones(1, 2, 2, 3)])[0].shape
        torch.Size([1, 2, 2, 1])
    """
    return [torch.eye(core.shape[1], dtype=core.dtype)[None, :, :, None] for core in chain]


def kronecker_sum(
    chains: Sequence[Sequence[Tensor]],  # of cores (r, n, n, r')
) -> list[Tensor]:
    """Add up operators that act on modes of their own: `A x I x I + I x B x I + I x I x C`.

    Args:
        chains: The cores of each operator, on the modes that it acts on.

    Returns:
        The cores of the sum, of ranks 2 between the operators, and of two more than each has within.

    Example:
        >>> d = torch.diag(torch.tensor([0.0, 1.0]))[None, :, :, None]
        >>> TTMatrix(kronecker_sum([[d], [d]])).full().diag()
        tensor([0., 1., 1., 2.])
    """
    cores = []
    for index, chain in enumerate(chains):
        is_first, is_last = index == 0, index == len(chains) - 1
        for k, (core, eye) in enumerate(zip(chain, identity_cores(chain), strict=True)):
            begins, ends = k == 0, k == len(chain) - 1
            left = core.shape[0]  # the states of a bond: nothing yet, within the operator, done
            rows, columns = 2 + left, 2 + core.shape[3]
            block = core.new_zeros(rows, *core.shape[1:3], columns)
            block[:1, ..., :1] = eye
            block[1:-1, ..., 1:-1] = core
            block[-1:, ..., -1:] = eye
            if begins:  # the operator begins where there is nothing yet
                block = torch.cat([block[:1] + block[1:2], block[-1:]])
                block = block[:1] if is_first else block
            if ends:  # and leaves everything done
                block = torch.cat([block[..., :1], block[..., 1:2] + block[..., -1:]], 3)
                block = block[..., 1:] if is_last else block
            cores.append(block)
    return cores
