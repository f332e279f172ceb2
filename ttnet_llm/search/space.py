"""What may be tried: for every name the values that it may take, and each of them as a coordinate for the engines.

Coordinates are integers from 0 to below `size` where there are so many values, and numbers in [0, 1] where `size` is
`None`. `ordered` says whether neighbours are alike.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttnet.errors import TTTypeError, TTValueError

Point = dict[str, Any]  # a value for every name
_DIGITS = 3  # of a number from a `Log`: a history can be read, and nothing is tried again a hair's breadth away


@dataclass(frozen=True, init=False)
class Choice:
    """Some values.

    Args:
        *values: Texts, numbers, `True`, `False` or `None`, at least one, each once. Numbers that grow count as ordered.

    Raises:
        TTTypeError: If a value is of another type.
        TTValueError: If there is none, or one twice.

    Example:
        >>> Choice(0.0, 0.1).ordered, Choice("linear", "cosine").ordered
        (True, False)
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        for value in values:
            if not isinstance(value, str | int | float | None) or value != value:
                raise TTTypeError(
                    f"Choice was given {value!r}; expected texts, numbers, True, False or None, which a file can hold."
                )
        if not values or len(set(map(_key, values))) < len(values):
            raise TTValueError(f"Choice was given {values}; expected at least one value, and each once.")
        object.__setattr__(self, "values", values)

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    @property
    def ordered(self) -> bool:
        """Whether the values are numbers that grow."""
        return all(isinstance(value, int | float) for value in self.values) and list(self.values) == sorted(self.values)

    def value(self, coordinate: float) -> Any:
        """Give the value at an index.

        Args:
            coordinate: From 0 to below `size`; it is rounded.

        Returns:
            The value there.
        """
        return self.values[round(coordinate)]

    def coordinate(self, value: Any) -> float:
        """Give the index of a value; a `ValueError` if there is none.

        Args:
            value: One of those that may be tried.

        Returns:
            Where it is, so that `value` gives it back.
        """
        return list(map(_key, self.values)).index(_key(value))

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"


@dataclass(frozen=True)
class Whole:
    """All integers from one to another.

    Args:
        low: The smallest.
        high: The largest, at least `low`.

    Raises:
        TTTypeError: If one is no integer.
        TTValueError: If `high` is below `low`.

    Example:
        >>> Whole(2, 16).size
        15
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if any(isinstance(bound, bool) or not isinstance(bound, int) for bound in (self.low, self.high)):
            raise TTTypeError(f"{self} was asked for; expected two integers.")
        if self.high < self.low:
            raise TTValueError(f"{self} was asked for; expected the smaller number first.")

    @property
    def size(self) -> int:
        """How many integers there are."""
        return self.high - self.low + 1

    @property
    def ordered(self) -> bool:
        """That they are."""
        return True

    def value(self, coordinate: float) -> int:
        """Give the integer at an index.

        Args:
            coordinate: From 0 to below `size`; it is rounded.

        Returns:
            The integer there.
        """
        return self.low + round(coordinate)

    def coordinate(self, value: Any) -> float:
        """Give the index of an integer; a `ValueError` if there is none.

        Args:
            value: One of those that may be tried.

        Returns:
            Where it is, so that `value` gives it back.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise ValueError
        return value - self.low

    def __repr__(self) -> str:
        return f"Whole({self.low}, {self.high})"


