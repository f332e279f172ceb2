"""Tasks as token numbers, each in three parts: to train on, to choose settings on, and to report.

Nothing is read or tokenised twice by a process, as the trainings of a study share their data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedTokenizerBase

from demo.data import load as load_docstrings
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.training.data import GLUE_TASKS
from ttnet_llm.training.tables import read_table

Texts = list[tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """Tokens of examples: `fields[name][k]` is a list of numbers for example k, `labels` has shape `(n,)`.

    Texts without labels are of one length, and predict their own tokens. Texts with answers are prompts: a language
    model is to go on with the token `answers[label]`.
    """

    fields: dict[str, list[list[int]]]
    labels: torch.Tensor | None
    answers: torch.Tensor | None = None  # (classes,)

    def __len__(self) -> int:
        return len(self.fields["input_ids"])

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        return np.array([len(ids) for ids in self.fields["input_ids"]])

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Pad some examples to the longest of them, prompts in front."""
        longest = max(len(self.fields["input_ids"][row]) for row in rows)

        def pad(cells: list[int]) -> list[int]:
            blank = [0] * (longest - len(cells))
            return cells + blank if self.answers is None else blank + cells

        return {name: torch.tensor([pad(cells[row]) for row in rows]) for name, cells in self.fields.items()}


@dataclass(frozen=True)
class Source:
    """A task's labelled texts: those that trainings draw from, those to choose by, and those that are reported."""

    classes: int | None
    pool: tuple[Texts, np.ndarray[Any, Any] | None]
    select: tuple[Texts, np.ndarray[Any, Any] | None]
    report: tuple[Texts, np.ndarray[Any, Any] | None]
    answers: tuple[str, ...] = ()  # to prompts, a token each


@dataclass(frozen=True)
class Task:
    """What one training sees; `key` tells it apart from every other of a process."""

    name: str
    classes: int | None  # `None` for a language model's
    train: Part
    select: Part
    report: Part


class Tasks:
    """The tasks of a study.

    Args:
        data: Folder with a folder of parquet files for each GLUE task.
        tokenizer: Makes the tokens.
        max_length: Tokens to cut texts to.
    """

    def __init__(self, data: Path | None, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._data, self._tokenizer, self._max_length = data, tokenizer, max_length
        self._source = lru_cache(self._read)
        self._kept = lru_cache(self._tokenize_kept)
        self._train = lru_cache(maxsize=16)(self._tokenize_train)

    def task(self, name: str, examples: int | None, seed: int) -> Task:
        """Give a task with the training examples that a seed draws."""
        select, report = self._kept(name)
        return Task(name, self._source(name).classes, self._train(name, examples, seed), select, report)

    def _read(self, name: str) -> Source:
        if name == "docstrings":
            return _docstrings()
        if name == "code":
            return _code()
        if name not in _HELD_OUT:
            raise TTValueError(f"tasks has {name!r}; expected some of code, docstrings, {', '.join(_HELD_OUT)}.")
        if name == "sst2-prompts":
            texts, labels = self._glue("sst2", "train")
            prompts = [(f"{text.strip()}\nSentiment:",) for (text,) in texts]
            return Source(None, *_cut((prompts, labels), *_HELD_OUT[name]), answers=(" negative", " positive"))
        train = self._glue(name, "train")
        if name == "sst2":  # its validation part is small, and its phrases are many: both are kept from the pool
            return Source(2, *_cut(train, *_HELD_OUT[name]))
        if name == "mrpc":
            return Source(2, train, self._glue(name, "validation"), self._glue(name, "test"))
        pool, select, _ = _cut(train, *_HELD_OUT[name])
        return Source(2, pool, select, self._glue(name, "validation"))

    def _glue(self, name: str, split: str) -> tuple[Texts, np.ndarray[Any, Any]]:
        if self._data is None:
            raise TTValueError(f"The task {name!r} needs files; name their folder with --data.")
        found = sorted((self._data / name).glob(f"{split}*.parquet"))
        if not found:
            raise TTFileError(f"There is no file {split}*.parquet in {str(self._data / name)!r}; check --data.")
        table = read_table(found[0])
        texts = list(zip(*(table.cells(column) for column in GLUE_TASKS[name]), strict=True))
        return texts, np.array(table.cells("label"))

    def _tokenize(self, name: str, texts: Texts, labels: np.ndarray[Any, Any] | None) -> Part:
        if labels is None:
            return self._chunks(texts)
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = self._tokenizer(*columns, truncation=True, max_length=self._max_length)
        words = self._source(name).answers
        answers = torch.tensor([self._tokenizer(word)["input_ids"][0] for word in words]) if words else None
        return Part(dict(encoded.items()), torch.from_numpy(labels), answers)

    def _chunks(self, texts: Texts) -> Part:
        """Cut texts into pieces of `max_length` tokens; what is left over is not used."""
        size = self._max_length
        every = [self._tokenizer(text)["input_ids"] for (text,) in texts]
        chunks = [ids[k : k + size] for ids in every for k in range(0, len(ids) - size + 1, size)]
        return Part({"input_ids": chunks, "attention_mask": [[1] * size] * len(chunks)}, None)

    def _tokenize_kept(self, name: str) -> tuple[Part, Part]:
        source = self._source(name)
        return self._tokenize(name, *source.select), self._tokenize(name, *source.report)

    def _tokenize_train(self, name: str, examples: int | None, seed: int) -> Part:
        texts, labels = self._source(name).pool
        if labels is None:
            whole = self._chunks(texts)
            rows = np.random.default_rng(seed).permutation(len(whole))[:examples]
            return Part({key: [cells[row] for row in rows] for key, cells in whole.fields.items()}, None)
        rows = np.random.default_rng(seed).permutation(len(labels))[:examples]
        return self._tokenize(name, [texts[row] for row in rows], labels[rows])


# How many training examples are kept for choosing settings, and how many for the report.
_HELD_OUT = {"sst2": (2000, 4000), "sst2-prompts": (500, 1000), "mrpc": (0, 0), "rte": (300, 0)}


def _cut(
    labelled: tuple[Texts, np.ndarray[Any, Any]], select: int, report: int
) -> list[tuple[Texts, np.ndarray[Any, Any]]]:
    """Cut texts into a pool and two held-out parts, the same ones for every seed."""
    texts, labels = labelled
    order = np.random.default_rng(2024).permutation(len(labels))
    parts = (order[select + report :], order[:select], order[select : select + report])
    return [([texts[row] for row in rows], labels[rows]) for rows in parts]


def _docstrings() -> Source:
    task = load_docstrings(400, 100)
    pool, select, _ = _cut(_labelled(task.train), 1000, 0)
    return Source(len(task.names), pool, select, _labelled(task.validation))


def _code() -> Source:
    """Take the beginning of every model's code in transformers, whole models kept for choosing and for the report."""
    files = sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py"))
    parts: tuple[Texts, Texts, Texts] = ([], [], [])
    for place, file in zip(np.random.default_rng(2024).permutation(len(files)), files, strict=True):
        code = file.read_text(encoding="utf-8").partition("import")[2][:4000]  # without the licence
        parts[0 if place % 10 < 7 else 1 if place % 10 == 7 else 2].append((code,))
    return Source(None, (parts[0], None), (parts[1][:12], None), (parts[2][:24], None))


def _labelled(rows: Sequence[tuple[str, int]]) -> tuple[Texts, np.ndarray[Any, Any]]:
    return [(text,) for text, _ in rows], np.array([label for _, label in rows])
