"""Trains in formulas: sums, differences, products, powers and deviations of entries, exact, by their cores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype, read, real_dtype
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains import arithmetic, reductions
from ttnet.trains.chain import CoreChain, check_scalar, shorten
from ttnet.trains.habits import in_other_words

_MAX_POWER_RANK = 10_000  # cores of a hundred million numbers for each entry of a mode


class TrainArithmetic(CoreChain):
    """The part of `TensorTrain` that works entry by entry.

    Example:
        >>> import ttnet
        >>> x = ttnet.ones((2, 2))
        >>> (1 - 3 * x + x**2).full()
        tensor([[-1., -1.],
                [-1., -1.]])
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]:
            """The mode sizes."""

    @in_other_words()
    def var(
        self, dim: int | Sequence[int] | None = None, *, correction: int = 1, keepdim: bool = False
    ) -> Self | Tensor:
        """Compute the variance over all modes, or along some of them, without forming the entries.

        Args:
            dim: A mode or several different ones, from -order to order - 1; None for all of them. It may be called
                `axis`.
            correction: What is taken off the number of entries that a mean runs over, at least 0 and less than that. It
                may be called `ddof`, as numpy does, which takes off 0.
            keepdim: Whether the modes stay, with size 1. It may be called `keepdims`.

        Returns:
            A train of real entries, whose ranks are up to the squares of these ranks times the number of modes in
            `dim`, or a real tensor of shape () if no mode is left. Gradients flow to the cores. Where a variance is
            zero, rounding may leave it somewhat above or below.

        Raises:
            TTTypeError: If `dim` or `correction` is of another type.
            TTIndexError: If there is no such mode.
            TTValueError: If `correction` is out of range, if `dim` is empty or names a mode twice, or if it leaves
                modes and a core has entries that are NaN or infinite.

        Example:
            >>> import torch, ttnet
            >>> x = ttnet.tt_svd(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
            >>> x.var(correction=0), x.var(dim=0).full()
            (tensor(2.1875), tensor([2.0000, 4.5000]))
        """
        from ttnet.trains import deviations  # here, since that module knows trains

        dims, factor = self._dims_and_factor(dim, correction)
        if len(dims) < len(self.shape):
            return type(self)(deviations.variances(self._cores, dims, factor, keepdim=keepdim))
        return self._kept(deviations.deviation(self._cores, factor).square(), keepdim=keepdim)

    @in_other_words()
    def std(
        self, dim: int | Sequence[int] | None = None, *, correction: int = 1, keepdim: bool = False
    ) -> Self | Tensor:
        """Compute the standard deviation of all entries, the root of `var`.

        Args:
            dim: None for all modes, or all of them. Along some modes it is a root of every entry of a train, which is
                not exact.
            correction: As for `var`.
            keepdim: As for `var`.

        Returns:
            A real tensor of shape (), or a train of as many entries; gradients flow to the cores.

        Raises:
            TTTypeError: If `dim` leaves modes (the error names the call for that), or an argument is of another type.
            TTIndexError: If there is no such mode.
            TTValueError: If `correction` is out of range, or `dim` is empty or names a mode twice.

        Example:
            >>> import ttnet
            >>> ttnet.arange((2, 2)).std(correction=0) ** 2
            tensor(1.2500)
        """
        from ttnet.trains import deviations  # here, since that module knows trains

        dims, factor = self._dims_and_factor(dim, correction)
        if len(dims) < len(self.shape):
            raise TTTypeError(
                f"dim is {dim!r}, which leaves modes, and roots of the entries of a train are not exact; take "
                "ttnet.apply(lambda v: v.clamp(min=0).sqrt(), train.var(dim))."
            )
        return self._kept(deviations.deviation(self._cores, factor), keepdim=keepdim)

    def _dims_and_factor(self, dim: Any, correction: object) -> tuple[tuple[int, ...], float]:
        from ttnet.trains import deviations  # here, since that module knows trains

        dims = reductions.chosen_modes(dim, len(self.shape))
        return dims, deviations.correcting_factor(correction, prod([self.shape[k] for k in dims]))

    def _kept(self, value: Tensor, *, keepdim: bool) -> Self | Tensor:
        """Give what has no modes left as a number of the dtype, or with modes of size 1."""
        dtype = real_dtype(self.dtype)
        if not (keepdim and self.shape):
            return value.to(dtype)
        return type(self)(arithmetic.scale([value.new_ones(1, 1, 1)] * len(self.shape), value, torch.mul)).to(dtype)

    def _check_alike(self, other: CoreChain) -> None:
        if not isinstance(other, TrainArithmetic):
            raise TTTypeError(f"other is a {type(other).__name__}; expected a TensorTrain.")
        if self.shape != other.shape:
            raise TTShapeError(
                f"the trains have shapes {shorten(self.shape)} and {shorten(other.shape)}; expected the same shape."
            )
        if self.device != other.device:
            raise TTValueError(f"the trains are on {self.device} and {other.device}; move them to one device.")

    def _scaled(self, scalar: complex | Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> Self:
        """Multiply or divide by a finite scalar of any size, or NaN, which may promote the dtype."""
        if isinstance(scalar, Tensor) and scalar.device != self.device and scalar.device.type != "cpu":
            raise TTValueError(f"the train is on {self.device} and the scalar on {scalar.device}; move one of them.")
        try:
            scalar = float(scalar) if isinstance(scalar, int) else scalar  # torch takes no more than 64 bits
        except OverflowError as error:
            raise TTValueError("the scalar is an int beyond the range of float64; expected a smaller one.") from error
        # Infinite cores are no train of infinite entries: products of theirs cancel to NaN.
        size: float | None = None  # not known of what is on a GPU, which is not waited for
        if not isinstance(scalar, Tensor):
            size = abs(scalar)
        elif scalar.device.type == "cpu":
            size = read(scalar.detach().to(torch.complex128).abs())
        if size == math.inf:
            raise TTValueError("the scalar is infinite; expected a finite number, as trains of rank above 1 hold none.")
        if size == 0 and operation is torch.div:
            raise TTValueError("a train cannot be divided by 0; expected another number.")
        return type(self)(arithmetic.scale(self._cores, scalar, operation))

    def _constant(self, value: complex | Tensor) -> Self:
        """Give the train of rank 1 of this shape whose entries all are one number."""
        sizes = [core.shape[1:-1] for core in self._cores]
        ones = [torch.ones((1, *size, 1), dtype=self.dtype, device=self.device) for size in sizes]
        return type(self)(ones)._scaled(value, torch.mul)

    def __add__(self, other: object) -> Self:
        if not isinstance(other, TrainArithmetic):
            scalar = self._scalar(other)
            return NotImplemented if scalar is None else self + self._constant(scalar)
        self._check_alike(other)
        return type(self)(arithmetic.add(self._cores, other._cores))

    def __radd__(self, other: object) -> Self:
        # What `sum(trains)` begins with.
        return self if isinstance(other, int) and other == 0 else self.__add__(other)

    def __sub__(self, other: object) -> Self:
        if not isinstance(other, TrainArithmetic):
            scalar = self._scalar(other)
            return NotImplemented if scalar is None else self + -scalar
        return self + -other

    def __rsub__(self, other: object) -> Self:
        return (-self).__add__(other)

    def __neg__(self) -> Self:
        return type(self)([*self._cores[:-1], -self._cores[-1]])

    def __pos__(self) -> Self:
        return self

    def __mul__(self, other: object) -> Self:
        if isinstance(other, TrainArithmetic):
            self._check_alike(other)
            dtype = torch.promote_types(self.dtype, other.dtype)
            (a, exponent_a), (b, exponent_b) = (split_scales(x._cores, compute_dtype(dtype)) for x in (self, other))
            return type(self)(join_scale(arithmetic.hadamard(a, b), exponent_a + exponent_b, dtype))
        scalar = self._scalar(other)
        return NotImplemented if scalar is None else self._scaled(scalar, torch.mul)

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Self:
        if isinstance(other, TrainArithmetic):
            self._refuse("/")
        scalar = self._scalar(other)
        if scalar is None:
            return NotImplemented
        return self._scaled(scalar, torch.div)

    def __pow__(self, power: object) -> Self:
        """Multiply the entries with themselves; the ranks multiply, too."""
        number = check_scalar(power)
        number = number.item() if isinstance(number, Tensor) else number
        power = int(number) if isinstance(number, float) and number.is_integer() else number
        if not isinstance(power, int) or power < 0:
            self._refuse("**")
        if max(self.ranks) ** power > _MAX_POWER_RANK:
            raise TTValueError(
                f"power is {power}, which would take ranks up to {max(self.ranks)} to {max(self.ranks)}**{power}; take "
                "ttnet.apply(lambda x: x**power, train), or round between products."
            )
        product = self._constant(1) if power == 0 else self
        for _ in range(power - 1):
            product = product * self
        return product

    def __matmul__(self, other: object) -> Any:
        if isinstance(other, CoreChain) and not isinstance(other, TrainArithmetic):
            return NotImplemented  # a TT-matrix, which multiplies trains from either side
        return self._refuse("@")

    def __rmatmul__(self, other: object) -> NoReturn:
        self._refuse("@")
