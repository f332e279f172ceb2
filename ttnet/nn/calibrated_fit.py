"""Fit a train to what a layer does with its inputs, rather than to its weight.

A layer maps x to x M. With the second moment H = E[x^T x] of its inputs, the mean squared error of its output is
`tr((M - T)^T H (M - T))`: the squared error of the weight in another metric. If H were a Kronecker product over the
modes of the rows, its factors could be absorbed into the cores, and a TT-SVD of what results would minimise that error
as it does the plain one. So that is done first, with the Kronecker product of H's marginals; it is exact where the rows
are a single mode, the case of SVD-LLM (Wang et al. 2024, "SVD-LLM: Truncation-aware singular value decomposition for
large language model compression", Section 3.1). Where they are more, sweeps follow that minimise the true error over
one core after the other (alternating least squares; Holtz et al. 2012, "The alternating linear scheme for tensor
optimization in the tensor train format"), each by conjugate gradients, so that the error never grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.contraction import ContractionPlan, plan
from ttnet.nn.layout import Layout
from ttnet.numerics.linalg import qr


def output_error(
    difference: Tensor,  # (rows, cols)
    matrix: Tensor,  # (rows, cols)
    metric: Tensor,  # (rows, rows) or (rows,)
) -> float:
    """Give the norm of `x difference` relative to that of `x matrix`, over inputs of a given second moment.

    Args:
        difference: What the weight is off by.
        matrix: The weight.
        metric: The second moment, of any scale; or its diagonal `(rows,)`, if that is all there is.

    Returns:
        The relative error; 0 where the output is zero.

    Example:
        >>> output_error(torch.eye(2, 1), torch.full((2, 1), 2.0), torch.diag(torch.tensor([4.0, 0.0])))
        0.5
    """
    wrong, right = (
        torch.sum(x.conj() * (metric @ x if metric.ndim == 2 else metric[:, None] * x)).real.clamp(min=0)
        for x in (difference, matrix)
    )
    return math.sqrt(float(wrong / right)) if right > 0 else 0.0


class RowScaling:
    """A diagonal metric as a change of coordinates of rows that are one mode.

    Args:
        metric: Its diagonal `(rows,)`, above 0.

    Example:
        >>> RowScaling(torch.tensor([4.0, 1.0])).apply(torch.ones(2, 1)).flatten()
        tensor([2., 1.])
    """

    def __init__(self, metric: Tensor) -> None:
        self._root = metric.sqrt()

    def apply(
        self,
        matrix: Tensor,  # (rows, cols)
    ) -> Tensor:  # (rows, cols)
        """Take a matrix to the new coordinates, in which its plain error is that in the metric."""
        return matrix * self._root[:, None]

    def undo(
        self,
        core: Tensor,  # (r, m, n, r')
        k: int,
    ) -> Tensor:  # (r, m, n, r')
        """Take the core with the rows back to the old coordinates; there is but that of number 0."""
        return core / self._root[:, None, None]


class Whitening:
    """The Kronecker product of the marginals of a metric, as a change of coordinates of the rows' modes.

    Args:
        metric: A positive definite matrix `(rows, rows)`.
        row_modes: The modes of the rows.

    Example:
        >>> whitening = Whitening(torch.diag(torch.tensor([4.0, 4.0, 1.0, 1.0])), (2, 2))
        >>> whitening.metric()
        tensor([[1., 0., 0., 0.],
                [0., 1., 0., 0.],
                [0., 0., 1., 0.],
                [0., 0., 0., 1.]])
    """

    def __init__(self, metric: Tensor, row_modes: Sequence[int]) -> None:
        self._metric, self.row_modes = metric, tuple(row_modes)
        d = len(self.row_modes)
        scale = metric.diagonal().real.mean()
        tensor = metric.reshape(*self.row_modes, *self.row_modes)
        # factors[k] @ factors[k]^H is the k-th marginal, of mean diagonal one, but the first carries the scale.
        self.factors = []
        for k, mode in enumerate(self.row_modes):
            others = [j for j in range(d) if j != k]
            marginal = tensor.permute(k, d + k, *(axis for j in others for axis in (j, d + j)))
            for _ in others:
                marginal = marginal.diagonal(0, -2, -1).sum(-1)
            marginal = marginal / (metric.shape[0] // mode)
            self.factors.append(torch.linalg.cholesky(marginal if k == 0 else marginal / scale))

    def apply(
        self,
        matrix: Tensor,  # (rows, cols)
    ) -> Tensor:  # (rows, cols)
        """Take a matrix to the new coordinates, in which its plain error is about that in the metric."""
        return self._along_modes(matrix, [factor.mH for factor in self.factors])

    def undo(
        self,
        core: Tensor,  # (r, m, n, r')
        k: int,
    ) -> Tensor:  # (r, m, n, r')
        """Take the core with the k-th mode of the rows back to the old coordinates."""
        r, m, n, s = core.shape
        flat = core.transpose(0, 1).reshape(m, -1)
        solved = torch.linalg.solve_triangular(self.factors[k].mH, flat, upper=True)
        return solved.reshape(m, r, n, s).transpose(0, 1)

    def metric(self) -> Tensor:  # (rows, rows)
        """Give the metric in the new coordinates: the identity for a single mode, and otherwise nearer to it."""
        inverses = [torch.linalg.inv(factor) for factor in self.factors]
        half = self._along_modes(self._metric, inverses)
        return self._along_modes(half.mH, inverses)

    def _along_modes(self, matrix: Tensor, factors: Sequence[Tensor]) -> Tensor:
        x = matrix.reshape(*self.row_modes, -1)
        for k, factor in enumerate(factors):
            x = torch.tensordot(factor, x, ([1], [k])).movedim(0, k)
        return x.reshape(matrix.shape)


class Sweeper:
    """Alternating least squares on `tr((M - T)^H H (M - T))` over the cores of T, one after the other.

    Args:
        matrix: M, of shape (rows, cols).
        metric: H, positive definite, of shape (rows, rows).
        layout: The modes and ranks of T.
        iterations: The most iterations of conjugate gradients for a core.

    Example:
        >>> layout = Layout("aligned", (2, 2), (3,), (1, 1, 1, 1))
        >>> sweeper = Sweeper(torch.ones(4, 3), torch.eye(4), layout)
        >>> cores = sweeper.run([torch.rand(shape) + 1 for shape in layout.pair_shapes], tol=1e-6, max_sweeps=20)
        >>> bool(sweeper.loss(cores) < 1e-10)
        True
    """

    def __init__(self, matrix: Tensor, metric: Tensor, layout: Layout, iterations: int = 12) -> None:
        self._matrix, self._metric = matrix, metric
        self._layout, self._iterations = layout, iterations
        modes = layout.pairs
        self._h = metric.reshape(*(m for m, _ in modes), *(m for m, _ in modes))
        self._target = (metric @ matrix).reshape(*(m for m, _ in modes), *(n for _, n in modes))
        self._norm = torch.sum(matrix.conj() * (metric @ matrix)).real

    def loss(self, cores: Sequence[Tensor]) -> Tensor:
        """Give the error that is minimised.

        Args:
            cores: Cores `(r, m, n, r')`.

        Returns:
            A real number, as a tensor.
        """
        difference = self._matrix - self._dense(cores)
        return torch.sum(difference.conj() * (self._metric @ difference)).real

    def _dense(self, cores: Sequence[Tensor]) -> Tensor:
        d = len(cores)
        terms = tuple((k, d + 1 + k, 2 * d + 1 + k, k + 1) for k in range(d))
        output = (0, *range(d + 1, 3 * d + 1), d)
        return plan((terms, output), *(core.shape for core in cores))(*cores).reshape(self._matrix.shape)

    def run(self, cores: Sequence[Tensor], *, tol: float, max_sweeps: int) -> list[Tensor]:
        """Sweep to and fro until a sweep gains little.

        Args:
            cores: Cores `(r, m, n, r')` to start from.
            tol: Relative decrease of the error below which to stop.
            max_sweeps: The most sweeps.

        Returns:
            The new cores, whose error is not larger.
        """
        cores = _centred(cores)
        best, before = list(cores), self.loss(cores)
        for _ in range(max_sweeps):
            d = len(cores)
            for k in range(d):
                cores[k] = self._solve(cores, k)
                if k < d - 1:
                    _move_right(cores, k)
            for k in range(d - 1, 0, -1):
                _move_left(cores, k)
            after = self.loss(cores)
            if not after < before:
                break
            best, gain, before = list(cores), before - after, after
            if gain <= tol * after:
                break
        return best

    def _solve(self, cores: Sequence[Tensor], k: int) -> Tensor:
        """Minimise over core k by conjugate gradients from where it is; the other cores are orthonormal."""
        others = [core for j, core in enumerate(cores) if j != k]
        conjugates = [core.conj() for core in others]
        gradient, normal = self._plans(k, [tuple(core.shape) for core in cores])
        core = cores[k]

        def image_of(x: Tensor) -> Tensor:
            return normal(self._h, *conjugates, *others, x).reshape(core.shape)

        residual = gradient(self._target, *conjugates).reshape(core.shape) - image_of(core)
        direction, size = residual, torch.sum(residual.abs() ** 2)
        smallest = size * 1e-8
        for _ in range(self._iterations):
            if not size > smallest:
                break
            image = image_of(direction)
            curvature = torch.sum(direction.conj() * image).real
            if not curvature > 0:
                break
            step = size / curvature
            core = core + step * direction
            residual = residual - step * image
            size, last = torch.sum(residual.abs() ** 2), size
            direction = residual + (size / last) * direction
        return core

    def _plans(self, k: int, shapes: Sequence[tuple[int, ...]]) -> tuple[ContractionPlan, ContractionPlan]:
        """Plan the gradient at core k, `E^H H M`, and its normal operator `E^H H E`, E being the other cores."""
        d = len(shapes)
        row, col, bond = range(d), range(d, 2 * d), range(2 * d, 3 * d + 1)
        row_, bond_ = range(4 * d, 5 * d), range(5 * d, 6 * d + 1)
        primed = [(bond_[j], row_[j], col[j], bond_[j + 1]) for j in range(d)]
        plain = [(bond[j], row[j], col[j], bond[j + 1]) for j in range(d)]
        others = [j for j in range(d) if j != k]
        other_shapes = [shapes[j] for j in others]
        rows, cols = [shape[1] for shape in shapes], [shape[2] for shape in shapes]
        # The outer bonds are in no operand of the gradient; without them it has the same entries.
        output = tuple(index for index in primed[k] if index not in (bond_[0], bond_[d]))
        target, metric = (*row_, *col), (*row_, *row)
        gradient = plan(((target, *(primed[j] for j in others)), output), (*rows, *cols), *other_shapes)
        normal = plan(
            ((metric, *(primed[j] for j in others), *(plain[j] for j in others), plain[k]), output),
            (*rows, *rows),
            *other_shapes,
            *other_shapes,
            shapes[k],
        )
        return gradient, normal


def _centred(cores: Sequence[Tensor]) -> list[Tensor]:
    """Make all cores but the first one orthonormal in their rows."""
    done = list(cores)
    for k in range(len(done) - 1, 0, -1):
        _move_left(done, k)
    return done


def _move_right(cores: list[Tensor], k: int) -> None:
    q, r = qr(cores[k].flatten(0, 2))
    cores[k] = q.reshape(*cores[k].shape[:3], -1)
    cores[k + 1] = torch.tensordot(r, cores[k + 1], 1)


def _move_left(cores: list[Tensor], k: int) -> None:
    q, r = qr(cores[k].flatten(1).mH)
    cores[k] = q.mH.reshape(-1, *cores[k].shape[1:])
    cores[k - 1] = torch.tensordot(cores[k - 1], r.mH, 1)
