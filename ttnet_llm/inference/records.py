"""Inputs from files, and files with what a model made of them, written as it comes."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.files import atomic
from ttnet_llm.training.choices import Question
from ttnet_llm.training.data import LABELS, guess_text, take_texts
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.causal import CHATS, PAIRS
from ttnet_llm.training.kinds.chats import read_turns
from ttnet_llm.training.kinds.choices import take
from ttnet_llm.training.kinds.seq2seq import SOURCES
from ttnet_llm.training.kinds.tokens import WORDS
from ttnet_llm.training.tables import Table

logger = logging.getLogger(__name__)

KINDS = (".csv", ".jsonl")


def take_inputs(table: Table, kind: str, *, asked: Sequence[str] = (), trained: Columns | None = None) -> list[Any]:
    """Take what a model is to work on from a table.

    Args:
        table: The table; it need not have labels.
        kind: The `kind` of the `Predictor`.
        asked: The columns that the user names: one, or two for pairs of texts.
        trained: The columns that the model was trained on, which are taken where the table has them.

    Returns:
        Texts, pairs, lists of words, or chats up to the turn that is to be written, as a `Predictor` takes them.

    Raises:
        TTValueError: If a column is missing or unclear, or a cell is unfit.

    Example:
        >>> take_inputs(Table("a.jsonl", {"text": ["Fine."], "label": ["good"]}), "classes")
        ['Fine.']
        >>> take_inputs(Table("a.jsonl", {"tokens": [["Ada", "sings"]]}), "tags")
        [['Ada', 'sings']]
    """
    names = tuple(asked) or _known(table, kind, trained)
    if missing := [name for name in names if name not in table.columns]:
        raise TTValueError(f"{table.path!r} has no column {missing[0]!r}; its columns are {', '.join(table.columns)}.")
    if not names or len(names) > 2:
        wrong = "is unclear" if not names else f"is said to be {len(names)} columns"
        raise TTValueError(
            f"Which column of {table.path!r} holds the text {wrong}; name one with --text-column, or two for pairs, of "
            f"{', '.join(table.columns)}."
        )
    cells = [table.cells(name) for name in names]
    lists = len(names) == 1 and any(isinstance(cell, list) for cell in cells[0])
    named = names[0] in CHATS or (trained is not None and names[0] == trained.messages)  # a csv has them as JSON
    if lists or named:
        if kind == "texts":
            return [_open(read_turns(cell, row, table.path)) for row, cell in enumerate(cells[0], 1)]
        if kind == "tags":
            return [_words(cell, row, table.path) for row, cell in enumerate(cells[0], 1)]
    texts = [take_texts(table, name) for name in names]
    return texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))


def take_questions(table: Table, details: Details, *, asked: Sequence[str] = ()) -> list[Question]:
    """Take what a model that was trained on questions with choices is to answer.

    Args:
        table: The table; it need not say what is right. One that is no file but texts from the command line stands for
            the template's only column.
        details: How the model was trained.
        asked: Columns that the user names, which the template does.

    Returns:
        The questions.

    Raises:
        TTValueError: If a column is missing or named, or a cell is unfit.
    """
    names = details.columns.text
    if asked:
        raise TTValueError(f"The model's template names its columns, {', '.join(names)}; leave out --text-column.")
    if table.path == "--text" and len(names) == 1:
        table = Table(table.path, {names[0]: table.columns["text"]})
    return take(table, details, labelled=False)


def _known(table: Table, kind: str, trained: Columns | None) -> tuple[str, ...]:
    """Find the columns by what the model was trained on, or by their usual names."""
    if trained is not None:
        known = tuple(name for name in (*trained.text, trained.prompt, trained.messages) if name)
        if kind == "vectors":  # each text has one, and pairs have been for training
            known = next(((name,) for name in known if name in table.columns), ())
        if known and set(known) <= set(table.columns):
            return known
    usual = {"tags": WORDS, "texts": (*CHATS, *(prompt for prompt, _ in (*PAIRS, *SOURCES)))}.get(kind, ())
    found = next(((name,) for name in usual if name in table.columns), ())
    return found or guess_text(table, next((name for name in LABELS if name in table.columns), ""))


def _open(turns: Sequence[Any]) -> list[dict[str, str]]:
    """Leave out a last answer, which is to be written anew."""
    chat = [turn.as_dict() for turn in turns]
    return chat[:-1] if len(chat) > 1 and chat[-1]["role"] == "assistant" else chat


def _words(cell: Any, row: int, path: str) -> list[str]:
    if not isinstance(cell, list) or not cell or not all(isinstance(word, str) for word in cell):
        raise TTValueError(f"Row {row} of {path!r} holds no list of words; expected one in every row.")
    return cell


def beside(inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Put what a model made of each input beside it.

    Args:
        inputs: The rows of the input.
        outputs: As a `Predictor` gives them.

    Yields:
        The rows together; what both have by the same name is the model's, and the other gets a bar below.

    Example:
        >>> list(beside([{"text": "Fine.", "prediction": 3}], [{"prediction": "good"}]))
        [{'text': 'Fine.', 'prediction_': 3, 'prediction': 'good'}]
    """
    for given, made in zip(inputs, outputs, strict=True):
        yield {f"{name}_" if name in made else name: value for name, value in given.items()} | dict(made)


def rows_of(table: Table) -> Iterator[dict[str, Any]]:
    """Give a table's rows, one after the other."""
    columns = {name: table.cells(name) for name in table.columns}
    yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def check_output(path: str | Path) -> None:
    """Refuse a file of a kind that is not written.

    Args:
        path: The file.

    Raises:
        TTFileError: If it is neither csv nor jsonl.
    """
    if Path(path).suffix.lower() not in KINDS:
        raise TTFileError(f"output is {str(path)!r}; expected a file ending in {' or '.join(KINDS)}.")


@contextmanager
def writing(path: str | Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that writes a record as soon as it has it; a file is there once the block has ended well.

    Args:
        path: A csv or jsonl file; `None` writes jsonl to the standard output.

    Yields:
        The function.

    Raises:
        TTFileError: If the file is of another kind.
    """
    if path is None:
        yield lambda record: _write_line(record, sys.stdout)
        return
    check_output(path)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if Path(path).suffix.lower() == ".jsonl":
            yield lambda record: _write_line(record, file)
        else:
            yield _CsvWriter(file)


def _write_line(record: Mapping[str, Any], file: TextIO) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()


class _CsvWriter:
    """Writes records as rows; the columns are those of the first one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer: Any = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        row = dict(_flat(record))
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give probabilities columns of their own, and lists as JSON."""
    for name, value in record.items():
        if name == "probabilities":
            yield from ((f"probability of {label}", f"{share:.6g}") for label, share in value.items())
        elif isinstance(value, list | dict):
            yield name, json.dumps(value, ensure_ascii=False)
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else value
