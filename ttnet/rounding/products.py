"""Matrix products by whichever BLAS is faster here, where no gradient has to flow."""

from __future__ import annotations

import torch
from torch import Tensor

from ttnet.numerics.blas import matmul_for

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
    product = a.new_empty(len(a), b.shape[1])
    matmul_for(a.device, a.dtype)(a.detach(), b.detach(), product)
    return product
