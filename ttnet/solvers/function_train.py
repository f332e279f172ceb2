"""Functions of many variables as trains of coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.solvers.bases import Basis
from ttnet.trains.checks import expect_train
from ttnet.trains.dims import check_dim
from ttnet.trains.tensor_train import TensorTrain


class FunctionTrain:
    """A function of d variables: a sum of products of basis functions, whose coefficients are a train.

    Source: Oseledets & Tyrtyshnikov 2010, "TT-cross approximation for multidimensional arrays"; Gorodetsky, Karaman,
    Marzouk 2019, "A continuous analogue of the tensor-train decomposition", section 2.

    Args:
        coefficients: A train of order d, one mode for each variable.
        bases: d bases, of as many functions as the modes have indices.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If numbers or sizes do not fit.

    Example:
        >>> import ttnet
        >>> from ttnet.solvers import Legendre
        >>> f = FunctionTrain(ttnet.ones((2, 2)), [Legendre(2), Legendre(2)])  # (1 + x) (1 + y)
        >>> f(torch.tensor([[0.5, 1.0]])), f.integrate()
        (tensor([3.]), tensor(4.))
    """

    def __init__(self, coefficients: TensorTrain, bases: Sequence[Basis]) -> None:
        expect_train(coefficients, "coefficients")
        self.coefficients, self.bases = coefficients, check_bases(bases)
        sizes = tuple(basis.size for basis in self.bases)
        if sizes != coefficients.shape:
            raise TTShapeError(f"coefficients has shape {coefficients.shape} and the bases have sizes {sizes}.")

    @property
    def ndim(self) -> int:
        """The number of variables."""
        return self.coefficients.ndim

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the train of coefficients."""
        return self.coefficients.ranks

    def __repr__(self) -> str:
        return f"FunctionTrain({self.coefficients!r}, bases={self.bases!r})"

    def __call__(
        self,
        points: Tensor,  # (points, d)
    ) -> Tensor:
        """Give the values at points.

        Args:
            points: A tensor of shape (points, d), within the bases' intervals.

        Returns:
            The values, of shape (points,). Gradients flow to the points and to the coefficients.

        Raises:
            TTShapeError: If the points have another shape.
            TTValueError: If one is outside.

        Example:
            >>> import ttnet
            >>> from ttnet.solvers import Legendre
            >>> FunctionTrain(ttnet.ones((2,)), [Legendre(2)])(torch.tensor([[0.25]]))
            tensor([1.2500])
        """
        points = check_points(points, self.bases, "points").to(self.coefficients.device)
        values = self.coefficients.cores[0].new_ones(len(points), 1)
        for basis, core, x in zip(self.bases, self.coefficients.cores, points.unbind(1), strict=True):
            features = basis(x).to(values.dtype)
            # (points, r) and (points, n) with (r, n, r')
            values = torch.einsum("pr,pn,rns->ps", values, features, core)
        return values[:, 0]

    def on_grid(self, *vectors: Tensor) -> TensorTrain:
        """Give the values on a grid as a train of the same ranks.

        Args:
            *vectors: The points on each axis, of shape (n_k,).

        Returns:
            A train of shape `(n_1, ..., n_d)`.

        Raises:
            TTShapeError: If there is another number of vectors.
            TTValueError: If a point is outside.

        Example:
            >>> import ttnet
            >>> from ttnet.solvers import Legendre
            >>> FunctionTrain(ttnet.ones((2,)), [Legendre(2)]).on_grid(torch.tensor([0.0, 0.5])).full()
            tensor([1.0000, 1.5000])
        """
        if len(vectors) != self.ndim:
            raise TTShapeError(f"on_grid got {len(vectors)} vectors; expected {self.ndim}, one for each variable.")
        cores = []
        for k, (basis, core, x) in enumerate(zip(self.bases, self.coefficients.cores, vectors, strict=True)):
            check_points(x[:, None], [basis], f"vectors[{k}]")
            cores.append(_apply(basis(x).to(core.dtype), core))
        return TensorTrain(cores)

    def integrate(self, dim: int | None = None) -> FunctionTrain | Tensor:
        """Integrate over one variable or all of them, each over its interval.

        Args:
            dim: A variable, from -d to d - 1; None for all.

        Returns:
            A function of the other variables, or a tensor of shape () if there are none.

        Raises:
            TTIndexError: If there is no such variable.
            TTValueError: If a basis knows no integrals.

        Example:
            >>> import ttnet
            >>> from ttnet.solvers import Legendre
            >>> FunctionTrain(ttnet.ones((2, 2)), [Legendre(2), Legendre(2)]).integrate(0)(torch.tensor([[0.5]]))
            tensor([3.])
        """
        dims = range(self.ndim) if dim is None else [check_dim(dim, self.ndim)]
        cores = list(self.coefficients.cores)
        for k in dims:
            cores[k] = _apply(self.bases[k].integrals().to(cores[k])[None], cores[k])
        train = TensorTrain(cores)
        rest = train.sum(dim=list(dims))  # over modes of size 1
        if isinstance(rest, Tensor):
            return rest
        return FunctionTrain(rest, [basis for k, basis in enumerate(self.bases) if k not in dims])

    def derivative(self, dim: int) -> FunctionTrain:
        """Differentiate by one variable.

        Args:
            dim: The variable, from -d to d - 1.

        Returns:
            The derivative, of the same ranks.

        Raises:
            TTIndexError: If there is no such variable.
            TTValueError: If its basis knows no derivatives.

        Example:
            >>> import ttnet
            >>> from ttnet.solvers import Legendre
            >>> FunctionTrain(ttnet.ones((3,)), [Legendre(3)]).derivative(0)(torch.tensor([[0.5]]))  # 1 + 3 x
            tensor([2.5000])
        """
        k = check_dim(dim, self.ndim)
        return self._exchanged(k, *self.bases[k].derivative())

    def antiderivative(self, dim: int) -> FunctionTrain:
        """Integrate by one variable, from the beginning of its interval to any point of it.

        Args:
            dim: The variable, from -d to d - 1.

        Returns:
            The antiderivative, of the same ranks, which is zero where the interval begins.

        Raises:
            TTIndexError: If there is no such variable.
            TTValueError: If its basis knows no antiderivatives.

        Example:
            >>> import ttnet
            >>> from ttnet.solvers import Legendre
            >>> FunctionTrain(ttnet.ones((2,)), [Legendre(2)]).antiderivative(0)(torch.tensor([[1.0]]))
            tensor([2.])
        """
        k = check_dim(dim, self.ndim)
        return self._exchanged(k, *self.bases[k].antiderivative())

    def _exchanged(self, k: int, basis: Basis, matrix: Tensor) -> FunctionTrain:
        cores = list(self.coefficients.cores)
        cores[k] = _apply(matrix.to(cores[k]), cores[k])
        return FunctionTrain(TensorTrain(cores), [*self.bases[:k], basis, *self.bases[k + 1 :]])


