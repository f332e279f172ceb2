"""Trains of fixed ranks fitted to numbers at samples, all cores at once: Gauss-Newton steps on their manifold.

A step looks for the tangent vector that leaves samples the least to miss, by conjugate gradients for least squares.
Each of their steps asks what the samples see of a tangent vector, and which tangent vector weights on them make; what
lies beside the cores is contracted once for all. The sum of squares of many samples at random is nearly that of the
whole tensor, so that few steps are needed. Sources: Absil, Mahony, Sepulchre 2008, "Optimization algorithms on matrix
manifolds", section 8.4; Steinlechner 2016, "Riemannian optimization for high-dimensional tensor completion".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ttnet.solvers.manifold import retract_cores
from ttnet.solvers.sampled import Measurements, mirrored_cores
from ttnet.solvers.tangent_space import TangentSpace, TangentVector

CG_STEPS = 5  # at most, of conjugate gradients towards one step
DECREASE = 0.1  # of the gradient, at which they may end
HALVINGS = 8  # of a step that leads to more that is missed


def conjugate_gradients(
    samples: Measurements, values: Tensor, cores: list[Tensor]
) -> Iterator[tuple[list[Tensor], float]]:
    """Fit cores by Gauss-Newton steps on the manifold of their ranks, each by conjugate gradients; see `Level`.

    Args:
        samples: The samples.
        values: The numbers there, (samples,).
        cores: Where to begin.

    Yields:
        The cores, and the norm of what they miss.
    """
    missed = values - samples.values(cores)
    size, norm = float(torch.linalg.vector_norm(values)), float(torch.linalg.vector_norm(missed))
    while True:
        view = View(samples, TangentSpace(cores), values)
        # Far from the samples a tangent space says little of the manifold; near them the more the nearer.
        step = least_missing(view, missed, min(DECREASE, norm / (size or 1.0)))
        for _ in range(HALVINGS):
            ahead = retract_cores(step)
            left = values - samples.values(ahead)
            if float(torch.linalg.vector_norm(left)) <= norm:
                cores, missed, norm = ahead, left, float(torch.linalg.vector_norm(left))
                break
            step = step * 0.5
        yield cores, norm


class View:
    """What samples see of tangent vectors at a train.

    Args:
        samples: The samples.
        space: The tangent space.
        like: A tensor of the dtype and device.

    Attributes:
        space: The tangent space.

    Example:
        >>> from ttnet.solvers.entries import IndexSamples
        >>> space, samples = TangentSpace([torch.ones(1, 3, 1)]), IndexSamples(torch.tensor([[0], [2]]), (3,))
        >>> View(samples, space, torch.ones(2)).of([torch.tensor([[[1.0], [2.0], [3.0]]])]).sum()
        tensor(4.)
    """

    def __init__(self, samples: Measurements, space: TangentSpace, like: Tensor) -> None:
        self.space, self._samples, self._mirror = space, samples, samples.mirrored()
        self._lefts = beside(samples, space.left, like)
        self._rights = beside(self._mirror, mirrored_cores(space.right), like)[::-1]

    def arrange(self, numbers: Tensor) -> Tensor:
        """Bring numbers in the order of the samples into that of the last mode, (1, samples)."""
        return self._samples.arrange(len(self._lefts) - 1, numbers)[None]

    def of(self, deltas: Sequence[Tensor]) -> Tensor:
        """Give what is seen of a tangent vector, (1, samples), in the order of the last mode."""
        total: Tensor | None = None
        for k, (delta, left, right) in enumerate(zip(deltas, self._lefts, self._rights, strict=True)):
            seen = self._samples.see(k, delta, left, right)
            total = seen if total is None else self._samples.pass_on(k - 1, total) + seen
        assert total is not None
        return total

    def sum(self, weights: Tensor) -> TangentVector:
        """Give the tangent vector of weights (1, samples) in the order of the last mode: the adjoint of `of`."""
        cores, order = [], len(self._lefts)
        for k in reversed(range(order)):
            cores.append(self._samples.scatter(k, self._lefts[k], self._rights[k], weights))
            weights = self._mirror.pass_on(order - 1 - k, weights) if k else weights
        return self.space.gauged(cores[::-1])


def beside(
    samples: Measurements,
    cores: Sequence[Tensor],  # each (r, n, r')
    like: Tensor,
) -> list[Tensor]:
    """Give the vectors left of each core, (r, samples), in the order of its mode.

    Args:
        samples: The samples.
        cores: The cores.
        like: A tensor of the dtype and device.

    Returns:
        As many as there are cores.

    Example:
        >>> from ttnet.solvers.entries import IndexSamples
        >>> cores = [torch.tensor([[[3.0], [4.0]]]), torch.ones(1, 2, 1)]
        >>> beside(IndexSamples(torch.tensor([[0, 0], [1, 1]]), (2, 2)), cores, cores[0])[1]
        tensor([[3., 4.]])
    """
    found = [samples.begin(like)]
    for k, core in enumerate(cores[:-1]):
        found.append(samples.contract(k, core, found[-1]))
    return found


def least_missing(
    view: View,
    missed: Tensor,  # (samples,)
    decrease: float,
) -> TangentVector:
    """Give the tangent vector that leaves about the least to miss.

    Args:
        view: What samples see of a tangent space.
        missed: What is missed, in the order of the samples.
        decrease: The factor by which the gradient is to come down, if few steps suffice.

    Returns:
        The tangent vector.

    Example:
        >>> from ttnet.solvers.entries import IndexSamples
        >>> space, samples = TangentSpace([torch.ones(1, 3, 1)]), IndexSamples(torch.tensor([[0], [2]]), (3,))
        >>> least_missing(View(samples, space, torch.ones(2)), torch.tensor([3.0, 5.0]), 0.1).deltas[0].flatten()
        tensor([3., 0., 5.])
    """
    residual = view.arrange(missed)
    gradient = view.sum(residual)
    direction, step = gradient, gradient * 0.0
    square = first = float(gradient.dot(gradient).real)
    for _ in range(CG_STEPS):
        seen = view.of(direction.deltas)
        size = float(torch.vdot(seen[0], seen[0]).real)
        if not size > 0 or not square > 0:
            break
        step = step + direction * (square / size)
        residual = residual - seen * (square / size)
        gradient = view.sum(residual)
        last, square = square, float(gradient.dot(gradient).real)
        if square <= decrease**2 * first:
            break
        direction = gradient + direction * (square / last)
    return step


def projected(
    samples: Measurements,
    space: TangentSpace,
    weights: Tensor,  # (samples,)
) -> TangentVector:
    """Project onto a tangent space the tensor that has weighted samples for its inner products.

    Args:
        samples: The samples.
        space: The tangent space.
        weights: A number for each sample; for entries, the tensor has these there, and zeros elsewhere.

    Returns:
        The projection: times -1, the Riemannian gradient of half the squared errors, if the weights are what is missed.

    Example:
        >>> import ttnet
        >>> from ttnet.solvers.entries import IndexSamples
        >>> space = TangentSpace(ttnet.ones((2, 3)).cores)
        >>> projected(IndexSamples(torch.tensor([[0, 0]]), (2, 3)), space, torch.ones(1)).norm()
        tensor(0.8165)
    """
    view = View(samples, space, weights)
    return view.sum(view.arrange(weights))
