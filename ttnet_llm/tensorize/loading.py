"""What the command line feeds to `tensorize`: a model of the class that it was saved from, and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.tensorize.saving import is_tensorized
from ttnet_llm.training.model import load_config

_BATCH, _MAX_LENGTH = 16, 128
# Read for tokenizers of any class.
_VOCABULARIES = {"tokenizer.json", "tokenizer.model", "tekken.json"}


def load_dense(name: str) -> tuple[PreTrainedModel, Any]:
    """Load a model of the class that its config names, and its tokenizer.

    Args:
        name: A folder or hub id.

    Returns:
        The model and its tokenizer; None if there is none that can be loaded.

    Raises:
        TTFileError: If there is no such model, or it has trains already.
    """
    config = load_config(name)
    if is_tensorized(config):
        raise TTFileError(f"The model in {name!r} has trains already; name the dense model.")
    classes = [getattr(transformers, each, None) for each in getattr(config, "architectures", None) or []]
    model_cls: Any = next((cls for cls in classes if cls is not None), transformers.AutoModel)
    try:
        model = model_cls.from_pretrained(name)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the model
            raise
        raise TTFileError(f"The weights of {name!r} cannot be loaded: {error}") from error
    return model, _load_tokenizer(name)


def _load_tokenizer(name: str) -> Any:
    """Load a model's tokenizer; None if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError):  # what transformers raises where there is none
        return None
    # Or it makes one that knows no words. Tokenizers of bytes have no vocabulary to store.
    vocabularies = set(getattr(tokenizer, "vocab_files_names", {}).values())
    files = vocabularies | _VOCABULARIES if vocabularies else {"tokenizer_config.json"}
    return tokenizer if any(_holds(name, file) for file in files) else None


def _holds(name: str, file: str) -> bool:
    quiet = ("gated_repo", "missing_entries", "connection_errors")
    return cached_file(name, file, **{f"_raise_exceptions_for_{each}": False for each in quiet}) is not None


def text_batches(model: PreTrainedModel, tokenizer: Any, path: str | Path, *, lines: int) -> list[dict[str, Any]]:
    """Make calibration batches of the lines of a text file.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        path: The file, in UTF-8.
        lines: How many lines to take at most; empty ones do not count.

    Returns:
        The batches.

    Raises:
        TTFileError: If there is no such file, or nothing in it.
        TTTypeError: If the model has no tokenizer, or takes more than one text.
        TTValueError: If `lines` is below 1.
    """
    if lines < 1:
        raise TTValueError(f"lines is {lines}; expected an integer of at least 1.")
    if tokenizer is None:
        raise TTTypeError("The model has no tokenizer that can be loaded; calibrate in Python, with batches of ids.")
    if model.config.is_encoder_decoder:
        raise TTTypeError("The model is an encoder and a decoder; calibrate in Python, with batches for both.")
    if not Path(path).is_file():
        raise TTFileError(f"There is no file {str(path)!r}; check the path.")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TTFileError(f"{str(path)!r} is no text in UTF-8.") from error
    rows = [line for line in text.splitlines() if line.strip()][:lines]
    if not rows:
        raise TTFileError(f"{str(path)!r} holds no text.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return [
        dict(
            tokenizer(rows[k : k + _BATCH], truncation=True, max_length=_MAX_LENGTH, padding=True, return_tensors="pt")
        )
        for k in range(0, len(rows), _BATCH)
    ]
