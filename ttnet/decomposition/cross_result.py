"""What the cross approximation has to say: its progress, how it ended, and how far its answer can be trusted."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ttnet.errors import spell_count
from ttnet.trains.tensor_train import TensorTrain


class CrossStatus(enum.Enum):
    """How a cross approximation ended; the values are sentences that say what happened and what to do.

    Example:
        >>> CrossStatus.STOPPED.value
        'The callback asked to stop; the value is the best one so far.'
    """

    CONVERGED = "The train agrees with fresh samples of f, and with the train of the half sweep before, to within eps."
    MAX_RANK = (
        "Ranks have reached max_rank, and the train does not come any closer to f; raise max_rank or eps, or take the "
        "value if the error estimate is good enough."
    )
    STALLED = (
        "The train neither comes any closer to f nor settles to within eps; f may be noisy at this level (float32 "
        "inside?), have jumps or kinks, or be of high rank. Raise eps, let f compute in float64, put modes that depend "
        "on each other side by side, or take the value if the error estimate is good enough."
    )
    MAX_SWEEPS = "max_sweeps were made before the error reached eps; raise max_sweeps or eps."
    MAX_EVALUATIONS = (
        "The next step would have gone beyond max_evaluations before the error reached eps; raise max_evaluations or "
        "eps, or set max_rank."
    )
    STOPPED = "The callback asked to stop; the value is the best one so far."


@dataclass(frozen=True)
class CrossProgress:
    """Where a cross approximation stands after a half sweep.

    Attributes:
        sweep: The sweep, from 1; each goes there and back.
        bond: The inner bond at which the half sweep ended, from 1: the last one on the way there, the first one on the
            way back; 0 if there is none.
        ranks: The ranks of the train, as `TensorTrain.ranks`: within `max_rank` if there is one, but not yet rounded to
            eps unless the search has converged.
        evaluations: How often f was evaluated, from the start.
        change: The relative Frobenius norm of what the half sweep changed; infinite for the first.
        error: The relative error of this train on fresh random samples.

    Example:
        >>> import ttnet
        >>> result = ttnet.tt_cross(lambda i: i.sum(1), (8,) * 5)
        >>> [progress.bond for progress in result.history]
        [4, 1]
    """

    sweep: int
    bond: int
    ranks: tuple[int, ...]
    evaluations: int
    change: float
    error: float


@dataclass(frozen=True, repr=False)
class CrossResult:
    """A train made from samples of a function, and what is known of its error.

    The error is an estimate, not a bound: nothing that looks at some entries of a tensor can vouch for the others.
    Before you rely on it, read `caveat`.

    Attributes:
        value: The train.
        status: How the search ended, as a sentence.
        evaluations: How often f was evaluated.
        sweeps: How many sweeps there were, each there and back; 0 if the first samples were all the entries there are.
        error_estimate: The root mean square error on fresh random samples, which no pivot was chosen from, relative to
            that of f there (or, where this is larger, to what is known to be the least that f has over all entries).
        samples: The number of these samples.
        history: One record per half sweep.

    Example:
        >>> import ttnet
        >>> result = ttnet.tt_cross(lambda i: 1 / (1 + i.sum(1).double()), (10,) * 6, eps=1e-4)
        >>> result.converged, result.error_estimate <= 1e-4
        (True, True)
        >>> result.caveat
        'The error was estimated on 1,000 random entries of 1,000,000; with 95% confidence, no more than 0.3% of all
        entries are wrong in a way that these do not show, and a feature in fewer entries, such as a spike, can be
        missed.'
    """

    value: TensorTrain
    status: CrossStatus
    evaluations: int
    sweeps: int
    error_estimate: float
    samples: int
    history: tuple[CrossProgress, ...]

    @property
    def converged(self) -> bool:
        """Whether the error estimate reached eps."""
        return self.status is CrossStatus.CONVERGED

    @property
    def caveat(self) -> str:
        """How small a feature of f could hide from the samples, as a sentence."""
        if self.samples >= self.value.numel:
            return f"The error was computed on all {spell_count(self.value.numel)} entries; nothing can be missed."
        # The rule of three: where 3 / s of all entries are wrong, s samples miss them all with a probability of 5%.
        share = min(100, 300 / self.samples)
        return (
            f"The error was estimated on {self.samples:,} random entries of {spell_count(self.value.numel)}; with 95% "
            f"confidence, no more than {share:.2g}% of all entries are wrong in a way that these do not show, and a "
            f"feature in fewer entries, such as a spike, can be missed."
        )

    def __repr__(self) -> str:
        return (
            f"CrossResult(value={self.value!r}, status={self.status.name}, evaluations={self.evaluations}, "
            f"sweeps={self.sweeps}, error_estimate={self.error_estimate:.1e})"
        )

    def __str__(self) -> str:
        rows = [("sweep", "bond", "max rank", "evaluations", "change", "error")]
        rows += [
            (str(p.sweep), str(p.bond), str(max(p.ranks)), f"{p.evaluations:,}", f"{p.change:.1e}", f"{p.error:.1e}")
            for p in self.history
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines = [
            f"{self.status.name}: {self.status.value}",
            f"value: {self.value!r}",
            f"error: {self.error_estimate:.1e} (estimate), after {self.evaluations:,} evaluations",
            self.caveat,
        ]
        return "\n".join(lines + table * bool(self.history))
