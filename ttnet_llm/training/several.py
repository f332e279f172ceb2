"""Labels of texts that may have several at once, beside those of texts that have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttnet.errors import TTValueError
from ttnet_llm.training.labels import Meaning, check_kind, describe, encode, settle
from ttnet_llm.training.tables import Table

PROBLEM = "multi_label_classification"  # what transformers calls it


def cells_of(table: Table, column: str, separator: str | None = None) -> list[Any]:
    """Take the cells of labels.

    Args:
        table: The table.
        column: The labels' column.
        separator: What stands between the labels of a cell; `None` leaves all cells as they are.

    Returns:
        The cells, as lists where there is a separator: of an empty cell an empty one.

    Example:
        >>> cells_of(Table("a.csv", {"label": ["red; round", "red", None]}), "label", ";")
        [['red', 'round'], ['red'], []]
    """
    cells = table.cells(column)
    return cells if separator is None else [_split(cell, separator) for cell in cells]


def _split(cell: Any, separator: str) -> Any:
    if isinstance(cell, str):
        return [part.strip() for part in cell.split(separator) if part.strip()]
    return [] if cell is None else cell if isinstance(cell, list) else [cell]


def settle_labels(
    labels: Sequence[Any], path: str, *, kind: str | None = None, typed: bool = True, separator: str | None = None
) -> Meaning:
    """Settle what the labels of training data mean, one of a text or several.

    Args:
        labels: The cells: words and numbers, or lists of them.
        path: Where they are from, for messages.
        kind: `"classify"`, `"regress"`, or `None` for a guess.
        typed: Whether strings were written as such, so that numbers in quotes are names.
        separator: What made the lists, if the file has none.

    Returns:
        Their meaning.

    Raises:
        TTValueError: If it is unclear, or a label is missing or none.

    Example:
        >>> settle_labels([["red", "round"], [], ["red"]], "train.jsonl").reason
        '2 classes (red, round), of which a text may have several, as the labels are lists'
    """
    check_kind(kind)
    if not any(isinstance(cell, list) for cell in labels):
        return settle(labels, path, kind=kind, typed=typed)
    if kind == "regress":
        raise TTValueError(
            f"The labels of {path!r} are lists, which make no regression; say --kind classify, or name another column."
        )
    meaning = settle(_flat(labels, path), path, kind="classify")
    classes = meaning.reason.removesuffix(", as kind says")
    why = "the labels are lists" if separator is None else f"{separator!r} stands between the labels of a cell"
    return Meaning(meaning.names, f"{classes}, of which a text may have several, as {why}", several=True)


def encode_labels(labels: Sequence[Any], path: str, meaning: Meaning) -> NDArray[Any]:
    """Turn labels into what a model learns.

    Args:
        labels: The cells.
        path: Where they are from, for messages.
        meaning: What they are.

    Returns:
        Class indices or numbers, shape `(n,)`; or of texts with several labels 1 for those that they have and 0 for the
        others, float32, shape `(n, classes)`.

    Raises:
        TTValueError: If a label is missing, none or unknown.

    Example:
        >>> encode_labels([["b"], [], ["b", "a"]], "a.jsonl", Meaning(("a", "b"), "", several=True)).tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    if not meaning.several:
        return encode(labels, path, meaning.names)
    indices = encode(_flat(labels, path), path, meaning.names)
    rows = np.repeat(np.arange(len(labels)), [len(cell) for cell in labels])
    encoded = np.zeros((len(labels), len(meaning.names or ())), dtype=np.float32)
    encoded[rows, indices] = 1
    return encoded


def _flat(labels: Sequence[Any], path: str) -> list[Any]:
    """Give the labels of all texts, one after the other."""
    for row, cell in enumerate(labels, 1):
        if not isinstance(cell, list) or not all(isinstance(label, str | int) and label != "" for label in cell):
            raise TTValueError(
                f"Row {row} of {path!r} holds {describe(cell)} where a list of labels should be; write lists of words "
                "in all rows, an empty one for a text without labels, or say in training what stands between the "
                "labels of a cell with label_separator (--label-separator)."
            )
    return [label for cell in labels for label in cell]
