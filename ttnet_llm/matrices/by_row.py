"""Products of the rows of a batch, each with matrices of its own."""

import torch
from torch import Tensor


def add_thin(
    to: Tensor,  # (n, tokens, out)
    x: Tensor,  # (n, tokens, in)
    left: Tensor,  # (n, in, k)
    right: Tensor,  # (n, k, out)
    scale: float = 1.0,
) -> Tensor:  # (n, tokens, out)
    """Add `scale * x @ left @ right` by row.

    Args:
        to: What it is added to, `(n, tokens, out)`.
        x: The rows, `(n, tokens, in)`, of the same dtype.
        left: A matrix for each, `(n, in, k)`.
        right: Another one, `(n, k, out)`.
        scale: The factor.

    Returns:
        The sum, `(n, tokens, out)`.

    Example:
        >>> left, right = torch.tensor([1.0, 2.0]).view(2, 1, 1), torch.ones(2, 1, 1)
        >>> add_thin(torch.zeros(2, 1, 1), torch.ones(2, 1, 1), left, right).flatten()
        tensor([1., 2.])
    """
    return torch.baddbmm(to, torch.bmm(x, left.to(x)), right.to(x), alpha=scale)
