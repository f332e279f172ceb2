"""Texts and pairs of texts, classed into one class or several, or rated, by transformers' own trainer."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from peft import TaskType
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ttnet_llm.training.data import Split, TextTask, find_columns, is_labelled, make_task, to_split
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.kind import Judgement, Kind, OnBatch, Task, predicting
from ttnet_llm.training.kinds.shown import Shown, show_classes, show_labels, show_numbers
from ttnet_llm.training.labels import Meaning
from ttnet_llm.training.metrics import MEASURES_OF_SEVERAL, measure
from ttnet_llm.training.model import label_fields, load_config, predict, tokenize
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.several import PROBLEM, cells_of, settle_labels
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import judged


class Classify(Kind):
    """Texts, or pairs of texts, and the class that each belongs to, or all classes where the labels are lists."""

    name: ClassVar[str] = "classify"
    about: ClassVar[str] = "texts and their classes, one of each or several"
    task_type: ClassVar[TaskType] = TaskType.SEQ_CLS
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    model_classes: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    pipeline: ClassVar[str] = "text-classification"
    heeds: ClassVar[tuple[str, ...]] = ("label_separator",)
    rates: ClassVar[bool] = False  # or else it classifies

    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Look what the labels are, if there are some."""
        if not is_labelled(table, settings.label_column):
            return None
        cells = cells_of(table, self.columns(table, settings).label or "", settings.label_separator)
        meaning = settle_labels(cells, table.path, typed=table.typed)
        # What they are is said once they are read.
        return f"the labels of {table.path!r} say" if (meaning.names is None) == self.rates else None

    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle where texts and labels stand."""
        return find_columns(table, settings.text_columns, settings.label_column)

    def judges(self, model: Any) -> bool:
        """Look for a head, and for how many numbers it gives."""
        return super().judges(model) and (model.config.num_labels == 1) == self.rates

    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Settle columns and classes, and take both."""
        return self.task_of(
            make_task(
                train,
                validation,
                text_columns=settings.text_columns,
                label_column=settings.label_column,
                kind=settings.kind,
                measures=settings.measures,
                label_separator=settings.label_separator,
            ),
            settings,
        )

    def task_of(self, task: TextTask, settings: FinetuneSettings) -> Task:
        """Make a run's task of labelled text."""
        length, separator = settings.max_length or self.max_length, settings.label_separator
        options = {} if separator is None else {"label_separator": separator}
        details = Details(task.columns, length, task.measures, self.name, options)
        return Task(task.train, task.validation, details, task.taken_as, task.names)

    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Split:
        """Take texts, and labels by the classes' names."""
        meaning = Meaning(class_names(config), "", several=has_several(config))
        return to_split(table, details.columns, meaning, details.options.get("label_separator"))

    def measures_for(self, config: PretrainedConfig) -> tuple[str, ...]:
        """Count single labels where a text may have several."""
        return tuple(MEASURES_OF_SEVERAL) if has_several(config) else self.measures

    @property
    def model_cls(self) -> Any:
        """The class that puts a head for a whole text on a model."""
        return AutoModelForSequenceClassification

    def configure(self, name: str, task: Task) -> PretrainedConfig:
        """Load the config, with the classes in it."""
        return load_config(name, **label_fields(task.names, several=task.train.labels.ndim == 2))

    def trainer(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        settings: FinetuneSettings,
        arguments: dict[str, Any],
    ) -> Any:
        """Make transformers' trainer."""
        length = task.details.max_length
        trainer = judged(Trainer)(
            model=model,
            args=TrainingArguments(**arguments, train_sampling_strategy="group_by_length"),
            train_dataset=tokenize(tokenizer, task.train, length),
            eval_dataset=tokenize(tokenizer, task.validation, length),
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        # Many classifiers take the number of examples in a step, and leave it: their loss is the mean of a batch, which
        # the trainer has to divide by the number of batches, and not to multiply by that of the processes.
        trainer.model_accepts_loss_kwargs = False
        return trainer

    def judge(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Split,
        details: Details,
        *,
        batch_size: int = 32,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Compare classes, or numbers, with the labels."""
        length = details.max_length
        logits = predict(model, tokenizer, rows, max_length=length, batch_size=batch_size, on_batch=on_batch)
        return Judgement(measure(logits, rows.labels, details.measures), logits)

    def example(self, details: Details) -> str:
        """Say what the model makes of a text, or of a pair."""
        given = '("A text.", "Another.")' if len(details.columns.text) == 2 else '"A text."'
        return predicting(details, given)

    def without_reading(
        self, rows: Split, details: Details, config: PretrainedConfig
    ) -> tuple[str, dict[str, float]] | None:
        """Judge the class that most texts have."""
        names = class_names(config)
        if names is None or rows.labels.ndim == 2:
            return None
        most = int(np.bincount(rows.labels).argmax())
        logits = np.tile(np.arange(len(names)) == most, (len(rows), 1)).astype(np.float32)
        return f"{names[most]!r} for every text", measure(logits, rows.labels, details.measures)

    def answers(self, outputs: NDArray[Any], rows: Any, config: PretrainedConfig) -> list[Any]:
        """Name the classes, or give the numbers."""
        names = class_names(config)
        if names is None:
            return outputs[:, 0].tolist()
        if has_several(config):
            return [[name for name, logit in zip(names, row, strict=True) if logit >= 0] for row in outputs]
        return [names[k] for k in outputs.argmax(axis=1)]

    def show(
        self, rows: Split, before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Show texts that are classed right and wrong, or rated well and badly."""
        names = class_names(config)
        if names is None:
            return show_numbers(rows.texts, rows.labels, before, after)
        if has_several(config):
            return show_labels(rows.texts, rows.labels, before, after, names)
        return show_classes(rows.texts, rows.labels, before, after, names)


class Regress(Classify):
    """Texts, or pairs of texts, and a number for each."""

    name: ClassVar[str] = "regress"
    about: ClassVar[str] = "texts and a number for each"
    measures: ClassVar[tuple[str, ...]] = ("pearson",)
    heeds: ClassVar[tuple[str, ...]] = ()
    rates: ClassVar[bool] = True


def class_names(config: PretrainedConfig) -> tuple[str, ...] | None:
    """Read a classifier's classes, in the order of their indices.

    Args:
        config: The model's config.

    Returns:
        The names; `None` for a regression.
    """
    labels: Any = config
    return None if labels.num_labels == 1 else tuple(labels.id2label[k] for k in range(labels.num_labels))


def has_several(config: Any) -> bool:
    """Tell whether a text may have several of a classifier's classes."""
    return bool(config.problem_type == PROBLEM)
