"""What the commands have in common: errors told in one sentence, and tables."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import takewhile
from typing import Annotated, Any

from ttnet.errors import TTError, import_extra

typer = import_extra("typer", extra="cli")
Console = import_extra("rich.console", extra="cli").Console

INTERRUPTED = 130  # the exit code of a program that Ctrl-C has ended
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="What a command here has written: a run, adapter or model; or a hub id."),
]
Base = Annotated[str | None, typer.Option("--base", help="The base model; by default the one that the adapter names.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for scripts.")]


def is_echo() -> bool:
    """Tell whether another process of the same run says all that there is to say."""
    return os.environ.get("RANK", "0") != "0"


class Screen:
    """What a command shows: its result on the standard output, and all else on the standard error.

    Args:
        quiet: Whether to show errors and warnings only.
        as_json: Whether to print the result as JSON, instead of tables and sentences.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        # Of the processes that torchrun and accelerate start, one speaks.
        self.quiet, self.as_json = quiet or is_echo(), as_json and not is_echo()
        self._words = not (quiet or as_json)

    def status(self, text: str) -> AbstractContextManager[Any]:
        """Show that something is being done, while it is."""
        return Console(stderr=True).status(text) if not self.quiet else nullcontext()

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how much of something is done and what time is left.

        Args:
            text: What it is.
            total: How many there are.

        Yields:
            A function to call with the number done.
        """
        rich = import_extra("rich.progress", extra="cli")
        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=28),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(),
        )
        with rich.Progress(*columns, console=Console(stderr=True), disable=self.quiet, transient=True) as bar:
            line = bar.add_task(text, total=total)
            yield lambda done: bar.update(line, completed=done)

    def result(self, values: Mapping[str, Any]) -> None:
        """Print the result, if JSON was asked for."""
        if self.as_json:
            print(json.dumps(values, ensure_ascii=False, default=str), flush=True)  # noqa: T201

    def table(self, table: Any) -> None:
        """Print a table of `make_table`."""
        if self._words:
            Console().print(table)

    def say(self, sentence: str) -> None:
        """Print a sentence of the result."""
        if self._words:
            Console(soft_wrap=True).print(plain(sentence), highlight=False)

    def warn(self, sentence: str) -> None:
        """Print what the user should know of the result, also where it is quiet."""
        Console(stderr=True, soft_wrap=True).print(f"[yellow]Note:[/] {plain(sentence)}", highlight=False)


@contextmanager
def one_sentence_errors(resumable: bool = True, *, quiet: bool = False, as_json: bool = False) -> Iterator[Screen]:
    """Make the methods known, and turn what a user can mend into one sentence and exit code 1.

    Other errors keep their traceback. Every command runs inside of this, and what it works with is imported there.

    Args:
        resumable: Whether what is done in the block can be gone on with by `--resume`.
        quiet: Whether to show errors and warnings only.
        as_json: Whether the result is printed as JSON.

    Yields:
        Where the command shows what it does.
    """
    from peft.utils.error import NoMatchingPeftModuleError

    from ttnet_llm import loretta_adp, networks, prompts, slim, tensorize  # noqa: F401
    from ttnet_llm.training.progress import quiet_libraries

    advice = "say --resume to go on from the last checkpoint." if resumable else "run the command again."
    notes = _Notes(logging.WARNING if quiet or is_echo() else logging.INFO)
    package = logging.getLogger("ttnet_llm")
    level, code = package.level, 1
    try:
        package.addHandler(notes)
        package.setLevel(logging.INFO)
        quiet_libraries()
        yield Screen(quiet, as_json)
    except (TTError, NoMatchingPeftModuleError) as error:
        sentence = str(error)
    except KeyboardInterrupt:
        sentence, code = f"Interrupted; {advice}", INTERRUPTED
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
    raise typer.Exit(code)


class _Notes(logging.Handler):
    """Shows what the package says of its work, such as how it takes the data."""

    def emit(self, record: logging.LogRecord) -> None:
        Console(stderr=True, soft_wrap=True).print(plain(record.getMessage()), highlight=False)


def make_table(*columns: str, texts: int = 1) -> Any:
    """Begin a rich table in which nothing is cut: texts go on in the next line, and numbers stay whole.

    Args:
        *columns: Their headings, a word to a line; without any, the table has no head.
        texts: How many of the columns, from the left, are texts; the others are numbers.

    Returns:
        The table.
    """
    table = import_extra("rich.table", extra="cli").Table(
        show_header=any(columns),
        box=import_extra("rich.box", extra="cli").SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for k, name in enumerate(columns):
        heading = "\n".join(name.split())
        if k < texts:
            least = max((len(word) for word in name.split()), default=None)
            table.add_column(heading, overflow="fold", min_width=least, vertical="top")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
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


def span(values: Iterable[int]) -> str:
    """Write the ranks of a train so that they fit into a table: the one that all are, or from which to which.

    Args:
        values: The inner ranks.

    Returns:
        The text; empty if there are none.

    Example:
        >>> span([5, 5, 5]), span([4, 12, 5]), span([])
        ('5', '4 to 12', '')
    """
    least, most = min(values := list(values), default=0), max(values, default=0)
    return "" if not values else f"{least}" if least == most else f"{least} to {most}"


def plain(text: str) -> str:
    """Give a text in which rich finds no markup, on one line.

    Args:
        text: Any text.

    Returns:
        The text to print.
    """
    return import_extra("rich.markup", extra="cli").escape(" ".join(text.split()))
