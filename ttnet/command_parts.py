"""What the subcommands of `ttnet` share: their options, errors as sentences, bars, and the report of a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttnet.errors import TTError, TTFileError, TTValueError, spell_count

if TYPE_CHECKING:
    import numpy.typing as npt
    from rich.progress import TaskID

    from ttnet.decomposition import PassProgress
    from ttnet.solvers import SolverProgress
    from ttnet.trains import TensorTrain, TTMatrix

Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
Eps = Annotated[float | None, typer.Option(help="Bound on the relative Frobenius error.")]
MaxRank = Annotated[
    str | None, typer.Option(metavar="INT[,INT...]", help="Bound on the ranks: one for all, or one per inner bond.")
]
TrainOutput = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The safetensors file to write.")]
TrainFile = Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file that ttnet wrote.")]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn the errors that a user can meet into a line on standard error and exit code 1.

    Yields:
        Nothing.

    Raises:
        typer.Exit: With code 1, in the place of such an error.

    Example:
        >>> with one_sentence():
        ...     pass
    """
    try:
        yield
    except (TTError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except MemoryError as error:
        typer.echo("Error: this needs more memory than the machine gives.", err=True)
        raise typer.Exit(1) from error


@contextmanager
def progress_steps() -> Iterator[Any]:
    """Show what is being done, and for how long, on standard error.

    Yields:
        The function that names the next step.

    Example:
        >>> with progress_steps() as step:
        ...     step("Reading")
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)


@contextmanager
def passes_bar() -> Iterator[Callable[[PassProgress], None]]:
    """Show how far each pass over an array is, on standard error.

    Yields:
        The function to report to, which `tt_svd` takes for a callback.

    Example:
        >>> with passes_bar() as callback:
        ...     pass
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[tuple[int, str], TaskID] = {}

        def report(found: PassProgress) -> None:
            key = found.step, found.name
            if key not in tasks:
                tasks[key] = progress.add_task(f"Step {found.step}, {found.name}", total=found.total)
            progress.update(tasks[key], completed=found.done)

        yield report


@contextmanager
def sweeps_bar(tol: float) -> Iterator[Callable[[SolverProgress], None]]:
    """Show how far a solver has come on its way down to a tolerance, on standard error.

    Args:
        tol: The residual at which it ends; how far is meant in digits.

    Yields:
        The function to report to, which solvers take for a callback.

    Example:
        >>> from ttnet.solvers import SolverProgress
        >>> with sweeps_bar(1e-8) as callback:
        ...     callback(SolverProgress(1, (1, 2, 1), 1e-4, 0.1))
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Preparing", total=1.0)

        def show(found: SolverProgress) -> None:
            digits = math.log(max(found.residual, 1e-300)) / math.log(tol) if math.isfinite(found.residual) else 0.0
            text = f"Sweep {found.sweep}, ranks up to {max(found.ranks)}, residual {found.residual:.1e}"
            progress.update(task, description=text, completed=min(1.0, max(0.0, digits)))

        yield show


def parse_ranks(text: str | None) -> int | list[int] | None:
    """Read what `--max-rank` was given.

    Args:
        text: An int, or ints with commas between; None if nothing was given.

    Returns:
        The bound, as the functions take it.

    Raises:
        TTValueError: If it is something else.

    Example:
        >>> parse_ranks("3"), parse_ranks("2,3"), parse_ranks(None)
        (3, [2, 3], None)
    """
    if text is None:
        return None
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        raise TTValueError(f"--max-rank is {text!r}; expected an int, or ints with commas between.") from None
    return ranks if "," in text else ranks[0]


def check_output(path: Path, force: bool) -> None:
    """Refuse a file that cannot be written, or would be replaced unasked.

    Args:
        path: The file.
        force: Whether it may be replaced.

    Raises:
        TTFileError: If it is a folder, exists or lies in no folder.

    Example:
        >>> check_output(Path("new.safetensors"), force=False)
    """
    if path.is_dir():
        raise TTFileError(f"'{path}' is a folder; give the name of a file.")
    if path.exists() and not force:
        raise TTFileError(f"'{path}' exists; give --force to replace it, or another name.")
    if not path.parent.is_dir():
        raise TTFileError(f"There is no folder '{path.parent}'; create it first.")


def read_npy(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read an array of numpy's.

    Args:
        path: A .npy file.
        mapped: Whether to leave the entries in the file until they are used.

    Returns:
        The array.

    Raises:
        TTFileError: If there is no such file, or it is of another kind.

    Example:
        >>> try:
        ...     read_npy(Path("nowhere.npy"))
        ... except TTFileError as error:
        ...     print(error)
        There is no file 'nowhere.npy'; check the path.
    """
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
    except FileNotFoundError as error:
        raise TTFileError(f"There is no file '{path}'; check the path.") from error
    except (ValueError, EOFError) as error:
        raise TTFileError(f"'{path}' is not a whole .npy file of numbers; write it with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        raise TTFileError(f"'{path}' is an archive of arrays; expected a .npy file of one.")
    return array


def report(value: TensorTrain | TTMatrix, more: dict[str, str]) -> None:
    """Print what a value is.

    Args:
        value: A train or TT-matrix.
        more: Lines to add, or to put otherwise.

    Example:
        >>> import ttnet
        >>> report(ttnet.ones((2, 3)), {"residual": "0"})
        kind           TensorTrain
        ...
        residual       0
    """
    from rich.console import Console
    from rich.table import Table

    from ttnet.trains import TTMatrix
    from ttnet.trains.chain import shorten

    table = Table.grid(padding=(0, 2))
    size = f"{value.row_shape} x {value.col_shape}" if isinstance(value, TTMatrix) else shorten(value.shape)
    rows = {
        "kind": type(value).__name__,
        "shape": size,
        "ranks": shorten(value.ranks),
        "dtype": str(value.dtype).removeprefix("torch."),
        "parameters": f"{value.num_parameters:,}",
        "dense entries": spell_count(value.numel),
        "compression": _ratio(value.numel, value.num_parameters),
        **more,
    }
    for name, text in rows.items():
        table.add_row(name, text)
    Console(highlight=False).print(table)


def _ratio(dense: int, parameters: int) -> str:
    return f"{dense / parameters:.3g}x" if dense < 10**300 else f"about 10^{len(str(dense // parameters)) - 1}x"
