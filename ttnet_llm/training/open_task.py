"""From settings to a kind and its task: reading the files, settling the kind, holding out what is validated on."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ttnet.errors import TTValueError
from ttnet_llm.training.data import load_glue, load_hub
from ttnet_llm.training.kinds import KINDS, Kind, Task, find_kind
from ttnet_llm.training.settings import SPECIAL, FinetuneSettings
from ttnet_llm.training.tables import Table, kind_of, read_table

logger = logging.getLogger(__name__)


def open_task(settings: FinetuneSettings) -> tuple[Kind, Task]:
    """Read the data, and settle what kind of training they make.

    Args:
        settings: The settings.

    Returns:
        The kind, and the task with its training and validation examples.

    Raises:
        TTFileError: If a file is not to be found or cannot be read.
        TTValueError: If a column, label or the kind is wrong or unclear.
    """
    if settings.task is not None:
        glue = load_glue(settings.task)
        kind: Any = find_kind("regress" if glue.names is None else "classify")
        return kind, kind.task_of(glue, settings)
    train, validation = read_data(settings)
    name = settings.kind
    if name is None:
        name, why = guess_kind(train, settings)
        logger.info("The kind is %s, as %s; another is named with kind (--kind).", name, why)
    kind = find_kind(name)
    for each in SPECIAL:
        if settings.says(each) and each not in kind.heeds:
            raise TTValueError(f"{each} was asked for, which the kind {name} does not heed; leave it out.")
    task = kind.read(settings, train, validation)
    if task.validation is None:
        return kind, hold_out(task, settings.validation_share, settings.seed)
    seen = {task.train.key(row) for row in range(len(task.train))}
    if shared := sum(task.validation.key(row) in seen for row in range(len(task.validation))):
        logger.info(
            "%d of the %d validation examples are in the training data, too, where they count as learnt by heart.",
            shared,
            len(task.validation),
        )
    return kind, task


def read_data(settings: FinetuneSettings) -> tuple[Table, Table | None]:
    """Read files, folders of them, or a data set of the hub.

    Args:
        settings: Which ones, in `train` and `validation`.

    Returns:
        The training data, and the validation data if there are some.

    Raises:
        TTFileError: If a file cannot be read, or there is neither a file nor a data set of that name.
    """
    assert settings.train is not None  # settled by the settings
    path = Path(settings.train)
    from_hub = not path.exists() and kind_of(path) is None and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", settings.train)
    how: Any = {"encoding": settings.encoding, "instead": find_kind(settings.kind).reads if settings.kind else {}}
    found = load_hub(settings.train) if from_hub else {"train": read_table(path, **how)}
    if settings.validation is None:
        return found["train"], found.get("validation")
    return found["train"], read_table(settings.validation, **how)


def guess_kind(table: Table, settings: FinetuneSettings) -> tuple[str, str]:
    """Guess what kind of training a table is for.

    Args:
        table: The training data.
        settings: Which columns the user names.

    Returns:
        The kind, and why.

    Raises:
        TTValueError: If the columns say nothing, or the labels may be either classes or numbers.

    Example:
        >>> table = Table("a.jsonl", {"prompt": ["1 + 1 ="], "completion": [" 2"]})
        >>> guess_kind(table, FinetuneSettings("model", "output", train="a.jsonl"))
        ('causal', "'a.jsonl' has the columns prompt and completion")
    """
    for name, kind in reversed(KINDS.items()):  # the more particular ones come later
        if (why := kind.recognise(table, settings)) is not None:
            return name, why
    raise TTValueError(
        f"What {table.path!r} is for is unclear, as its columns are {', '.join(table.columns)}; say with kind "
        "(--kind) what to train, and with --text, --label, --prompt, --completion or --messages where it stands."
    )


def hold_out(task: Task, share: float, seed: int) -> Task:
    """Hold out a part of the training examples to validate on, none of which is among the others.

    Args:
        task: A task without validation examples.
        share: How much to hold out, above 0 and below 1.
        seed: Of the draw.

    Returns:
        The task with both.

    Raises:
        TTValueError: If there are fewer than two different examples.
    """
    alike: dict[Hashable, list[int]] = {}
    for row in range(len(task.train)):
        alike.setdefault(task.train.key(row), []).append(row)
    groups = list(alike.values())
    if len(groups) < 2:
        raise TTValueError(
            f"The training data hold {len(groups)} different examples, of which none can be held out; name a "
            "validation file with validation (--validation)."
        )
    wanted = share * len(task.train)
    held: list[int] = []
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    for k in order[:-1]:  # the last one stays to be learnt
        held += groups[k]
        if len(held) >= wanted:
            break
    rest = sorted(set(range(len(task.train))) - set(held))
    logger.info("%d of the %d examples are held out to validate on, by the seed %d.", len(held), len(task.train), seed)
    return replace(task, train=task.train.pick(rest), validation=task.train.pick(sorted(held)))