def check_bases(bases: object) -> tuple[Basis, ...]:
    """Give bases as a tuple.

    Args:
        bases: At least one basis.

    Returns:
        The bases.

    Raises:
        TTTypeError: If it holds something else.
        TTShapeError: If there are none.

    Example:
        >>> from ttnet.solvers import Legendre
        >>> check_bases([Legendre(2)])
        (Legendre(2, -1.0, 1.0),)
    """
    if isinstance(bases, Basis) or not isinstance(bases, Sequence):
        raise TTTypeError(f"bases is a {type(bases).__name__}; expected a list of one basis for each variable.")
    for k, basis in enumerate(bases):
        if not isinstance(basis, Basis):
            raise TTTypeError(f"bases[{k}] is a {type(basis).__name__}; expected a basis, such as Legendre(8).")
    if not bases:
        raise TTShapeError("bases is empty; expected one basis for each variable.")
    return tuple(bases)


def check_points(points: object, bases: Sequence[Basis], name: str) -> Tensor:
    """Give points as a tensor, all within the intervals of bases.

    Args:
        points: A tensor or array of shape (points, d).
        bases: d bases.
        name: What the caller calls the argument.

    Returns:
        The points, real.

    Raises:
        TTTypeError: If they are no real tensor or array.
        TTShapeError: If they have another shape.
        TTValueError: If one is outside, or NaN.

    Example:
        >>> from ttnet.solvers import Legendre
        >>> check_points(torch.zeros(1, 1), [Legendre(2)], "points")
        tensor([[0.]])
    """
    x = as_dense(points, name)
    if x.is_complex():
        raise TTTypeError(f"{name} has dtype {x.dtype}; expected real numbers.")
    if x.ndim != 2 or x.shape[1] != len(bases):
        raise TTShapeError(f"{name} has shape {tuple(x.shape)}; expected (points, {len(bases)}).")
    for k, (basis, column) in enumerate(zip(bases, x.detach().unbind(1), strict=True)):
        slack = 8 * torch.finfo(x.dtype).eps * max(abs(basis.low), abs(basis.high))
        outside = ~((column >= basis.low - slack) & (column <= basis.high + slack))
        if outside.any():
            row = int(outside.nonzero()[0])
            raise TTValueError(
                f"{name}[{row}] has {float(column[row])} for variable {k}; expected a number from {basis.low} to "
                f"{basis.high}, the interval of its basis."
            )
    return x


def _apply(
    matrix: Tensor,  # (m, n)
    core: Tensor,  # (r, n, r')
) -> Tensor:
    return torch.einsum("mn,rns->rms", matrix, core)
