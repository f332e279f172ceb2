"""The names of a classifier's classes, which PEFT leaves to the base model, in a file beside the adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError
from ttnet_llm.files import write_text

LABELS = "labels.json"
CLASSIFIERS = ("SEQ_CLS", "TOKEN_CLS")  # tasks of PEFT's
# Where they may stand, the first that has them counts; finetune once wrote the whole config of the model.
_FILES = (LABELS, "adapter_config.json", "config.json")


def class_fields(config: Any) -> dict[str, Any]:
    """Take from a model's config what it says of its classes.

    Args:
        config: The config.

    Returns:
        Fields of a config: `id2label`, `label2id`, and `problem_type` if it is known.

    Example:
        >>> from transformers import BertConfig
        >>> class_fields(BertConfig(id2label={0: "bad", 1: "good"}))
        {'id2label': {0: 'bad', 1: 'good'}, 'label2id': {'bad': 0, 'good': 1}}
    """
    problem = getattr(config, "problem_type", None)
    return _fields(config.id2label) | ({} if problem is None else {"problem_type": problem})


def write_class_names(folder: str | Path, fields: Mapping[str, Any]) -> None:
    """Write `labels.json`, if there is anything to say.

    Args:
        folder: The folder.
        fields: As `class_fields` gives them.
    """
    if fields:
        write_text(Path(folder) / LABELS, json.dumps(fields, indent=2) + "\n")


def read_class_names(folder: str | Path) -> dict[str, Any]:
    """Read the names of the classes that an adapter was trained for.

    Args:
        folder: The adapter's folder.

    Returns:
        Fields for the base model's config; none if the folder says nothing of classes.

    Raises:
        TTFileError: If what it says makes no sense.
    """
    for file in (Path(folder) / name for name in _FILES):
        try:
            values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if not values.get("id2label"):
                continue
            problem = values.get("problem_type")
            return _fields(values["id2label"]) | ({} if problem is None else {"problem_type": problem})
        except (ValueError, TypeError, AttributeError) as error:
            raise TTFileError(f"{str(file)!r} cannot be read: {error}; save the adapter again.") from error
    return {}


def _fields(names: Mapping[Any, Any]) -> dict[str, Any]:
    by_index = {int(k): str(name) for k, name in names.items()}
    return {"id2label": by_index, "label2id": {name: k for k, name in by_index.items()}}
