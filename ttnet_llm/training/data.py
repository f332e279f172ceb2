"""Labelled text from files and from GLUE: which columns hold what, and what the labels mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttnet.errors import TTError, TTFileError, TTValueError, import_extra

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
_LABELS = ("label", "labels", "class", "target", "category", "score")


@dataclass(frozen=True)
class Columns:
    """Which columns hold the text (one, or two for sentence pairs) and the label."""

    text: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Split:
    """Labelled text: `texts[k]` is a string or a pair of strings, `labels` has shape `(n,)`."""

    texts: list[str] | list[tuple[str, str]]
    labels: np.ndarray[Any, np.dtype[Any]]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, count: int | None, seed: int) -> Split:
        """Return `count` examples drawn by `seed`, in their old order; all of them for `None`."""
        if count is None or count >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        texts: Any = [self.texts[row] for row in rows]
        return Split(texts, self.labels[rows])


@dataclass(frozen=True)
class TextTask:
    """A task to fine-tune on; `names` holds the classes in the order of their indices, `None` for a regression."""

    train: Split
    validation: Split
    names: tuple[str, ...] | None
    columns: Columns
    measures: tuple[str, ...]


def load_files(
    train: str | Path,
    validation: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    measures: tuple[str, ...] | None = None,
) -> TextTask:
    """Read a task from two files.

    Integer labels are class indices, strings are classes in alphabetical order, and fractions make a regression.

    Args:
        train: A csv, jsonl or parquet file.
        validation: Another, with the same columns.
        text_columns: One or two columns; `None` guesses.
        label_column: The label's column; `None` guesses.
        measures: Keys of `MEASURES`; `None` takes the accuracy, or the correlation of a regression.

    Returns:
        The task.

    Raises:
        TTFileError: If a file is missing, of another kind or malformed.
        TTValueError: If a column is missing or cannot be guessed, or a label is missing or out of range.
    """
    table = read_table(train)
    columns = find_columns(table, train, text_columns, label_column)
    return _task(table, read_table(validation), columns, (str(train), str(validation)), measures=measures)


def load_glue(task: str) -> TextTask:
    """Load a GLUE task from the Hugging Face hub, or from its local cache.

    Args:
        task: A key of `GLUE_TASKS`, such as `"mrpc"`.

    Returns:
        The task, with GLUE's own measures.

    Raises:
        TTValueError: If there is no such task.
        TTError: If the hub cannot be reached and the task is not in the cache.
    """
    if task not in GLUE_TASKS:
        raise TTValueError(f"task is {task!r}; expected one of {', '.join(GLUE_TASKS)}.")
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
    tables = [import_extra("pandas", extra="llm").DataFrame(split[:]) for split in (loaded["train"], validation)]
    names = tuple(feature.names) if hasattr(feature, "names") else None
    columns = Columns(GLUE_TASKS[task], "label")
    return _task(tables[0], tables[1], columns, ("train", "validation"), names=names, measures=GLUE_MEASURES.get(task))


def read_table(path: str | Path) -> Any:
    """Read a csv, jsonl or parquet file, told apart by the suffix.

    Args:
        path: The file.

    Returns:
        A pandas data frame; empty cells of a csv are empty strings where the column holds text.

    Raises:
        TTFileError: If the file is missing, of another kind, malformed or empty.
    """
    pandas = import_extra("pandas", extra="llm")
    path = Path(path)
    readers = {
        # Only empty cells are missing: "NA" and "null" are words in a text.
        ".csv": lambda: pandas.read_csv(path, keep_default_na=False, na_values=[""]),
        ".jsonl": lambda: pandas.read_json(path, lines=True, dtype=False),
        ".parquet": lambda: pandas.read_parquet(path),
    }
    if path.suffix.lower() not in readers:
        raise TTFileError(f"{str(path)!r} is of no known kind; expected a file ending in {', '.join(readers)}.")
    if not path.is_file():
        raise TTFileError(f"There is no file {str(path)!r}; check the path.")
    try:
        table = readers[path.suffix.lower()]()
    except (ValueError, import_extra("pyarrow", extra="llm").ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise TTFileError(f"{str(path)!r} is not a well-formed {path.suffix[1:]} file: {reason}") from error
    if not len(table):
        raise TTFileError(f"{str(path)!r} holds no rows; expected at least one labelled text.")
    return table


def find_columns(
    table: Any, path: str | Path, text_columns: Sequence[str] | None = None, label_column: str | None = None
) -> Columns:
    """Settle which columns hold the text and the label.

    Args:
        table: A data frame.
        path: Where it is from, for messages.
        text_columns: One or two names; `None` guesses.
        label_column: A name; `None` guesses.

    Returns:
        The columns.

    Raises:
        TTValueError: If a named column is missing, or none can be guessed.

    Example:
        >>> import pandas
        >>> find_columns(pandas.DataFrame({"sentence": ["Fine."], "label": [1]}), "train.csv")
        Columns(text=('sentence',), label='label')
    """
    present = [str(name) for name in table.columns]
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise TTValueError(f"text_columns names {len(text_columns)} columns; expected one, or two for sentence pairs.")
    for name in [*(text_columns or ()), *([label_column] if label_column else [])]:
        if name not in present:
            raise TTValueError(f"{str(path)!r} has no column {name!r}; its columns are {', '.join(present)}.")
    label = label_column or next((name for name in _LABELS if name in present), None)
    if label is None:
        raise TTValueError(
            f"{str(path)!r} has no column named {', '.join(_LABELS[:-1])} or {_LABELS[-1]}; say --label-column, "
            f"one of {', '.join(present)}."
        )
    text = tuple(text_columns) if text_columns else _guess_text(table, present, label)
    if not text:
        raise TTValueError(
            f"Which column of {str(path)!r} holds the text is unclear; say --text-column, one of {', '.join(present)}."
        )
    return Columns(text, label)


def to_split(table: Any, columns: Columns, path: str | Path, names: tuple[str, ...] | None) -> Split:
    """Take the texts and encode the labels.

    Args:
        table: A data frame.
        columns: Its columns.
        path: Where it is from, for messages.
        names: The classes, `None` for a regression.

    Returns:
        The split.

    Raises:
        TTValueError: If a column is missing, a text or label is missing, or a label is not among the classes.
    """
    find_columns(table, path, columns.text, columns.label)
    for name in columns.text:
        if missing := int(table[name].isna().sum()):
            raise TTValueError(f"{missing} rows of {str(path)!r} have no text in the column {name!r}; remove them.")
    parts = [table[name].astype(str).tolist() for name in columns.text]
    texts: Any = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
    return Split(texts, _encode(table[columns.label], path, names))


def _task(
    train: Any,
    validation: Any,
    columns: Columns,
    paths: tuple[str, str],
    names: tuple[str, ...] | None = None,
    measures: tuple[str, ...] | None = None,
) -> TextTask:
    if names is None:
        names = _classes(train[columns.label], paths[0])
    splits = (to_split(train, columns, paths[0], names), to_split(validation, columns, paths[1], names))
    return TextTask(*splits, names, columns, measures or (("accuracy",) if names else ("pearson",)))


def _guess_text(table: Any, present: list[str], label: str) -> tuple[str, ...]:
    for pair in _PAIRS:
        if set(pair) <= set(present):
            return pair
    for name in _SINGLES:
        if name in present:
            return (name,)
    textual = tuple(name for name in present if name != label and isinstance(table[name].iloc[0], str))
    return textual if len(textual) == 1 else ()  # with two, it is anyone's guess whether they are a pair


def _classes(labels: Any, path: str) -> tuple[str, ...] | None:
    """The classes that training labels show; None where they are fractions."""
    _refuse_unlabelled(labels, path)
    values = sorted(set(labels.tolist()), key=lambda value: (isinstance(value, str), value))
    if any(isinstance(value, str) for value in values):
        return tuple(str(value) for value in values)
    if any(float(value) != int(value) for value in values):
        return None
    if values != list(range(len(values))) or len(values) < 2:
        raise TTValueError(
            f"The labels of {path!r} are {_some(values)}; expected two or more integers 0, 1, ... without a gap; "
            "renumber them, or write them as words."
        )
    return tuple(str(int(value)) for value in values)


def _encode(labels: Any, path: str | Path, names: tuple[str, ...] | None) -> np.ndarray[Any, np.dtype[Any]]:
    if names is None:
        _refuse_unlabelled(labels, path, below_zero=False)
        return np.asarray(labels, dtype=np.float32)
    _refuse_unlabelled(labels, path)
    # A file holds either the classes' names or their indices.
    index: dict[Any, int] = {name: k for k, name in enumerate(names)} | {k: k for k in range(len(names))}
    unknown = sorted({str(value) for value in labels.tolist() if value not in index})
    if unknown:
        raise TTValueError(
            f"{str(path)!r} has the label {_some(unknown)}, which is outside the range of the training labels "
            f"({_some(names)}); correct it, or add examples of it to the training file."
        )
    return np.asarray([index[value] for value in labels.tolist()], dtype=np.int64)


def _refuse_unlabelled(labels: Any, path: str | Path, *, below_zero: bool = True) -> None:
    missing = labels.isna() | (labels.astype(str) == "")
    if below_zero and labels.dtype.kind in "if" and not (labels.dropna() % 1).any():
        missing |= labels == -1  # GLUE's mark in its test splits
    if count := int(missing.sum()):
        raise TTValueError(
            f"{count} of {len(labels)} rows of {str(path)!r} have no label (empty or -1); use a labelled file."
        )


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, ..." if len(values) > 8 else shown
