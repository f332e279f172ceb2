"""The subcommands of `ttnet`: decompose, round, info, plot, reconstruct.

What a command works with, torch first of all, is imported when it runs, so that `--help` need not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttnet.distribution import version
from ttnet.errors import TTError, TTFileError, TTValueError, spell_count

if TYPE_CHECKING:
    import numpy.typing as npt
    from rich.progress import TaskID

    from ttnet.decomposition import PassProgress
    from ttnet.trains import TensorTrain, TTMatrix

app = typer.Typer(
    help="Tensor trains from and to numpy files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ttnet {version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
Eps = Annotated[float | None, typer.Option(help="Bound on the relative Frobenius error.")]
MaxRank = Annotated[
    str | None, typer.Option(metavar="INT[,INT...]", help="Bound on the ranks: one for all, or one per inner bond.")
]
TrainOutput = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The safetensors file to write.")]
TrainFile = Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file that ttnet wrote.")]


@app.command(help="Decompose a numpy array into a tensor train, and report its ranks, compression and error.")
def decompose(
    file: Annotated[Path, typer.Argument(metavar="FILE.npy", help="A numpy array of any order.")],
    output: TrainOutput,
    eps: Eps = None,
    max_rank: MaxRank = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GIB", help="Read the array in slabs, and use so many GiB at most.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep finished passes over the array here; a run that was cut off goes on."),
    ] = None,
    force: Force = False,
) -> None:
    """Decompose a numpy array into a tensor train, and report its ranks, compression and error.

    Args:
        file: A .npy file of any shape and any floating, complex, integer or bool dtype.
        output: The safetensors file to write.
        eps: Bound on the relative Frobenius error, at least 0.
        max_rank: One int, or one per inner bond with commas between.
        memory: For an array larger than memory: what to use at most, in GiB. The error is not measured then.
        checkpoint: A folder for what finished passes over such an array have found.
        force: Replace an old file.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error.

    Example:
        ttnet decompose x.npy --eps 1e-3 -o x.safetensors
    """
    with _one_sentence():
        from ttnet.decomposition import tt_svd
        from ttnet.numerics.dense import as_dense
        from ttnet.trains.fidelity import relative_error

        ranks = _parse_ranks(max_rank)
        _check_output(output, force)
        if memory is not None or checkpoint is not None:
            array = _read_npy(file, mapped=True)
            with _bar() as callback:
                limit = None if memory is None else int(memory * 2**30)
                tt = tt_svd(array, eps=eps, max_rank=ranks, memory=limit, checkpoint=checkpoint, callback=callback)
            tt.save(output)
            _report(tt, {"written to": str(output)})
            return
        with _progress() as step:
            step(f"Reading {file.name}")
            x = as_dense(_read_npy(file), str(file))
            step(f"Decomposing {x.numel():,} entries")
            tt = tt_svd(x, eps=eps, max_rank=ranks)
            step("Measuring the error")
            error = relative_error(x, tt)
            step(f"Writing {output.name}")
            tt.save(output)
        _report(tt, {"relative error": f"{error:.3g}", "written to": str(output)})


@app.command("round", help="Bring the ranks of a train or TT-matrix down to what an error bound needs.")
def round_(
    file: TrainFile,
    output: TrainOutput,
    eps: Eps = None,
    max_rank: MaxRank = None,
    force: Force = False,
) -> None:
    """Bring the ranks of a train or TT-matrix down to what an error bound needs.

    Args:
        file: A safetensors file that ttnet wrote.
        output: The safetensors file to write, which may be the same with `force`.
        eps: Bound on the relative Frobenius error, at least 0.
        max_rank: One int, or one per inner bond with commas between.
        force: Replace an old file.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error.

    Example:
        ttnet round x.safetensors --eps 1e-3 -o y.safetensors
    """
    with _one_sentence():
        from ttnet.io import load
        from ttnet.trains.chain import shorten
        from ttnet.trains.fidelity import relative_error

        ranks = _parse_ranks(max_rank)
        _check_output(output, force)
        with _progress() as step:
            step(f"Reading {file.name}")
            value = load(file)
            step(f"Rounding {value.num_parameters:,} parameters")
            rounded = value.round(eps=eps, max_rank=ranks)
            step("Measuring the error")
            error = relative_error(value, rounded)
            step(f"Writing {output.name}")
            rounded.save(output)
        changes = {
            "ranks": f"{shorten(value.ranks)} -> {shorten(rounded.ranks)}",
            "parameters": f"{value.num_parameters:,} -> {rounded.num_parameters:,}",
        }
        _report(rounded, changes | {"relative error": f"{error:.3g}", "written to": str(output)})


@app.command(help="Draw the ranks and the singular values of a train or TT-matrix.")
def plot(
    file: TrainFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.png", help="The png, svg or pdf to write.")],
    force: Force = False,
) -> None:
    """Draw the ranks and the singular values of a train or TT-matrix.

    Args:
        file: A safetensors file that ttnet wrote.
        output: The picture to write; its ending says of which kind.
        force: Replace an old file.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error.

    Example:
        ttnet plot x.safetensors -o x.png
    """
    with _one_sentence():
        _check_output(output, force)
        kind = output.suffix.removeprefix(".").lower()
        if kind not in ("png", "svg", "pdf"):
            raise TTValueError(f"--output is '{output}'; expected a name that ends in .png, .svg or .pdf.")
        from ttnet.io import load, write_atomically
        from ttnet.plotting import draw_train

        with _progress() as step:
            step(f"Reading {file.name}")
            value = load(file)
            step("Computing the singular values")
            figure = draw_train(value, file.name)
            step(f"Writing {output.name}")
            write_atomically(output, lambda stream: figure.savefig(stream, format=kind, facecolor="white"))
        _report(value, {"written to": str(output)})


@app.command(help="Show the shape, ranks and size of a train or TT-matrix.")
def info(file: TrainFile) -> None:
    """Show the shape, ranks and size of a train or TT-matrix.

    Args:
        file: A safetensors file that ttnet wrote.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error.

    Example:
        ttnet info x.safetensors
    """
    with _one_sentence():
        from ttnet.io import load

        _report(load(file), {})


@app.command(help="Contract a train or TT-matrix to the dense array, as a numpy file.")
def reconstruct(
    file: TrainFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.npy", help="The numpy file to write.")],
    force: Force = False,
) -> None:
    """Contract a train or TT-matrix to the dense array, as a numpy file.

    Args:
        file: A safetensors file that ttnet wrote.
        output: The .npy file to write.
        force: Replace an old file.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error.

    Example:
        ttnet reconstruct x.safetensors -o x.npy
    """
    with _one_sentence():
        import numpy as np
        import torch
        from rich.console import Console

        from ttnet.io import load, write_atomically

        _check_output(output, force)
        with _progress() as step:
            step(f"Reading {file.name}")
            value = load(file)
            step(f"Contracting to {value.numel:,} entries")
            dense = value.full()
            dense = dense.float() if dense.dtype == torch.bfloat16 else dense  # numpy has no bfloat16
            step(f"Writing {output.name}")
            write_atomically(output, lambda stream: np.save(stream, dense.numpy()))
        Console().print(f"{output}: shape {tuple(dense.shape)}, dtype {dense.numpy().dtype}", highlight=False)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn the errors that a user can meet into a line on standard error and exit code 1."""
    try:
        yield
    except (TTError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except MemoryError as error:
        typer.echo("Error: this needs more memory than the machine gives.", err=True)
        raise typer.Exit(1) from error


@contextmanager
def _progress() -> Iterator[Any]:
    """Show what is being done, and for how long, on standard error; give the function that names the next step."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)


@contextmanager
def _bar() -> Iterator[Callable[[PassProgress], None]]:
    """Show how far each pass over an array is, on standard error; give the function to report to."""
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


def _parse_ranks(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        raise TTValueError(f"--max-rank is {text!r}; expected an int, or ints with commas between.") from None
    return ranks if "," in text else ranks[0]


def _check_output(path: Path, force: bool) -> None:
    if path.is_dir():
        raise TTFileError(f"'{path}' is a folder; give the name of a file.")
    if path.exists() and not force:
        raise TTFileError(f"'{path}' exists; give --force to replace it, or another name.")
    if not path.parent.is_dir():
        raise TTFileError(f"There is no folder '{path.parent}'; create it first.")


def _read_npy(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
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


def _report(value: TensorTrain | TTMatrix, more: dict[str, str]) -> None:
    """Print what a value is, with some lines more or put otherwise."""
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
