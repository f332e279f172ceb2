"""Tangent spaces of the manifold of trains of fixed ranks, and their vectors.

A tangent vector at `x` is a sum over the cores of trains in which one core of `x` is exchanged for another one,
`U_1 ... U_{k-1} D_k V_{k+1} ... V_d`, with left-orthogonal `U` and right-orthogonal `V`. Where the unfoldings of all
`D_k` but the last are orthogonal to those of `U_k` the `D_k` are unique and the summands orthogonal to each other, so
inner products of tangent vectors are those of their `D_k` (Holtz, Rohwedder, Schneider 2012, "On manifolds of tensors
of fixed TT-rank"; Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion", section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.errors import TTValueError
from ttnet.numerics.linalg import qr
from ttnet.numerics.scales import compute_dtype, times_power_of_two
from ttnet.numerics.train_scales import split_scales
from ttnet.trains.chain import check_scalar
from ttnet.trains.tensor_train import TensorTrain


class TangentSpace:
    """The tangent space at a train, as the orthogonal cores that all of its vectors share.

    Args:
        cores: The cores of the train, each (r, ..., r'), of finite entries; ranks no larger than their unfoldings'.

    Attributes:
        left: The cores from the left: all but the last are left-orthogonal, and the last one has the norm.
        right: The cores from the right: all but the first are right-orthogonal, and the first one has the norm.
        lefts: For each core the factor (r, r) that what lies left of it in `cores` is of what lies left of it in
            `left`.
        is_scalar: Whether the train is of order 0.
        rights: For each core the factor (r', r') that what lies right of it in `cores` is of that in `right`.

    Raises:
        TTValueError: If a rank is larger than trains of this shape can have, or the norm beyond the dtype's range.

    Example:
        >>> space = TangentSpace([torch.ones(1, 4, 1), torch.ones(1, 9, 1)])
        >>> space.left[1].norm(), space.right[0].norm()
        (tensor(6.0000), tensor(6.0000))
    """

    def __init__(self, cores: Sequence[Tensor]) -> None:
        dtype = compute_dtype(cores[0].dtype)
        flat = [core.detach().reshape(core.shape[0], -1, core.shape[-1]).to(dtype) for core in cores]
        self.is_scalar = cores[0].ndim == 2
        check_attainable(flat)
        self.left, self.lefts = orthogonal(flat)
        mirrored, factors = orthogonal([core.permute(2, 1, 0) for core in reversed(flat)])
        self.right = [core.permute(2, 1, 0) for core in reversed(mirrored)]
        self.rights = [factor.mT for factor in reversed(factors)]
        if not torch.isfinite(self.left[-1]).all():
            raise TTValueError(f"the norm of the train is beyond the range of {dtype}; divide the train by it.")

    @property
    def dimension(self) -> int:
        """The number of independent directions."""
        shapes = [core.shape for core in self.left]
        return sum(r * n * s for r, n, s in shapes) - sum(s * s for _, _, s in shapes[:-1])

    def is_same(self, other: TangentSpace) -> bool:
        """Say whether another space is written in the same cores, so that vectors of both may be added.

        Args:
            other: A tangent space.

        Returns:
            Whether all cores are equal.

        Example:
            >>> cores = [torch.ones(1, 4, 1), torch.ones(1, 9, 1)]
            >>> TangentSpace(cores).is_same(TangentSpace(cores))
            True
        """
        pairs = zip([*self.left, *self.right], [*other.left, *other.right], strict=False)
        return len(self.left) == len(other.left) and all(torch.equal(a, b) for a, b in pairs)

    def gauged(self, cores: Sequence[Tensor]) -> TangentVector:
        """Take out of exchanged cores what is not orthogonal to those of the train.

        Args:
            cores: For each core another one, of the shape of those in `left`.

        Returns:
            The tangent vector; the projection of a tensor, if the cores are contractions of it with all but one of
            the orthogonal cores.

        Example:
            >>> space = TangentSpace([torch.eye(2)[None], torch.eye(2)[:, :, None]])
            >>> space.gauged(space.left).deltas[0].abs().max()
            tensor(0.)
        """
        deltas = []
        for core, orthogonal in zip(cores, self.left[:-1], strict=False):
            u, d = orthogonal.flatten(0, 1), core.flatten(0, 1)
            deltas.append((d - u @ (u.mH @ d)).reshape(core.shape))
        return TangentVector(self, (*deltas, cores[len(self.left) - 1]))

    def of_core_gradients(self, gradients: Sequence[Tensor]) -> TangentVector:
        """Give the Riemannian gradient of a function of the train from its derivatives with respect to the cores.

        A derivative with respect to one core contains what the others are, which is divided out here; where they are
        singular to the square root of the precision, that has no meaning and is left out.

        Args:
            gradients: For each core the derivative, of its shape, as `backward` leaves it.

        Returns:
            The gradient.

        Example:
            >>> cores = [torch.full((1, 2, 1), 2.0, requires_grad=True), torch.ones(1, 2, 1, requires_grad=True)]
            >>> (cores[0].flatten()[:, None] * cores[1].flatten()).square().sum().div(2).backward()
            >>> TangentSpace(cores).of_core_gradients([core.grad for core in cores]).train().full()
            tensor([[2.0000, 2.0000],
                    [2.0000, 2.0000]])
        """
        dtype = self.left[0].dtype
        rtol = torch.finfo(dtype).eps ** 0.5
        cores = []
        for gradient, core, a, b in zip(gradients, self.left, self.lefts, self.rights, strict=True):
            flat = gradient.reshape(core.shape).to(dtype)
            before = torch.linalg.pinv(a, rtol=rtol).mH
            after = torch.linalg.pinv(b, rtol=rtol).mH
            cores.append(torch.tensordot(torch.tensordot(before, flat, 1), after, 1))
        return self.gauged(cores)

    def project_cores(
        self,
        cores: Sequence[Tensor],  # each (s, n, s')
    ) -> TangentVector:
        """Project a train of the same shape, in O(order * n * r * s * (r + s)).

        Args:
            cores: Its cores.

        Returns:
            The projection.

        Raises:
            TTValueError: If its norm is beyond the range of the dtype.

        Example:
            >>> cores = [torch.ones(1, 2, 1), torch.ones(1, 2, 1)]
            >>> TangentSpace(cores).project_cores(cores).norm()
            tensor(2.)
        """
        dtype = self.left[0].dtype
        scaled, exponent = split_scales([core.detach() for core in cores], dtype)
        rights = [scaled[0].new_ones(1, 1)]  # (s', r'): what lies right of each core, contracted with that in `right`
        for core, ours in zip(scaled[:0:-1], self.right[:0:-1], strict=True):
            rights.insert(0, torch.tensordot(torch.tensordot(core, rights[0], 1), ours.conj(), ([1, 2], [1, 2])))
        left = scaled[0].new_ones(1, 1)  # (r, s)
        deltas = []
        for core, ours, right in zip(scaled, self.left, rights, strict=True):
            partial = torch.tensordot(left, core, 1)  # (r, n, s')
            deltas.append(times_power_of_two(torch.tensordot(partial, right, 1), exponent))
            left = torch.tensordot(ours.conj(), partial, ([0, 1], [0, 1]))
        if not all(torch.isfinite(delta).all() for delta in deltas):
            raise TTValueError(f"the norm of z is beyond the range of {dtype}; divide z by it.")
        return self.gauged(deltas)


@dataclass(frozen=True)
class TangentVector:
    """A vector of the tangent space at a train.

    Vectors of one space are added, subtracted and multiplied by numbers.

    Attributes:
        space: The tangent space.
        deltas: For each core what is in its place, orthogonal to it in all but the last.

    Example:
        >>> import ttnet
        >>> x = ttnet.ones((2, 3))
        >>> from ttnet.solvers import project
        >>> v = project(x, ttnet.ones((2, 3)))
        >>> (2 * v - v).norm()
        tensor(2.4495)
    """

    space: TangentSpace
    deltas: tuple[Tensor, ...]

    def dot(self, other: TangentVector) -> Tensor:
        """Sum `conj(self) * other` over all entries of the two tensors.

        Args:
            other: Another vector of the same space.

        Returns:
            A tensor of shape ().

        Raises:
            TTValueError: If it is of another space.
        """
        self._check(other)
        products = [torch.vdot(a.flatten(), b.flatten()) for a, b in zip(self.deltas, other.deltas, strict=True)]
        return torch.stack(products).sum()

    def norm(self) -> Tensor:
        """Give the Frobenius norm of the tensor.

        Returns:
            A real tensor of shape ().
        """
        return torch.stack([torch.linalg.vector_norm(delta) for delta in self.deltas]).norm()

    def train(self) -> TensorTrain:
        """Give the tensor as a train, of twice the ranks.

        Returns:
            The train, without gradients.

        Example:
            >>> import ttnet
            >>> x = ttnet.random((2, 3, 4), 2, seed=0)
            >>> from ttnet.solvers import project
            >>> project(x, x).train().ranks
            (1, 4, 4, 1)
        """
        return train_of(sum_cores(self.space, self.deltas), self.space.is_scalar)

    def __add__(self, other: object) -> TangentVector:
        if not isinstance(other, TangentVector):
            return NotImplemented
        self._check(other)
        return TangentVector(self.space, tuple(a + b for a, b in zip(self.deltas, other.deltas, strict=True)))

    def __sub__(self, other: object) -> TangentVector:
        return self + -other if isinstance(other, TangentVector) else NotImplemented

    def __neg__(self) -> TangentVector:
        return TangentVector(self.space, tuple(-delta for delta in self.deltas))

    def __mul__(self, factor: object) -> TangentVector:
        scalar = check_scalar(factor)
        if scalar is None:
            return NotImplemented
        return TangentVector(self.space, tuple(delta * scalar for delta in self.deltas))

    __rmul__ = __mul__

    def _check(self, other: TangentVector) -> None:
        if other.space is not self.space and not self.space.is_same(other.space):
            raise TTValueError("the vectors are of different tangent spaces; transport one of them to the other's.")


def train_of(cores: Sequence[Tensor], is_scalar: bool) -> TensorTrain:
    """Make a train of cores (r, n, r'), or one of order 0 of its single number."""
    return TensorTrain([cores[0].reshape(1, 1)] if is_scalar else cores)


def check_attainable(cores: Sequence[Tensor]) -> None:
    """Refuse ranks that the manifold does not have."""
    for k, core in enumerate(cores):
        r, n, s = core.shape
        if s > r * n or r > n * s:
            raise TTValueError(
                f"cores[{k}] has shape {tuple(core.shape)}, with a rank larger than the product of its other sizes, "
                "which no tensor needs; round the train first."
            )


def orthogonal(cores: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Make all cores but the last left-orthogonal; give the factors left of each core, too.

    The diagonals of the triangular factors are not negative, so that orthogonal cores stay as they are.
    """
    done, factors = [], [cores[0].new_ones(1, 1)]
    for core in cores[:-1]:
        q, r = qr(torch.tensordot(factors[-1], core, 1).flatten(0, 1))
        signs = torch.where(r.diagonal() == 0, 1, r.diagonal().sgn())
        done.append((q * signs).reshape(core.shape))
        factors.append(signs.conj()[:, None] * r)
    return [*done, torch.tensordot(factors[-1], cores[-1], 1)], factors


def sum_cores(space: TangentSpace, deltas: Sequence[Tensor]) -> list[Tensor]:
    """Give the cores of the train that a tangent vector is, of twice the ranks, from its own cores (r, n, r')."""
    return block_cores(space.left, deltas, space.right)


def block_cores(left: Sequence[Tensor], deltas: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """Give the train of the sum over k of left[:k], deltas[k], right[k + 1:], of twice the ranks."""
    if len(deltas) == 1:
        return [deltas[0]]
    cores = [torch.cat([deltas[0], left[0]], dim=2)]
    for u, d, v in zip(left[1:-1], deltas[1:-1], right[1:-1], strict=True):
        above = torch.cat([v, torch.zeros_like(v)], dim=2)
        cores.append(torch.cat([above, torch.cat([d, u], dim=2)]))
    return [*cores, torch.cat([right[-1], deltas[-1]])]
