"""Gradients of solutions by the implicit function theorem: one more linear system, with the adjoint operator.

A loss tells a train's change through the gradients of its cores, and these see the space tangent to the trains of its
ranks alone. So what is returned has a block of zeros beside each core, `[[U, 0], [0, V]]`: the same train, of twice the
ranks, whose zeros take the gradients of the whole tangent space, free of any inverse (Steinlechner 2016, "Riemannian
optimization for high-dimensional tensor completion", section 2.3, has these cores).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttnet.trains.tensor_train import TensorTrain

Adjoint = Callable[[TensorTrain], TensorTrain]
Pairing = Callable[[TensorTrain, list[Tensor]], Tensor]


def differentiable(
    x: TensorTrain,
    cores: Sequence[Tensor],
    *,
    adjoint: Adjoint,
    pairing: Pairing,
) -> TensorTrain:
    """Give a train that has been found from cores, with gradients to these.

    Args:
        x: What has been found, of order 1 or more.
        cores: The cores that it depends on, some of which require gradients.
        adjoint: Solves the adjoint problem: from the gradient of a loss to the multiplier.
        pairing: From the multiplier and cores to a real scalar, whose derivative by the cores is that of the loss.

    Returns:
        The same train, of twice the ranks.

    Example:
        >>> import ttnet
        >>> scale = torch.ones(1, 2, 1, requires_grad=True)
        >>> x = ttnet.ones((2,))
        >>> y = differentiable(x, [scale], adjoint=lambda g: g, pairing=lambda g, c: g.dot(x * TensorTrain(c)))
        >>> y.sum().backward()
        >>> scale.grad.flatten()
        tensor([1., 1.])
    """
    left = [core.detach() for core in x.orthogonalise(-1).cores]
    right = [core.detach() for core in x.orthogonalise(0).cores]
    *zeros, last = _Implicit.apply(adjoint, pairing, left, right, *cores)
    return TensorTrain(_tangent_cores(left, [*zeros, last], right))


class _Implicit(torch.autograd.Function):
    """Zeros beside all cores but the last, and that one; see `differentiable`."""

    @staticmethod
    def forward(
        ctx: Any, adjoint: Adjoint, pairing: Pairing, left: list[Tensor], right: list[Tensor], *cores: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.adjoint, ctx.pairing, ctx.left, ctx.right = adjoint, pairing, left, right
        ctx.save_for_backward(*cores)
        zeros = [u.new_zeros(u.shape[0], u.shape[1], v.shape[0]) for u, v in zip(left[:-1], right[1:], strict=True)]
        return (*zeros, left[-1].clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.left, ctx.right
        tangents = []
        for u, gradient in zip(left[:-1], gradients[:-1], strict=True):
            basis = u.flatten(0, 1)
            free = gradient.flatten(0, 1)
            # Changes within the basis are those of the last core, which has a gradient of its own.
            tangents.append((free - basis @ (basis.mH @ free)).reshape(gradient.shape))
        tangents.append(gradients[-1])
        whole = TensorTrain(_tangent_cores(left, tangents, right))
        multiplier = ctx.adjoint(whole)
        with torch.enable_grad():
            leaves = [core.detach().requires_grad_() for core in ctx.saved_tensors]
            found = torch.autograd.grad(ctx.pairing(multiplier, leaves), leaves, allow_unused=True)
        return (None, None, None, None, *found)


def _tangent_cores(left: Sequence[Tensor], tangents: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """Give the cores of the sum over k of `left ... tangents[k] ... right`."""
    if len(left) == 1:
        return [tangents[0]]
    cores = [torch.cat([left[0], tangents[0]], 2)]
    for u, w, v in zip(left[1:-1], tangents[1:-1], right[1:-1], strict=True):
        below = torch.cat([v.new_zeros(v.shape[0], v.shape[1], u.shape[2]), v], 2)
        cores.append(torch.cat([torch.cat([u, w], 2), below], 0))
    return [*cores, torch.cat([tangents[-1], right[-1]], 0)]
