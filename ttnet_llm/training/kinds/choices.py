"""Questions with choices, of which one is right, by transformers' own trainer and T-Few's loss."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from peft import TaskType
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ttnet.errors import TTValueError
from ttnet_llm.training.choices import (
    ChoiceCollator,
    ChoiceLoss,
    Question,
    Template,
    ask_in_all_words,
    choosing,
    encode,
    few_shot,
    rank_classify,
)
from ttnet_llm.training.choices.reading import CHOICES, PROMPTS, RIGHT, read_choices, read_right
from ttnet_llm.training.data import LABELS, take_texts
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.kind import Examples, Judgement, Kind, OnBatch, Task, draw
from ttnet_llm.training.kinds.shown import Shown, show_choices
from ttnet_llm.training.labels import encode as encode_labels
from ttnet_llm.training.labels import settle
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import judged

logger = logging.getLogger(__name__)


class Choices(Kind):
    """Models that write texts, and are asked which of some texts is the likeliest."""

    name: ClassVar[str] = "choices"
    about: ClassVar[str] = "questions with choices, or texts and a word for each class, for a model that writes texts"
    task_type: ClassVar[TaskType] = TaskType.CAUSAL_LM
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    model_classes: ClassVar[tuple[str, ...]] = ()  # none is for this alone
    pipeline: ClassVar[str] = "text-generation"
    max_length: ClassVar[int] = 512
    batch_size: ClassVar[int] = 8
    outputs_file: ClassVar[str] = "scores.npy"
    heeds: ClassVar[tuple[str, ...]] = (
        *("choices_column", "template", "label_words"),
        *("few_shot", "unlikelihood", "ranking"),
    )

    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Look for a template, or for columns of questions, choices and answers."""
        if settings.templates:
            return f"there is the template {settings.templates[0]!r}"
        if settings.choices_column is not None:
            return f"there is a column of choices, {settings.choices_column}"
        found = [_first(names, table) for names in (PROMPTS, CHOICES, RIGHT)]
        if settings.text_columns or settings.completion_column or settings.messages_column or None in found:
            return None
        return f"{table.path!r} has the columns {found[0]}, {found[1]} and {found[2]}"

    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle which columns the template names, and where choices and the right one stand."""
        templates = _templates_of(table, settings)
        choices = settings.choices_column
        if choices is None and not settings.label_words:
            choices = _first(CHOICES, table)
        if choices is None and not settings.templates:
            raise TTValueError(
                f"{table.path!r} has no column of choices that is named as usual, such as {', '.join(CHOICES)}; say "
                "--choices, or --template '{text} It was {}.' for texts with classes, of "
                f"{', '.join(table.columns)}."
            )
        label = settings.label_column or _first(LABELS if choices is None else RIGHT, table)
        if label is None:
            usual = LABELS if choices is None else RIGHT
            raise TTValueError(
                f"{table.path!r} has no column named {', '.join(usual[:-1])} or {usual[-1]}; say --label, one of "
                f"{', '.join(table.columns)}."
            )
        fields = tuple(dict.fromkeys(name for template in templates for name in template.fields))
        _check_columns(table, (*fields, label, choices))
        return Columns(fields, label, choices=choices)

    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Settle template, columns and words, and take the questions."""
        columns, texts = self.columns(train, settings), [each.text for each in _templates_of(train, settings)]
        words = dict(settings.label_words)
        if columns.choices is None and not words:
            names = settle(train.cells(columns.label or ""), train.path, kind="classify", typed=train.typed).names or ()
            words = {name: name for name in names}
        templates = [Template(text, words) for text in texts]
        options = {"template": texts[0]} | ({"words": json.dumps(words)} if words else {})
        if len(texts) > 1:
            options["further_templates"] = json.dumps(texts[1:])
        length = settings.max_length or self.max_length
        details = Details(columns, length, self.choose_measures(settings), self.name, options)
        taken_as = say(templates, columns)
        logger.info("The rows of %r are taken as %s.", train.path, taken_as)
        judged_by = None if validation is None else take(validation, details)
        return Task(take(train, details), judged_by, details, taken_as, tuple(words) or None)

    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Examples[Question]:
        """Take the questions by the template that the model was trained with."""
        return take(table, details)

    def draw(self, rows: Examples[Question], settings: FinetuneSettings) -> Any:
        """Draw few examples, with as many of each right answer, or as they come."""
        if settings.few_shot is None:
            return draw(rows, settings.limit, settings.seed)
        if settings.few_shot > len(rows):
            raise TTValueError(
                f"few_shot is {settings.few_shot}, but there are {len(rows)} training examples; name at most so many."
            )
        answers = [row.names[row.right or 0] for row in rows]
        return rows.pick(few_shot(answers, settings.few_shot, seed=settings.seed))

    @property
    def model_cls(self) -> Any:
        """The class of language models."""
        return AutoModelForCausalLM

    def model_cls_for(self, config: Any) -> Any:
        """The same, or that of models with an encoder and a decoder."""
        return AutoModelForSeq2SeqLM if config.is_encoder_decoder else self.model_cls

    def task_type_for(self, config: Any) -> TaskType:
        """What PEFT calls the one or the other."""
        return TaskType.SEQ_2_SEQ_LM if config.is_encoder_decoder else self.task_type

    def judges(self, model: Any) -> bool:
        """Leave models that say nothing of choices to the other kinds."""
        return False

    def trainer(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        settings: FinetuneSettings,
        arguments: dict[str, Any],
    ) -> Any:
        """Make transformers' trainer, which divides the loss by what whole steps count."""
        config: Any = model.config
        decodes = bool(config.is_encoder_decoder)

        def encoded(rows: Examples[Question]) -> list[Any]:
            length = task.details.max_length
            asked = [wording.right_first() for row in rows for wording in row.wordings]
            return [encode(tokenizer, each, max_length=length, encoder_decoder=decodes) for each in asked]

        return judged(choosing(Trainer))(
            model=model,
            args=TrainingArguments(**arguments, remove_unused_columns=False),
            train_dataset=encoded(task.train),
            eval_dataset=encoded(task.validation),
            processing_class=tokenizer,
            data_collator=ChoiceCollator(tokenizer, model),
            compute_loss_func=ChoiceLoss(settings.unlikelihood, settings.ranking, shift=not decodes),
        )

    def judge(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Examples[Question],
        details: Details,
        *,
        batch_size: int = 8,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Give the share of questions whose likeliest choice is the right one.

        The outputs are the scores of the choices, shape `(n, choices)`, as `rank_classify` gives them.
        """
        length = details.max_length
        scores = rank_classify(model, tokenizer, rows, max_length=length, batch_size=batch_size, on_batch=on_batch)
        right = np.array([row.right for row in rows])
        return Judgement({"accuracy": float(np.mean(scores.argmax(axis=1) == right))}, scores)

    def example(self, details: Details) -> str:
        """Ask a question."""
        template, given = templates_in(details)[0], dict.fromkeys(details.columns.text, "A text.")
        words = f", {dict(template.words)}" if template.words else ""
        choices = "" if template.words else ', ["one", "another"]'
        return (
            "\nfrom ttnet_llm.inference import Chooser\nfrom ttnet_llm.training.choices import Template\n\n"
            f"template = Template({template.text!r}{words})\n"
            f"for answer in Chooser(model, tokenizer)([template.ask({given}{choices})]):\n    print(answer)"
        )

    def answers(self, outputs: NDArray[Any], rows: Any, config: PretrainedConfig) -> list[Any]:
        """Name the likeliest choices."""
        return [row.names[best] for row, best in zip(rows, outputs.argmax(axis=1).tolist(), strict=True)]

    def show(
        self, rows: Examples[Question], before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Show questions that are answered right and wrong."""
        return show_choices([(row.prompt, row.names, row.right or 0) for row in rows], before, after)


def say(templates: Sequence[Template], columns: Columns) -> str:
    """Say in words what the rows are."""
    asked = f"questions by the template {templates[0].text!r}"
    if len(templates) > 1:
        asked += f" and {len(templates) - 1} more"
    if words := templates[0].words:
        said = ", ".join(name if name == word else f"{name}: {word}" for name, word in words.items())
        return f"{asked}, with a word for each class in {columns.label} ({said})"
    return f"{asked}, with choices in the column {columns.choices} and the right one in {columns.label}"


def templates_in(details: Details) -> list[Template]:
    """Give the templates that a model was trained with."""
    words = json.loads(details.options.get("words", "{}"))
    texts = [details.options["template"], *json.loads(details.options.get("further_templates", "[]"))]
    return [Template(text, words) for text in texts]


def take(table: Table, details: Details, *, labelled: bool = True) -> Examples[Question]:
    """Take questions from a table.

    Args:
        table: The table.
        details: The columns and the template.
        labelled: Whether to take the right choice, too.

    Returns:
        The questions.

    Raises:
        TTValueError: If a column is missing, or a cell is unfit; the message names the row.
    """
    columns, templates = details.columns, templates_in(details)
    label, choices = columns.label or "", columns.choices
    _check_columns(table, (*columns.text, choices, *([label] if labelled else [])))
    texts = {name: take_texts(table, name) for name in columns.text}
    count = len(next(iter(texts.values())))
    rights: Sequence[int | None] = [None] * count
    offered: list[list[str]] = [[]] * count
    if choices is not None:
        offered = [read_choices(cell, row, table.path) for row, cell in enumerate(table.cells(choices), 1)]
        if labelled:
            cells = enumerate(zip(table.cells(label), offered, strict=True), 1)
            rights = [read_right(cell, each, row, table.path, typed=table.typed) for row, (cell, each) in cells]
    elif labelled:
        rights = encode_labels(table.cells(label), table.path, tuple(templates[0].words)).tolist()
    rows = (dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True))
    asked = zip(rows, offered, rights, strict=True)
    return Examples(ask_in_all_words(templates, row, each, right=right) for row, each, right in asked)


