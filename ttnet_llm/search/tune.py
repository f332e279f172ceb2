"""The best of what may be tried, by any engine, in one history that can be gone on with."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttnet.errors import TTConvergenceError, TTValueError
from ttnet_llm.search.engines import ENGINES, Asking, ask_at_random, check_engine
from ttnet_llm.search.history import History, Trial
from ttnet_llm.search.space import Point, Space, key_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Args:
        best: The best point.
        value: Its value.
        trials: All that was tried, in order.
        interrupted: Whether it was stopped before it had tried as many as it was told to.

    Example:
        >>> first, second = Trial({"x": 1}, 4.0, None, 0.1), Trial({"x": 2}, 5.0, None, 0.1)
        >>> Tuned(best={"x": 1}, value=4.0, trials=(first, second)).course
        [4.0, 4.0]
    """

    best: Point
    value: float
    trials: tuple[Trial, ...]
    interrupted: bool = False

    @property
    def course(self) -> list[float]:
        """The best value after each trial; infinite before the first that did not fail."""
        found, best = [], math.inf
        for trial in self.trials:
            best = best if trial.value is None else min(best, trial.value)
            found.append(best)
        return found


def tune(
    objective: Callable[[Point], float],
    space: Space,
    *,
    evaluations: int,
    engine: str = "tpe",
    start: Mapping[str, Any] | None = None,
    allowed: Callable[[Point], bool] | None = None,
    history: str | Path | None = None,
    seed: int = 0,
) -> Tuned:
    """Search for the point at which an objective is smallest.

    A trial that raises an exception, or gives no finite number, has failed: that is recorded, and the search goes on.
    No point is tried twice. Where an engine has no more to ask, or asks for nothing new any more, the rest is drawn at
    random. Ctrl-C in a trial ends the search with what there is.

    Args:
        objective: Takes a point, and gives a number, smaller being better.
        space: What may be tried.
        evaluations: How many points are tried, at least 1; with a history, those in it count.
        engine: `"tpe"`, optuna's Parzen estimator, or `"nomad"`, mesh adaptive direct search, which both need
            `pip install 'ttnet-torch[search]'`; or `"random"`.
        start: The first point; `None` lets the engine choose, NOMAD the middle of the space.
        allowed: Asked before a point is tried; what it refuses costs nothing.
        history: A file that holds every trial from the moment that it is done. A search that is called again with it
            asks the engine the same questions, and pays for what is not in it only, so that the outcome is that of one
            uninterrupted search.
        seed: Of the engine, from 0 to 2**31 - 1.

    Returns:
        The best point, its value, and all trials.

    Raises:
        MissingExtraError: If the engine's package is not installed.
        TTConvergenceError: If all trials failed.
        TTFileError: If the history cannot be read.
        TTValueError: If an argument is outside its range, the history is of another search, or everything is refused.

    Source:
        Tribes et al., arXiv:2312.00949, for tuning of fine-tuning by NOMAD.

    Example:
        >>> from ttnet_llm.search import Choice, Whole
        >>> space = Space({"x": Whole(-3, 3), "y": Choice(1, 2)})
        >>> tuned = tune(lambda point: (point["x"] - 1) ** 2 * point["y"], space, evaluations=14, engine="random")
        >>> tuned.best["x"], tuned.value, len(tuned.trials)
        (1, 0.0, 14)
    """
    check_search(evaluations, engine, seed)
    first = None if start is None else space.at(space.coordinates(start))
    about = {"space": str(space), "engine": engine, "seed": seed, "start": first}
    search = _Search(objective, allowed, History(history, about), evaluations)
    interrupted = False
    try:
        # An engine that has come to its end, or goes round in circles, leaves the rest to chance.
        search.follow(ENGINES[engine](space, first, seed), patience=100)
        search.follow(ask_at_random(space, None, seed), patience=20_000)
    except KeyboardInterrupt:
        interrupted = True
    return search.result(interrupted)


def check_search(evaluations: int, engine: str, seed: int) -> None:
    """Refuse what no search can be told, as `tune` takes it, before any work."""
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or evaluations < 1:
        raise TTValueError(f"evaluations is {evaluations!r}; expected an integer of at least 1.")
    check_engine(engine)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise TTValueError(f"seed is {seed!r}; expected an integer from 0 to 2**31 - 1.")


class _Search:
    """Answers what engines ask, until enough has been paid for."""

    def __init__(
        self,
        objective: Callable[[Point], float],
        allowed: Callable[[Point], bool] | None,
        history: History,
        evaluations: int,
    ) -> None:
        self.objective, self.allowed, self.history = objective, allowed, history
        self.evaluations = evaluations
        self.asked: dict[str, Trial | None] = {}  # in this search, by points' keys; `None` where it was refused
        self.tried: list[Trial] = []

    def follow(self, engine: Asking, patience: int) -> None:
        """Answer an engine until it ends, enough was tried, or it has asked for nothing new for long."""
        idle = 0
        try:
            point = next(engine, None)
            while point is not None and idle < patience and len(self.tried) < self.evaluations:
                idle = idle + 1 if key_of(point) in self.asked else 0 if self._try(point) else idle + 1
                trial = self.asked[key_of(point)]
                try:
                    point = engine.send(None if trial is None else math.inf if trial.value is None else trial.value)
                except StopIteration:
                    return
        finally:
            engine.close()

    def _try(self, point: Point) -> bool:
        """Settle a point that was not asked for yet, and tell whether it was tried."""
        key = key_of(point)
        trial = self.history.trials.get(key)
        if trial is None:
            if self.allowed is not None and not self.allowed(dict(point)):
                self.asked[key] = None
                return False
            trial = self._pay(point)
            self.history.add(trial)
        self.asked[key] = trial
        self.tried.append(trial)
        return True

    def _pay(self, point: Point) -> Trial:
        began, value, error = time.perf_counter(), None, None
        try:
            value = float(self.objective(dict(point)))
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        if value is not None and not math.isfinite(value):
            value, error = None, f"The objective is {value}."
        if error is not None:
            logger.warning("The trial of %s failed: %s", point, error)
        return Trial(dict(point), value, error, round(time.perf_counter() - began, 3))

    def result(self, interrupted: bool) -> Tuned:
        """Give what has come of it."""
        worked = [(trial.value, trial.point) for trial in self.tried if trial.value is not None]
        if worked:
            value, best = min(worked, key=lambda pair: pair[0])
            return Tuned(dict(best), value, tuple(self.tried), interrupted)
        if interrupted:
            raise KeyboardInterrupt
        if not self.tried:
            raise TTValueError(
                f"allowed refuses all {len(self.asked):,} points that were asked for; allow more, or search elsewhere."
            )
        raise TTConvergenceError(
            f"All {len(self.tried)} trials failed, the last one so: {self.tried[-1].error}", tuple(self.tried)
        )
