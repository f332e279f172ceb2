"""Choices and the right one of them, from the cells of tables."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from typing import Any

from ttnet.errors import TTValueError
from ttnet_llm.training.labels import describe

PROMPTS = ("question", "prompt", "query", "text", "sentence")
CHOICES = ("choices", "options", "endings")
RIGHT = ("answer", "label", "correct", "target")


def read_choices(cell: Any, row: int, path: str) -> list[str]:
    """Read choices from a cell: a list of texts or numbers, or its JSON.

    Args:
        cell: What the cell holds.
        row: Its row, for messages.
        path: Where it is from, for messages.

    Returns:
        The choices.

    Raises:
        TTValueError: If it is none, or there are fewer than two, or two alike.

    Example:
        >>> read_choices('["yes", "no"]', 1, "a.csv")
        ['yes', 'no']
    """
    given = cell
    if isinstance(cell, str):
        try:
            given = json.loads(cell)
        except ValueError:
            given = None
    fits = isinstance(given, list) and all(
        isinstance(each, str | int | float) and not isinstance(each, bool) for each in given
    )
    if not fits:
        raise TTValueError(
            f"Row {row} of {path!r} holds {describe(cell)} where choices should be; write a list of texts, such as "
            '["yes", "no"], in a csv as JSON.'
        )
    choices = [str(each).strip() for each in given]
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise TTValueError(f"Row {row} of {path!r} has the choices {choices}; write at least two, each another.")
    return choices


def read_right(cell: Any, choices: Sequence[str], row: int, path: str, *, typed: bool = True) -> int:
    """Read which choice is the right one: its text, its number from 0, or its letter from A.

    Args:
        cell: What the cell holds.
        choices: The choices.
        row: Its row, for messages.
        path: Where it is from, for messages.
        typed: Whether the file tells texts from numbers, so that digits in quotes are a text if there is such a choice.

    Returns:
        The index.

    Raises:
        TTValueError: If it is none of them, or may be one or another.

    Example:
        >>> [read_right(cell, ["yes", "no"], 1, "a.jsonl") for cell in ("no", 1, "B", "1")]
        [1, 1, 1, 1]
    """
    word = str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()
    by_text = choices.index(word) if word in choices else None
    by_place = None
    if not isinstance(cell, bool) and word.isdecimal():
        by_place = int(word)
    elif len(word) == 1 and word in string.ascii_uppercase:
        by_place = string.ascii_uppercase.index(word)
    if by_place is not None and by_place >= len(choices):
        by_place = None
    if isinstance(cell, str) and typed and by_text is not None:
        by_place = None
    found = {place for place in (by_text, by_place) if place is not None}
    if not found:
        raise TTValueError(
            f"Row {row} of {path!r} says that {describe(cell)} is right, of the choices {', '.join(choices)}; write "
            "one of them, or its number, from 0."
        )
    if len(found) > 1:
        raise TTValueError(
            f"Row {row} of {path!r} says that {word} is right, which is both the text of a choice and the place of "
            f"another, of {', '.join(choices)}; write texts in quotes, in a jsonl or parquet file."
        )
    return found.pop()
