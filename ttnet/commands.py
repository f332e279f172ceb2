"""The subcommands of `ttnet`: decompose, round, info, plot, reconstruct; solve and eig are in `solver_commands`.

What a command works with, torch first of all, is imported when it runs, so that `--help` need not wait for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttnet.command_parts import (
    Eps,
    Force,
    MaxRank,
    TrainFile,
    TrainOutput,
    check_output,
    one_sentence,
    parse_ranks,
    passes_bar,
    progress_steps,
    read_npy,
    report,
)
from ttnet.distribution import version
from ttnet.errors import TTValueError
from ttnet.solver_commands import eig, solve

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
    with one_sentence():
        from ttnet.decomposition import tt_svd
        from ttnet.numerics.dense import as_dense
        from ttnet.trains.fidelity import relative_error

        ranks = parse_ranks(max_rank)
        check_output(output, force)
        if memory is not None or checkpoint is not None:
            array = read_npy(file, mapped=True)
            with passes_bar() as callback:
                limit = None if memory is None else int(memory * 2**30)
                tt = tt_svd(array, eps=eps, max_rank=ranks, memory=limit, checkpoint=checkpoint, callback=callback)
            tt.save(output)
            report(tt, {"written to": str(output)})
            return
        with progress_steps() as step:
            step(f"Reading {file.name}")
            x = as_dense(read_npy(file), str(file))
            step(f"Decomposing {x.numel():,} entries")
            tt = tt_svd(x, eps=eps, max_rank=ranks)
            step("Measuring the error")
            error = relative_error(x, tt)
            step(f"Writing {output.name}")
            tt.save(output)
        report(tt, {"relative error": f"{error:.3g}", "written to": str(output)})


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
    with one_sentence():
        from ttnet.io import load
        from ttnet.trains.chain import shorten
        from ttnet.trains.fidelity import relative_error

        ranks = parse_ranks(max_rank)
        check_output(output, force)
        with progress_steps() as step:
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
        report(rounded, changes | {"relative error": f"{error:.3g}", "written to": str(output)})


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
    with one_sentence():
        check_output(output, force)
        kind = output.suffix.removeprefix(".").lower()
        if kind not in ("png", "svg", "pdf"):
            raise TTValueError(f"--output is '{output}'; expected a name that ends in .png, .svg or .pdf.")
        from ttnet.io import load, write_atomically
        from ttnet.plotting import draw_train

        with progress_steps() as step:
            step(f"Reading {file.name}")
            value = load(file)
            step("Computing the singular values")
            figure = draw_train(value, file.name)
            step(f"Writing {output.name}")
            write_atomically(output, lambda stream: figure.savefig(stream, format=kind, facecolor="white"))
        report(value, {"written to": str(output)})


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
    with one_sentence():
        from ttnet.io import load

        report(load(file), {})


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
    with one_sentence():
        import numpy as np
        import torch
        from rich.console import Console

        from ttnet.io import load, write_atomically

        check_output(output, force)
        with progress_steps() as step:
            step(f"Reading {file.name}")
            value = load(file)
            step(f"Contracting to {value.numel:,} entries")
            dense = value.full()
            dense = dense.float() if dense.dtype == torch.bfloat16 else dense  # numpy has no bfloat16
            step(f"Writing {output.name}")
            write_atomically(output, lambda stream: np.save(stream, dense.numpy()))
        Console().print(f"{output}: shape {tuple(dense.shape)}, dtype {dense.numpy().dtype}", highlight=False)


app.command(help="Solve a linear system A x = b for a train x, and report its ranks and residual.")(solve)
app.command(help="Find the lowest or highest eigenpairs of a Hermitian TT-matrix.")(eig)