@dataclass(frozen=True)
class Log:
    """All numbers from one to another, where factors count and not differences, as with learning rates.

    Numbers are rounded to three digits.

    Args:
        low: The smallest, above 0.
        high: The largest, above `low` and finite.

    Raises:
        TTTypeError: If one is no number.
        TTValueError: If they are not so.

    Example:
        >>> Log(1e-4, 1e-1).value(0.5)
        0.00316
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in (self.low, self.high)):
            raise TTTypeError(f"{self} was asked for; expected two numbers.")
        if not 0 < self.low < self.high < math.inf:
            raise TTValueError(f"{self} was asked for; expected two numbers above 0, the smaller one first.")

    @property
    def size(self) -> None:
        """That they are not counted."""
        return

    @property
    def ordered(self) -> bool:
        """That they are."""
        return True

    def value(self, coordinate: float) -> float:
        """Give the number at a coordinate in [0, 1].

        Args:
            coordinate: A number in [0, 1].

        Returns:
            The number there.
        """
        exact = math.exp(math.log(self.low) + coordinate * (math.log(self.high) - math.log(self.low)))
        return min(max(float(f"{exact:.{_DIGITS}g}"), float(self.low)), float(self.high))

    def coordinate(self, value: Any) -> float:
        """Give the coordinate of a number; a `ValueError` if it is outside.

        Args:
            value: One of those that may be tried.

        Returns:
            Where it is, so that `value` gives it back.
        """
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError
        return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    def __repr__(self) -> str:
        return f"Log({self.low!r}, {self.high!r})"


Dimension = Choice | Whole | Log


class Space:
    """Names and what each of them may be.

    Args:
        dimensions: A `Choice`, `Whole` or `Log` by each name, at least one.

    Raises:
        TTTypeError: If something else is given.
        TTValueError: If nothing is.

    Example:
        >>> space = Space({"learning_rate": Log(1e-4, 1e-1), "r": Choice(2, 4, 8), "tt_rank": Whole(2, 16)})
        >>> print(space)
        learning_rate: Log(0.0001, 0.1)
        r: Choice(2, 4, 8)
        tt_rank: Whole(2, 16)
        >>> space.middle
        {'learning_rate': 0.00316, 'r': 4, 'tt_rank': 9}
    """

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        for name, dimension in dimensions.items():
            if not isinstance(dimension, Dimension):
                raise TTTypeError(f"The space says {name} is {dimension!r}; expected a Choice, Whole or Log.")
        if not dimensions:
            raise TTValueError("The space is empty; expected a Choice, Whole or Log by at least one name.")
        self.dimensions = dict(dimensions)

    @property
    def size(self) -> int | None:
        """How many points there are; `None` where a `Log` is among the dimensions."""
        sizes = [dimension.size for dimension in self.dimensions.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @property
    def middle(self) -> Point:
        """The point in the middle of every dimension."""
        return self.at([0.5 if d.size is None else (d.size - 1) // 2 for d in self.dimensions.values()])

    def at(self, coordinates: list[float]) -> Point:
        """Give the point at coordinates, one for each name.

        Args:
            coordinates: As the dimensions' `value` take them.

        Returns:
            A value for every name.
        """
        pairs = zip(self.dimensions.items(), coordinates, strict=True)
        return {name: dimension.value(coordinate) for (name, dimension), coordinate in pairs}

    def coordinates(self, point: Mapping[str, Any]) -> list[float]:
        """Find a point.

        Args:
            point: A value for each name.

        Returns:
            Its coordinates.

        Raises:
            TTValueError: If a name is missing or unknown, or a value is not in the space.

        Example:
            >>> Space({"r": Choice(2, 4, 8)}).coordinates({"r": 8})
            [2]
        """
        if set(point) != set(self.dimensions):
            raise TTValueError(f"The point names {', '.join(point)}; the space has {', '.join(self.dimensions)}.")
        found = []
        for name, dimension in self.dimensions.items():
            try:
                found.append(dimension.coordinate(point[name]))
            except ValueError as error:
                raise TTValueError(f"{name} is {point[name]!r}; expected a value from {dimension!r}.") from error
        return found

    def draw(self, rng: random.Random) -> Point:
        """Draw a point, uniformly in its coordinates.

        Args:
            rng: What draws.

        Returns:
            A value for every name.
        """
        return self.at([rng.random() if d.size is None else rng.randrange(d.size) for d in self.dimensions.values()])

    def nth(self, number: int) -> Point:
        """Give one of all points; only where `size` is not `None`.

        Args:
            number: From 0 to below `size`.

        Returns:
            The point.

        Example:
            >>> Space({"r": Choice(2, 4, 8), "dropout": Choice(0.0, 0.1)}).nth(5)
            {'r': 8, 'dropout': 0.1}
        """
        coordinates: list[float] = []
        for dimension in reversed(self.dimensions.values()):
            number, coordinate = divmod(number, dimension.size or 1)
            coordinates.insert(0, coordinate)
        return self.at(coordinates)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {dimension!r}" for name, dimension in self.dimensions.items())


def key_of(point: Mapping[str, Any]) -> str:
    """Give a text that is the same for equal points only, whatever the order of their names.

    Args:
        point: A value for each name.

    Returns:
        The text.

    Example:
        >>> key_of({"r": 2, "dropout": 0.0})
        '{"dropout": 0.0, "r": 2}'
    """
    return json.dumps(dict(point), sort_keys=True)


def _key(value: Any) -> str:
    return json.dumps(value)  # which tells 1, 1.0 and True apart
