"""What the operations that change a train's bonds share: a sweep that carries the orthogonality centre along.

While the cores left of the centre are orthonormal in their columns and those right of it in their rows, an error made
at the centre is the error of the whole tensor. The errors that one sweep makes in one direction are orthogonal to each
other, so their squares add up; those of different sweeps add up as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.errors import TTValueError
from ttnet.numerics.linalg import qr
from ttnet.numerics.scales import compute_dtype, count_nonfinite
from ttnet.numerics.train_scales import join_scale, split_scales


def check_finite(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> None:
    """Refuse cores that no factorisation takes.

    Args:
        cores: The cores of a train.

    Raises:
        TTValueError: If one has entries that are NaN or infinite.

    Example:
        >>> check_finite([torch.ones(1, 2, 1)])
    """
    for k, core in enumerate(cores):
        if count := count_nonfinite(core):
            raise TTValueError(
                f"cores[{k}] holds NaN or infinite entries, {count} of {core.numel()}; expected finite numbers."
            )


def balance(
    cores: Sequence[Tensor],  # each (r, ..., r')
    dtype: torch.dtype,
) -> list[Tensor]:
    """Cast cores to a dtype and move their scales to where they do no harm, as `join_scale` does.

    Args:
        cores: The cores of a train of any scales.
        dtype: The dtype of the new cores.

    Returns:
        The cores of the same train: all scale is in the last one, or even in all.

    Example:
        >>> cores = balance([torch.tensor([[[1e30]]]), torch.tensor([[[1e-30]]])], torch.float16)
        >>> [round(float(core), 2) for core in cores]
        [0.79, 1.27]
    """
    return join_scale(*split_scales(cores, compute_dtype(dtype)), dtype)


def usable_eps(eps: float, order: int, dtype: torch.dtype) -> float:
    """Give what is left of an error bound when the result's cores will have been cast to a dtype.

    Args:
        eps: The relative error bound, at least 0.
        order: The number of cores of the result.
        dtype: The dtype of the result, which half precision makes coarser than the computation.

    Returns:
        The bound for the computation.

    Example:
        >>> usable_eps(0.1, 4, torch.float32), usable_eps(0.1, 4, torch.bfloat16)
        (0.1, 0.084375)
    """
    if dtype == compute_dtype(dtype):
        return eps
    return max(0.0, eps - order * torch.finfo(dtype).eps / 2)


def carry_centre(cores: list[Tensor], k: int) -> None:
    """Move the orthogonality centre from core k to the next one, in place.

    Args:
        cores: The cores of a train, each (r, n, r').
        k: The position of the centre.

    Example:
        >>> cores = [torch.full((1, 4, 1), 2.0), torch.ones(1, 2, 1)]
        >>> carry_centre(cores, 0)
        >>> cores[0].norm(), cores[1].abs().flatten()
        (tensor(1.0000), tensor([4.0000, 4.0000]))
    """
    rank, size, _ = cores[k].shape
    q, r = qr(cores[k].flatten(0, 1))
    cores[k] = q.reshape(rank, size, -1)
    cores[k + 1] = torch.tensordot(r, cores[k + 1], 1)
