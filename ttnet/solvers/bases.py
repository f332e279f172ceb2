"""Functions of one variable that others are sums of: values, integrals, derivatives and antiderivatives."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError


class Basis(ABC):
    """Functions on an interval.

    Args:
        size: How many functions, at least 1.
        low: Where the interval begins.
        high: Where it ends.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTValueError: If there are no functions, or the interval is empty or infinite.

    Example:
        >>> Legendre(3, 0.0, 1.0)
        Legendre(3, 0.0, 1.0)
    """

    size: int
    low: float
    high: float

    def __init__(self, size: int, low: float = -1.0, high: float = 1.0) -> None:
        if isinstance(size, bool) or not isinstance(size, numbers.Integral):
            raise TTTypeError(f"size is {size!r}; expected an int >= 1.")
        if size < 1:
            raise TTValueError(f"size is {size}; expected an int >= 1.")
        self.size = int(size)
        self.low, self.high = check_interval((low, high), "the interval")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size}, {self.low}, {self.high})"

    @abstractmethod
    def __call__(
        self,
        x: Tensor,  # (points,)
    ) -> Tensor:
        """Give the values of all functions at points of the interval, (points, size)."""

    def integrals(self) -> Tensor:
        """Give the integrals over the interval, (size,) in float64."""
        raise TTValueError(f"{self!r} knows no integrals; expected a basis of this module, such as Legendre.")

    def derivative(self) -> tuple[Basis, Tensor]:
        """Give a basis for the derivatives, and the matrix (its size, size) that takes coefficients there."""
        raise TTValueError(f"{self!r} knows no derivatives; expected a basis of this module, such as Legendre.")

    def antiderivative(self) -> tuple[Basis, Tensor]:
        """Give a basis for the integrals from `low` on, and the matrix that takes coefficients there."""
        raise TTValueError(f"{self!r} knows no antiderivatives; expected Chebyshev or Legendre.")

    def _to_unit(self, x: Tensor) -> Tensor:
        """Map the interval to [-1, 1]."""
        return (2 * x - (self.low + self.high)) / (self.high - self.low)

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2


def check_interval(interval: object, name: str) -> tuple[float, float]:
    """Give the ends of an interval as floats.

    Args:
        interval: A pair of numbers.
        name: What the caller calls it.

    Returns:
        The ends.

    Raises:
        TTTypeError: If these are no two real numbers.
        TTValueError: If they are not finite, or not in order.

    Example:
        >>> check_interval((0, 1), "domain")
        (0.0, 1.0)
    """
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise TTTypeError(f"{name} is {interval!r}; expected two numbers, such as (0.0, 1.0).")
    if not all(isinstance(end, numbers.Real) and not isinstance(end, bool) for end in interval):
        raise TTTypeError(f"{name} is {interval!r}; expected two real numbers, such as (0.0, 1.0).")
    low, high = map(float, interval)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise TTValueError(f"{name} is {interval!r}; expected finite numbers, the first below the second.")
    return low, high


class Chebyshev(Basis):
    """The Chebyshev polynomials of the first kind of degrees below `size`, on an interval.

    Source: Trefethen 2013, "Approximation Theory and Approximation Practice", chapter 3.

    Args:
        size: How many, at least 1.
        low: Where the interval begins.
        high: Where it ends.

    Example:
        >>> Chebyshev(3)(torch.tensor([0.5]))
        tensor([[ 1.0000,  0.5000, -0.5000]])
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Give the values at points, (points, size)."""
        return _recurrence(self._to_unit(x), self.size, lambda k: (2.0 if k else 1.0, 1.0 if k else 0.0))

    def integrals(self) -> Tensor:
        """Give the integrals over the interval, (size,) in float64."""
        k = torch.arange(self.size, dtype=torch.float64)
        return torch.where(k % 2 == 0, 2 / (1 - k.square()), 0) * self._half

    def derivative(self) -> tuple[Basis, Tensor]:
        """Give a basis for the derivatives, and the matrix that takes coefficients there."""
        matrix = _matrix(np.polynomial.chebyshev.chebder, self.size, max(1, self.size - 1))
        return Chebyshev(max(1, self.size - 1), self.low, self.high), matrix / self._half

    def antiderivative(self) -> tuple[Basis, Tensor]:
        """Give a basis for the integrals from `low` on, and the matrix that takes coefficients there."""
        matrix = _matrix(lambda c: np.polynomial.chebyshev.chebint(c, lbnd=-1), self.size, self.size + 1)
        return Chebyshev(self.size + 1, self.low, self.high), matrix * self._half


class Legendre(Basis):
    """The Legendre polynomials of degrees below `size`, on an interval; orthogonal there, with the value 1 at its end.

    Args:
        size: How many, at least 1.
        low: Where the interval begins.
        high: Where it ends.

    Example:
        >>> Legendre(3)(torch.tensor([0.5]))
        tensor([[ 1.0000,  0.5000, -0.1250]])
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Give the values at points, (points, size)."""
        return _recurrence(self._to_unit(x), self.size, lambda k: ((2 * k + 1) / (k + 1), k / (k + 1)))

    def integrals(self) -> Tensor:
        """Give the integrals over the interval, (size,) in float64."""
        return torch.eye(1, self.size, dtype=torch.float64)[0] * (2 * self._half)

    def derivative(self) -> tuple[Basis, Tensor]:
        """Give a basis for the derivatives, and the matrix that takes coefficients there."""
        matrix = _matrix(np.polynomial.legendre.legder, self.size, max(1, self.size - 1))
        return Legendre(max(1, self.size - 1), self.low, self.high), matrix / self._half

    def antiderivative(self) -> tuple[Basis, Tensor]:
        """Give a basis for the integrals from `low` on, and the matrix that takes coefficients there."""
        matrix = _matrix(lambda c: np.polynomial.legendre.legint(c, lbnd=-1), self.size, self.size + 1)
        return Legendre(self.size + 1, self.low, self.high), matrix * self._half


class Fourier(Basis):
    """1, and cosines and sines in turn: cos(w x), sin(w x), cos(2 w x), ..., of period `high - low`.

    Args:
        size: How many, at least 1; odd, so that the derivatives are among them.
        low: Where the interval begins, on which all cosines are 1.
        high: Where it ends.

    Raises:
        TTValueError: If `size` is even.

    Example:
        >>> Fourier(3, 0.0, 1.0)(torch.tensor([0.25])).round(decimals=3).abs()
        tensor([[1., 0., 1.]])
    """

    def __init__(self, size: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(size, low, high)
        if self.size % 2 == 0:
            raise TTValueError(f"size is {size}; expected an odd number: a constant, and as many cosines as sines.")

    def __call__(self, x: Tensor) -> Tensor:
        """Give the values at points, (points, size)."""
        k = torch.arange(1, self.size // 2 + 1, dtype=x.dtype, device=x.device)
        angles = (math.pi / self._half) * (x[:, None] - self.low) * k
        pairs = torch.stack([angles.cos(), angles.sin()], 2).flatten(1)
        return torch.cat([torch.ones_like(x)[:, None], pairs], 1)

    def integrals(self) -> Tensor:
        """Give the integrals over the interval, (size,) in float64."""
        return torch.eye(1, self.size, dtype=torch.float64)[0] * (2 * self._half)

    def derivative(self) -> tuple[Basis, Tensor]:
        """Give the same basis, and the matrix that takes coefficients to those of the derivative."""
        matrix = torch.zeros(self.size, self.size, dtype=torch.float64)
        for k in range(1, self.size // 2 + 1):
            rate = k * math.pi / self._half
            matrix[2 * k, 2 * k - 1], matrix[2 * k - 1, 2 * k] = -rate, rate
        return self, matrix


class BSpline(Basis):
    """Splines of some degree on even knots, which sum to 1 and of which each is zero on most of the interval.

    Source: de Boor 1978, "A Practical Guide to Splines", chapters IX and X.

    Args:
        size: How many, more than the degree.
        low: Where the interval begins.
        high: Where it ends.
        degree: The degree of the polynomials, at least 0.

    Raises:
        TTValueError: If there are no more functions than the degree.

    Example:
        >>> BSpline(4, 0.0, 1.0, degree=1)(torch.tensor([0.5]))
        tensor([[0.0000, 0.5000, 0.5000, 0.0000]])
    """

    def __init__(self, size: int, low: float = -1.0, high: float = 1.0, degree: int = 3) -> None:
        super().__init__(size, low, high)
        if not 0 <= degree < self.size:
            raise TTValueError(f"size is {size} and degree {degree}; expected a degree from 0 to size - 1.")
        self.degree = degree
        inner = torch.linspace(self.low, self.high, self.size - degree + 1, dtype=torch.float64)
        self._knots = torch.cat([inner[:1].expand(degree), inner, inner[-1:].expand(degree)])

    def __repr__(self) -> str:
        return f"BSpline({self.size}, {self.low}, {self.high}, degree={self.degree})"

    def __call__(self, x: Tensor) -> Tensor:
        """Give the values at points, (points, size)."""
        knots = self._knots.to(x)
        last = self.size - 1  # the last interval has its end
        place = torch.searchsorted(knots, x.contiguous(), right=True).sub(1).clamp(self.degree, last)
        values = torch.nn.functional.one_hot(place, len(knots) - 1).to(x.dtype)
        for k in range(1, self.degree + 1):
            widths = knots[k:] - knots[:-k]
            scaled = torch.where(widths > 0, 1 / widths, 0)
            rising = (x[:, None] - knots[: -k - 1]) * scaled[:-1]
            falling = (knots[k + 1 :] - x[:, None]) * scaled[1:]
            values = rising * values[:, :-1] + falling * values[:, 1:]
        return values

    def integrals(self) -> Tensor:
        """Give the integrals over the interval, (size,) in float64."""
        return (self._knots[self.degree + 1 :] - self._knots[: -self.degree - 1]) / (self.degree + 1)

    def derivative(self) -> tuple[Basis, Tensor]:
        """Give the splines of one degree less, and the matrix that takes coefficients there."""
        if not self.degree:
            raise TTValueError(f"{self!r} has no derivatives; expected a degree >= 1.")
        widths = self._knots[self.degree + 1 : -1] - self._knots[1 : -self.degree - 1]
        difference = torch.eye(self.size, dtype=torch.float64).diff(dim=0)
        return BSpline(self.size - 1, self.low, self.high, self.degree - 1), difference * (self.degree / widths)[
            :, None
        ]


class Functions(Basis):
    """The user's own functions on an interval, of which only the values are known.

    Args:
        f: A function of points of shape (points,) that gives values of shape (points, size).
        size: How many there are, at least 1.
        low: Where the interval begins.
        high: Where it ends.

    Raises:
        TTTypeError: If `f` is no function.

    Example:
        >>> Functions(lambda x: torch.stack([x, x.exp()], 1), 2)(torch.zeros(1))
        tensor([[0., 1.]])
    """

    def __init__(self, f: Callable[[Tensor], Tensor], size: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(size, low, high)
        if not callable(f):
            raise TTTypeError(f"f is a {type(f).__name__}; expected a function of points of shape (points,).")
        self._f = f

    def __call__(self, x: Tensor) -> Tensor:
        """Give the values at points, (points, size)."""
        values = self._f(x)
        if values.shape != (len(x), self.size):
            raise TTShapeError(
                f"the functions of a basis gave the shape {tuple(values.shape)} for {len(x)} points; expected "
                f"({len(x)}, {self.size})."
            )
        return values


def _recurrence(
    x: Tensor,  # (points,)
    size: int,
    factors: Callable[[int], tuple[float, float]],
) -> Tensor:
    """Give polynomials with p_{k+1} = a_k x p_k - b_k p_{k-1}, from p_0 = 1 and p_{-1} = 0."""
    before, columns = torch.zeros_like(x), [torch.ones_like(x)]
    for k in range(size - 1):
        a, b = factors(k)
        columns.append(a * x * columns[-1] - b * before)
        before = columns[-2]
    return torch.stack(columns, 1)


def _matrix(operation: Callable[..., np.ndarray], size: int, rows: int) -> Tensor:
    """Give the matrix of a linear operation on coefficients."""
    matrix = torch.zeros(rows, size, dtype=torch.float64)
    for k, unit in enumerate(np.eye(size)):
        column = torch.from_numpy(operation(unit))
        matrix[: len(column), k] = column
    return matrix
