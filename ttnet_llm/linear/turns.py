"""Turns of what goes into a layer and of what comes out of it, and what they make of the layer's weight.

A turn is a map `H = I + D @ E` with thin factors, applied to rows: `x @ H = x + (x @ D) @ E`. A layer with the weight M
of shape `(in, out)` and turns H and H' before and after it does what a layer with `H @ M @ H'` does, and never reads M.
"""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from ttnet_llm.matrices.thin import along, times_thin


class Turn:
    """A linear map of rows that differs from the identity by a product of thin factors.

    Args:
        down: D, of shape `(d, k)`.
        up: E, of shape `(k, d)`.

    Example:
        >>> turn = Turn(torch.ones(3, 1), torch.ones(1, 3))
        >>> down, up = turn.held()
        >>> down.shape
        torch.Size([3, 1])
    """

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.factors = down, up

    @property
    def down(self) -> Tensor:
        """D, of shape `(d, k)`."""
        return self.factors[0]

    @property
    def up(self) -> Tensor:
        """E, of shape `(k, d)`."""
        return self.factors[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of both."""
        return self.factors[0].dtype

    def __iter__(self) -> Iterator[Tensor]:
        yield from (self.down, self.up)

    def held(self) -> Self:
        """Give a copy that does not change with the network, stored as products want it."""
        return type(self)(*(along(factor.detach().clone()) for factor in self.factors))

    def change(
        self,
        x: Tensor,  # (tokens, d)
        scale: float,
        to: Tensor,  # (tokens, d)
        shift: Tensor | None = None,  # (d,)
    ) -> Tensor:  # (tokens, d)
        """Add what the turn changes.

        It is added to the rows rather than they made anew, so that a turn that is the identity leaves every bit alone.

        Args:
            x: The rows that are turned, `(tokens, d)`, in the turn's dtype.
            scale: The turn is `I + scale * D @ E`.
            to: What the change is added to, `(tokens, d)`, of the same dtype.
            shift: What is taken off the rows before they are turned, `(d,)`, such as a bias.

        Returns:
            `to + scale * (x - shift) @ D @ E`.

        Example:
            >>> Turn(torch.ones(2, 1), torch.eye(2)[:1]).change(torch.ones(1, 2), 1.0, torch.zeros(1, 2))
            tensor([[2., 0.]])
        """
        return times_thin(x, self.down, self.up, scale, to=to, shift=shift)


class BlockTurn(Turn):
    """A turn in diagonal blocks of one size, which rows are multiplied by block by block.

    Args:
        down: D's blocks, of shape `(n, d / n, k)`.
        up: E's blocks, of shape `(n, k, d / n)`.

    Example:
        >>> turn = BlockTurn(torch.ones(2, 2, 1), torch.ones(2, 1, 2))
        >>> turn.up
        tensor([[1., 1., 0., 0.],
                [0., 0., 1., 1.]])
        >>> turn.change(torch.ones(1, 4), 1.0, torch.zeros(1, 4))
        tensor([[2., 2., 2., 2.]])
    """

    @property
    def down(self) -> Tensor:
        """D, of shape `(d, n k)`."""
        return _diagonal(self.factors[0])

    @property
    def up(self) -> Tensor:
        """E, of shape `(n k, d)`."""
        return _diagonal(self.factors[1])

    def held(self) -> Self:
        """Give a copy that does not change with the network."""
        return type(self)(*(factor.detach().clone() for factor in self.factors))

    def change(
        self,
        x: Tensor,  # (tokens, d)
        scale: float,
        to: Tensor,  # (tokens, d)
        shift: Tensor | None = None,  # (d,)
    ) -> Tensor:  # (tokens, d)
        """Add what the turn changes; see `Turn.change`."""
        down, up = self.factors
        inner = torch.bmm(_cut(x, len(down)), down)  # (n, tokens, k)
        if shift is not None:
            inner = inner - torch.bmm(_cut(shift[None], len(down)), down)
        return torch.baddbmm(_cut(to, len(down)), inner, up, alpha=scale).transpose(0, 1).reshape(to.shape)


def _cut(x: Tensor, n: int) -> Tensor:  # (tokens, d) -> (n, tokens, d / n)
    return x.unflatten(1, (n, -1)).transpose(0, 1)


def _diagonal(blocks: Tensor) -> Tensor:  # (n, a, b) -> (n a, n b)
    n = len(blocks)
    here = torch.eye(n, dtype=blocks.dtype, device=blocks.device)[:, None, :, None]
    return (blocks[:, :, None] * here).flatten(2).flatten(0, 1)


def update_of_turns(
    weight: Tensor,  # (in, out)
    before: Turn | None,
    after: Turn | None,
    scale: float,
) -> tuple[Tensor, Tensor]:  # (in, t), (t, out)
    """Give what turns add to a weight, as a product of thin factors.

    Args:
        weight: M, of shape `(in, out)`.
        before: The turn of the input; `None` for the identity.
        after: The turn of the output; `None` for the identity.
        scale: Each turn is `I + scale * D @ E`.

    Returns:
        `L` of shape `(in, t)` and `R` of shape `(t, out)` with `L @ R = H @ M @ H' - M`, in float64 if weight or
        turns are, otherwise in float32; t is the sum of the turns' ranks.

    Example:
        >>> reflection = Turn(-2 * torch.eye(2)[:, :1], torch.eye(2)[:1])
        >>> left, right = update_of_turns(torch.eye(2), reflection, None, 1.0)
        >>> torch.eye(2) + left @ right
        tensor([[-1.,  0.],
                [ 0.,  1.]])
    """
    turns = [turn for turn in (before, after) if turn is not None]
    dtype = torch.float64 if torch.float64 in (weight.dtype, turns[0].dtype) else torch.float32
    weight = weight.to(turns[0].factors[0].device, dtype)
    lefts, rights = [], []
    if before is not None:
        lefts.append(before.down.to(dtype) * scale)
        rights.append(before.up.to(dtype) @ weight)
    if after is not None:
        down = after.down.to(dtype) * scale
        # Of the weight that the input's turn has made already.
        turned = weight @ down + sum((left @ (right @ down) for left, right in zip(lefts, rights, strict=True)), 0)
        lefts.append(turned)
        rights.append(after.up.to(dtype))
    return torch.cat(lefts, dim=1), torch.cat(rights)
