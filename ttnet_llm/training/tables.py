"""Tables in files: csv, tsv, json, jsonl, parquet, conll and plain texts, with every cell as the file has it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        typed: Whether the file tells strings from numbers. A csv does not: all its cells
            are strings.
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


def read_table(path: str | Path, *, encoding: str | None = None, instead: Mapping[str, str] | None = None) -> Table:
    """Read a csv, tsv, json, jsonl, parquet, txt or conll file, told apart by the suffix, or a folder of such files.

    The cells of a csv are separated by commas, semicolons, tabs or bars: by what its first line is. A txt file is a
    table of one column, `text`, with a row for every paragraph. A conll file has a word in every line, with white space
    before its tag, the last column, and blank lines between sentences: a table of two columns of lists, `tokens` and
    `tags`. All may be compressed, with `.gz` after the suffix.

    Args:
        path: The file or folder.
        encoding: Codec of a file of text; `None` takes UTF-8, or what a byte-order mark says.
        instead: Suffixes of files that are read as if they had another, such as `{".txt": ".conll"}`.

    Returns:
        The table. Empty cells of a csv are missing; all others are as they stand there.

    Raises:
        TTFileError: If the file is missing, of another kind, of another codec, malformed or empty.
        TTValueError: If there is no such codec.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, encoding, instead)
    kind = kind_of(path)
    kind = (instead or {}).get(kind or "", kind)
    if kind is None:
        raise TTFileError(
            f"{str(path)!r} is of no known kind; expected a file ending in {', '.join(_READERS)}, with or without .gz, "
            "or a folder of such files."
        )
    if not path.is_file():
        raise TTFileError(f"There is no file {str(path)!r}; check the path.")
    try:
        columns = _READERS[kind](path, encoding)
    except _MalformedError as error:
        raise TTFileError(f"{str(path)!r} is not a well-formed {kind[1:]} file: {error}") from error
    if not columns or not len(next(iter(columns.values()))):
        raise TTFileError(f"{str(path)!r} holds no rows; expected at least one example.")
    return Table(str(path), columns, typed=kind not in _UNTYPED)


def kind_of(path: Path) -> str | None:
    """Tell by its name what kind of table a file holds.

    Args:
        path: The file.

    Returns:
        A suffix, such as `".csv"`; `None` if it is none.

    Example:
        >>> kind_of(Path("reviews.CSV.gz")), kind_of(Path("reviews.pdf"))
        ('.csv', None)
    """
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in _READERS if name.endswith(suffix)), None)


def _read_folder(folder: Path, encoding: str | None, instead: Mapping[str, str] | None) -> Table:
    """Read the files of a folder one after the other, in the order of their names."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and kind_of(file) is not None)
    kinds = sorted({str(kind_of(file)) for file in files})
    if len(kinds) != 1:
        held = f"holds files of several kinds ({', '.join(kinds)})" if kinds else "holds no file of a known kind"
        raise TTFileError(f"The folder {str(folder)!r} {held}; expected some of one, of {', '.join(_READERS)}.")
    tables = [read_table(file, encoding=encoding, instead=instead) for file in files]
    names = list(tables[0].columns)
    for table in tables[1:]:
        if set(table.columns) != set(names):
            raise TTFileError(
                f"{table.path!r} has the columns {', '.join(table.columns)}, but {tables[0].path!r} has "
                f"{', '.join(names)}; give all files of the folder the same."
            )
    logger.info("The folder %r holds %d files, which are read as one.", str(folder), len(files))
    columns = {name: [cell for table in tables for cell in table.cells(name)] for name in names}
    return Table(str(folder), columns, typed=tables[0].typed)


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
    data = _bytes(Path(path))
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
            where = f": byte 0x{data[error.start]:02x} in line {line}{_in_cp1252(data, error.start)}"
        raise TTFileError(f"{str(path)!r} is not {codec.upper()}, as {whence}{where}; {advice}.") from error
    if marked or encoding:
        logger.info("%r is read as %s, as %s.", str(path), codec.upper(), whence)
    return text.removeprefix("\ufeff")


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TTFileError(f"{str(path)!r} is not a well-formed gz file: {error}.") from error


def _in_cp1252(data: bytes, at: int) -> str:
    """Show how a line reads in the codec that files without a mark most often are of, if they are not UTF-8."""
    begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
    piece = data[max(begin, at - 20) : min(end if end >= 0 else len(data), at + 20)]
    try:
        return f", where cp1252 would read {piece.decode('cp1252').strip()!r}"
    except UnicodeDecodeError:
        return ""


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
    return _cells(text, separator)


def _read_tsv(path: Path, encoding: str | None) -> Mapping[str, Any]:
    return _cells(_read(path, encoding), "\t")


def _read_txt(path: Path, encoding: str | None) -> Mapping[str, Any]:
    paragraphs = re.split(r"\n[^\S\n]*\n", _read(path, encoding).replace("\r\n", "\n"))
    texts = [paragraph.strip() for paragraph in paragraphs if paragraph.strip()]
    logger.info("%r is read as %d texts, its paragraphs with blank lines between.", str(path), len(texts))
    return {"text": texts}


def _read_conll(path: Path, encoding: str | None) -> Mapping[str, Any]:
    sentences: list[list[list[str]]] = [[]]
    width = 0
    for number, line in enumerate(_read(path, encoding).split("\n"), 1):
        parts = re.split(r"[ \t]+", line.strip(" \t\r"))  # other white space may be in words
        if parts == [""]:
            sentences.append([])
        elif parts[0] != "-DOCSTART-":
            width = width or len(parts)
            if len(parts) != width:
                raise _MalformedError(
                    f"line {number} has {len(parts)} columns where the first has {width}; expected a word and its tag "
                    "in every line, with white space between, and blank lines between sentences."
                )
            sentences[-1].append(parts)
    rows = [[*zip(*sentence, strict=True)] for sentence in sentences if sentence]
    if width == 1:  # words without tags, to predict these
        return {"tokens": [list(row[0]) for row in rows]}
    return {"tokens": [list(row[0]) for row in rows], "tags": [list(row[-1]) for row in rows]}


def _cells(text: str, separator: str) -> Mapping[str, Any]:
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
    return _by_rows(rows)


def _by_rows(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_json(path: Path, encoding: str | None) -> Mapping[str, Any]:
    """Read a list of objects, or one object of lists of equal length."""
    try:
        found = json.loads(_read(path, encoding))
    except (ValueError, RecursionError) as error:
        hint = "; a file with an object in every line should end in .jsonl" if "Extra data" in str(error) else ""
        raise _MalformedError(f"{error}{hint}") from error
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return _by_rows(found)
    lists = list(found.values()) if isinstance(found, dict) else []
    if lists and all(isinstance(cells, list) and len(cells) == len(lists[0]) for cells in lists):
        return dict(found)
    raise _MalformedError(
        'expected a list of {"text": ..., "label": ...} or the like, or an object of equally long lists.'
    )


def _read_parquet(path: Path, encoding: str | None) -> Mapping[str, Any]:
    pyarrow = import_extra("pyarrow", extra="llm")
    parquet = import_extra("pyarrow.parquet", extra="llm")
    try:
        table = parquet.ParquetFile(io.BytesIO(_bytes(path)) if path.suffix.lower() == ".gz" else path).read()
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


_READERS: Mapping[str, Callable[[Path, str | None], Mapping[str, Any]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
    ".conll": _read_conll,
}
_UNTYPED = (".csv", ".tsv", ".txt", ".conll")  # all their cells are strings
