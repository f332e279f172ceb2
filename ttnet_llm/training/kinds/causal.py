"""Language models on texts, on prompts with completions, and on chats, by TRL's `SFTTrainer`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from peft import TaskType
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from ttnet.errors import TTValueError, import_extra
from ttnet_llm.training.data import is_labelled, take_texts
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.chats import Message, encode_chat, read_chat
from ttnet_llm.training.kinds.kind import Examples, Judgement, Kind, OnBatch, Task
from ttnet_llm.training.kinds.losses import IGNORED, Encoded, judge_tokens, sum_losses
from ttnet_llm.training.kinds.shown import Shown, show_losses
from ttnet_llm.training.metrics import LOSSES
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import judged

logger = logging.getLogger(__name__)

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("question", "answer"),
)
CHATS = ("messages", "conversations", "conversation", "chat")
TEXTS = ("text", "content", "document")


@dataclass(frozen=True)
class Passage:
    """A text, or what follows a prompt."""

    prompt: str | None
    text: str

    @property
    def given(self) -> str:
        """What makes two of them the same input."""
        return self.text if self.prompt is None else self.prompt

    def in_words(self) -> tuple[str, str]:
        """Give what the model is given and what it has to say."""
        return self.prompt or "", self.text


@dataclass(frozen=True)
class Chat:
    """The turns of a chat, at least one of them the assistant's."""

    messages: tuple[Message, ...]

    @property
    def given(self) -> tuple[Message, ...]:
        """The turns before the assistant's first."""
        first = next(k for k, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[:first]

    def in_words(self) -> tuple[str, str]:
        """Give what the model is given and what it has to say, with who speaks."""
        last = max(k for k, message in enumerate(self.messages) if message.role == "assistant")
        given = "\n".join(f"{message.role}: {message.content}" for message in self.messages[:last])
        return given, self.messages[last].content


class Causal(Kind):
    """Language models: what follows in a text."""

    name: ClassVar[str] = "causal"
    about: ClassVar[str] = "texts, prompts with completions, or chats, for a language model"
    task_type: ClassVar[TaskType] = TaskType.CAUSAL_LM
    measures: ClassVar[tuple[str, ...]] = LOSSES
    model_classes: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")
    pipeline: ClassVar[str] = "text-generation"
    max_length: ClassVar[int] = 1024
    batch_size: ClassVar[int] = 8
    outputs_file: ClassVar[str] = "losses.npy"
    packages: ClassVar[tuple[str, ...]] = ("trl",)
    heeds: ClassVar[tuple[str, ...]] = ("packing",)

    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Look for columns of texts, prompts or chats in a table without labels."""
        shape = find_shape(table, settings)
        named = any((settings.prompt_column, settings.completion_column, settings.messages_column))
        if shape is None or not (named or not is_labelled(table, settings.label_column)):
            return None
        return f"{table.path!r} has {name_columns(shape)}"

    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle where texts, prompts or chats stand."""
        columns = find_shape(table, settings)
        if columns is None:
            raise TTValueError(
                f"{table.path!r} has no column of texts, prompts and completions, or chats that is named as usual; say "
                f"--text, --prompt with --completion, or --messages, of {', '.join(table.columns)}, or rename one to "
                "text."
            )
        return columns

    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Settle where texts, prompts or chats stand, and take them."""
        import_extra("trl", extra="trl")
        columns = self.columns(train, settings)
        length = settings.max_length or self.max_length
        details = Details(columns, length, self.choose_measures(settings), self.name)
        taken_as = say(columns, settings.packing)
        logger.info("The rows of %r are taken as %s.", train.path, taken_as)
        judged_by = None if validation is None else take(validation, columns)
        return Task(take(train, columns), judged_by, details, taken_as)

    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Examples[Any]:
        """Take what the model was trained on: texts, prompts with completions, or chats."""
        return take(table, details.columns)

    @property
    def model_cls(self) -> Any:
        """The class of language models."""
        return AutoModelForCausalLM

    def trainer(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        settings: FinetuneSettings,
        arguments: dict[str, Any],
    ) -> Any:
        """Make TRL's trainer, which takes rows that are tokenised as they are."""
        trl: Any = import_extra("trl", extra="trl")
        from datasets import Dataset

        length = task.details.max_length
        # Packing cuts long rows into several itself.
        encoded = [encode(tokenizer, row, None if settings.packing else length) for row in task.train]
        learnt = [row for row in encoded if has_loss(row)]
        if not learnt:
            raise TTValueError(
                f"Nothing is left to learn of the first {length} tokens of any example; raise max_length "
                "(--max-length)."
            )
        if len(learnt) < len(encoded):
            logger.info(
                "%d of the %d training examples are left out, as nothing is to be learnt of their first %d tokens.",
                len(encoded) - len(learnt),
                len(encoded),
                length,
            )
        held = [encode(tokenizer, row, length) for row in task.validation]
        return judged(trl.SFTTrainer)(
            model=model,
            args=trl.SFTConfig(
                **{"gradient_checkpointing": False} | arguments,
                max_length=length,
                packing=settings.packing,
                packing_strategy="bfd_split",
                eval_packing=False,
                train_sampling_strategy="random" if settings.packing else "group_by_length",
            ),
            train_dataset=Dataset.from_list(learnt),
            eval_dataset=Dataset.from_list(held),
            processing_class=tokenizer,
        )

    def judge(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Examples[Any],
        details: Details,
        *,
        batch_size: int = 8,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Give the mean loss over all tokens that count, its exponential, and the share of tokens foretold.

        The outputs are the mean loss of every example, shape `(n,)`; not a number where none of its tokens counts.
        """
        encoded = [encode(tokenizer, row, details.max_length) for row in rows]
        model.eval()
        return judge_tokens(
            encoded,
            lambda rows: token_sums(model, rows, tokenizer.pad_token_id),
            details,
            batch_size=batch_size,
            on_batch=on_batch,
        )

    def example(self, details: Details) -> str:
        """Write a text, or answer in a chat."""
        prompt = '[{"role": "user", "content": "Hello!"}]' if details.columns.messages else '"Once"'
        return f"\nfrom ttnet_llm.inference import generate\n\nprint(generate(model, tokenizer, [{prompt}])[0])"

    def show(
        self, rows: Examples[Any], before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Show the examples of highest and lowest loss."""
        return show_losses([row.in_words() for row in rows], before, after)


def find_shape(table: Table, settings: FinetuneSettings) -> Columns | None:
    """Find where texts, prompts with completions, or chats stand.

    Args:
        table: The table.
        settings: Which columns the user names.

    Returns:
        The columns; `None` if none is named as usual.

    Raises:
        TTValueError: If a named column is missing, or a prompt has no completion.
    """
    present = table.columns
    prompt, completion, messages = settings.prompt_column, settings.completion_column, settings.messages_column
    for name in (*(settings.text_columns or ()), messages):
        if name is not None and name not in present:
            raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(present)}.")
    if messages is not None:
        return Columns(messages=messages)
    pair = find_pair(table, settings, PAIRS)
    if pair is not None and (prompt is not None or completion is not None):
        return Columns(prompt=pair[0], completion=pair[1])
    if settings.text_columns:
        return Columns(text=(settings.text_columns[0],)) if len(settings.text_columns) == 1 else None
    if (chat := next((name for name in CHATS if name in present), None)) is not None:
        return Columns(messages=chat)
    if pair is not None:
        return Columns(prompt=pair[0], completion=pair[1])
    text = next((name for name in TEXTS if name in present), None)
    if text is None and len(present) == 1 and not isinstance(table.cells(next(iter(present)), 1)[0], list):
        text = next(iter(present))
    return None if text is None else Columns(text=(text,))


def find_pair(table: Table, settings: FinetuneSettings, usual: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Find where prompts and completions stand.

    Args:
        table: The table.
        settings: What the user names, both or one of a usual pair.
        usual: The usual pairs of names.

    Returns:
        Both; `None` if neither is named, and none of the usual is there.

    Raises:
        TTValueError: If a named column is missing, or one is named that has no other.
    """
    prompt, completion = settings.prompt_column, settings.completion_column
    for name in (prompt, completion):
        if name is not None and name not in table.columns:
            raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(table.columns)}.")
    if prompt is not None and completion is not None:
        return prompt, completion
    fitting = [pair for pair in usual if prompt in (None, pair[0]) and completion in (None, pair[1])]
    pair = next((pair for pair in fitting if set(pair) <= set(table.columns)), None)
    if pair is None and (prompt is not None or completion is not None):
        raise TTValueError(
            f"prompt is {prompt!r} and completion is {completion!r}; name the columns of both, of "
            f"{', '.join(table.columns)}."
        )
    return pair


def name_columns(columns: Columns) -> str:
    """Name the columns that something is in.

    Example:
        >>> name_columns(Columns(prompt="question", completion="answer"))
        'the columns question and answer'
    """
    names = [*columns.text, *(name for name in (columns.prompt, columns.completion, columns.messages) if name)]
    return f"the column{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def say(columns: Columns, packing: bool) -> str:
    """Say in words what the rows are.

    Args:
        columns: As `find_shape` gives them.
        packing: Whether several go into one sequence.

    Returns:
        The words.
    """
    if columns.messages:
        words = f"chats in the column {columns.messages}, with the loss on the assistant's turns only"
    elif columns.prompt:
        words = (
            f"prompts in the column {columns.prompt} and completions in {columns.completion}, with the loss on the "
            "completions only"
        )
    else:
        words = f"texts in the column {columns.text[0]}"
    return f"{words}, packed" if packing else words


def take(table: Table, columns: Columns) -> Examples[Any]:
    """Take the examples from a table.

    Args:
        table: The table.
        columns: As `find_shape` gives them.

    Returns:
        Passages or chats.

    Raises:
        TTValueError: If a column is missing, or a cell is empty or none of its kind.
    """
    for name in (*columns.text, columns.prompt, columns.completion, columns.messages):
        if name is not None and name not in table.columns:
            raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(table.columns)}.")
    if columns.messages is not None:
        cells = table.cells(columns.messages)
        return Examples(Chat(read_chat(cell, row, table.path)) for row, cell in enumerate(cells, 1))
    if columns.prompt is not None and columns.completion is not None:
        pairs = zip(take_texts(table, columns.prompt), take_texts(table, columns.completion), strict=True)
        return Examples(Passage(prompt, completion) for prompt, completion in pairs)
    return Examples(Passage(None, text) for text in take_texts(table, columns.text[0]))


def encode(tokenizer: Any, row: Passage | Chat, max_length: int | None) -> Encoded:
    """Tokenise an example, and say which of its tokens count.

    Texts and completions end in the token that ends texts, so that the model learns to stop.

    Args:
        tokenizer: The model's.
        row: The example.
        max_length: Tokens to cut to; `None` leaves all.

    Returns:
        `input_ids`, and `labels` that are `IGNORED` where a token does not count.

    Raises:
        TTValueError: If it is a chat, and the tokenizer has no template for chats.
    """
    if isinstance(row, Chat):
        ids, counts = encode_chat(tokenizer, row.messages)
    else:
        end = tokenizer.eos_token or ""
        whole = (row.prompt or "") + row.text
        ids = tokenizer(whole if whole.endswith(end) else whole + end)["input_ids"]
        begin = 0 if row.prompt is None else shared_start(tokenizer(row.prompt)["input_ids"], ids)
        counts = [k >= begin for k in range(len(ids))]
    labels = [token if count else IGNORED for token, count in zip(ids, counts, strict=True)]
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def shared_start(one: list[int], other: list[int]) -> int:
    """Count the tokens that two lists begin with.

    Example:
        >>> shared_start([1, 2, 3], [1, 2, 4, 5])
        2
    """
    differing = (k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def has_loss(row: Encoded) -> bool:
    """Tell whether a token counts that another one comes before."""
    return any(label != IGNORED for label in row["labels"][1:])


def token_sums(model: Any, rows: list[Encoded], pad: int) -> NDArray[Any]:
    """Sum what a language model makes of the tokens that count.

    Args:
        model: In evaluation mode.
        rows: Encoded examples.
        pad: The token to fill up with.

    Returns:
        Losses, tokens foretold, and tokens of every row, float64, shape `(n, 3)`.
    """
    length = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), length)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        labels[k, : len(row["labels"])] = torch.tensor(row["labels"])
        mask[k, : len(row["input_ids"])] = 1
    device = next(model.parameters()).device
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return sum_losses(logits[:, :-1], labels[:, 1:].to(device))
