"""What people try on a train as on a tensor or an array: done where it is exact, else they are told by what it is done.

What trains and TT-matrices have not is looked up in the tables of `instead`.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.near import near

NUMPYS_WORDS = {"axis": "dim", "keepdims": "keepdim", "ddof": "correction"}
# Arguments that functions of torch and numpy have, and those of trains have not.
WORDS_INSTEAD = {
    "dtype": "train.to(dtype) first",
    "out": "what is returned, as trains are not written into",
    "requires_grad": "TensorTrain(core.requires_grad_() for core in train.cores)",
    "unbiased": "correction=1 for True, or correction=0 for False",
}
Function = TypeVar("Function", bound=Callable[..., Any])


def in_other_words(*, beyond: str | None = None, **instead: str) -> Callable[[Function], Function]:
    """Let a function take numpy's words for its arguments, and name a call for arguments that it has not.

    Args:
        beyond: What to take in the place of more arguments by position than the function has.
        instead: For arguments of torch's or numpy's functions of this name, what to take in their place; those of
            `WORDS_INSTEAD` are known without.

    Returns:
        A decorator. The function takes `axis` for `dim`, `keepdims` for `keepdim` and `ddof` for `correction`, and
        passes over arguments that it has not where they are None.

    Raises:
        TTTypeError: By the function, if it is given both words for one argument, an argument of `instead`, or more than
            it has where `beyond` is given.

    Example:
        >>> in_other_words()(lambda dim: dim)(axis=1, out=None)
        1
        >>> in_other_words(order="train.T")(lambda dim: dim)(axis=1, order="F")
        Traceback (most recent call last):
            ...
        ttnet.errors.TTTypeError: <lambda> has no argument 'order'; take train.T.
    """
    instead = WORDS_INSTEAD | instead

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters
        own = frozenset(parameters)
        by_position = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters.values())

        @functools.wraps(function)
        def either(*args: Any, **kwargs: Any) -> Any:
            if beyond and len(args) > by_position:
                raise TTTypeError(f"{function.__name__} has no argument for {args[by_position]!r}; take {beyond}.")
            for word in [word for word in kwargs if word not in own]:
                meant = NUMPYS_WORDS.get(word, word)
                if meant in own and meant in kwargs:
                    raise TTTypeError(f"{meant} and {word} are two words for one argument; give one of them.")
                if meant in own:
                    kwargs[meant] = kwargs.pop(word)
                elif meant in instead and kwargs.pop(word) is not None:
                    raise TTTypeError(f"{function.__name__} has no argument {word!r}; take {instead[meant]}.")
            return function(*args, **kwargs)

        return either  # type: ignore[return-value]

    return decorate


ROUNDS_INSTEAD = {"decimals": "round(eps) for smaller ranks, as entries are not rounded to digits"}
# What the norms of trains and of TT-matrices are asked for besides.
NORMS_INSTEAD = dict.fromkeys(("p", "ord", "beyond"), "norm(), the Frobenius norm, which is the only one")
NORMS_INSTEAD |= dict.fromkeys(
    ("dim", "keepdim"), "(train.conj() * train).sum(dim), of which ttnet.apply takes the root"
)


class Count(int):
    """A number that may be called as torch's `numel()` is, and gives itself.

    Example:
        >>> Count(6) + 1, Count(6)()
        (7, 6)
    """

    __slots__ = ()

    def __call__(self) -> int:
        """Give the number."""
        return int(self)


class TensorHabits:
    """What trains and TT-matrices share of it.

    Example:
        >>> import ttnet
        >>> ttnet.ones((2, 3)).numpy().shape
        (2, 3)
        >>> ttnet.ones((2, 3)).argmax
        Traceback (most recent call last):
            ...
        AttributeError: a TensorTrain has no 'argmax'; take ttnet.solvers.optimize(train, 'max').
    """

    __slots__ = ()
    __hash__ = object.__hash__  # by identity, as values are not compared
    _instead: ClassVar[Mapping[str, str]]
    _besides: ClassVar[Mapping[str, str]]  # of names by which functions of numpy are not refused

    if TYPE_CHECKING:

        @property
        def numel(self) -> Count:
            """The number of entries."""

        @property
        def device(self) -> torch.device:
            """The device of the cores."""

        def full(self) -> Tensor:
            """Contract to the dense tensor."""

        def to(self, *args: Any, **kwargs: Any) -> Self:
            """Convert all cores."""

    @in_other_words(dtype="numpy.asarray(train, dtype)", force="numpy() without it, which does that")
    def numpy(self) -> npt.NDArray[Any]:
        """Contract to the dense array, as `full().numpy()`; no gradients flow through it.

        Returns:
            A numpy array of shape `shape`.

        Raises:
            TTTypeError: If numpy has no such dtype, as bfloat16.
            TTValueError: If it has more entries than this machine's memory holds.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 2)).numpy()
            array([[1., 1.],
                   [1., 1.]], dtype=float32)
        """
        full = self.full().detach().cpu().resolve_conj()
        if full.dtype in (torch.bfloat16, torch.complex32):
            raise TTTypeError(f"numpy has no {full.dtype}; convert it first, with .float() or .to(torch.complex64).")
        return full.numpy()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise TTValueError("a train has no array that could be shared; leave copy out.")
        return np.asarray(self.numpy(), dtype=dtype)

    # So that `numpy_scalar * train` asks the train, not every entry of it.
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from ttnet.trains.numpy_calls import call_ufunc  # here, as it needs trains

        return call_ufunc(self, ufunc, method, inputs, kwargs)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        from ttnet.trains.numpy_calls import call_function  # here, as it needs trains

        return call_function(self, function, args, kwargs)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        from ttnet.trains.torch_calls import call_function  # here, as it needs trains

        return call_function(function, args, kwargs or {})

    # What torch.tensor and torch.as_tensor ask for first; without it they would read entry by entry.
    def __dlpack__(self, **options: Any) -> Any:
        return self.full().detach().resolve_conj().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return torch.empty(0, device=self.device).__dlpack_device__()

    def float(self) -> Self:
        """Convert to float32, as `to(torch.float32)`."""
        return self.to(torch.float32)

    def double(self) -> Self:
        """Convert to float64, as `to(torch.float64)`."""
        return self.to(torch.float64)

    def half(self) -> Self:
        """Convert to float16, as `to(torch.float16)`."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """Convert to bfloat16, as `to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)

    def cpu(self) -> Self:
        """Bring the cores to the CPU, as `to("cpu")`."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Bring the cores to the GPU, as `to("cuda")`."""
        return self.to("cuda")

    def __getattr__(self, name: str) -> NoReturn:
        kind = type(self).__name__
        if name.startswith("_"):  # what Python and torch look for on their own
            raise AttributeError(f"a {kind} has no {name!r}", name=name, obj=self)
        call = self._call_for(name)
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        advice = f"take {call}." if call else near(name, public)
        raise AttributeError(f"a {kind} has no {name!r}{'; ' if advice else ''}{advice.strip()}")

    @classmethod
    def _call_for(cls, name: str) -> str | None:
        """Name the call to take in the place of a method or function, if there is one."""
        call = cls._instead.get(name) or cls._besides.get(name)
        in_place = "an operation that gives a new value, as none is changed in place"
        return in_place if call is None and name.endswith("_") and not name.endswith("__") else call

    def item(self) -> Any:
        """Give the entry of what has one only, as torch's `item()`.

        Returns:
            A Python number.

        Raises:
            TTTypeError: If there are more entries than one, or none.

        Example:
            >>> import ttnet
            >>> ttnet.ones((1, 1)).item()
            1.0
        """
        return self._only("no number", "a number of it, such as train.sum(), train.norm() or train[0, 0]")

    def _only(self, what: str, instead: str) -> Any:
        """Give the one entry there is, or say what the value is not."""
        if self.numel != 1:
            raise TTTypeError(f"a {type(self).__name__} of {self.numel} entries is {what}; take {instead}.")
        return self.full().item()

    def __bool__(self) -> bool:
        return bool(self._only("neither true nor false", "`train is not None`, or train.norm() > 0"))

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __round__(self, digits: int | None = None) -> NoReturn:
        raise TTTypeError("entries are not rounded to digits; take train.round(eps) for smaller ranks.")

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise TTTypeError("a train is not changed in place; add what changes: train + ttnet.pad(...), or take full().")

    def __contains__(self, value: object) -> NoReturn:
        raise TTTypeError("what entries a train has is not asked with `in`; take train.full() if it is small.")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TensorHabits):
            raise TTTypeError(
                "trains are not compared with == or !=, as their cores differ where their entries do not; take "
                "ttnet.allclose(a, b), or `is` for the same object."
            )
        if isinstance(other, (numbers.Number, Tensor, np.ndarray, np.generic)):  # False would be no answer for entries
            raise TTTypeError(
                "the entries of a train are not compared with == or !=; take train.full() if it is small, or "
                "ttnet.allclose(a, b) for the whole."
            )
        return NotImplemented

    def _refuse(self, operator: str) -> NoReturn:
        raise TTTypeError(f"a {type(self).__name__} has no {operator!r} of this kind; take {self._instead[operator]}.")

    def __rtruediv__(self, other: object) -> NoReturn:
        self._refuse("/")

    def __floordiv__(self, other: object) -> NoReturn:
        self._refuse("//")

    __rfloordiv__ = __divmod__ = __rdivmod__ = __floordiv__

    def __mod__(self, other: object) -> NoReturn:
        self._refuse("%")

    __rmod__ = __mod__

    def __pow__(self, power: object) -> Any:
        self._refuse("**")

    def __rpow__(self, base: object) -> NoReturn:
        self._refuse("**")

    def __lt__(self, other: object) -> NoReturn:
        self._refuse("<")

    __le__ = __gt__ = __ge__ = __lt__

    def __abs__(self) -> NoReturn:
        raise TTTypeError(f"a {type(self).__name__} has no absolute values of its own; take {self._instead['abs']}.")
