"""Labelled text from files and from GLUE: which columns hold what, and what the labels mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from ttnet.errors import TTError, TTFileError, TTValueError, import_extra
from ttnet.near import near
from ttnet_llm.training.details import Columns
from ttnet_llm.training.labels import Meaning, describe, is_number
from ttnet_llm.training.metrics import MEASURES, MEASURES_OF_SEVERAL
from ttnet_llm.training.several import cells_of, encode_labels, settle_labels
from ttnet_llm.training.tables import Table, read_table

logger = logging.getLogger(__name__)

GLUE_ID = "nyu-mll/glue"
# The text columns of each GLUE task; the label column is always "label".
GLUE_TASKS: dict[str, tuple[str, ...]] = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
GLUE_MEASURES = {
    "cola": ("matthews", "accuracy"),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson",),
}

_PAIRS = [*(c for c in GLUE_TASKS.values() if len(c) == 2), ("text", "text_pair"), ("text1", "text2")]
_SINGLES = ("text", "sentence", "content", "document", "review", "question")
_SURROGATE = re.compile("[\ud800-\udfff]")
LABELS = ("label", "labels", "class", "target", "category", "score")


@dataclass(frozen=True)
class Split:
    """Labelled text: `texts[k]` is a string or a pair of strings.

    `labels` has shape `(n,)`, or `(n, classes)` where a text may have several of them.
    """

    texts: list[str] | list[tuple[str, str]]
    labels: np.ndarray[Any, np.dtype[Any]]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, count: int | None, seed: int) -> Split:
        """Return `count` examples drawn by `seed`, in their old order; all of them for `None`."""
        if count is None or count >= len(self):
            return self
        return self.pick(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]).tolist())

    def pick(self, rows: Sequence[int]) -> Split:
        """Return some of the examples, in the given order."""
        texts: Any = [self.texts[row] for row in rows]
        return Split(texts, self.labels[np.asarray(rows, dtype=np.int64)])

    def key(self, row: int) -> Hashable:
        """Give what makes two examples the same input: their text."""
        return self.texts[row]


@dataclass(frozen=True)
class TextTask:
    """A task to fine-tune on; `names` holds the classes in the order of their indices, `None` for a regression.

    `taken_as` says in words what the labels are, and why.

    Example:
        >>> task = load_files("reviews.jsonl", "reviews.jsonl")  # of texts that "encoder" reads
        >>> task.names, task.measures, len(task.train.labels)
        (('bad', 'good'), ('accuracy',), 24)
    """

    train: Split
    validation: Any  # a Split, or None where a part of the others is held out
    names: tuple[str, ...] | None
    columns: Columns
    measures: tuple[str, ...]
    taken_as: str


def load_files(
    train: str | Path,
    validation: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    kind: str | None = None,
    encoding: str | None = None,
    measures: tuple[str, ...] | None = None,
    label_separator: str | None = None,
) -> TextTask:
    """Read a task from two files.

    The integers 0, 1, ... and words are classes, and decimal numbers make a regression, unless `kind` says otherwise.

    Args:
        train: A csv, jsonl or parquet file.
        validation: Another, with the same columns.
        text_columns: One or two columns; `None` guesses.
        label_column: The label's column; `None` guesses.
        kind: `"classify"`, `"regress"`, or `None` for a guess.
        encoding: Codec of csv and jsonl files; `None` takes UTF-8, or what a byte-order mark says.
        measures: Keys of `MEASURES`; `None` takes the accuracy, or the correlation of a regression, or of texts with
            several labels all of `MEASURES_OF_SEVERAL`.
        label_separator: What stands between the labels of a cell; `None` takes a cell for one label, or a list.

    Returns:
        The task.

    Raises:
        TTFileError: If a file is missing, of another kind or codec, or malformed.
        TTValueError: If a column is missing or cannot be guessed, a label is missing or out of range, what the labels
            are is unclear, or the measures are none for them.

    Example:
        >>> task = load_files("reviews.jsonl", "reviews.jsonl", text_columns=["text"])  # of texts that "encoder" reads
        >>> task.names, task.taken_as
        (('bad', 'good'), '2 classes (bad, good), as the labels are words')
    """
    return make_task(
        read_table(train, encoding=encoding),
        read_table(validation, encoding=encoding),
        text_columns=text_columns,
        label_column=label_column,
        kind=kind,
        measures=measures,
        label_separator=label_separator,
    )


def make_task(
    train: Table,
    validation: Table | None,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    kind: str | None = None,
    measures: tuple[str, ...] | None = None,
    label_separator: str | None = None,
) -> TextTask:
    """Take a task from tables, as `load_files` does from files.

    Args:
        train: The training data.
        validation: The validation data; `None` leaves them out.
        text_columns: As for `load_files`.
        label_column: As for `load_files`.
        kind: As for `load_files`.
        measures: As for `load_files`.
        label_separator: As for `load_files`.

    Returns:
        The task.

    Raises:
        TTValueError: As for `load_files`.
    """
    columns = find_columns(train, text_columns, label_column)
    labels = cells_of(train, columns.label or "", label_separator)
    meaning = settle_labels(labels, train.path, kind=kind, typed=train.typed, separator=label_separator)
    logger.info("The labels of %r are taken as %s.", train.path, meaning.reason)
    return _task(train, validation, columns, meaning, measures, label_separator)


def load_glue(task: str) -> TextTask:
    """Load a GLUE task from the Hugging Face hub, or from its local cache.

    Args:
        task: A key of `GLUE_TASKS`, such as `"mrpc"`.

    Returns:
        The task, with GLUE's own measures.

    Raises:
        TTValueError: If there is no such task.
        TTError: If the hub cannot be reached and the task is not in the cache.

    Example:
        >>> try:
        ...     load_glue("mrcp")
        ... except TTValueError as error:
        ...     print(error)
        task is 'mrcp'; did you mean 'mrpc'? expected one of cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli.
    """
    if task not in GLUE_TASKS:
        raise TTValueError(f"task is {task!r}; {near(task, GLUE_TASKS)}expected one of {', '.join(GLUE_TASKS)}.")
    datasets = import_extra("datasets", extra="llm")
    try:
        loaded = datasets.load_dataset(GLUE_ID, task)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise TTError(
            f"The task {task!r} is neither in the local cache nor can it be fetched from the hub ({GLUE_ID}); "
            "name files with --train and --validation instead."
        ) from error
    validation = loaded["validation_matched" if task == "mnli" else "validation"]
    feature = validation.features["label"]
    tables = [Table(name, split[:]) for name, split in (("train", loaded["train"]), ("validation", validation))]
    columns = Columns(GLUE_TASKS[task], "label")
    names = tuple(feature.names) if hasattr(feature, "names") else None
    kind = "numbers for a regression" if names is None else f"{len(names)} classes ({', '.join(names)})"
    meaning = Meaning(names, f"{kind}, as the task says")
    return _task(tables[0], tables[1], columns, meaning, GLUE_MEASURES.get(task))


def load_hub(name: str) -> dict[str, Table]:
    """Load a data set from the Hugging Face hub, or from its local cache.

    Args:
        name: Its id, such as `"owner/reviews"`.

    Returns:
        `train`, and `validation` if it has such a split; classes by their names.

    Raises:
        TTFileError: If there is none of that name, or it has no training split.
    """
    datasets = import_extra("datasets", extra="llm")
    try:
        loaded = datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise TTFileError(
            f"{name!r} is neither a file or a folder, nor a data set that is in the local cache or can be fetched from "
            "the hub; check the path."
        ) from error
    splits = [split for split in ("train", "validation") if split in loaded]
    if "train" not in splits:
        raise TTFileError(f"The data set {name!r} has no split 'train' but {', '.join(loaded)}; save one as a file.")
    logger.info("%r is read from the hub or its cache: %s.", name, " and ".join(splits))
    return {split: Table(f"{name} ({split})", _named(loaded[split])) for split in splits}


def _named(split: Any) -> dict[str, list[Any]]:
    """Give the columns of a split, with classes by their names instead of their indices."""
    columns = dict(split[:])
    for name, feature in split.features.items():
        if hasattr(feature, "int2str"):
            columns[name] = [None if k is None or k < 0 else feature.int2str(k) for k in columns[name]]
        elif hasattr(getattr(feature, "feature", None), "int2str"):  # lists of classes
            columns[name] = [None if cell is None else feature.feature.int2str(cell) for cell in columns[name]]
    return columns


def find_columns(table: Table, text_columns: Sequence[str] | None = None, label_column: str | None = None) -> Columns:
    """Settle which columns hold the text and the label.

    Args:
        table: The table.
        text_columns: One or two names; `None` guesses.
        label_column: A name; `None` guesses.

    Returns:
        The columns.

    Raises:
        TTValueError: If a named column is missing, or none can be guessed.

    Example:
        >>> find_columns(Table("train.csv", {"sentence": ["Fine."], "label": [1]}))
        Columns(text=('sentence',), label='label', prompt=None, completion=None, messages=None, choices=None)
    """
    present = list(table.columns)
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise TTValueError(f"text_columns names {len(text_columns)} columns; expected one, or two for sentence pairs.")
    for name in [*(text_columns or ()), *([label_column] if label_column else [])]:
        if name not in present:
            raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(present)}.")
    label = label_column or next((name for name in LABELS if name in present), None)
    if label is None:
        raise TTValueError(
            f"{table.path!r} has no column named {', '.join(LABELS[:-1])} or {LABELS[-1]}; say --label-column, "
            f"one of {', '.join(present)}."
        )
    text = tuple(text_columns) if text_columns else guess_text(table, label)
    if not text:
        raise TTValueError(
            f"Which column of {table.path!r} holds the text is unclear; say --text-column, one of {', '.join(present)}."
        )
    return Columns(text, label)


def is_labelled(table: Table, label_column: str | None = None) -> bool:
    """Tell whether a table has labels: in a column that the user names, or one of a usual name."""
    return label_column is not None or any(name in table.columns for name in LABELS)


def to_split(table: Table, columns: Columns, meaning: Meaning, label_separator: str | None = None) -> Split:
    """Take the texts and encode the labels.

    Args:
        table: The table.
        columns: Its columns.
        meaning: What the labels are.
        label_separator: What stands between the labels of a cell, if anything does.

    Returns:
        The split.

    Raises:
        TTValueError: If a column is missing, a text or label is missing or none, or a label is not among the classes.
    """
    columns = find_columns(table, columns.text, columns.label)
    parts = [take_texts(table, name) for name in columns.text]
    texts: Any = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
    labels = cells_of(table, columns.label or "", label_separator)
    return Split(texts, encode_labels(labels, table.path, meaning))


def _task(
    train: Table,
    validation: Table | None,
    columns: Columns,
    meaning: Meaning,
    measures: tuple[str, ...] | None,
    label_separator: str | None = None,
) -> TextTask:
    offered: tuple[str, ...] = tuple(name for name in MEASURES if (name == "pearson") == (meaning.names is None))
    usual: tuple[str, ...] = ("pearson",) if meaning.names is None else ("accuracy",)
    if meaning.several:
        offered = usual = tuple(MEASURES_OF_SEVERAL)
    if unfit := [name for name in measures or () if name not in offered]:
        raise TTValueError(f"measures names {unfit[0]!r}, but the labels are {meaning.reason}; name another.")
    split = (to_split(table, columns, meaning, label_separator) for table in (train, validation) if table is not None)
    return TextTask(next(split), next(split, None), meaning.names, columns, measures or usual, meaning.reason)


def take_texts(table: Table, name: str) -> list[str]:
    """Take a column of texts.

    Args:
        table: The table.
        name: The column.

    Returns:
        The texts; numbers as they are written.

    Raises:
        TTValueError: If a cell is missing, or no text.
    """
    cells = table.cells(name)
    if missing := sum(cell is None for cell in cells):
        raise TTValueError(f"{missing} rows of {table.path!r} have no text in the column {name!r}; remove them.")
    for row, cell in enumerate(cells, 1):
        if not isinstance(cell, str | Number):
            raise TTValueError(
                f"Row {row} of {table.path!r} holds {describe(cell)} in the column {name!r}; expected a text."
            )
        if isinstance(cell, str) and _SURROGATE.search(cell):
            raise TTValueError(f"Row {row} of {table.path!r} holds half a character in the column {name!r}; mend it.")
    return [str(cell) for cell in cells]


def guess_text(table: Table, label: str) -> tuple[str, ...]:
    """Guess by names and contents which columns hold the text.

    Args:
        table: The table.
        label: The column that does not.

    Returns:
        One column, or two for pairs; none if it is unclear.
    """
    for pair in _PAIRS:
        if set(pair) <= set(table.columns):
            return pair
    for name in _SINGLES:
        if name in table.columns:
            return (name,)
    firsts = {name: table.cells(name, 1)[0] for name in table.columns if name != label}
    textual = tuple(
        name for name, cell in firsts.items() if isinstance(cell, str) and (table.typed or not is_number(cell))
    )
    return textual if len(textual) == 1 else ()  # with two, it is anyone's guess whether they are a pair
