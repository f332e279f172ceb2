"""Texts out of other texts, by a model with an encoder and a decoder and transformers' `Seq2SeqTrainer`."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from numpy.typing import NDArray
from peft import TaskType
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.training.data import LABELS
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.causal import PAIRS, Passage, find_pair, name_columns, take
from ttnet_llm.training.kinds.kind import Examples, Judgement, Kind, OnBatch, Task, predicting
from ttnet_llm.training.kinds.losses import Encoded, judge_tokens, sum_losses
from ttnet_llm.training.kinds.shown import Shown, show_losses
from ttnet_llm.training.metrics import LOSSES
from ttnet_llm.training.model import load_config
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import judged

logger = logging.getLogger(__name__)

SOURCES = (
    ("source", "target"),
    ("document", "summary"),
    ("article", "summary"),
    ("article", "highlights"),
    ("text", "summary"),
)


class Seq2Seq(Kind):
    """Models that read a text, and write another."""

    name: ClassVar[str] = "seq2seq"
    about: ClassVar[str] = "texts and what to write of them, for a model with an encoder and a decoder"
    task_type: ClassVar[TaskType] = TaskType.SEQ_2_SEQ_LM
    measures: ClassVar[tuple[str, ...]] = LOSSES
    model_classes: ClassVar[tuple[str, ...]] = ("ForConditionalGeneration", "EncoderDecoderModel")
    pipeline: ClassVar[str] = "text2text-generation"
    max_length: ClassVar[int] = 512
    batch_size: ClassVar[int] = 8
    outputs_file: ClassVar[str] = "losses.npy"

    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Look for pairs of texts in a table without labels, and for an encoder in the model."""
        if settings.messages_column or settings.text_columns or settings.label_column:
            return None
        pair = find_pair(table, settings, (*SOURCES, *PAIRS))
        if pair is None or not has_encoder(settings.model):
            return None
        named = settings.prompt_column or settings.completion_column
        if not named and any(name in table.columns for name in LABELS if name not in pair):
            return None
        shape = name_columns(Columns(prompt=pair[0], completion=pair[1]))
        return f"{table.path!r} has {shape}, and {settings.model!r} an encoder and a decoder"

    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle where what is read stands, and what is to be written."""
        pair = find_pair(table, settings, (*SOURCES, *PAIRS))
        if pair is None:
            raise TTValueError(
                f"{table.path!r} has no columns of texts to read and to write that are named as usual, such as prompt "
                f"and completion; say --prompt and --completion, of {', '.join(table.columns)}."
            )
        return Columns(prompt=pair[0], completion=pair[1])

    def judges(self, model: Any) -> bool:
        """Look for an encoder, as models that describe pictures are named alike."""
        return super().judges(model) and bool(model.config.is_encoder_decoder)

    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Settle the columns, and take both texts."""
        columns = self.columns(train, settings)
        length = settings.max_length or self.max_length
        details = Details(columns, length, self.choose_measures(settings), self.name)
        taken_as = f"texts to read in the column {columns.prompt} and to write in {columns.completion}"
        logger.info("The rows of %r are taken as %s.", train.path, taken_as)
        judged_by = None if validation is None else take(validation, columns)
        return Task(take(train, columns), judged_by, details, taken_as)

    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Examples[Passage]:
        """Take the texts."""
        return take(table, details.columns)

    @property
    def model_cls(self) -> Any:
        """The class of models that write texts out of others."""
        return AutoModelForSeq2SeqLM

    def configure(self, name: str, task: Task) -> PretrainedConfig:
        """Load the config, and refuse a model without an encoder."""
        config: Any = super().configure(name, task)
        if not config.is_encoder_decoder:
            raise TTValueError(
                f"model is {name!r}, a {config.model_type}, which has no encoder and decoder as the kind seq2seq needs "
                "them; say --kind causal, or take another model."
            )
        return config

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
        return judged(Seq2SeqTrainer)(
            model=model,
            args=Seq2SeqTrainingArguments(**arguments, train_sampling_strategy="group_by_length"),
            train_dataset=[encode(tokenizer, row, length) for row in task.train],
            eval_dataset=[encode(tokenizer, row, length) for row in task.validation],
            processing_class=tokenizer,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )

    def judge(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Examples[Passage],
        details: Details,
        *,
        batch_size: int = 8,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Give the mean loss over all tokens to write, its exponential, and the share of tokens foretold.

        The outputs are the mean loss of every example, shape `(n,)`.
        """
        encoded = [encode(tokenizer, row, details.max_length) for row in rows]
        collate, device = DataCollatorForSeq2Seq(tokenizer), next(model.parameters()).device

        def sums_of(chosen: list[Encoded]) -> NDArray[Any]:
            batch = {name: values.to(device) for name, values in collate(chosen).items()}
            return sum_losses(model(**batch).logits, batch["labels"])

        model.eval()
        return judge_tokens(encoded, sums_of, details, batch_size=batch_size, on_batch=on_batch)

    def example(self, details: Details) -> str:
        """Write a text out of another."""
        return predicting(details, '"A text."')

    def show(
        self, rows: Examples[Passage], before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Show the examples of highest and lowest loss."""
        return show_losses([row.in_words() for row in rows], before, after)


def has_encoder(model: str) -> bool:
    """Tell of a model, by its folder or id, whether it has an encoder and a decoder; not so if there is no such model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from transformers import T5Config
        >>> with TemporaryDirectory() as folder:
        ...     T5Config().save_pretrained(folder)
        ...     has_encoder(folder)
        True
    """
    try:
        config: Any = load_config(model)
    except TTFileError:  # which is told once the kind is settled
        return False
    return bool(config.is_encoder_decoder)


def encode(tokenizer: Any, row: Passage, max_length: int) -> Encoded:
    """Tokenise what is read and what is to be written.

    Args:
        tokenizer: The model's.
        row: Both texts.
        max_length: Tokens to cut each of them to. What is to be written ends in the token that ends texts, unless it is
            cut.

    Returns:
        `input_ids` and `labels`.
    """
    labels = list(tokenizer(text_target=row.text)["input_ids"])
    if tokenizer.eos_token_id is not None and labels[-1:] != [tokenizer.eos_token_id]:
        labels.append(tokenizer.eos_token_id)
    read = tokenizer(row.prompt, truncation=True, max_length=max_length)["input_ids"]
    return {"input_ids": list(read), "labels": labels[:max_length]}
