"""Matrix products by whichever BLAS is faster here, where no gradient has to flow."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

# What chooses is imported where it is used, since its package rounds trains.

_WORTH_A_CHOICE = 2**18  # multiplications


def multiply(
    a: Tensor,  # (m, k)
    b: Tensor,  # (k, n)
) -> Tensor:  # (m, n)
    """Multiply two matrices.

    Args:
        a: A matrix of a dtype that LAPACK knows.
        b: Another one of that dtype.

    Returns:
        The product; gradients flow through it.

    Example:
        >>> multiply(torch.ones(2, 3), torch.ones(3, 1))
        tensor([[3.],
                [3.]])
    """
    is_small = a.numel() * b.shape[1] < _WORTH_A_CHOICE
    if is_small or a.is_complex() or (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
        return a @ b
    from ttnet.decomposition.blas import matmul_for

    product = a.new_empty(len(a), b.shape[1])
    matmul_for(a.device, a.dtype)(a.detach(), b.detach(), product)
    return product


def same_threads() -> AbstractContextManager[None]:
    """Let the products of the context take as many threads as torch's.

    Returns:
        The context.

    Example:
        >>> with same_threads():
        ...     pass
    """
    from ttnet.decomposition.blas import torch_threads

    return torch_threads()
