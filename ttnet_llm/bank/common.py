"""Cores that all adapters of a bank have in common, beside one of each adapter's own: one task of several."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.tuner import AdapterConfig

TASK_FIELDS = frozenset({"num_tasks", "task"})  # of the configs of methods that learn several tasks


def one_task(config: AdapterConfig) -> AdapterConfig:
    """Give the configuration of one of the tasks that are learnt together.

    Args:
        config: That of several.

    Returns:
        The same with one task.

    Raises:
        TTTypeError: If adapters of it have no cores in common.

    Example:
        >>> from ttnet_llm import MetaTTConfig
        >>> one_task(MetaTTConfig(r=2, num_tasks=3, task=1)).num_tasks
        1
    """
    if not config.task_cores:
        raise TTTypeError(
            f"common is given, and adapters of {config.method} have no cores that several tasks share; MetaTT's have: "
            "leave it out."
        )
    if getattr(config, "num_tasks", None) is None:
        raise TTTypeError(
            "common is given, and num_tasks of the config is None: its adapters have no core for a task; give the "
            "number of tasks that were trained together, or 1."
        )
    single: Any = copy.deepcopy(config)
    single.num_tasks, single.task = 1, 0
    return single


def is_own(key: str, config: AdapterConfig) -> bool:
    """Say whether a tensor is an adapter's own where others are common.

    Args:
        key: Its key in a checkpoint.
        config: The configuration.

    Returns:
        Whether it has a slice for each task.

    Example:
        >>> from ttnet_llm import MetaTTConfig
        >>> is_own("base_model.model.q.metatt_network.common.tasks", MetaTTConfig())
        True
    """
    return key.rpartition(".")[2] in config.task_cores


def tensors_of_task(
    tensors: Mapping[str, Tensor], keys: Iterable[str], task: int | None, what: str
) -> dict[str, Tensor]:
    """Give the tensors of one task of an adapter of several.

    Args:
        tensors: The adapter's, by their keys.
        keys: Of those that have a slice `(r, r')` for each task.
        task: The task, from 0; `None` where there is but one.
        what: Whose they are, for messages.

    Returns:
        The same with one slice.

    Raises:
        TTValueError: If there is no such task, or it is not said which of several.
    """
    found = dict(tensors)
    for key in keys:
        if key not in found or found[key].ndim == 0:
            continue  # which the layout tells
        tasks = len(found[key])
        if task is None and tasks > 1:
            raise TTValueError(f"{what} has {tasks} tasks, and a bank with common cores keeps one; say which by task.")
        number = task or 0
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < tasks:
            raise TTValueError(f"task is {task!r}; expected an integer from 0 to {tasks - 1}, as {what} has {tasks}.")
        found[key] = found[key][number : number + 1]
    return found
