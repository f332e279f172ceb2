"""Loading a classifier with its tokenizer, tokenising, predicting, saving, and loading what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from ttnet.errors import TTFileError
from ttnet_llm.files import write_text
from ttnet_llm.training.data import Columns, Split

# Read for tokenizers of any class.
_VOCABULARIES = {"tokenizer.json", "tokenizer.model", "tekken.json"}
DETAILS = "finetune.json"  # what a saved model needs to be used on new text, next to PEFT's own files


@dataclass(frozen=True)
class Details:
    """How a saved model was fed and judged."""

    columns: Columns
    max_length: int
    measures: tuple[str, ...]


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


def load_classifier(name: str, names: tuple[str, ...] | None) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a pretrained model with a new head, and its tokenizer.

    Args:
        name: A folder or hub id.
        names: The classes, which go into the model's config; `None` for a regression.

    Returns:
        The model, in evaluation mode, and the tokenizer.

    Raises:
        TTFileError: If there is no such model here or on the hub.
    """
    labels: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if names is not None:
        labels = {"id2label": dict(enumerate(names)), "label2id": {label: k for k, label in enumerate(names)}}
    return _with_tokenizer(name, load_config(name, **labels))


def load_finetuned(folder: str | Path, base: str | None = None) -> tuple[nn.Module, PreTrainedTokenizerBase, Details]:
    """Load what `finetune` saved.

    Args:
        folder: The output folder of a run, or the folder `adapter` or `model` in it.
        base: The base model; `None` takes the one that the adapter names.

    Returns:
        The model in evaluation mode, its tokenizer, and how it was fed.

    Raises:
        TTFileError: If the folder holds no fine-tuned model, or its base model is not to be found.
    """
    folder = Path(folder)
    inner = next((folder / part for part in ("adapter", "model") if (folder / part / DETAILS).is_file()), folder)
    if not (inner / DETAILS).is_file():
        raise TTFileError(
            f"{str(folder)!r} holds no model made by `ttnet-llm finetune` (there is no {DETAILS}); check the path."
        )
    raw = json.loads((inner / DETAILS).read_text(encoding="utf-8"))
    details = Details(
        Columns(tuple(raw["text_columns"]), raw["label_column"]), raw["max_length"], tuple(raw["measures"])
    )
    if not (inner / "adapter_config.json").is_file():
        return *_with_tokenizer(str(inner), load_config(str(inner))), details
    base = base or PeftConfig.from_pretrained(str(inner)).base_model_name_or_path
    model, tokenizer = _with_tokenizer(base, load_config(str(inner)))
    return PeftModel.from_pretrained(model, str(inner)).eval(), tokenizer, details


def save_finetuned(model: Any, tokenizer: PreTrainedTokenizerBase, details: Details, folder: Path) -> tuple[Path, int]:
    """Save an adapter, or a whole model where there is none, with all that using it needs.

    Args:
        model: A `PeftModel` or a transformers model.
        tokenizer: Saved with a whole model; an adapter uses its base model's.
        details: How the model was fed.
        folder: The run's folder.

    Returns:
        The folder written, and the bytes of the weights in it.
    """
    is_adapter = isinstance(model, PeftModel)
    inner = folder / ("adapter" if is_adapter else "model")
    model.save_pretrained(inner)
    if is_adapter:
        model.config.save_pretrained(inner)  # the classes' names, which PEFT does not keep
    else:
        tokenizer.save_pretrained(inner)
    values = {
        "text_columns": details.columns.text,
        "label_column": details.columns.label,
        "max_length": details.max_length,
        "measures": details.measures,
    }
    write_text(inner / DETAILS, json.dumps(values, indent=2) + "\n")
    return inner, sum(file.stat().st_size for file in inner.glob("*.safetensors"))


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


def _with_tokenizer(name: str, config: PretrainedConfig) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    tokenizer = find_tokenizer(name)
    if tokenizer is None:
        raise TTFileError(
            f"The model {name!r} has no tokenizer that can be loaded; save its tokenizer in the same folder."
        )
    if tokenizer.pad_token is None:  # language models come without
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    model = _found(name, lambda: AutoModelForSequenceClassification.from_pretrained(name, config=config))
    return model.eval(), tokenizer


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
