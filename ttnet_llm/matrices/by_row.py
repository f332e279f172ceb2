"""Products of the rows of a batch, each with matrices of its own."""

import torch
from torch import Tensor


def add_thin(
    to: Tensor,  # (n, tokens, out)
    x: Tensor,  # (n, tokens, in)
    left: Tensor,  # (n, in, k)
    right: Tensor,  # (n, k, out)
    scale: float = 1.0,
    shift: Tensor | None = None,  # (in,)
) -> Tensor:  # (n, tokens, out)
    """Add `scale * (x - shift) @ left @ right` by row.

    Args:
        to: What it is added to, `(n, tokens, out)`.
        x: The rows, `(n, tokens, in)`, of the same dtype.
        left: A matrix for each, `(n, in, k)`.
        right: Another one, `(n, k, out)`.
        scale: The factor.
        shift: What is taken off every token, `(in,)`; without a pass over the tokens.

    Returns:
        The sum, `(n, tokens, out)`.

    Example:
        >>> left, right = torch.tensor([1.0, 2.0]).view(2, 1, 1), torch.ones(2, 1, 1)
        >>> add_thin(torch.zeros(2, 1, 1), torch.ones(2, 1, 1), left, right).flatten()
        tensor([1., 2.])
    """
    left = left.to(x)
    inner = torch.bmm(x, left)
    if shift is not None:
        inner = inner - (shift.to(x) @ left)[:, None]
    return torch.baddbmm(to, inner, right.to(x), alpha=scale)
