"""A fine-tuned model on new data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.files import write_text
from ttnet_llm.training.details import DETAILS, Details, read_details
from ttnet_llm.training.kinds import KINDS, find_kind
from ttnet_llm.training.saved import load_finetuned
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table, read_table


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of labelled examples.

    Args:
        measures: By name.
        logits: Shape `(n, classes)`; whatever a kind of training has instead, such as losses of shape `(n,)`.
        predictions: The same in words or numbers, such as class names.
        labels: Class indices, or numbers for a regression, shape `(n,)`; `None` for kinds without.
        outputs: What `logits` holds, in a word.

    Example:
        >>> from ttnet_llm.training import FinetuneSettings, finetune
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> result = finetune(settings)
        >>> evaluation = evaluate("run", "reviews.jsonl")
        >>> evaluation.logits.shape, evaluation.labels.shape, set(evaluation.predictions) <= {"good", "bad"}
        ((24, 2), (24,), True)
    """

    measures: dict[str, float]
    logits: NDArray[Any]
    predictions: list[Any]
    labels: NDArray[Any] | None
    outputs: str = "logits"


def evaluate(
    adapter: str | Path,
    data: str | Path,
    *,
    model: str | None = None,
    encoding: str | None = None,
    batch_size: int | None = None,
    label_separator: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Judge a model on a labelled file: whatever `ttnet_llm.load` loads and was trained for one of the kinds.

    Args:
        adapter: The folder of a run, of an adapter, or of an exported, compressed, merged or tensorised model.
        data: A csv, jsonl or parquet file with the columns of the training data, or if those are not known with usual
            names.
        model: The base model; `None` takes the one that the adapter names.
        encoding: Codec of a csv or jsonl file; `None` takes UTF-8, or what a byte-order mark says.
        batch_size: Texts in a batch, at least 1; `None` takes the kind's own, as training does.
        label_separator: What stands between the labels of a cell; `None` takes what did in training.
        on_batch: Called with the number of texts done.

    Returns:
        Measures and predictions.

    Raises:
        TTFileError: If the adapter, its base model or the file is not to be found, or the file cannot be read.
        TTTypeError: If the model is of no kind that is judged here.
        TTValueError: If a column is missing, or a label is missing, unknown, or could be either of two classes.

    Example:
        >>> from ttnet_llm.training import FinetuneSettings, finetune
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> result = finetune(settings)
        >>> sorted(evaluate("run", "reviews.jsonl").measures)
        ['accuracy']
    """
    from ttnet_llm.loading import find_model, load  # which reads configs by this room

    folder = find_model(adapter)
    known = read_details(folder) if (folder / DETAILS).is_file() else None
    table = read_table(data, encoding=encoding, instead=find_kind(known.kind).reads if known else {})
    if known:
        trained, tokenizer, details = load_finetuned(folder, model)
    else:
        trained, tokenizer = load(folder, base=model)
        if tokenizer is None:
            raise TTTypeError(f"The model in {str(adapter)!r} has no tokenizer that can be loaded; save one beside it.")
        details = guess_details(trained, table)
    kind = find_kind(details.kind)
    config: Any = kind.core(trained).config
    if label_separator is not None:
        if "label_separator" not in kind.heeds:
            raise TTValueError(f"label_separator was given, which the kind {kind.name} does not heed; leave it out.")
        details = replace(details, options=details.options | {"label_separator": label_separator})
    rows = kind.rows(table, details, config)
    size = kind.batch_size if batch_size is None else batch_size
    found = kind.judge(trained, tokenizer, rows, details, batch_size=size, on_batch=on_batch)
    predictions = kind.answers(found.outputs, rows, config)
    labels, outputs = getattr(rows, "labels", None), Path(kind.outputs_file).stem
    return Evaluation(found.measures, found.outputs, predictions, labels, outputs)


def guess_details(model: Any, table: Table) -> Details:
    """Tell from a model's class, and the columns of a file, how it is judged.

    Args:
        model: The model.
        table: The file.

    Returns:
        The details.

    Raises:
        TTTypeError: If the model is of no kind that is judged here.
        TTValueError: If the columns are unclear.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = next((kind for kind in KINDS.values() if kind.judges(base)), None)
    if kind is None:
        raise TTTypeError(
            f"The model is a {type(base).__name__}; expected one that was trained for {', '.join(KINDS)}."
        )
    config: Any = kind.core(base).config
    length = getattr(config.get_text_config(), "max_position_embeddings", None) or 512
    columns = kind.columns(table, FinetuneSettings("", "", train=table.path))
    return Details(columns, min(length, max(512, kind.max_length)), kind.measures_for(config), kind.name)


def write_predictions(evaluation: Evaluation, path: str | Path) -> None:
    """Write a line of JSON for every text: its prediction, and the logits or other outputs behind it."""
    rows = zip(evaluation.predictions, evaluation.logits.tolist(), strict=True)
    write_text(path, "".join(json.dumps({"prediction": p, evaluation.outputs: _finite(v)}) + "\n" for p, v in rows))


def _finite(value: Any) -> Any:
    """Put `None` where there is no number, such as the score of a choice that a question lacks: JSON has none."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
