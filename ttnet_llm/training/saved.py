"""Saving what was trained, and loading it again, of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from ttnet_llm.class_names import CLASSIFIERS, class_fields, read_class_names, write_class_names
from ttnet_llm.training.details import Details, find_saved, read_details
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.model import load_config


def load_finetuned(
    folder: str | Path, base: str | None = None, **options: Any
) -> tuple[nn.Module, PreTrainedTokenizerBase, Details]:
    """Load what `finetune` saved.

    Args:
        folder: The output folder of a run, or the folder `adapter` or `model` in it.
        base: The base model; `None` takes the one that the adapter names.
        **options: For `from_pretrained` of the whole or base model, such as `dtype`.

    Returns:
        The model in evaluation mode, its tokenizer, and how it was fed.

    Raises:
        TTFileError: If the folder holds no fine-tuned model, or its base model is not to be found.

    Example:
        >>> from ttnet_llm.training import FinetuneSettings, finetune
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> result = finetune(settings)
        >>> model, tokenizer, details = load_finetuned("run")
        >>> model.training, tokenizer.pad_token
        (False, '[PAD]')
    """
    inner = find_saved(folder)
    details = read_details(inner)
    kind = find_kind(details.kind)
    if not (inner / "adapter_config.json").is_file():
        return *kind.load(str(inner), load_config(str(inner)), **options), details
    base = base or PeftConfig.from_pretrained(str(inner)).base_model_name_or_path
    model, tokenizer = kind.load(base, load_config(base, **read_class_names(inner)), **options)
    model = kind.put_adapter(model, inner).eval()
    return model, kind.prompted(model, tokenizer), details


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
    from ttnet_llm.tensorize.saving import is_tensorized, write_tensorized  # which reads configs by this room

    kind = find_kind(details.kind)
    core = kind.core(model)
    is_adapter = isinstance(core, PeftModel)
    inner = folder / ("adapter" if is_adapter else "model")
    if not is_adapter and is_tensorized(core.config):
        write_tensorized(core, inner, tokenizer=None, report=None)
    else:
        model.save_pretrained(inner)
    if is_adapter:
        if kind.task_type in CLASSIFIERS:
            write_class_names(inner, class_fields(core.config))
    else:
        tokenizer.save_pretrained(inner)
    details.write(inner)
    return inner, sum(file.stat().st_size for file in inner.glob("*.safetensors"))
