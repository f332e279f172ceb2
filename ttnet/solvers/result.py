"""What every solver has to say: its progress, how it ended, and how far its answer can be trusted."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class SolverStatus(enum.Enum):
    """How a solver ended; the values are sentences that say what happened and what to do.

    Example:
        >>> SolverStatus.STOPPED.value
        'The callback asked to stop; the value is the best one so far.'
    """

    CONVERGED = "The residual, computed anew from the value, is at most tol."
    REACHED = "The end of the time was reached, with an estimate of the error of at most tol."
    IMPRECISE = (
        "The end of the time was reached, but the estimate of the error is above tol, which shorter steps do not mend: "
        "the ranks or the precision do not allow more. Let ranks grow (method 'tdvp2', a larger max_rank), compute in "
        "float64, or take the value if the residual is good enough."
    )
    MAX_RANK = (
        "Ranks have reached max_rank, and the residual does not come down any further; raise max_rank or tol, or take "
        "the value if the residual is good enough."
    )
    STALLED = (
        "The residual does not come down any further, though ranks may still grow; the problem may be "
        "singular, or too badly conditioned for this tol in this dtype. Raise tol, compute in float64, start from a "
        "better x0, or take the value if the residual is good enough."
    )
    SINGULAR = (
        "A is singular to working precision, and b has a part outside of its range, so the residual cannot come down "
        "to tol. Take that part out of b, or take the value as an approximate least-squares solution."
    )
    MAX_SWEEPS = "max_sweeps were made before the residual reached tol; raise max_sweeps or tol."
    UNPROVED = (
        "Further rounds found nothing better, and there is no proof that nothing is; raise beam to look at more "
        "candidates, or take the value if that is good enough."
    )
    DATA_SPENT = (
        "Larger ranks and further sweeps no longer bring down the error on held-out samples, nor do other starts, "
        "which are tried where it is over 100 times tol: the samples are noisy at this level, too few to tell more, or "
        "lead the search astray. Take more samples, begin elsewhere (by seed "
        "or x0), or take the value if the residual is good enough."
    )
    MAX_EVALUATIONS = "The next step would have gone beyond max_evaluations; raise it, or take the best value so far."
    STOPPED = "The callback asked to stop; the value is the best one so far."
    INTERRUPTED = "An exception ended the search; the value is the best one so far."


@dataclass(frozen=True)
class SolverProgress:
    """Where a solver stands after a sweep.

    Attributes:
        sweep: The sweep, step or round, from 1.
        ranks: The ranks of the value, as `TensorTrain.ranks`.
        residual: What the solver brings down to `tol`, as far as it is known without computing it anew.
        change: The relative Frobenius norm of what the sweep changed, infinite if that is not known.

    Example:
        >>> SolverProgress(sweep=1, ranks=(1, 2, 1), residual=1e-3, change=0.1).residual
        0.001
    """

    sweep: int
    ranks: tuple[int, ...]
    residual: float
    change: float


@dataclass(frozen=True, repr=False)
class SolverResult(Generic[Value]):
    """What a solver has found, and how good it is.

    Attributes:
        value: The train, TT-matrix or other value that was asked for: the best one so far, whatever the status.
        status: How the search ended, as a sentence that also says what to do if it did not converge.
        residual: What is left of the problem, relative to its right-hand side or as the solver says; computed from
            `value` itself, not estimated on the way.
        sweeps: How many sweeps, steps or rounds there were; 0 if the answer was at hand.
        history: One record per sweep.

    Example:
        >>> import ttnet
        >>> result = SolverResult(ttnet.ones((2, 3)), SolverStatus.CONVERGED, 1e-9, 0, ())
        >>> result.converged
        True
        >>> result
        SolverResult(value=TensorTrain([2]-1-[3], float32), status=CONVERGED, residual=1.0e-09, sweeps=0)
    """

    value: Value
    status: SolverStatus
    residual: float
    sweeps: int
    history: tuple[SolverProgress, ...]

    @property
    def converged(self) -> bool:
        """Whether the residual reached tol."""
        return self.status in (SolverStatus.CONVERGED, SolverStatus.REACHED)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(value={self.value!r}, status={self.status.name}, residual={self.residual:.1e}, "
            f"sweeps={self.sweeps})"
        )

    def __str__(self) -> str:
        rows = [("sweep", "max rank", "residual", "change")]
        rows += [(str(p.sweep), str(max(p.ranks)), f"{p.residual:.1e}", f"{p.change:.1e}") for p in self.history]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines = [
            f"{self.status.name}: {self.status.value}",
            f"value: {self.value!r}",
            f"residual: {self.residual:.1e}, after {self.sweeps} sweeps",
        ]
        return "\n".join(lines + table * bool(self.history))


@contextmanager
def handing_back(best: Callable[[], SolverResult[Any] | None]) -> Iterator[None]:
    """Let any exception that ends a search, Ctrl-C and the callback's own too, carry the best result so far.

    Args:
        best: Gives that result, of status `INTERRUPTED`, or None if there is none yet.

    Yields:
        Nothing; the exception goes on as it is, with the result in its attribute `result`.

    Example:
        >>> import ttnet
        >>> result = SolverResult(ttnet.ones((2, 3)), SolverStatus.INTERRUPTED, 0.1, 1, ())
        >>> try:
        ...     with handing_back(lambda: result):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt as interrupt:
        ...     print(interrupt.result)
        INTERRUPTED: An exception ended the search; the value is the best one so far.
        value: TensorTrain([2]-1-[3], float32)
        residual: 1.0e-01, after 1 sweeps
    """
    try:
        yield
    except BaseException as error:
        result = best()
        if result is not None:
            error.result = result  # type: ignore[attr-defined]
            error.add_note("The best result so far is in the attribute `result` of this exception.")
        raise