def _templates_of(table: Table, settings: FinetuneSettings) -> list[Template]:
    """Give the templates that the user says, or one of a prompt alone; without their words."""
    named = settings.prompt_column or (settings.text_columns or (None,))[0]
    if settings.templates:
        templates = [Template(text) for text in settings.templates]
        for template in templates:
            if named is not None or not template.fields:
                wrong = "names no column" if named is None else f"names the columns, and so does {named!r}"
                raise TTValueError(
                    f"The template {template.text!r} {wrong}; put the names of columns into it, such as "
                    "'{text} It was {}.', and leave out --text and --prompt."
                )
        return templates
    if len(settings.text_columns or ()) > 1:
        raise TTValueError(
            f"text_columns names {len(settings.text_columns or ())} columns; say with --template how they make a "
            "question."
        )
    prompt = named or _first(PROMPTS, table)
    if prompt is None:
        raise TTValueError(
            f"{table.path!r} has no column of questions that is named as usual, such as {', '.join(PROMPTS)}; say "
            f"--prompt or --template, of {', '.join(table.columns)}."
        )
    return [Template("{" + prompt + "} {}")]


def _first(names: Sequence[str], table: Table) -> str | None:
    return next((name for name in names if name in table.columns), None)


def _check_columns(table: Table, names: Sequence[str | None]) -> None:
    for name in names:
        if name is not None and name not in table.columns:
            raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(table.columns)}.")
