"""The subcommands of `ttnet` that solve: linear systems and eigenproblems of trains in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttnet.command_parts import Force, MaxRank, TrainOutput, check_output, one_sentence, parse_ranks, report, sweeps_bar
from ttnet.errors import TTConvergenceError, TTTypeError

if TYPE_CHECKING:
    from ttnet.solvers import SolverResult

OperatorFile = Annotated[Path, typer.Argument(metavar="A", help="A safetensors file of a TT-matrix.")]
Sweeps = Annotated[int, typer.Option(help="The largest number of sweeps.")]


def solve(
    operator: OperatorFile,
    right: Annotated[Path, typer.Argument(metavar="B", help="A safetensors file of a train, the right-hand side.")],
    output: TrainOutput,
    tol: Annotated[float, typer.Option(help="The relative residual to reach.")] = 1e-8,
    max_rank: MaxRank = None,
    max_sweeps: Sweeps = 50,
    force: Force = False,
) -> None:
    """Solve a linear system A x = b for a train x, and report its ranks and residual.

    Args:
        operator: A safetensors file of a TT-matrix.
        right: A safetensors file of a train.
        output: The safetensors file to write. It is written whatever the residual.
        tol: The relative residual to reach.
        max_rank: One int, or one per inner bond with commas between.
        max_sweeps: The largest number of sweeps.
        force: Replace an old file.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error, also if the residual was not reached.

    Example:
        ttnet solve A.safetensors b.safetensors -o x.safetensors --tol 1e-8
    """
    with one_sentence():
        from ttnet import solvers
        from ttnet.io import load
        from ttnet.trains import TensorTrain, TTMatrix

        ranks = parse_ranks(max_rank)
        check_output(output, force)
        a, b = load(operator), load(right)
        if not isinstance(a, TTMatrix):
            raise TTTypeError(f"'{operator}' holds a train; expected a TT-matrix, the operator, and then a train.")
        if not isinstance(b, TensorTrain):
            raise TTTypeError(f"'{right}' holds a TT-matrix; expected a train, the right-hand side.")
        with sweeps_bar(tol) as callback:
            result = solvers.solve(a, b, tol, max_rank=ranks, max_sweeps=max_sweeps, callback=callback)
        result.value.save(output)
        report(result.value, {**_outcome(result), "written to": str(output)})
        _complain(result)


def eig(
    operator: OperatorFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Where to write vectors; of several, with -1, -2, ... added."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-k", help="How many eigenpairs.")] = 1,
    which: Annotated[str, typer.Option(help="SA for the lowest, LA for the highest.")] = "SA",
    tol: Annotated[float, typer.Option(help="The relative residual; errors of values go with its square.")] = 1e-6,
    max_rank: MaxRank = None,
    max_sweeps: Sweeps = 50,
    force: Force = False,
) -> None:
    """Find the lowest or highest eigenpairs of a Hermitian TT-matrix, and print the eigenvalues.

    Args:
        operator: A safetensors file of a TT-matrix.
        output: The safetensors file to write the vector to; with `count` above 1 its name gets -1, -2, ... before the
            ending.
        count: How many eigenpairs.
        which: "SA" for the lowest, "LA" for the highest.
        tol: The relative residual to reach.
        max_rank: One int, or one per inner bond with commas between.
        max_sweeps: The largest number of sweeps.
        force: Replace old files.

    Raises:
        typer.Exit: With code 1, after a sentence on standard error, also if the residual was not reached.

    Example:
        ttnet eig H.safetensors -k 2 -o v.safetensors
    """
    with one_sentence():
        from ttnet import solvers
        from ttnet.io import load
        from ttnet.trains import TTMatrix

        ranks = parse_ranks(max_rank)
        names: list[Path] = []
        if output is not None:
            names = [output] if count == 1 else [_numbered(output, j) for j in range(1, count + 1)]
        for name in names:
            check_output(name, force)
        a = load(operator)
        if not isinstance(a, TTMatrix):
            raise TTTypeError(f"'{operator}' holds a train; expected a TT-matrix.")
        with sweeps_bar(tol) as callback:
            result = solvers.eigsh(a, count, which, tol, max_rank=ranks, max_sweeps=max_sweeps, callback=callback)
        for name, vector in zip(names, result.vectors, strict=False):
            vector.save(name)
        values = ", ".join(f"{value:.12g}" for value in result.values.tolist())
        written = {"written to": ", ".join(map(str, names))} if names else {}
        report(result.vectors[0], {"eigenvalues": values, **_outcome(result), **written})
        _complain(result)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _outcome(result: SolverResult[Any]) -> dict[str, str]:
    return {"residual": f"{result.residual:.3g}", "sweeps": str(result.sweeps)}


def _complain(result: SolverResult[Any]) -> None:
    """End with an error, after all has been written, where the tolerance was not reached."""
    if not result.converged:
        raise TTConvergenceError(f"{result.status.name}: {result.status.value}", result)
