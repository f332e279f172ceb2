"""Loading a model with its tokenizer, and what a classifier does with text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from ttnet.errors import TTFileError
from ttnet_llm.training.data import Split
from ttnet_llm.training.several import PROBLEM

# Read for tokenizers of any class.
_VOCABULARIES = {"tokenizer.json", "tokenizer.model", "tekken.json"}


def load_config(name: str, **changes: Any) -> PretrainedConfig:
    """Load the config of a model given by folder, hub id, or path of its `config.json`.

    Args:
        name: The folder, id or file.
        **changes: Config fields to set.

    Returns:
        The config.

    Raises:
        TTFileError: If there is no such model here or on the hub.
    """
    return _found(name, lambda: AutoConfig.from_pretrained(name, **changes))


def load_model(
    name: str, model_cls: Any, config: PretrainedConfig, **options: Any
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a pretrained model, with a new head where its class has one that the checkpoint lacks, and its tokenizer.

    Args:
        name: A folder or hub id.
        model_cls: A class with `from_pretrained`, such as `AutoModelForSequenceClassification`.
        config: The model's config.
        **options: For `from_pretrained`, such as `dtype`.

    Returns:
        The model, in evaluation mode, and the tokenizer.

    Raises:
        TTFileError: If there is no such model here or on the hub, or it has no tokenizer that can be used.
    """
    tokenizer = find_tokenizer(name)
    if tokenizer is None:
        raise TTFileError(
            f"The model {name!r} has no tokenizer that can be loaded; save its tokenizer in the same folder."
        )
    settle_padding(tokenizer, name, config)
    model = _found(name, lambda: model_cls.from_pretrained(name, config=config, **options))
    return model.eval(), tokenizer


def settle_padding(tokenizer: Any, name: str, config: Any) -> None:
    """Let a tokenizer and a model's config have a token to pad with, the one that ends texts where there is no other.

    Args:
        tokenizer: The tokenizer.
        name: The model's, for messages.
        config: The model's config.

    Raises:
        TTFileError: If there is neither.
    """
    if tokenizer.pad_token is None:  # language models come without
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise TTFileError(
            f"The tokenizer of the model {name!r} has neither a token to pad with nor one that ends texts; set its "
            "pad_token, and save it in the same folder."
        )
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id


def label_fields(names: tuple[str, ...] | None, *, several: bool = False) -> dict[str, Any]:
    """Give the fields of a model's config that hold its classes.

    Args:
        names: The classes; `None` for a regression.
        several: Whether a text may have several of them.

    Returns:
        The fields.

    Example:
        >>> label_fields(None)
        {'num_labels': 1, 'problem_type': 'regression'}
        >>> label_fields(("bad", "good"))["id2label"]
        {0: 'bad', 1: 'good'}
    """
    if names is None:
        return {"num_labels": 1, "problem_type": "regression"}
    fields = {"id2label": dict(enumerate(names)), "label2id": {label: k for k, label in enumerate(names)}}
    return fields | ({"problem_type": PROBLEM} if several else {})


def tokenize(tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int) -> list[dict[str, Any]]:
    """Turn labelled text into what the model takes, cut to `max_length` tokens and not yet padded."""
    pairs = isinstance(split.texts[0], tuple)
    columns = [list(part) for part in zip(*split.texts, strict=True)] if pairs else [split.texts]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    rows = (dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True))
    return [row | {"labels": label} for row, label in zip(rows, split.labels.tolist(), strict=True)]


def predict(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    *,
    max_length: int,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[Any]:
    """Compute a model's output for texts, in their order and always in the same batches.

    Args:
        model: A classifier; put into evaluation mode.
        tokenizer: Its tokenizer.
        split: The texts; their labels are not used.
        max_length: Tokens to cut to, at least 1.
        batch_size: Texts in a batch, at least 1.
        on_batch: Called with the number of texts done.

    Returns:
        Logits, float32, shape `(n, classes)`.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from ttnet_llm.training import load_files
        >>> model = AutoModelForSequenceClassification.from_pretrained("encoder")
        >>> texts = load_files("reviews.jsonl", "reviews.jsonl").train
        >>> predict(model, AutoTokenizer.from_pretrained("encoder"), texts, max_length=16).shape
        (24, 2)
    """
    rows = tokenize(tokenizer, split, max_length)
    device = next(model.parameters()).device
    model.eval()
    logits = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = [
                {key: value for key, value in row.items() if key != "labels"}
                for row in rows[start : start + batch_size]
            ]
            inputs = tokenizer.pad(batch, return_tensors="pt").to(device)
            logits.append(model(**inputs).logits.float().cpu().numpy())
            if on_batch:
                on_batch(min(start + batch_size, len(rows)))
    return np.concatenate(logits)


def find_tokenizer(name: str) -> Any:
    """Load a model's tokenizer, and not one that transformers makes up where there is none.

    Args:
        name: A folder or hub id.

    Returns:
        The tokenizer; None if there is none that can be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:  # what transformers raises where there is none
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the model
            raise
        return None
    # Or it makes one that knows no words. Tokenizers of bytes have no vocabulary to store.
    vocabularies = set(getattr(tokenizer, "vocab_files_names", {}).values())
    files = vocabularies | _VOCABULARIES if vocabularies else {"tokenizer_config.json"}
    return tokenizer if any(_holds(name, file) for file in files) else None


def _holds(name: str, file: str) -> bool:
    quiet = ("gated_repo", "missing_entries", "connection_errors")
    return cached_file(name, file, **{f"_raise_exceptions_for_{each}": False for each in quiet}) is not None


def _found(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the model
            raise
        known = (
            "the folder lacks a file that it needs"
            if Path(name).exists()
            else ("it is neither a folder nor in the local cache, and the hub has no such model or cannot be reached")
        )
        raise TTFileError(f"The model {name!r} cannot be loaded: {known}; name a folder with a model.") from error
