"""Trains rounded while they are trained, with what the optimiser knows of their cores carried over.

Rounding changes the bases at the bonds, and keeps fewer vectors of them. With the matrix `A_k` that gives the new
basis left of bond k in terms of the old one, cores `A_{k-1} G'_k A_k^+` of the old shapes make the same train as the
new cores `G'_k`; so by the chain rule a gradient `g` of the old core becomes `A_{k-1}^T g (A_k^+)^T`. Means of
gradients go the same way; means of squares go by the squared entries of these matrices, as if the gradient's entries
were uncorrelated, which is what Adam takes them to be. So ranks can fall as in the DMRG-inspired sweeps of MetaTT
(Lopez-Piqueres et al. 2025, arXiv:2506.09105) without the optimiser starting anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttnet.trains.tensor_train import TensorTrain

# What optimisers keep of a parameter: means of gradients, and means or sums of their squares.
_FIRST = ("exp_avg", "momentum_buffer", "grad_avg")
_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


@dataclass(frozen=True)
class Rounded:
    """A rounded train, and how its bases follow from the old ones.

    Args:
        cores: The new cores `(r, n, r')`, of equal norms, in double precision.
        maps: For every bond, the outer ones included, the matrix from the new basis to the old one `(old, new)`.
    """

    cores: list[Tensor]
    maps: list[Tensor]

    def first(self, k: int, moment: Tensor) -> Tensor:
        """Carry a mean of gradients over.

        Args:
            k: Number of the core.
            moment: Of the shape `(r, n, r')` of the old core.

        Returns:
            That of the new core.
        """
        left, right = self.maps[k], torch.linalg.pinv(self.maps[k + 1]).mT
        return torch.einsum("ra,rns,sb->anb", left, moment, right)

    def squares(self, k: int, moment: Tensor) -> Tensor:
        """Carry a mean of squared gradients over.

        Args:
            k: Number of the core.
            moment: Of the shape `(r, n, r')` of the old core.

        Returns:
            That of the new core.
        """
        left, right = self.maps[k], torch.linalg.pinv(self.maps[k + 1]).mT
        return torch.einsum("ra,rns,sb->anb", left**2, moment, right**2)


@torch.no_grad()
def round_cores(cores: Sequence[Tensor], *, eps: float | None = None, ranks: Sequence[int] | None = None) -> Rounded:
    """Round a train.

    Args:
        cores: The cores `(r, n, r')`.
        eps: Bound on the relative error.
        ranks: Bounds on the ranks of the inner bonds.

    Returns:
        The new train.

    Example:
        >>> found = round_cores([torch.ones(1, 2, 2), torch.ones(2, 3, 1)], ranks=[1])
        >>> [tuple(core.shape) for core in found.cores], [tuple(m.shape) for m in found.maps]
        ([(1, 2, 1), (1, 3, 1)], [(1, 1), (2, 1), (1, 1)])
    """
    old = [core.detach().double() for core in cores]
    new = list(TensorTrain(old).round(eps=eps, max_rank=None if ranks is None else list(ranks)).cores)
    norms = [float(torch.linalg.vector_norm(core)) for core in new]
    if all(norms):
        mean = math.exp(math.fsum(map(math.log, norms)) / len(norms))
        new = [core * (mean / norm) for core, norm in zip(new, norms, strict=True)]
    # The left interface of the old train is `q @ r`, that of the new one has `q^T u' = h`.
    r = h = torch.ones(1, 1, dtype=torch.float64, device=old[0].device)
    maps = [torch.ones_like(r)]
    for k in range(len(old) - 1):
        wide = torch.tensordot(r, old[k], 1)  # (q, n, s)
        q, r = torch.linalg.qr(wide.flatten(0, 1))
        h = q.mT @ torch.tensordot(h, new[k], 1).flatten(0, 1)
        maps.append(torch.linalg.pinv(r, rtol=1e-10) @ h)
    maps.append(torch.ones(1, 1, dtype=torch.float64, device=old[0].device))
    return Rounded(new, maps)


def tails(cores: Sequence[Tensor]) -> tuple[tuple[float, ...], ...]:
    """Say what a train would lose if its bonds were cut.

    Args:
        cores: The cores `(r, n, r')`.

    Returns:
        For every inner bond the squared errors of cuts to rank 0, 1, 2, ..., relative to the squared norm.

    Example:
        >>> tails([torch.eye(2)[None], torch.eye(2)[..., None]])
        ((1.0, 0.5, 0.0),)
    """
    found = []
    for values in TensorTrain([core.detach().double() for core in cores]).singular_values(normalised=True):
        squares = values.double().square()
        total = float(squares.sum())
        sums = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        found.append(tuple((sums / total if total > 0 else sums).tolist()))
    return tuple(found)


def carry_over(
    optimizer: Any, old: nn.Parameter, new: nn.Parameter, rounded: Rounded, k: int, shape: Sequence[int]
) -> str | None:
    """Put a core's new parameter into the optimiser in the place of the old one, with its state.

    If the optimiser keeps something else than single numbers and the moments that can be carried over, such as
    Adafactor's moments by rows and columns, all of the core's state is dropped, and the optimiser starts it anew.

    Args:
        optimizer: A torch optimiser, or accelerate's wrapper of one; None for none.
        old: The parameter that the optimiser has.
        new: The new one, which may be the same; it may be larger than the rounded core, by zeros at its end.
        rounded: The rounding.
        k: Number of the core.
        shape: The shape `(r, n, r')` of the old core.

    Returns:
        The name of what cannot be carried over, so that all of the core's state is dropped; None if there is no such.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if inner is None:
        return None
    for group in inner.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = inner.state.pop(old, None)
    if not state:
        return None
    carried = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or name == "step":
            carried[name] = value
        elif (name in _FIRST or name in _SQUARES) and value.numel() == math.prod(shape):
            given = value.reshape(tuple(shape)).double()
            mapped = rounded.first(k, given) if name in _FIRST else rounded.squares(k, given)
            if new.numel() == mapped.numel():
                carried[name] = mapped.to(value.dtype).reshape(new.shape)
            else:
                room = torch.zeros_like(new, dtype=value.dtype)
                room[tuple(slice(size) for size in mapped.shape)] = mapped.to(value.dtype)
                carried[name] = room
        else:
            return str(name)
    inner.state[new] = carried
    return None
