"""What trains and TT-matrices share: an immutable, validated chain of cores."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype, max_exponent
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains.drawing import draw_chain
from ttnet.trains.habits import Count, TensorHabits

_REALS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_DTYPES = frozenset((*_REALS, torch.complex128, torch.complex64, torch.complex32))


def check_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """Give a shape as a tuple of ints, every one at least 1.

    Args:
        shape: The mode sizes.
        name: What the caller calls the argument, for the message.

    Returns:
        The shape.

    Raises:
        TTTypeError: If it is not a sequence of ints.
        TTShapeError: If a size is below 1.

    Example:
        >>> check_shape([2, 3], "shape")
        (2, 3)
    """
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise TTTypeError(f"{name} is {shape!r}; expected a sequence of ints, such as (4, 4).")
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, numbers.Integral):
            raise TTTypeError(f"{name} holds {size!r}; expected ints >= 1.")
        if size < 1:
            raise TTShapeError(f"{name} is {tuple(shape)}; every mode must have size at least 1.")
    return tuple(int(size) for size in shape)


def check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Give a dtype that cores may have; torch's default one for None.

    Args:
        dtype: A floating or complex dtype, or None.

    Returns:
        The dtype.

    Raises:
        TTTypeError: If it is no such dtype.

    Example:
        >>> check_dtype(None), check_dtype(torch.complex64)
        (torch.float32, torch.complex64)
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in _DTYPES:
        raise TTTypeError(f"dtype is {dtype}; expected a floating or complex torch.dtype of 16 bits or more.")
    return dtype


def check_plain(
    x: Tensor,  # (...)
    name: str,
) -> Tensor:
    """Refuse a tensor that torch knows hardly any operations for.

    Args:
        x: Any tensor.
        name: What to call it in the message.

    Returns:
        The tensor.

    Raises:
        TTTypeError: If it is sparse, nested or quantised, or of fewer than 16 bits.

    Example:
        >>> check_plain(torch.ones(2), "x")
        tensor([1., 1.])
    """
    if x.is_nested or x.layout != torch.strided:
        raise TTTypeError(f"{name} is sparse or nested; expected a dense tensor, as to_dense() gives.")
    if x.is_quantized or (x.is_floating_point() and x.dtype not in _DTYPES):
        raise TTTypeError(f"{name} has dtype {x.dtype}; expected one of at least 16 bits: convert it first.")
    return x


def shorten(values: Sequence[object]) -> str:
    """Write a tuple, with its middle left out if it is long.

    Args:
        values: Any sequence.

    Returns:
        Its text.

    Example:
        >>> shorten((1, 2)), shorten(range(1000))
        ('(1, 2)', '(0, 1, 2, ..., 997, 998, 999)')
    """
    if len(values) <= 10:
        return str(tuple(values))
    head, tail = (", ".join(map(str, part)) for part in (values[:3], values[-3:]))
    return f"({head}, ..., {tail})"


class CoreChain(TensorHabits):
    """An immutable chain of cores of shape `(r, *modes, r')`; the base of `TensorTrain` and `TTMatrix`.

    Args:
        cores: The cores, all of one floating or complex dtype and on one device. They are kept as they are, not
            copied, so gradients flow to them.

    Raises:
        TTTypeError: If a core is not a floating or complex tensor, or the dtypes differ.
        TTShapeError: If the shapes do not chain up, or the outer ranks are not 1.
        TTValueError: If the devices differ.

    Example:
        >>> from ttnet import TensorTrain
        >>> issubclass(TensorTrain, CoreChain)
        True
    """

    __slots__ = ("_cores",)
    _core_shape: ClassVar[tuple[str, ...]]  # the names of a core's axes
    _from_dense: ClassVar[str]  # the call that makes one of a dense tensor, for messages

    def __init__(self, cores: Iterable[Tensor]) -> None:
        self._cores = tuple(cores)
        self._check_cores()

    @classmethod
    def unchecked(cls, cores: Iterable[Any]) -> Self:
        """Make a value of cores known to fit, or of what stands for cores in a tree of tensors.

        Args:
            cores: The cores, or batches of them, or anything else that a transform of `torch.func` puts there.

        Returns:
            The value, of which nothing has been checked.

        Example:
            >>> import torch
            >>> from ttnet import TensorTrain
            >>> len(TensorTrain.unchecked([torch.ones(5, 1, 2, 1)]).cores)  # a batch of five trains
            1
        """
        value = cls.__new__(cls)
        value._cores = tuple(cores)
        return value

    def _check_cores(self) -> None:
        expected = f"expected a torch.Tensor of shape ({', '.join(self._core_shape)})"
        if not self._cores:
            raise TTShapeError("cores is empty; expected at least one core.")
        first = self._cores[0]
        for k, core in enumerate(self._cores):
            if not isinstance(core, Tensor):
                raise TTTypeError(f"cores[{k}] is a {type(core).__name__}; {expected}.")
            if not (core.is_floating_point() or core.is_complex()):
                raise TTTypeError(
                    f"cores[{k}] has dtype {core.dtype}; expected a floating or complex dtype: convert it first."
                )
            check_plain(core, f"cores[{k}]")
            if not self._is_core_shape(core.shape):
                raise TTShapeError(f"cores[{k}] has shape {tuple(core.shape)}; {expected}.")
            if 0 in core.shape:
                raise TTShapeError(f"cores[{k}] has shape {tuple(core.shape)}; every size must be at least 1.")
            if core.dtype != first.dtype:
                raise TTTypeError(
                    f"cores[{k}] has dtype {core.dtype} but cores[0] has {first.dtype}; convert them to one dtype."
                )
            if core.device != first.device:
                raise TTValueError(
                    f"cores[{k}] is on {core.device} but cores[0] is on {first.device}; move them to one device."
                )
        for k, (left, right) in enumerate(zip(self._cores, self._cores[1:], strict=False)):
            if left.shape[-1] != right.shape[0]:
                raise TTShapeError(
                    f"cores[{k}] ends with rank {left.shape[-1]} but cores[{k + 1}] begins with rank "
                    f"{right.shape[0]}; neighbouring cores must share their rank."
                )
        if self._cores[0].shape[0] != 1 or self._cores[-1].shape[-1] != 1:
            raise TTShapeError(
                f"the outer ranks are {self._cores[0].shape[0]} and {self._cores[-1].shape[-1]}; expected 1 and 1."
            )

    def _is_core_shape(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self._core_shape)

    @property
    def cores(self) -> tuple[Tensor, ...]:
        """The cores, from left to right."""
        return self._cores

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds, the outer ones included: order + 1 ints that begin and end with 1."""
        return (1, *(core.shape[-1] for core in self._cores))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the cores."""
        return self._cores[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the cores."""
        return self._cores[0].device

    @property
    def num_parameters(self) -> int:
        """The number of entries of all cores together."""
        return sum(core.numel() for core in self._cores)

    @property
    def numel(self) -> Count:
        """The number of entries of the dense tensor, an int of any size, which may be called as torch's method is."""
        return Count(math.prod([math.prod(core.shape[1:-1]) for core in self._cores]))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert all cores to another dtype or device.

        Args:
            *args: As for `torch.Tensor.to`.
            **kwargs: As for `torch.Tensor.to`.

        Returns:
            The converted value; gradients flow through it. Where a core would leave the range of a smaller dtype,
            powers of two move between the cores.

        Raises:
            TTTypeError: If the dtype is neither floating nor complex, or real where the value is complex.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3)).to(torch.complex64).dtype
            torch.complex64
        """
        asked = {torch.empty(0, dtype=own).to(*args, **kwargs).dtype for own in (torch.int8, torch.int16)}
        # Where each of the two keeps its own, none is asked for.
        dtype = check_dtype(asked.pop()) if len(asked) == 1 else self.dtype
        if self.dtype.is_complex and not dtype.is_complex:
            # Products of the cores' real parts are not the real parts of their products.
            raise TTTypeError(
                f"dtype is {dtype}, but the train is complex; expected a complex dtype. The real parts of its entries "
                "are given by ttnet.apply(torch.real, train)."
            )
        cores: Sequence[Tensor] = self._cores
        reach = math.log2(torch.finfo(dtype).max) - 8
        if reach < math.log2(torch.finfo(self.dtype).max) - 8:
            sizes = [max_exponent(core) for core in cores]
            if any(not isinstance(size, int) or abs(size) > reach for size in sizes):
                cores = join_scale(*split_scales(cores, compute_dtype(self.dtype)), dtype)
        return type(self)([core.to(*args, **kwargs) for core in cores])

    def clone(self) -> Self:
        """Copy all cores; gradients flow through the copy.

        Returns:
            The copy.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3)).clone().shape
            (2, 3)
        """
        return type(self)([core.clone() for core in self._cores])

    def detach(self) -> Self:
        """Cut the value off from the graph of gradients.

        Returns:
            A value with the same storage, which needs no gradient.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3)).detach().cores[0].requires_grad
            False
        """
        return type(self)([core.detach() for core in self._cores])

    def conj(self) -> Self:
        """Take the complex conjugate.

        Returns:
            The conjugate; the value itself, in effect, if it is real.

        Example:
            >>> import ttnet
            >>> (ttnet.ones((2,)) * 1j).conj().full()
            tensor([0.-1.j, 0.-1.j])
        """
        return type(self)([core.conj() for core in self._cores])

    def mul(self, other: Any) -> Self:
        """Give `self * other`: in code for `torch.compile`, which cannot trace that operator with a tensor.

        Args:
            other: A number, a tensor of shape (), or a value of the same kind and shape, to multiply entry by entry.

        Returns:
            The product.

        Raises:
            TTTypeError: If `other` is of another type.
            TTShapeError: If the shapes differ.
            TTValueError: If the devices differ.

        Example:
            >>> import torch, ttnet
            >>> ttnet.ones((2,)).mul(torch.tensor(3.0)).full()
            tensor([3., 3.])
        """
        product = self.__mul__(other)
        if product is NotImplemented:
            expected = f"a number, a tensor of shape () or a {type(self).__name__}"
            raise TTTypeError(f"other is a {type(other).__name__}; expected {expected}.")
        return product

    def __mul__(self, other: object) -> Self:
        return NotImplemented

    def _scalar(self, other: object) -> complex | Tensor | None:
        """Give what may stand beside this value in a formula as a number, and refuse what is dense."""
        scalar = check_scalar(other)
        if scalar is None and isinstance(other, (Tensor, np.ndarray)):
            raise TTTypeError(
                f"other is dense, of shape {tuple(other.shape)}; expected a {type(self).__name__} or a number: take "
                f"{self._from_dense}."
            )
        return scalar

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, which `ttnet.load` reads; an old file is replaced only when the new one is whole.

        Args:
            path: Where to write.

        Raises:
            TTFileError: If the file cannot be written.

        Example:
            >>> import tempfile, ttnet
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     ttnet.ones((2, 3)).save(f"{folder}/ones.safetensors")
            ...     ttnet.load(f"{folder}/ones.safetensors").shape
            (2, 3)
        """
        from ttnet import io  # here, since that module builds values of this one's children

        io.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote, and make sure that it holds this kind of value.

        Args:
            path: The file.

        Returns:
            The value, on the CPU.

        Raises:
            TTFileError: If the file is missing, damaged, of another kind or from a newer version.

        Example:
            >>> import tempfile, ttnet
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     ttnet.ones((2, 3)).save(f"{folder}/ones.safetensors")
            ...     ttnet.TensorTrain.load(f"{folder}/ones.safetensors").shape
            (2, 3)
        """
        from ttnet import io
        from ttnet.errors import TTFileError

        value = io.load(path)
        if not isinstance(value, cls):
            raise TTFileError(
                f"'{os.fspath(path)}' holds a {type(value).__name__}, not a {cls.__name__}; use ttnet.load."
            )
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._cores,)

    def __repr__(self) -> str:
        if not all(isinstance(core, Tensor) for core in self._cores):  # what a tree may hold instead
            return f"{type(self).__name__}.unchecked({list(self._cores)})"
        line = draw_chain([core.shape for core in self._cores])
        # What a line without its middle does not show.
        hidden = f", order {len(self._cores)}, ranks <= {max(self.ranks)}" if "..." in line else ""
        device = "" if self.device.type == "cpu" else f", {self.device}"
        return f"{type(self).__name__}({line}{hidden}, {str(self.dtype).removeprefix('torch.')}{device})"


def check_scalar(value: object) -> complex | Tensor | None:
    """Give a number or 0-dimensional tensor as torch takes it, or None for anything else.

    Args:
        value: Anything a user may multiply a train by.

    Returns:
        A Python number, a tensor of shape (), or None.

    Example:
        >>> check_scalar(2), check_scalar("2")
        (2, None)
    """
    if isinstance(value, Tensor):
        return value if value.ndim == 0 else None
    if isinstance(value, (np.ndarray, np.bool_)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return complex(value) if isinstance(value, numbers.Complex) else None
