"""Saved adapters put back on their base models, with or without the base models' weights."""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.lora.checkpoint import CONFIG, read_config, read_weights
from ttnet_llm.training.model import load_config

_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
_HEAD = re.compile(r"(?:.*\.)?(?:classifier|score)(?:\.out_proj)?\.weight")


def find_adapter(path: str | Path) -> Path:
    """Find the adapter that a path stands for.

    Args:
        path: The folder of an adapter, or of a run of `ttnet-llm finetune`, which has its adapter in `adapter`.

    Returns:
        The folder with the adapter's config.

    Raises:
        TTFileError: If there is none.
    """
    for folder in (Path(path), Path(path) / "adapter"):
        if (folder / CONFIG).is_file():
            return folder
    raise TTFileError(f"{str(path)!r} holds no adapter (there is no {CONFIG}); check the path.")


def base_name(adapter: str | Path, model: str | None = None) -> str:
    """Name the base model of an adapter.

    Args:
        adapter: The adapter's folder.
        model: What the user says it is.

    Returns:
        That, or what the adapter names.

    Raises:
        TTFileError: If there is no adapter.
        TTValueError: If it names none.
    """
    name = model or read_config(find_adapter(adapter)).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise TTValueError(f"The adapter in {str(adapter)!r} names no base model; say which one with model (--model).")
    return name


def load_adapter(adapter: str | Path, *, model: str | None = None, weights: bool = True) -> PeftModel:
    """Load a base model, of the class that an adapter was made for, and the adapter on it.

    Args:
        adapter: The folder of an adapter of any method, or of a run of `ttnet-llm finetune`.
        model: The base model; `None` takes the one that the adapter names.
        weights: Whether to load the base model's weights. Without them only its config is read, and zeros that take
            no memory stand in their place, which is enough to look at the adapter itself.

    Returns:
        The model in evaluation mode.

    Raises:
        TTFileError: If the adapter or its base model is not to be found.
        TTTypeError: If the class of the base model cannot be told.
        TTValueError: If the adapter names no base model and `model` is `None`.
    """
    folder = find_adapter(adapter)
    base = base_name(folder, model)
    config = load_config(str(folder) if (folder / "config.json").is_file() else base)
    fields: dict[str, Any] = read_config(folder)
    if fields.get("peft_type") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise TTTypeError(f"The adapter in {str(folder)!r} is {fields.get('peft_type')}, a method that PEFT has not.")
    # Adapters of classifiers bring their own heads, which need not have as many classes as the base model's.
    heads = [t for key, t in read_weights(folder).items() if _HEAD.fullmatch(key)] if fields.get("task_type") else []
    if heads and config.num_labels != heads[0].shape[0]:
        config.num_labels = heads[0].shape[0]
    model_cls = _model_class(fields, config, folder)
    if not weights:
        with torch.device("meta"):
            skeleton = model_cls.from_config(config) if hasattr(model_cls, "from_config") else model_cls(config)
        return PeftModel.from_pretrained(_on_cpu(skeleton), str(folder)).eval()
    try:
        loaded = model_cls.from_pretrained(base, config=config, ignore_mismatched_sizes=bool(heads))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the model
            raise
        raise TTFileError(f"The weights of {base!r} cannot be loaded: {error}") from error
    return PeftModel.from_pretrained(loaded, str(folder)).eval()


def _model_class(fields: dict[str, Any], config: Any, folder: Path) -> Any:
    """Take the auto class of the adapter's task, or else the class that it or the base model's config names."""
    mapped = (fields.get("auto_mapping") or {}).get("base_model_class")
    names = [_CLASSES.get(fields.get("task_type") or ""), mapped, *(getattr(config, "architectures", None) or [])]
    found = next((cls for name in names if name and (cls := getattr(transformers, name, None))), None)
    if found is None:
        raise TTTypeError(
            f"The adapter in {str(folder)!r} was saved without a task, and its base model is of no class that "
            f"transformers has ({mapped}); load both in Python."
        )
    return found


def _on_cpu(model: nn.Module) -> nn.Module:
    """Put zeros in the place of tensors without entries; memory for them is only taken once they are written to."""
    return model._apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor)
