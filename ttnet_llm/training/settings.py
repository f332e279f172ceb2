"""What a run of fine-tuning is told, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ttnet.errors import TTValueError
from ttnet_llm.budget import ParameterBudget
from ttnet_llm.training.labels import check_kind
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.metrics import MEASURES


@dataclass(frozen=True)
class FinetuneSettings:
    """What to train, on what, how, and where to put it.

    Args:
        model: Folder or hub id of the pretrained model.
        output: Folder for the adapter and its report.
        method: A key of `METHODS`.
        method_options: Fields of the method's config, such as `{"tt_rank": 5}`.
        task: A GLUE task, or `None` for files.
        train: A csv, jsonl or parquet file, with `validation`.
        validation: Another.
        text_columns: One or two columns of text in the files; `None` guesses.
        label_column: The label's column; `None` guesses.
        kind: `"classify"` or `"regress"`; `None` guesses from the labels.
        encoding: Codec of csv and jsonl files; `None` takes UTF-8, or what a byte-order mark says.
        measures: Keys of `MEASURES`, the one that counts first; `None` takes the task's own.
        epochs: Passes over the training data, above 0.
        learning_rate: Peak learning rate, above 0; `None` takes the method's own.
        head_learning_rate: Peak learning rate of the new head, above 0; `None` takes the same.
        batch_size: Examples in a step, at least 1.
        max_length: Tokens to cut texts to, at least 1.
        weight_decay: AdamW's, at least 0.
        seed: Of the head's start, the order of the examples and dropout.
        limit: Number of training examples to draw; `None` takes all.
        evaluations: Evaluations in an epoch, at least 1; each leaves a checkpoint.
        early_stopping: Stop after so many evaluations without improvement, and keep the best; `None` trains to
            the end.

    Raises:
        TTValueError: If a value is outside its range.
    """

    model: str
    output: str
    method: str = "loretta-rep"
    method_options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    train: str | None = None
    validation: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str | None = None
    kind: str | None = None
    encoding: str | None = None
    measures: tuple[str, ...] | None = None
    epochs: float = 3.0
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    batch_size: int = 32
    max_length: int = 128
    weight_decay: float = 0.01
    seed: int = 0
    limit: int | None = None
    evaluations: int = 1
    early_stopping: int | None = None

    def __post_init__(self) -> None:
        find_method(self.method)
        check_kind(self.kind)
        for name in ("epochs", "learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise TTValueError(f"{name} is {value}; expected a number above 0.")
        for name in ("batch_size", "max_length", "limit", "evaluations", "early_stopping"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TTValueError(f"{name} is {value}; expected an integer of at least 1.")
        if self.measures is not None and (not self.measures or not set(self.measures) <= set(MEASURES)):
            raise TTValueError(f"measures is {self.measures!r}; expected some of {', '.join(MEASURES)}.")
        if not 0 <= self.weight_decay < math.inf:
            raise TTValueError(f"weight_decay is {self.weight_decay}; expected a number of at least 0.")
        if not 0 <= self.seed < 2**32:
            raise TTValueError(f"seed is {self.seed}; expected an integer from 0 to 2**32 - 1.")
        files = (self.train is not None, self.validation is not None)
        if (self.task is not None and any(files)) or (self.task is None and not all(files)):
            raise TTValueError(
                "Say either a task, or both a training and a validation file; "
                f"task is {self.task!r}, train is {self.train!r}, validation is {self.validation!r}."
            )
        for name in ("text_columns", "label_column", "kind", "encoding"):
            if self.task is not None and getattr(self, name) is not None:
                raise TTValueError(
                    f"{name} is {getattr(self, name)!r}, but the task {self.task!r} settles that; leave it out."
                )


@dataclass(frozen=True)
class FinetuneResult:
    """What came of a run, as `results.json` holds it.

    Args:
        settings: The settings.
        adapter: Folder of the adapter, or of the whole model.
        learning_rate: The peak learning rate used.
        parameters: Trainable and frozen parameters.
        adapter_bytes: Bytes of the saved weights, with the head.
        before: Measures on the validation data before training.
        after: The same after it.
        seconds_per_step: Median of the optimiser steps; `None` where a resumed run had none left.
        seconds: Wall-clock seconds of training with its evaluations.
        steps: Optimiser steps.
        losses: `(step, training loss)`.
        scores: `(step, first measure)` on the validation data.
        examples: Numbers of training and validation examples.
        labels: What the labels were taken as, and why.
        threads: CPU threads.
        versions: Of the packages that matter.
    """

    settings: FinetuneSettings
    adapter: str
    learning_rate: float
    parameters: ParameterBudget
    adapter_bytes: int
    before: dict[str, float]
    after: dict[str, float]
    seconds_per_step: float | None
    seconds: float
    steps: int
    losses: list[tuple[int, float]]
    scores: list[tuple[int, float]]
    examples: tuple[int, int]
    labels: str
    threads: int
    versions: dict[str, str]
