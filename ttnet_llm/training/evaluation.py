"""A fine-tuned model on new data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ttnet_llm.files import write_text
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.saved import load_finetuned
from ttnet_llm.training.tables import read_table


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of labelled examples.

    Args:
        measures: By name.
        logits: Shape `(n, classes)`; whatever a kind of training has instead, such as losses of shape `(n,)`.
        predictions: The same in words or numbers, such as class names.
        labels: Class indices, or numbers for a regression, shape `(n,)`; `None` for kinds without.
    """

    measures: dict[str, float]
    logits: NDArray[Any]
    predictions: list[Any]
    labels: NDArray[Any] | None


def evaluate(
    adapter: str | Path,
    data: str | Path,
    *,
    model: str | None = None,
    encoding: str | None = None,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Judge what `finetune` saved on a labelled file.

    Args:
        adapter: A run's output folder, or the adapter in it.
        data: A csv, jsonl or parquet file with the columns of the training data.
        model: The base model; `None` takes the one that the adapter names.
        encoding: Codec of a csv or jsonl file; `None` takes UTF-8, or what a byte-order mark says.
        batch_size: Texts in a batch, at least 1.
        on_batch: Called with the number of texts done.

    Returns:
        Measures and predictions.

    Raises:
        TTFileError: If the adapter, its base model or the file is not to be found, or the file cannot be read.
        TTValueError: If a column is missing, or a label is missing, unknown, or could be either of two classes.
    """
    table = read_table(data, encoding=encoding)
    trained, tokenizer, details = load_finetuned(adapter, model)
    kind = find_kind(details.kind)
    config: Any = trained.config
    rows = kind.rows(table, details, config)
    found = kind.judge(trained, tokenizer, rows, details, batch_size=batch_size, on_batch=on_batch)
    predictions = kind.answers(found.outputs, config)
    return Evaluation(found.measures, found.outputs, predictions, getattr(rows, "labels", None))


def write_predictions(evaluation: Evaluation, path: str | Path) -> None:
    """Write a line of JSON for every text: its prediction and the logits behind it."""
    rows = zip(evaluation.predictions, evaluation.logits.tolist(), strict=True)
    write_text(path, "".join(json.dumps({"prediction": p, "logits": values}) + "\n" for p, values in rows))
