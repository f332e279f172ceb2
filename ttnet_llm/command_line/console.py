"""What the commands have in common: errors told in one sentence, and tables."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile
from typing import Any

from ttnet.errors import TTError, import_extra

typer = import_extra("typer", extra="cli")
Console = import_extra("rich.console", extra="cli").Console


@contextmanager
def one_sentence_errors(resumable: bool = True) -> Iterator[None]:
    """Make the methods known, and turn what a user can mend into one sentence and exit code 1.

    Other errors keep their traceback. Every command runs inside of this, and what it works with is imported there.

    Args:
        resumable: Whether what is done in the block can be gone on with by `--resume`.
    """
    from peft.utils.error import NoMatchingPeftModuleError

    from ttnet_llm import loretta_adp, networks, tensorize  # noqa: F401

    advice = "say --resume to go on from the last checkpoint." if resumable else "run the command again."
    notes = _Notes(logging.INFO)
    package = logging.getLogger("ttnet_llm")
    level = package.level
    try:
        package.addHandler(notes)
        package.setLevel(logging.INFO)
        yield
    except (TTError, NoMatchingPeftModuleError) as error:
        sentence = str(error)
    except KeyboardInterrupt:
        sentence = f"Interrupted; {advice}"
    except Exception as error:
        # torch, safetensors and tokenizers write files in compiled code, and put the system's message into theirs, the
        # last of them into a bare Exception.
        full = getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC).lower() in str(error).lower()
        if full:
            sentence = f"The disk is full; free some space, then {advice}"
        elif isinstance(error, PermissionError):
            sentence = f"No permission for {error.filename!r}; name another folder or change its rights."
        else:
            raise
    else:
        return
    finally:
        package.removeHandler(notes)
        package.setLevel(level)
    Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/] {plain(sentence)}", highlight=False)
    raise typer.Exit(1)


class _Notes(logging.Handler):
    """Shows what the package says of its work, such as how it takes the data."""

    def emit(self, record: logging.LogRecord) -> None:
        Console(stderr=True, soft_wrap=True).print(plain(record.getMessage()), highlight=False)


def make_table(*columns: str) -> Any:
    """Begin a rich table whose first column is text, and the others numbers.

    Args:
        *columns: Their headings; without any, the table has no head.

    Returns:
        The table.
    """
    table = import_extra("rich.table", extra="cli").Table(
        show_header=any(columns), box=import_extra("rich.box", extra="cli").SIMPLE, pad_edge=False
    )
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k else "left", no_wrap=k == 0)  # names are of no use in part
    return table


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Leave out what all modules' names begin with, so that the parts that tell them apart fit into a table.

    Args:
        names: Full names.

    Returns:
        The short names by the full ones; the last part of a name always stays.

    Example:
        >>> list(short_names(["encoder.layer.0.query", "encoder.layer.1.query"]).values())
        ['0.query', '1.query']
        >>> list(short_names(["encoder.query"]).values())
        ['query']
    """
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = sum(1 for _ in takewhile(lambda part: len(set(part)) == 1, parts))
    return {name: ".".join(name.split(".")[common:]) for name in names}


def runs(values: Iterable[int]) -> str:
    """Write numbers with repetitions counted, so that long trains fit into a table.

    Args:
        values: The numbers, such as the inner ranks of a train.

    Returns:
        The text.

    Example:
        >>> runs([4, 5, 5, 5])
        '4 5x3'
    """
    groups = ((value, sum(1 for _ in group)) for value, group in groupby(values))
    return " ".join(str(value) if count == 1 else f"{value}x{count}" for value, count in groups)


def plain(text: str) -> str:
    """Give a text in which rich finds no markup, on one line.

    Args:
        text: Any text.

    Returns:
        The text to print.
    """
    return import_extra("rich.markup", extra="cli").escape(" ".join(text.split()))
