"""What a kind of training has to know; everything else about a run is the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, TaskType
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ttnet.errors import TTValueError
from ttnet_llm.attach import attach
from ttnet_llm.prompts import prompted
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.shown import Shown
from ttnet_llm.training.model import load_config, load_model
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table

OnBatch = Callable[[int], None]


class Rows(Protocol):
    """Examples to train or judge on."""

    def __len__(self) -> int:
        """Say how many there are."""

    def pick(self, rows: Sequence[int]) -> Self:
        """Return some of them, in the given order."""

    def key(self, row: int) -> Hashable:
        """Give what makes two of them the same input."""


Item = TypeVar("Item", bound=Hashable)


class Examples(list[Item], Generic[Item]):
    """A list of examples whose inputs say what they are."""

    def pick(self, rows: Sequence[int]) -> Examples[Item]:
        """Return some of them, in the given order."""
        return Examples(self[row] for row in rows)

    def key(self, row: int) -> Hashable:
        """Give what makes two of them the same input: what their attribute `given` says, or all they hold."""
        return getattr(self[row], "given", self[row])


@dataclass(frozen=True)
class Task:
    """What a run trains and judges on.

    Args:
        train: The examples to learn from.
        validation: Those to judge by; `None` if some of the others have to be held out.
        details: Which columns they came from, and how the model is fed and judged.
        taken_as: In words, what the data were taken as, and why.
        names: Classes or tags, in the order of their indices.
    """

    train: Any
    validation: Any
    details: Details
    taken_as: str
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Judgement:
    """What a model makes of examples.

    Args:
        measures: By name, the one that counts first.
        outputs: An entry for every example: logits, losses, scores.
    """

    measures: dict[str, float]
    outputs: NDArray[Any]


class Kind(ABC):
    """A kind of training: what it takes from data, which model it trains by which trainer, and how it is judged.

    Kinds hold nothing: what they know of a run is in its task and its details.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # in one line
    task_type: ClassVar[TaskType]
    measures: ClassVar[tuple[str, ...]]  # what it is judged by unless told otherwise, the one that counts first
    model_classes: ClassVar[tuple[str, ...]]  # how the names of its models' classes end
    pipeline: ClassVar[str]  # the hub's name for it
    max_length: ClassVar[int] = 128
    batch_size: ClassVar[int] = 32
    outputs_file: ClassVar[str] = "logits.npy"
    reads: ClassVar[Mapping[str, str]] = {}  # suffixes of files that it reads as those of another
    packages: ClassVar[tuple[str, ...]] = ()  # whose versions matter besides
    composed: ClassVar[bool] = False  # whether its models are more than transformers' own
    heeds: ClassVar[tuple[str, ...]] = ()  # of the settings that are for some kinds only

    @abstractmethod
    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Tell whether a table is for this kind, where the user does not say what it is for.

        Args:
            table: The training data.
            settings: What the user says of the columns, and the model.

        Returns:
            Why it is, to follow "as"; `None` if it is not.

        Raises:
            TTValueError: If it may be for this kind or for another.
        """

    @abstractmethod
    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle which columns hold what this kind takes.

        Args:
            table: The table.
            settings: What the user says of them.

        Returns:
            The columns.

        Raises:
            TTValueError: If a column is missing or unclear; the message says what to do.
        """

    @abstractmethod
    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Take from the tables what there is to learn.

        Args:
            settings: What the user says of the columns.
            train: The training data.
            validation: The validation data, if they are apart.

        Returns:
            The task.

        Raises:
            TTValueError: If a column is missing or unclear, or a cell is unfit; the message says what to do.
        """

    @abstractmethod
    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Any:
        """Take examples from a file for a model that is trained.

        Args:
            table: The file's content.
            details: The columns.
            config: The model's config, which names its classes.

        Returns:
            The examples.
        """

    @property
    @abstractmethod
    def model_cls(self) -> Any:
        """The class that loads models of this kind."""

    def model_cls_for(self, config: PretrainedConfig) -> Any:
        """Give the class that loads the model of a config."""
        return self.model_cls

    def task_type_for(self, config: PretrainedConfig) -> TaskType:
        """Say what PEFT calls what is done with the model of a config."""
        return self.task_type

    def judges(self, model: Any) -> bool:
        """Tell whether a model, without its adapter, is one of this kind."""
        return type(model).__name__.endswith(self.model_classes)

    def measures_for(self, config: PretrainedConfig) -> tuple[str, ...]:
        """Say what a model is judged by that was trained elsewhere."""
        return self.measures

    def choose_measures(self, settings: FinetuneSettings, offered: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Settle what to judge by.

        Args:
            settings: What the user says.
            offered: What there is for these data, the one that counts first; `None` takes the kind's own.

        Returns:
            The measures.

        Raises:
            TTValueError: If one is asked for that there is not.
        """
        offered = offered or self.measures
        if unfit := [name for name in settings.measures or () if name not in offered]:
            raise TTValueError(
                f"measures names {unfit[0]!r}, but the kind {self.name} has {', '.join(offered)} for these data; name "
                "those."
            )
        return settings.measures or offered

    def configure(self, name: str, task: Task) -> PretrainedConfig:
        """Load the config of a base model, and put into it what the task needs.

        Args:
            name: A folder or hub id.
            task: The task.

        Returns:
            The config.
        """
        return load_config(name)

    def load(self, name: str, config: PretrainedConfig, **options: Any) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """Load a model and its tokenizer.

        Args:
            name: A folder or hub id.
            config: The model's config.
            **options: For `from_pretrained`, such as `dtype`.

        Returns:
            The model in evaluation mode, and the tokenizer.
        """
        return load_model(name, self.model_cls_for(config), config, **options)

    def draw(self, rows: Any, settings: FinetuneSettings) -> Any:
        """Draw the examples to learn from that the settings ask for.

        Args:
            rows: The training examples.
            settings: The settings.

        Returns:
            Some of them, or all.

        Raises:
            TTValueError: If there are not so many.
        """
        return draw(rows, settings.limit, settings.seed)

    def core(self, model: Any) -> Any:
        """Give the transformers model, with its adapter, inside of what is trained."""
        return model

    def attach(self, model: nn.Module, config: PeftConfig | None) -> nn.Module:
        """Put a new adapter on a model; leave all of it trainable without a config."""
        return attach(model, config)

    def put_adapter(self, model: nn.Module, folder: Path) -> nn.Module:
        """Put a saved adapter on its base model."""
        return PeftModel.from_pretrained(model, str(folder))

    def prompted(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Give the tokenizer that writes a soft prompt before texts, where the model has an adapter that needs one.

        Args:
            model: With its adapter.
            tokenizer: The model's.

        Returns:
            The tokenizer; another one only where there is a prompt.
        """
        return prompted(tokenizer, model)

    @abstractmethod
    def trainer(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        settings: FinetuneSettings,
        arguments: dict[str, Any],
    ) -> Any:
        """Make the trainer.

        Args:
            model: With its adapter.
            tokenizer: The model's.
            task: What there is to learn.
            settings: The settings.
            arguments: For `TrainingArguments` or a class made of it.

        Returns:
            A `Trainer` made by `judged`.
        """

    @abstractmethod
    def judge(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Any,
        details: Details,
        *,
        batch_size: int = 32,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Judge a model on labelled examples, always in the same batches.

        Args:
            model: Put into evaluation mode.
            tokenizer: The model's.
            rows: The examples.
            details: How to feed it, and the measures.
            batch_size: Examples in a batch, at least 1.
            on_batch: Called with the number of examples done.

        Returns:
            Measures and outputs.
        """

    @abstractmethod
    def example(self, details: Details) -> str:
        """Write the end of a program that uses a model of this kind, for its card.

        Args:
            details: How the model is fed.

        Returns:
            Lines that follow those that load `model` and `tokenizer`.
        """

    def without_reading(
        self, rows: Any, details: Details, config: PretrainedConfig
    ) -> tuple[str, dict[str, float]] | None:
        """Judge an answer that needs no example, which a model that has learnt nothing may come to.

        Args:
            rows: The examples that are judged.
            details: The measures.
            config: The model's config, which names its classes.

        Returns:
            The answer in words, and its measures; `None` where there is no such answer.
        """
        return None

    def answers(self, outputs: NDArray[Any], rows: Any, config: PretrainedConfig) -> list[Any]:
        """Put what `judge` gives out into words or numbers that people read.

        Args:
            outputs: The outputs.
            rows: The examples that were judged.
            config: The model's config, which names its classes.

        Returns:
            An entry for every example.
        """
        return outputs.tolist()

    def show(
        self, rows: Any, before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Choose examples for a reader to look at.

        Args:
            rows: The examples that were judged.
            before: What `judge` gave out before training.
            after: The same after training.
            config: The model's config, which names its classes.

        Returns:
            Examples under headings; none where there is nothing to see.
        """
        return {}


def batches(count: int, size: int) -> list[range]:
    """Cut the numbers below `count` into pieces.

    Example:
        >>> batches(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def predicting(details: Details, given: str) -> str:
    """Write the end of a program that predicts.

    Args:
        details: How the model is fed.
        given: What it is given, in Python.

    Returns:
        Lines of Python.
    """
    predictor = f"Predictor(model, tokenizer, max_length={details.max_length})"
    return f"\nfrom ttnet_llm.inference import Predictor\n\nfor answer in {predictor}([{given}]):\n    print(answer)"


def draw(rows: Any, count: int | None, seed: int) -> Any:
    """Draw examples.

    Args:
        rows: The examples.
        count: How many; `None` for all.
        seed: Of the draw.

    Returns:
        Some of them, in their old order.
    """
    if count is None or count >= len(rows):
        return rows
    return rows.pick(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]).tolist())
