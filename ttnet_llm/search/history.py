"""What a search has tried, kept in a file line by line, so that an interrupted search goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.search.space import Point, key_of


@dataclass(frozen=True)
class Trial:
    """A point that was tried.

    Args:
        point: A value for each name.
        value: What came of it, smaller being better; `None` where it failed.
        error: How it failed; `None` where it did not.
        seconds: How long it took.

    Example:
        >>> Trial({"learning_rate": 0.01}, value=None, error="ValueError: no", seconds=0.5).error
        'ValueError: no'
    """

    point: Point
    value: float | None
    error: str | None
    seconds: float


class History:
    """The trials of one search, in memory and in a file.

    The file has a JSON object in each line: what the search is first, then a trial each, which is on the disk before
    the search goes on. A last line that was cut off when the machine or process stopped is taken away.

    Args:
        path: The file; `None` keeps none.
        about: What the search is, as JSON can hold it. A file that exists was begun with the same.

    Raises:
        TTFileError: If the file is no history, or cannot be read.
        TTValueError: If it is of another search.
    """

    def __init__(self, path: str | Path | None, about: dict[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._about = json.loads(json.dumps(about))
        self._begun = False  # whether the file says what the search is
        self.trials: dict[str, Trial] = {}  # by their points' keys
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TTFileError(f"The history in {str(path)!r} cannot be read: {error}; name another file.") from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.decode().splitlines()]
            trials = [Trial(**line) for line in lines[1:]]
            began: dict[str, Any] = dict(lines[0]) if lines else {}
        except (ValueError, TypeError) as error:
            raise TTFileError(
                f"{str(path)!r} is no history of a search, and would be lost; name another file."
            ) from error
        if content and not lines and not content.startswith(b'{"'):
            raise TTFileError(f"{str(path)!r} is no history of a search, and would be lost; name another file.")
        for name, value in self._about.items():
            if lines and began.get(name) != value:
                raise TTValueError(
                    f"{name} is {value!r}, but the search in {str(path)!r} began with {began.get(name)!r}; go on with "
                    "the same, or name another file for the history."
                )
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self._begun = bool(lines)
        self.trials = {key_of(trial.point): trial for trial in trials}

    def add(self, trial: Trial) -> None:
        """Keep a trial, on the disk before this returns."""
        self.trials[key_of(trial.point)] = trial
        if self._path is None:
            return
        if not self._begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        begin = "" if self._begun else json.dumps(self._about) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(begin + json.dumps(asdict(trial)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._begun = True
