"""Reading the equation of a contraction, as letters or as integers, and checking shapes against it."""

import operator
from collections import Counter
from collections.abc import Sequence

from ttnet.errors import TTShapeError, TTTypeError, TTValueError

# Indices of one tensor, in the order of its dimensions.
Term = tuple[int, ...]
Shape = tuple[int, ...]
# Letters, "ij,jk->ik", or integers, ([(0, 1), (1, 2)], (0, 2)).
Equation = str | tuple[Sequence[Sequence[int]], Sequence[int]]

_HOW_TO = "a string such as 'ij,jk->ik', or a pair of integer terms such as ([(0, 1), (1, 2)], (0, 2))"


def hashable(equation: Equation) -> Equation:
    """Turn the sequences of an integer equation into tuples, so that it can be the key of a cache."""
    if isinstance(equation, str):
        return equation
    try:
        inputs, output = equation
        return tuple(tuple(map(operator.index, term)) for term in inputs), tuple(map(operator.index, output))
    except (TypeError, ValueError):
        raise TTTypeError(f"equation is {equation!r}; expected {_HOW_TO}.") from None


def parse(equation: Equation) -> tuple[tuple[Term, ...], Term, str]:
    """Read a hashable equation into integer inputs, an integer output, and the letters to print them with."""
    if isinstance(equation, str):
        inputs, output, letters = _parse_letters(equation)
    else:
        inputs, output, letters = tuple(map(tuple, equation[0])), tuple(equation[1]), ""
    if not inputs:
        raise TTValueError("equation has no operands; expected at least one term of indices.")
    known = set().union(*inputs)
    for index, count in Counter(output).items():
        if count > 1:
            raise TTValueError(
                f"index {_name(index, letters)} occurs {count} times in the output; expected at most once."
            )
        if index not in known:
            raise TTValueError(
                f"index {_name(index, letters)} of the output is in none of the operands "
                f"{written(inputs, letters)}; give it to an operand or leave it out."
            )
    return inputs, output, letters


def _parse_letters(equation: str) -> tuple[tuple[Term, ...], Term, str]:
    text = "".join(equation.split())
    if "." in text:
        raise TTValueError(
            f"equation {equation!r} has an ellipsis; name every index, as a plan is made for known shapes."
        )
    left, arrow, right = text.partition("->")
    # Beyond ASCII any symbol will do: opt_einsum.get_symbol(75) is a multiplication sign.
    alien = next((x for x in left.replace(",", "") + right if x.isascii() and not x.isalpha()), None)
    if alien is not None:
        raise TTValueError(f"equation {equation!r} has {alien!r} for an index; expected {_HOW_TO}.")
    letters = "".join(dict.fromkeys(left.replace(",", "") + right))
    if not arrow:
        counts = Counter(left.replace(",", ""))
        right = "".join(sorted(letter for letter, count in counts.items() if count == 1))
    inputs = tuple(tuple(map(letters.index, term)) for term in left.split(","))
    return inputs, tuple(map(letters.index, right)), letters


def index_sizes(inputs: tuple[Term, ...], shapes: tuple[Shape, ...], letters: str) -> dict[int, int]:
    """Give the size of every index, or say which operands disagree."""
    if len(shapes) != len(inputs):
        raise TTShapeError(
            f"{len(shapes)} shapes were given; expected {len(inputs)}, one for each operand of "
            f"{written(inputs, letters)}."
        )
    first_use: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for number, (term, shape) in enumerate(zip(inputs, shapes, strict=True)):
        if len(term) != len(shape):
            raise TTShapeError(
                f"operand {number} has shape {shape}, of {len(shape)} dimensions; expected {len(term)}, one "
                f"for each index of {written([term], letters)!r}."
            )
        for index, size in zip(term, shape, strict=True):
            if sizes.setdefault(index, size) != size:
                raise TTShapeError(
                    f"index {_name(index, letters)} has size {sizes[index]} in operand {first_use[index]} and "
                    f"size {size} in operand {number}; expected one size, as nothing is broadcast."
                )
            first_use.setdefault(index, number)
    return sizes


def as_shape(number: int, shape: Sequence[int]) -> Shape:
    """Turn the shape of an operand into a tuple of integers."""
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        raise TTTypeError(
            f"shape {number} is a {type(shape).__name__}; expected a sequence of integers such as tensor.shape."
        ) from None
    if min(sizes, default=0) < 0:
        raise TTShapeError(f"shape {number} is {sizes}; expected sizes of at least 0.")
    return sizes


def written(terms: Sequence[Term], letters: str) -> str:
    """Write terms as their author would, `ij,jk` or `(0 1),(1 2)`."""
    if letters:
        return ",".join("".join(letters[index] for index in term) for term in terms)
    return ",".join(f"({' '.join(map(str, term))})" for term in terms)


def _name(index: int, letters: str) -> str:
    return repr(letters[index]) if letters else str(index)
