"""Tables in files: csv, jsonl and parquet, with every cell as the file has it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError, TTValueError, import_extra

logger = logging.getLogger(__name__)

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# The longer ones first, as one begins with another.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAVE = "save it as UTF-8"
_INDEX = re.compile(r"__index_level_\d+__")  # where pandas stores its index


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Args:
        path: The file, for messages.
        columns: Sequences of cells by their names; arrays of pyarrow become lists where they are read.
        typed: Whether the file tells strings from numbers. A csv does not: all its cells are strings.
    """

    path: str
    columns: Mapping[str, Any]
    typed: bool = True

    def cells(self, name: str, count: int | None = None) -> list[Any]:
        """Return a column's cells, or the first `count` of them, with None for every one that is missing."""
        column = self.columns[name][:count]
        try:
            values = column.to_pylist() if hasattr(column, "to_pylist") else column
        except UnicodeDecodeError as error:
            raise TTFileError(f"The column {name!r} of {self.path!r} is no text in UTF-8; {_SAVE}.") from error
        return [None if value is None or value != value else value for value in values]


def read_table(path: str | Path, *, encoding: str | None = None) -> Table:
    """Read a csv, jsonl or parquet file, told apart by the suffix.

    The cells of a csv are separated by commas, semicolons, tabs or bars: by what its first line is.

    Args:
        path: The file.
        encoding: Codec of a csv or jsonl file; `None` takes UTF-8, or what a byte-order mark says.

    Returns:
        The table. Empty cells of a csv are missing; all others are as they stand there.

    Raises:
        TTFileError: If the file is missing, of another kind, of another codec, malformed or empty.
        TTValueError: If there is no such codec.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    kind = path.suffix.lower()
    if kind not in readers:
        raise TTFileError(f"{str(path)!r} is of no known kind; expected a file ending in {', '.join(readers)}.")
    if not path.is_file():
        raise TTFileError(f"There is no file {str(path)!r}; check the path.")
    try:
        columns = readers[kind](path, encoding)
    except _MalformedError as error:
        raise TTFileError(f"{str(path)!r} is not a well-formed {kind[1:]} file: {error}") from error
    if not columns or not len(next(iter(columns.values()))):
        raise TTFileError(f"{str(path)!r} holds no rows; expected at least one labelled text.")
    return Table(str(path), columns, typed=kind != ".csv")


def read_text(path: str | Path, *, encoding: str | None = None, advice: str = _SAVE) -> str:
    """Read a text file, and say of which codec it should be if it is not.

    Args:
        path: The file.
        encoding: Its codec; `None` takes UTF-8, or what a byte-order mark says.
        advice: What to do about another codec.

    Returns:
        The text, without the mark.

    Raises:
        TTFileError: If the file is of another codec.
        TTValueError: If there is no such codec.
    """
    data = Path(path).read_bytes()
    marked = next((codec for mark, codec in _MARKS.items() if data.startswith(mark)), None)
    codec, whence = (marked, "its byte-order mark says") if marked else ("utf-8", "files without a mark should be")
    if encoding is not None:
        codec, whence = _check_codec(encoding), "encoding says"
        if marked and not codec.startswith(marked):
            raise TTFileError(
                f"{str(path)!r} begins with the byte-order mark of {marked.upper()}, but encoding is {encoding!r}; "
                "leave it out."
            )
    if b"\0" in data and not codec.startswith(("utf-16", "utf-32")):
        raise TTFileError(f"{str(path)!r} is no text, or is UTF-16 without a byte-order mark; {advice}.")
    try:
        text = data.decode(codec)
    except UnicodeError as error:
        where = ""
        if isinstance(error, UnicodeDecodeError):
            line = data[: error.start].count(b"\n") + 1
            where = f": byte 0x{data[error.start]:02x} in line {line}"
        raise TTFileError(f"{str(path)!r} is not {codec.upper()}, as {whence}{where}; {advice}.") from error
    if marked or encoding:
        logger.info("%r is read as %s, as %s.", str(path), codec.upper(), whence)
    return text.removeprefix("\ufeff")


class _MalformedError(ValueError):
    """What is wrong with a file."""


def _check_codec(name: str) -> str:
    try:
        " ".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:  # unknown, or no codec of text
        raise TTValueError(
            f"encoding is {name!r}; expected the name of a codec of text, such as utf-8, cp1252 or latin-1."
        ) from error


def _read(path: Path, encoding: str | None) -> str:
    advice = f"say which codec it is with encoding (--encoding), such as cp1252 or latin-1, or {_SAVE}"
    return read_text(path, encoding=encoding, advice=advice)


def _read_csv(path: Path, encoding: str | None) -> Mapping[str, Any]:
    text = _read(path, encoding)
    separator = _separator(text)
    if separator != ",":
        logger.info("The cells of %r are separated by %s.", str(path), SEPARATORS[separator])
    rows = _rows(text, separator)
    header = [name.strip() for name in next(rows, [])]
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    return _by_name(header, [[cell or None for cell in column] for column in columns])


def _separator(text: str) -> str:
    """Guess what stands between cells: what the first line has, and if that leaves a choice, what fits all lines."""
    candidates = [each for each in SEPARATORS if _fits(text, each, lines=1)]
    if len(candidates) < 2:
        return candidates[0] if candidates else ","
    fitting = [each for each in candidates if _fits(text, each)]
    if len(fitting) != 1:
        words = " and ".join(SEPARATORS[each] for each in candidates)
        raise _MalformedError(
            f"its first line has {words}, and {'more than one' if fitting else 'none'} of them can separate the cells "
            "of all lines; put names and texts that contain them in quotes."
        )
    return fitting[0]


def _fits(text: str, separator: str, lines: int | None = None) -> bool:
    try:
        return min((len(row) for row in islice(_rows(text, separator), lines)), default=0) > 1
    except _MalformedError:
        return False


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    """Read the rows of a csv that are not blank, all of which have as many cells as the first one."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # texts may be long
    # Strict, or a quote that is left open takes the rows that follow into its cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    width = 0
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            width = width or len(row)
            if len(row) != width:
                raise _MalformedError(
                    f"line {reader.line_num} has {len(row)} cells where the first has {width}; put texts that contain "
                    f"{SEPARATORS[separator]} in quotes."
                )
            yield row
    except csv.Error as error:
        raise _MalformedError(
            f"line {reader.line_num}: {error}; a text that begins with a quote must end with one, and quotes inside "
            "are written twice."
        ) from error


def _read_jsonl(path: Path, encoding: str | None) -> Mapping[str, Any]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_read(path, encoding).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _MalformedError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise _MalformedError(
                    f'line {number} is no object; expected {{"text": ..., "label": ...}} or the like in every line.'
                )
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path, encoding: str | None) -> Mapping[str, Any]:
    pyarrow = import_extra("pyarrow", extra="llm")
    parquet = import_extra("pyarrow.parquet", extra="llm")
    try:
        table = parquet.ParquetFile(path).read()
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the file
            raise
        raise _MalformedError(str(error).strip().splitlines()[0]) from error
    columns = _by_name(table.column_names, table.columns)
    return {name: column for name, column in columns.items() if not _INDEX.fullmatch(name)}


def _by_name(names: Sequence[str], columns: Sequence[Any]) -> Mapping[str, Any]:
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise _MalformedError(f"two of its columns are named {twice[0]!r}; rename one.")
    return dict(zip(names, columns, strict=True))
