"""Who asks for points: generators that yield a point, are sent what came of it, and yield the next.

Whatever drives them need not know how they think; see `tune`. What is sent is the value, smaller being better;
`math.inf` for a trial that failed; or `None` for a point that was refused.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import random
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ttnet.errors import TTValueError, import_extra
from ttnet.near import near
from ttnet_llm.search import nomad_process
from ttnet_llm.search.space import Point, Space

Asking = Generator[Point, float | None, None]
_ALL = 10**5  # a space of no more points is gone through in a random order, without coming back to any

logger = logging.getLogger(__name__)


def ask_at_random(space: Space, start: Point | None, seed: int) -> Asking:
    """Ask for points drawn at random, each once where the space has few.

    Args:
        space: What may be tried.
        start: The first point; `None` draws that too.
        seed: Of the draws.

    Yields:
        Points; no more when all have been asked for.
    """
    rng = random.Random(seed)
    if start is not None:
        yield start
    if space.size is not None and space.size <= _ALL:
        for number in rng.sample(range(space.size), space.size):
            yield space.nth(number)
    else:
        while True:
            yield space.draw(rng)


def ask_tpe(space: Space, start: Point | None, seed: int) -> Asking:
    """Ask as optuna's tree-structured Parzen estimator does (Bergstra et al. 2011): near what was good so far.

    Args:
        space: What may be tried.
        start: The first point; `None` lets the engine choose.
        seed: Of the engine.

    Yields:
        Points, without end.
    """
    optuna = import_extra("optuna", extra="search")
    level = optuna.logging.get_verbosity()
    distributions = {name: _distribution(optuna, dimension) for name, dimension in space.dimensions.items()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        if start is not None:
            study.enqueue_trial(dict(zip(space.dimensions, space.coordinates(start), strict=True)))
        while True:
            trial = study.ask(distributions)
            value = yield space.at([trial.params[name] for name in space.dimensions])
            if value is not None and math.isfinite(value):
                study.tell(trial, value)
            else:  # what is pruned counts as worse than all else, what has failed would be forgotten
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    finally:
        optuna.logging.set_verbosity(level)


def _distribution(optuna: Any, dimension: Any) -> Any:
    """Let optuna choose coordinates."""
    if dimension.size is None:
        return optuna.distributions.FloatDistribution(0.0, 1.0)
    if dimension.ordered:
        return optuna.distributions.IntDistribution(0, dimension.size - 1)
    return optuna.distributions.CategoricalDistribution(range(dimension.size))


def ask_nomad(space: Space, start: Point | None, seed: int) -> Asking:
    """Ask as NOMAD does, by mesh adaptive direct search with quadratic models (Audet et al. 2022), from one point on.

    It runs in a process of its own: NOMAD takes Ctrl-C for itself, goes on with the random numbers of the search
    before, and ends the process it is in where a trial raises.

    Args:
        space: What may be tried.
        start: Where to start; `None` takes the middle of the space. Where that is refused or fails, points are drawn
            until one does not.
        seed: Of the engine.

    Yields:
        Points; no more once the mesh is as fine as it gets.
    """
    point = space.middle if start is None else start
    drawn = ask_at_random(space, None, seed)
    while (value := (yield point)) is None or not math.isfinite(value):
        try:
            point = next(drawn)
        except StopIteration:
            return
    sizes = [dimension.size for dimension in space.dimensions.values()]
    # A range of one value is none to NOMAD.
    free = [k for k, size in enumerate(sizes) if size != 1]
    first = space.coordinates(point)
    task = {"start": [first[k] for k in free], "sizes": [sizes[k] for k in free], "seed": seed}
    if not free:
        return
    with _nomad(task) as asks:
        for coordinates, answer in asks:
            full = list(first)
            for k, coordinate in zip(free, coordinates, strict=True):
                full[k] = coordinate
            answer((yield space.at(full)))


@contextmanager
def _nomad(task: dict[str, Any]) -> Iterator[Iterator[tuple[list[float], Callable[[float | None], None]]]]:
    """Start the process, and end it however the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(nomad_process.__file__)), json.dumps(task)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # so that Ctrl-C is for the search alone
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words, lines = process.stdin, process.stdout

    def answer(value: float | None) -> None:
        with suppress(BrokenPipeError):  # the end of its words says so
            words.write(json.dumps(value if value is not None and math.isfinite(value) else None) + "\n")
            words.flush()

    try:
        yield ((json.loads(line), answer) for line in lines)
        if code := process.wait():
            logger.warning("NOMAD ended with exit code %s; the search goes on at random.", code)
    finally:
        process.kill()
        process.wait()
        for stream in (words, lines):
            with suppress(BrokenPipeError):
                stream.close()


ENGINES: dict[str, Callable[[Space, Point | None, int], Asking]] = {
    "random": ask_at_random,
    "tpe": ask_tpe,
    "nomad": ask_nomad,
}

_PACKAGES = {"tpe": "optuna", "nomad": "PyNomad"}


def check_engine(name: str) -> None:
    """Refuse an engine that is not there.

    Args:
        name: A key of `ENGINES`.

    Raises:
        MissingExtraError: If its package is not installed.
        TTValueError: If there is none of that name.
    """
    if name not in ENGINES:
        raise TTValueError(f"engine is {name!r}; {near(name, ENGINES)}expected one of {', '.join(ENGINES)}.")
    if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name]) is None:
        import_extra(_PACKAGES[name], extra="search")
