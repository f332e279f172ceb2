"""What the command line feeds to `tensorize`: a model of the class that it was saved from, and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.loading import load_whole
from ttnet_llm.tensorize.check import QuickCheck
from ttnet_llm.tensorize.saving import is_tensorized
from ttnet_llm.training.model import find_tokenizer, load_config
from ttnet_llm.training.tables import read_text

_BATCH, _MAX_LENGTH = 16, 128
_CHECKED = 64  # lines to measure the loss on


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
    return load_whole(name), find_tokenizer(name)


def calibrate(
    model: PreTrainedModel, tokenizer: Any, path: str | None, *, lines: int
) -> tuple[list[dict[str, Any]] | None, QuickCheck | None]:
    """Make calibration batches of a text file, and a check of what a model loses on the lines after them.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        path: The file; `None` for no calibration.
        lines: How many lines to take at most.

    Returns:
        The batches, and the check, which has looked at the model as it is now; it is on some of the same lines where
        the file has no more. `None` for both without a file.

    Raises:
        TTFileError: As `text_batches` does.
        TTTypeError: As `text_batches` does.
        TTValueError: If `lines` is below 1, or no text of a language model has more than one token.
    """
    if path is None:
        return None, None
    batches = text_batches(model, tokenizer, path, lines=lines)
    others = text_batches(model, tokenizer, path, lines=_CHECKED, skip=lines)
    return batches, QuickCheck(model, others or batches[: _CHECKED // _BATCH], seen=not others)


def text_batches(
    model: PreTrainedModel, tokenizer: Any, path: str | Path, *, lines: int, skip: int = 0
) -> list[dict[str, Any]]:
    """Make calibration batches of the lines of a text file.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        path: The file, in UTF-8 or what a byte-order mark says.
        lines: How many lines to take at most; empty ones do not count.
        skip: How many to pass over before.

    Returns:
        The batches; none where all lines are passed over.

    Raises:
        TTFileError: If there is no such file, nothing in it, or it is of another codec.
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
    rows = [line for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise TTFileError(f"{str(path)!r} holds no text.")
    rows = rows[skip : skip + lines]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return [
        dict(
            tokenizer(rows[k : k + _BATCH], truncation=True, max_length=_MAX_LENGTH, padding=True, return_tensors="pt")
        )
        for k in range(0, len(rows), _BATCH)
    ]
