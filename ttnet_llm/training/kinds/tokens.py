"""Tags of words, such as names of persons and places, by transformers' own trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from peft import TaskType
from torch import nn
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ttnet.errors import TTValueError
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.entities import entity_f1, mark_entities
from ttnet_llm.training.kinds.kind import Examples, Judgement, Kind, OnBatch, Task, batches, predicting
from ttnet_llm.training.kinds.losses import IGNORED
from ttnet_llm.training.kinds.shown import Shown, show_tags
from ttnet_llm.training.kinds.words import CUT, check_fast, encode_words
from ttnet_llm.training.labels import describe, encode, settle
from ttnet_llm.training.model import label_fields, load_config
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import judged

logger = logging.getLogger(__name__)

WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "label", "pos_tags")
NO_WORD = -2  # in outputs, after the last word; for one that was cut off it is `CUT`


@dataclass(frozen=True)
class Sentence:
    """Words, and the index of the tag of each."""

    words: tuple[str, ...]
    tags: tuple[int, ...]

    @property
    def given(self) -> tuple[str, ...]:
        """What makes two of them the same input."""
        return self.words


class Tokens(Kind):
    """Sentences of words, and a tag for each word.

    The tag of a word is trained on its first piece, and read there: judged are words, however many pieces they have.
    """

    name: ClassVar[str] = "tokens"
    about: ClassVar[str] = "lists of words and a tag for each"
    task_type: ClassVar[TaskType] = TaskType.TOKEN_CLS
    measures: ClassVar[tuple[str, ...]] = ("entity_f1", "accuracy")
    model_classes: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    pipeline: ClassVar[str] = "token-classification"
    outputs_file: ClassVar[str] = "tags.npy"
    reads: ClassVar[Mapping[str, str]] = {".txt": ".conll"}

    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Look for lists of words and lists of tags."""
        found = find_lists(table, settings)
        if found is None or not set(found) <= set(table.columns):
            return None
        if not all(isinstance(table.cells(name, 1)[0], list) for name in found):
            return None
        return f"{table.path!r} has lists of words in the column {found[0]} and of tags in {found[1]}"

    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle where words and tags stand."""
        found = find_lists(table, settings)
        if found is None or (missing := [name for name in found if name not in table.columns]):
            lacks = f"no column {missing[0]!r}" if found else "no columns of words and tags that are named as usual"
            raise TTValueError(
                f"{table.path!r} has {lacks}; say --text and --label, of {', '.join(table.columns)}. Files of a word "
                "and its tag in every line should end in .conll, or in .txt with --kind tokens."
            )
        return Columns((found[0],), found[1])

    def measures_for(self, config: PretrainedConfig) -> tuple[str, ...]:
        """Count entities only where tags mark them."""
        return measures_of(names_of(config))

    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Settle columns and tags, and take both."""
        columns = self.columns(train, settings)
        names = settle(_flat(train, columns), train.path, kind="classify").names or ()
        offered = measures_of(names)
        details = Details(
            columns, settings.max_length or self.max_length, self.choose_measures(settings, offered), self.name
        )
        shown = ", ".join(names[:9]) + (", ..." if len(names) > 9 else "")
        taken_as = (
            f"words in the column {columns.text[0]} with a tag for each in {columns.label}, of {len(names)} tags "
            f"({shown}), which mark {'entities' if len(offered) > 1 else 'single words'}; a word's first piece has its "
            "tag"
        )
        logger.info("The rows of %r are taken as %s.", train.path, taken_as)
        judged_by = None if validation is None else take(validation, columns, names)
        return Task(take(train, columns, names), judged_by, details, taken_as, names)

    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Examples[Sentence]:
        """Take words, and tags by their names."""
        return take(table, details.columns, names_of(config))

    @property
    def model_cls(self) -> Any:
        """The class that puts a head for every token on a model."""
        return AutoModelForTokenClassification

    def configure(self, name: str, task: Task) -> PretrainedConfig:
        """Load the config, with the tags in it."""
        return load_config(name, **label_fields(task.names))

    def load(self, name: str, config: PretrainedConfig, **options: Any) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """Load a model and its tokenizer, which has to tell words apart."""
        model, tokenizer = super().load(name, config, **options)
        check_fast(tokenizer)
        return model, tokenizer

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
        return judged(Trainer)(
            model=model,
            args=TrainingArguments(**arguments, train_sampling_strategy="group_by_length"),
            train_dataset=tokenize(tokenizer, task.train, length),
            eval_dataset=tokenize(tokenizer, task.validation, length),
            processing_class=tokenizer,
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )

    def judge(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Examples[Sentence],
        details: Details,
        *,
        batch_size: int = 32,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Give the F1 score of entities, where tags mark them, and the share of words whose tag is right.

        Words that are cut off count as no entity, and as wrong. The outputs are indices of tags, shape
        `(n, words of the longest)`; `CUT` for words that were cut off, and `NO_WORD` beyond the last.
        """
        outputs = np.full((len(rows), max(len(row.words) for row in rows)), NO_WORD)
        device = next(model.parameters()).device
        model.eval()
        with torch.inference_mode():
            for batch in batches(len(rows), batch_size):
                sentences = [rows[k].words for k in batch]
                encoded, firsts = encode_words(
                    tokenizer,
                    sentences,
                    truncation=True,
                    max_length=details.max_length,
                    padding=True,
                    return_tensors="pt",
                )
                best = model(**encoded.to(device)).logits.argmax(-1).cpu().numpy()  # (batch, tokens)
                for k, tags, first in zip(batch, best, firsts, strict=True):
                    outputs[k, : len(first)] = np.where(np.array(first) == CUT, CUT, tags[first])
                if on_batch:
                    on_batch(batch.stop)
        if cut := int((outputs == CUT).sum()):
            logger.info("%d words are cut off, as sentences are cut to %d tokens.", cut, details.max_length)
        names = names_of(model.config)
        wanted = [[names[k] for k in row.tags] for row in rows]
        right = sum(int((outputs[k, : len(row.tags)] == row.tags).sum()) for k, row in enumerate(rows))
        found = {"accuracy": right / sum(len(row.words) for row in rows)}
        if "entity_f1" in details.measures:
            found["entity_f1"] = entity_f1(in_names(outputs, names), wanted)
        return Judgement({name: found[name] for name in details.measures}, outputs)

    def answers(self, outputs: NDArray[Any], rows: Any, config: PretrainedConfig) -> list[Any]:
        """Name the tag of every word; `None` where one was cut off."""
        return in_names(outputs, names_of(config))

    def example(self, details: Details) -> str:
        """Say the tags of words."""
        return predicting(details, '["Ada", "Lovelace", "was", "here"]')

    def show(
        self, rows: Examples[Sentence], before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Show sentences with wrong tags, and without."""
        names = names_of(config)
        wanted = [[names[k] for k in row.tags] for row in rows]
        return show_tags([row.words for row in rows], wanted, in_names(before, names), in_names(after, names))


def find_lists(table: Table, settings: FinetuneSettings) -> tuple[str, str] | None:
    """Find the columns of words and of tags: those that the user names, or else of usual names.

    Args:
        table: The table.
        settings: What the user names.

    Returns:
        Both; `None` where one is neither named nor found.
    """
    asked = settings.text_columns or ()
    words = asked[0] if len(asked) == 1 else next((name for name in WORDS if name in table.columns), None)
    tags = settings.label_column or next((name for name in TAGS if name in table.columns), None)
    return None if words is None or tags is None or len(asked) > 1 else (words, tags)


def measures_of(names: Sequence[str]) -> tuple[str, ...]:
    """Say what tags are judged by."""
    return Tokens.measures if mark_entities(names) else ("accuracy",)


def names_of(config: Any) -> tuple[str, ...]:
    """Read a model's tags, in the order of their indices."""
    return tuple(config.id2label[k] for k in range(config.num_labels))


def in_names(outputs: NDArray[Any], names: Sequence[str]) -> list[list[str | None]]:
    """Put indices of tags into words.

    Example:
        >>> in_names(np.array([[1, CUT, NO_WORD]]), ["O", "B-PER"])
        [['B-PER', None]]
    """
    return [[None if k == CUT else names[k] for k in row if k != NO_WORD] for row in outputs.tolist()]


def take(table: Table, columns: Columns, names: Sequence[str]) -> Examples[Sentence]:
    """Take sentences from a table.

    Args:
        table: The table.
        columns: Where words and tags stand.
        names: The tags.

    Returns:
        The sentences.

    Raises:
        TTValueError: If a column is missing, a row has no words or not as many tags, or a tag is unknown.
    """
    flat = iter(encode(_flat(table, columns), table.path, names).tolist())
    sentences = table.cells(columns.text[0])
    return Examples(Sentence(tuple(words), tuple(next(flat) for _ in words)) for words in sentences)


def _flat(table: Table, columns: Columns) -> list[Any]:
    """Give the tags of all words, one after the other, once they are known to be as many as the words."""
    names = (columns.text[0], columns.label or "")
    if missing := [name for name in names if name not in table.columns]:
        raise TTValueError(f"{table.path!r} has no column {missing[0]!r}; its columns are {', '.join(table.columns)}.")
    flat: list[Any] = []
    for row, (words, tags) in enumerate(zip(*(table.cells(name) for name in names), strict=True), 1):
        for name, cell, kinds in ((names[0], words, str), (names[1], tags, str | int)):
            if not isinstance(cell, list) or not cell or not all(isinstance(each, kinds) for each in cell):
                raise TTValueError(
                    f"Row {row} of {table.path!r} holds {describe(cell)} in the column {name!r}; expected a list of "
                    "words, or of the tags of as many."
                )
        if len(words) != len(tags):
            raise TTValueError(
                f"Row {row} of {table.path!r} has {len(words)} words and {len(tags)} tags; expected a tag for each "
                "word."
            )
        flat += tags
    return flat


def tokenize(tokenizer: Any, rows: Examples[Sentence], max_length: int) -> list[dict[str, Any]]:
    """Turn sentences into what the model takes, not yet padded.

    Args:
        tokenizer: A fast tokenizer.
        rows: The sentences.
        max_length: Tokens to cut to.

    Returns:
        A dictionary for each; its `labels` are `IGNORED` but for the first pieces of words.
    """
    encoded, firsts = encode_words(tokenizer, [row.words for row in rows], truncation=True, max_length=max_length)
    taken = []
    for k, (row, first) in enumerate(zip(rows, firsts, strict=True)):
        fields = {name: values[k] for name, values in encoded.items()}
        labels = [IGNORED] * len(fields["input_ids"])
        for tag, position in zip(row.tags, first, strict=True):
            if position != CUT:
                labels[position] = tag
        taken.append(fields | {"labels": labels})
    return taken
