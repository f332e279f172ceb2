"""Embeddings of texts, by sentence-transformers' own trainer and losses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, TaskType, load_peft_weights, set_peft_model_state_dict
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerBase

from ttnet.errors import TTValueError, import_extra
from ttnet_llm.attach import attach
from ttnet_llm.training.data import take_texts
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds.kind import Examples, Judgement, Kind, OnBatch, Task
from ttnet_llm.training.kinds.shown import Shown, show_closeness
from ttnet_llm.training.labels import encode
from ttnet_llm.training.metrics import OF_PAIRS, OF_SCORES, OF_TRIPLETS, pearson, spearman
from ttnet_llm.training.model import settle_padding
from ttnet_llm.training.settings import FinetuneSettings
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import judged

logger = logging.getLogger(__name__)

POSITIVES = (("anchor", "positive"), ("query", "positive"))  # of which no others are so called
PAIRS = (
    *POSITIVES,
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("query", "answer"),
    ("query", "passage"),
)
NEGATIVE = "negative"
SCORES = ("score", "similarity", "label")


@dataclass(frozen=True)
class Related:
    """Two texts that belong together, and maybe a third that does not; or two with a score of how alike they are."""

    texts: tuple[str, ...]
    score: float | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """What makes two of them the same input."""
        return self.texts[:1] if self.score is None else self.texts


class Embed(Kind):
    """Texts as vectors: near each other where texts belong together."""

    name: ClassVar[str] = "embed"
    about: ClassVar[str] = "pairs of texts that belong together, triplets, or pairs with a score"
    task_type: ClassVar[TaskType] = TaskType.FEATURE_EXTRACTION
    measures: ClassVar[tuple[str, ...]] = OF_PAIRS
    model_classes: ClassVar[tuple[str, ...]] = ("SentenceTransformer",)
    pipeline: ClassVar[str] = "sentence-similarity"
    max_length: ClassVar[int] = 256
    outputs_file: ClassVar[str] = "similarities.npy"
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers",)
    composed: ClassVar[bool] = True

    def recognise(self, table: Table, settings: FinetuneSettings) -> str | None:
        """Look for a column of anchors, or queries, and one of positives."""
        pair = next((pair for pair in POSITIVES if set(pair) <= set(table.columns)), None)
        if pair is None or settings.text_columns or settings.prompt_column or settings.messages_column:
            return None
        return f"{table.path!r} has the columns {pair[0]} and {pair[1]}"

    def columns(self, table: Table, settings: FinetuneSettings) -> Columns:
        """Settle where the texts stand, and the score if there is one."""
        present, asked, label = table.columns, settings.text_columns, settings.label_column
        for name in (*(asked or ()), label):
            if name is not None and name not in present:
                raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(present)}.")
        if asked is not None and len(asked) not in (2, 3):
            raise TTValueError(
                f"text_columns names {len(asked)} columns; expected two for pairs, or three for triplets."
            )
        pair = asked or next((pair for pair in PAIRS if set(pair) <= set(present)), None)
        if pair is None:
            raise TTValueError(
                f"{table.path!r} has no columns of pairs that are named as usual, such as anchor and positive; say "
                f"--text twice, or three times for triplets, of {', '.join(present)}."
            )
        if label is None and pair not in POSITIVES and len(pair) == 2:
            label = next((name for name in SCORES if name in present and name not in pair), None)
        if asked is None and label is None and NEGATIVE in present:
            pair = (*pair, NEGATIVE)
        if label is not None and len(pair) == 3:
            raise TTValueError(
                f"label is {label!r}, but triplets have no score; name two columns of texts, or no label."
            )
        return Columns(tuple(pair), label)

    def read(self, settings: FinetuneSettings, train: Table, validation: Table | None) -> Task:
        """Settle the columns, and take texts and scores."""
        import_extra("sentence_transformers", extra="embed")
        columns = self.columns(train, settings)
        offered = OF_SCORES if columns.label else OF_TRIPLETS if len(columns.text) == 3 else OF_PAIRS
        length = settings.max_length or self.max_length
        details = Details(columns, length, self.choose_measures(settings, offered), self.name)
        taken_as = say(columns)
        logger.info("The rows of %r are taken as %s.", train.path, taken_as)
        judged_by = None if validation is None else take(validation, columns)
        return Task(take(train, columns), judged_by, details, taken_as)

    def rows(self, table: Table, details: Details, config: PretrainedConfig) -> Examples[Related]:
        """Take texts and scores."""
        return take(table, details.columns)

    @property
    def model_cls(self) -> Any:
        """The class of what is inside of these models."""
        return AutoModel

    def load(self, name: str, config: PretrainedConfig, **options: Any) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """Load a model with what comes after it to make vectors, or with the library's default."""
        library: Any = import_extra("sentence_transformers", extra="embed")
        model = library.SentenceTransformer(name, model_kwargs=options, device="cpu")
        settle_padding(model.tokenizer, name, self.core(model).config)
        return model.eval(), model.tokenizer

    def core(self, model: Any) -> Any:
        """Give the transformers model inside."""
        return model[0].model

    def attach(self, model: Any, config: PeftConfig | None) -> nn.Module:
        """Put an adapter on the transformers model inside."""
        model[0].model = attach(self.core(model), config)
        return model

    def put_adapter(self, model: Any, folder: Path) -> nn.Module:
        """Put a saved adapter on the transformers model inside."""
        model[0].model = PeftModel.from_pretrained(self.core(model), str(folder))
        return model

    def prompted(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Give the model the tokenizer, too, as it makes tokens itself."""
        found = super().prompted(model, tokenizer)
        if found is tokenizer:
            return found
        if model[0].processor is tokenizer:
            model[0].processor = found
        else:  # of more than texts
            model[0].processor.tokenizer = found
        return found

    def trainer(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        settings: FinetuneSettings,
        arguments: dict[str, Any],
    ) -> Any:
        """Make sentence-transformers' trainer, with a loss that suits the data."""
        library: Any = import_extra("sentence_transformers", extra="embed")
        losses: Any = import_extra("sentence_transformers.sentence_transformer.losses", extra="embed")
        cut(model, task.details.max_length)
        scored = task.details.columns.label is not None
        kind = self

        class Trainer(judged(library.SentenceTransformerTrainer)):  # type: ignore[misc]
            """Theirs, without their card, and with adapters of checkpoints where ours are."""

            def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
                """Collect nothing, as the card is written here."""

            def _load_from_checkpoint(self, checkpoint_path: str) -> None:
                core = kind.core(self.model)
                if isinstance(core, PeftModel):
                    set_peft_model_state_dict(core, load_peft_weights(checkpoint_path))
                else:
                    super()._load_from_checkpoint(checkpoint_path)

        return Trainer(
            model=model,
            args=library.SentenceTransformerTrainingArguments(
                **arguments | {"include_num_input_tokens_seen": "no"},  # which looks for one text only
                # A text that is there twice would be its own negative.
                batch_sampler="batch_sampler" if scored else "no_duplicates",
            ),
            train_dataset=dataset(task.train),
            eval_dataset=dataset(task.validation),
            loss=losses.CoSENTLoss(model) if scored else losses.MultipleNegativesRankingLoss(model),
        )

    def judge(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Examples[Related],
        details: Details,
        *,
        batch_size: int = 32,
        on_batch: OnBatch | None = None,
    ) -> Judgement:
        """Compare cosines of vectors: with scores, or with those of other texts.

        The outputs have shape `(n,)`: of scored pairs the cosine, of others how much nearer the positive is than the
        negative, or than the nearest of the other positives.
        """
        cut(model, details.max_length)
        parts = []
        for k in range(len(details.columns.text)):
            texts = [row.texts[k] for row in rows]
            vectors = np.asarray(
                model.encode(texts, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True), np.float64
            )
            parts.append(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
        if on_batch:
            on_batch(len(rows))
        near = (parts[0] * parts[1]).sum(axis=1)
        if details.columns.label is not None:
            scores = np.array([row.score for row in rows])
            found = {"spearman": spearman(near, scores), "pearson": pearson(near, scores)}
        else:
            far = (parts[0] * parts[2]).sum(axis=1) if len(parts) == 3 else nearest_others(rows, *parts)
            near = near - far
            name = (OF_TRIPLETS if len(parts) == 3 else OF_PAIRS)[0]
            found = {name: float(np.mean(near > 0))}
        return Judgement({name: found[name] for name in details.measures}, near)

    def example(self, details: Details) -> str:
        """Give the vector of a text."""
        return '\nprint(model.encode(["A text."]))'

    def show(
        self, rows: Examples[Related], before: NDArray[Any], after: NDArray[Any], config: PretrainedConfig
    ) -> dict[str, list[Shown]]:
        """Show pairs that are as near as they should be, and others."""
        scores = None if rows[0].score is None else np.array([row.score for row in rows])
        return show_closeness([row.texts for row in rows], scores, before, after)


def say(columns: Columns) -> str:
    """Say in words what the rows are, and by which loss they are learnt."""
    names = f"{', '.join(columns.text[:-1])} and {columns.text[-1]}"
    if columns.label:
        return f"pairs of texts in the columns {names} with a score in {columns.label}, learnt by CoSENTLoss"
    if len(columns.text) == 3:
        return (
            f"triplets of texts in the columns {names}: the first is to be near the second, and far from the third and "
            "from the others' of its batch (MultipleNegativesRankingLoss)"
        )
    return (
        f"pairs of texts in the columns {names} that are to be near each other, and far from the others of their batch "
        "(MultipleNegativesRankingLoss)"
    )


def take(table: Table, columns: Columns) -> Examples[Related]:
    """Take texts and scores from a table.

    Args:
        table: The table.
        columns: Where they stand.

    Returns:
        The examples.

    Raises:
        TTValueError: If a column is missing, a text is missing, or a score is no number.
    """
    for name in (*columns.text, columns.label):
        if name is not None and name not in table.columns:
            raise TTValueError(f"{table.path!r} has no column {name!r}; its columns are {', '.join(table.columns)}.")
    texts = list(zip(*(take_texts(table, name) for name in columns.text), strict=True))
    if columns.label is None:
        return Examples(map(Related, texts))
    scores = encode(table.cells(columns.label), table.path, None).tolist()
    return Examples(map(Related, texts, scores))


def dataset(rows: Sequence[Related]) -> Any:
    """Make a data set of examples, with the columns in the order that losses expect."""
    from datasets import Dataset

    names = ("anchor", "positive", "negative")
    columns: dict[str, Any] = {
        name: [row.texts[k] for row in rows] for k, name in enumerate(names[: len(rows[0].texts)])
    }
    return Dataset.from_dict(columns | ({} if rows[0].score is None else {"score": [row.score for row in rows]}))


def nearest_others(
    rows: Sequence[Related],
    anchors: NDArray[Any],  # (n, features), of length 1
    positives: NDArray[Any],  # (n, features), of length 1
) -> NDArray[Any]:  # (n,)
    """Give each anchor's cosine with the nearest positive that is none of its own.

    Args:
        rows: The pairs.
        anchors: Vectors of the first texts.
        positives: Vectors of the second ones.

    Returns:
        Cosines; -1 where there is no other.
    """
    own: dict[str, set[str]] = {}
    for row in rows:
        own.setdefault(row.texts[0], set()).add(row.texts[1])
    said = [row.texts[1] for row in rows]
    found = np.empty(len(rows))
    for k, row in enumerate(rows):
        others = np.array([text not in own[row.texts[0]] for text in said])
        found[k] = (positives @ anchors[k]).max(initial=-1.0, where=others)
    return found


def cut(model: Any, length: int) -> None:
    """Let a model cut texts to a length, or to its own if that is shorter."""
    model.max_seq_length = min(length, model.max_seq_length or length)
