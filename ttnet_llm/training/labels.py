"""What labels mean: whether they are classes or numbers, and which class a cell names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from ttnet.errors import TTValueError

KINDS = ("classify", "regress")
_ASK = "say with kind (--kind) whether they are classes (classify) or numbers to predict (regress)"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,300}", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)
_WITH_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


@dataclass(frozen=True)
class Meaning:
    """What the labels of a task are taken as.

    Args:
        names: The classes in the order of their indices; `None` for numbers, which make a regression.
        reason: The same in words, and why.
        several: Whether a text may have several of the classes, or none.
    """

    names: tuple[str, ...] | None
    reason: str
    several: bool = False


def settle(labels: Sequence[Any], path: str, *, kind: str | None = None, typed: bool = True) -> Meaning:
    """Settle what the labels of training data mean.

    Words are classes in alphabetical order, the integers 0, 1, ... are classes in their own order, and decimal numbers
    make a regression. What may be either is refused, unless `kind` says what it is.

    Args:
        labels: The cells.
        path: Where they are from, for messages.
        kind: `"classify"`, `"regress"`, or `None` for a guess.
        typed: Whether strings were written as such, so that numbers in quotes are names.

    Returns:
        Their meaning.

    Raises:
        TTValueError: If it is unclear, or a label is missing or none.

    Example:
        >>> settle(["good", "bad", "good"], "train.csv")
        Meaning(names=('bad', 'good'), reason='2 classes (bad, good), as the labels are words', several=False)
        >>> settle([4.5, 0.0, 2.0], "train.csv").names is None
        True
    """
    check_kind(kind)
    _refuse_unsuitable(labels, path)
    distinct = [label for _, label in dict.fromkeys(map(_typed, labels))]
    kind, why = (kind, "kind says") if kind else _guess(labels, distinct, path, typed)
    if len({key_of(label) for label in distinct}) < 2:
        raise TTValueError(f"The labels of {path!r} are {_some(distinct)}; expected two or more different ones.")
    if kind == "regress":
        numbers = _numbers(labels, path)
        return Meaning(None, f"numbers from {numbers.min():g} to {numbers.max():g} for a regression, as {why}")
    names = _names(distinct, path)
    return Meaning(names, f"{len(names)} classes ({_some(names)}), as {why}")


def encode(labels: Sequence[Any], path: str, names: Sequence[str] | None) -> np.ndarray[Any, np.dtype[Any]]:
    """Turn labels into class indices, or into numbers for a regression.

    A label stands for the class of that name, or else for the one whose name is the same number: 10 and 10.0 for the
    class "10". Only if all names are words, and all labels integers, are they indices.

    Args:
        labels: The cells.
        path: Where they are from, for messages.
        names: The classes; `None` for a regression.

    Returns:
        Shape `(n,)`, int64 indices or float32 numbers.

    Raises:
        TTValueError: If a label is missing or none, unknown, or could be either of two classes.

    Example:
        >>> encode([10, 2, "2"], "test.csv", ["0", "1", "10", "2"]).tolist()
        [2, 3, 3]
        >>> encode([1, 0], "test.csv", ["bad", "good"]).tolist()
        [1, 0]
    """
    _refuse_unsuitable(labels, path)
    if names is None:
        return _numbers(labels, path)
    by_key: dict[Hashable, list[int]] = {}
    for k, name in enumerate(names):
        by_key.setdefault(key_of(name), []).append(k)
    if -1 not in by_key:
        _refuse_missing(_count_marks(labels), labels, path)
    distinct = dict.fromkeys(map(_typed, labels))
    found = {label: _index(label[1], path, names, by_key) for label in distinct}
    if set(found.values()) == {None} and all(isinstance(key, str) for key in by_key):
        positions: dict[Hashable, int] = {k: k for k in range(len(names))}
        found = {label: positions.get(key_of(label[1])) for label in distinct}
    unknown = sorted({str(label) for (_, label), index in found.items() if index is None})
    if unknown:
        raise TTValueError(
            f"{path!r} has the label {_some(unknown)}, which is outside the range of the training labels "
            f"({_some(names)}); correct it, or add examples of it to the training file."
        )
    return np.asarray([found[_typed(label)] for label in labels], dtype=np.int64)


def check_kind(kind: str | None) -> None:
    """Refuse what is no kind of task.

    Args:
        kind: `"classify"`, `"regress"`, or `None` for a guess.

    Raises:
        TTValueError: If it is something else.
    """
    if kind is not None and kind not in KINDS:
        raise TTValueError(f"kind is {kind!r}; expected {KINDS[0]!r}, {KINDS[1]!r}, or None for a guess.")


def key_of(label: Any) -> Hashable:
    """Give what is the same for all ways to write a label.

    Args:
        label: A word or number.

    Returns:
        A number where it is one, or digits for one; a tuple for true or false; otherwise the word.

    Example:
        >>> key_of(10) == key_of("10") == key_of(10.0), key_of(True) == key_of("true") != key_of(1), key_of(" good")
        (True, True, 'good')
    """
    if isinstance(label, bool):
        return ("truth", label)
    if not isinstance(label, str):
        return label if isinstance(label, int) else float(label)
    word = label.strip()
    if word.lower() in ("true", "false"):
        return ("truth", word.lower() == "true")
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _NUMBER.fullmatch(word) and math.isfinite(float(word)) else word


def is_number(label: Any) -> bool:
    """Tell whether a label is a number, or digits for one.

    Args:
        label: A word or number.

    Returns:
        Whether it is.
    """
    return isinstance(key_of(label), int | float)


def _guess(labels: Sequence[Any], distinct: Sequence[Any], path: str, typed: bool) -> tuple[str, str]:
    """Guess what kind of task labels make, and say why; refuse where that would be a gamble."""
    numbers = [label for label in distinct if is_number(label) and not (typed and isinstance(label, str))]
    names = [label for label in distinct if not is_number(label) or (typed and isinstance(label, str))]
    fractions = [label for label in numbers if _has_point(label)]
    if not names:
        values = sorted({float(label) for label in numbers})
        if fractions and values != [0, 1]:  # these two are more often classes, in a column that once had gaps
            return "regress", "the labels are decimal numbers"
        advice = f"use a labelled file, or if -1 is a label, {_ASK}"
        _refuse_missing(_count_marks(labels), labels, path, advice)
        if values == list(range(len(values))):
            return "classify", f"the labels are the integers from 0 to {len(values) - 1}"
        found = _some([int(value) for value in values])
        raise TTValueError(f"The labels of {path!r} are {found}: integers, but not 0, 1, ... without a gap; {_ASK}.")
    if fractions:
        raise TTValueError(
            f"The labels of {path!r} are decimal numbers, such as {fractions[0]}, and words, such as {names[0]!r}; "
            f"correct them, or {_ASK}."
        )
    doubtful = [name for name in names if _WITH_COMMA.fullmatch(str(name)) or (is_number(name) and _has_point(name))]
    if doubtful and all(is_number(name) or name in doubtful for name in names):
        raise TTValueError(
            f"The labels of {path!r}, such as {doubtful[0]!r}, may be names or numbers; write numbers with a point "
            f"and without quotes, or {_ASK}."
        )
    return "classify", f"the labels are {'numbers in quotes' if all(map(is_number, names)) else 'words'}"


def _names(distinct: Sequence[Any], path: str) -> tuple[str, ...]:
    names: dict[Hashable, str] = {}
    for label in distinct:
        name = _name(label)
        if (other := names.setdefault(key_of(label), name)) != name:
            raise TTValueError(
                f"The labels {other!r} and {name!r} of {path!r} are one and the same, written in two ways; "
                "write them in one, or as different words."
            )
    numbers = [key for key in names if isinstance(key, int | float)]
    if len(numbers) == len(names):
        return tuple(names[key] for key in sorted(numbers))
    return tuple(sorted(names.values()))


def _index(label: Any, path: str, names: Sequence[str], by_key: dict[Hashable, list[int]]) -> int | None:
    if isinstance(label, str) and label.strip() in names:
        return names.index(label.strip())
    found = by_key.get(key_of(label), [])
    if len(found) > 1:
        raise TTValueError(
            f"The label {label!r} of {path!r} may be any of the classes {_some([names[k] for k in found])}; write the "
            "class's name as a string in a jsonl file."
        )
    return found[0] if found else None


def _numbers(labels: Sequence[Any], path: str) -> np.ndarray[Any, np.dtype[Any]]:
    for row, label in enumerate(labels, 1):
        if not is_number(label):
            advice = "write decimals with a point" if _WITH_COMMA.fullmatch(str(label)) else "correct it"
            raise TTValueError(
                f"The label in row {row} of {path!r} is {label!r}, no number as a regression needs it; {advice}."
            )
        if not abs(float(label)) <= _LARGEST:
            raise TTValueError(f"The label in row {row} of {path!r} is {label!r}, which is too large for float32.")
    return np.asarray([float(label) for label in labels], dtype=np.float32)


def _refuse_unsuitable(labels: Sequence[Any], path: str) -> None:
    _refuse_missing(
        sum(label is None or (isinstance(label, str) and not label.strip()) for label in labels), labels, path
    )
    for row, label in enumerate(labels, 1):
        if not isinstance(label, str | Number) or not _is_finite(label):
            raise TTValueError(
                f"The label in row {row} of {path!r} is {describe(label)}; expected a word or a finite number."
            )


def _is_finite(label: Any) -> bool:
    try:
        return isinstance(label, str) or math.isfinite(float(label))
    except OverflowError:  # an integer
        return False


def _refuse_missing(count: int, labels: Sequence[Any], path: str, advice: str = "use a labelled file") -> None:
    if count:
        raise TTValueError(f"{count} of {len(labels)} rows of {path!r} have no label (empty or -1); {advice}.")


def _count_marks(labels: Sequence[Any]) -> int:
    """Count the labels that are -1, GLUE's mark in its test splits."""
    return sum(count for (_, label), count in Counter(map(_typed, labels)).items() if key_of(label) == -1)


def describe(cell: Any) -> str:
    """Say what a cell holds, for messages.

    Args:
        cell: Anything.

    Returns:
        Its type and the beginning of what it holds.

    Example:
        >>> describe(["a", "c"])
        "the list ['a', 'c']"
    """
    text = repr(cell)
    return f"the {type(cell).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _typed(label: Any) -> tuple[type, Any]:
    return type(label), label  # as True == 1 == 1.0


def _has_point(label: Any) -> bool:
    return not _INTEGER.fullmatch(label.strip()) if isinstance(label, str) else not isinstance(label, int)


def _name(label: Any) -> str:
    if isinstance(label, str):
        return label.strip()
    return str(int(label)) if not isinstance(label, bool) and label == int(label) else str(label)


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, ..." if len(values) > 8 else shown
