"""The trainings that are done, one JSON line each, and what is chosen by them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.study.settings import Run, Study

Record = dict[str, Any]


class Runs:
    """The finished trainings of a file, which several studies may share.

    Args:
        file: Its lines are added to; a line that was cut off is left out.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._done: dict[str, Record] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._done[_key(record["asked"])] = record

    def __contains__(self, run: Run) -> bool:
        return _key(run.asked) in self._done

    def __getitem__(self, run: Run) -> Record:
        return self._done[_key(run.asked)]

    def add(self, record: Record) -> None:
        """Keep a finished training."""
        self._done[_key(record["asked"])] = record
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")

    def chosen_rate(self, plan: Study, method: str) -> float:
        """Choose the rate with the best mean score, over tasks and seeds, on the part that is kept for choosing."""
        scores: dict[float, list[float]] = {rate: [] for rate in plan.methods[method].rates}
        if len(scores) == 1:
            return next(iter(scores))
        for run in plan.candidates(method):
            scores[run.rate].append(score(self[run]))
        return max(scores, key=lambda rate: statistics.mean(scores[rate]))


def score(record: Record) -> float:
    """Give what a training is judged by, larger for better ones: its accuracy, or its loss with the sign turned."""
    return record["accuracy"] if "accuracy" in record else -record["loss"]


def _key(asked: Record) -> str:
    return json.dumps(asked, sort_keys=True)
