"""What the commands have written, loaded again: adapters of every method on their base models, and whole models."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ttnet.errors import TTError, TTFileError, TTTypeError, TTValueError
from ttnet_llm.class_names import read_class_names
from ttnet_llm.folders import refuse_seeds
from ttnet_llm.lora.checkpoint import CONFIG, read_config, read_weights
from ttnet_llm.prompts import prompted
from ttnet_llm.training.details import DETAILS, read_details
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.model import find_tokenizer, load_config
from ttnet_llm.training.saved import load_finetuned

_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
_PARTS = (".", "adapter", "model")  # where the folder of a run has what it trained
# All that is fetched from a hub: no weights of other frameworks.
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md"]
_HEAD = re.compile(r"(?:.*\.)?(?:classifier|score)(?:\.out_proj)?\.weight")


def load(
    path: str | Path, *, base: str | None = None, **options: Any
) -> tuple[nn.Module, PreTrainedTokenizerBase | None]:
    """Load what the commands of `ttnet-llm` have written: runs, adapters, exported, merged, tensorised or slim models.

    Args:
        path: A folder, or the id of one on the Hugging Face hub.
        base: The base model of an adapter or of a record of a slim model, by folder or id; `None` takes the one that
            it names.
        **options: For `from_pretrained` of the whole or base model, such as `dtype` and `device_map`.

    Returns:
        The model, of the class that it was trained as, in evaluation mode; with the names of the classes in its config,
        if it is a classifier. And the tokenizer: its own, or else that of the base model; `None` if there is none.

    Raises:
        TTFileError: If there is no such model, or its base model is not to be found.
        TTTypeError: If the class of the model cannot be told.
        TTValueError: If an adapter names no base model and `base` is `None`, or a whole model is given one.

    Example:
        >>> import tempfile
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from ttnet_llm import TTLoraConfig
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     BertForSequenceClassification(config).save_pretrained(f"{folder}/base")
        ...     model = BertForSequenceClassification.from_pretrained(f"{folder}/base")
        ...     get_peft_model(model, TTLoraConfig(task_type="SEQ_CLS")).save_pretrained(f"{folder}/adapter")
        ...     model, tokenizer = load(f"{folder}/adapter")
        >>> type(model).__name__, tokenizer
        ('PeftModelForSequenceClassification', None)
    """
    folder = find_model(path)
    known = read_details(folder) if (folder / DETAILS).is_file() else None
    if known and find_kind(known.kind).composed:
        return load_finetuned(folder, base, **options)[:2]
    if (folder / CONFIG).is_file():
        model: nn.Module = load_adapter(folder, model=base, **options)
        tokenizer = find_tokenizer(str(folder)) or find_tokenizer(base_name(folder, base))
        tokenizer = None if tokenizer is None else prompted(tokenizer, model)
    elif base is not None and (folder / "slim.json").is_file():
        from ttnet_llm.slim.saving import load_slim  # which loads adapters by this module

        model, tokenizer = load_slim(folder, base=base, **options), find_tokenizer(str(folder))
    else:
        if base is not None:
            raise TTValueError(f"base is {base!r}, but {str(path)!r} holds a whole model; leave it out.")
        model, tokenizer = load_whole(str(folder), **options), find_tokenizer(str(folder))
    if tokenizer is not None:
        if tokenizer.pad_token is None:  # language models come without
            tokenizer.pad_token = tokenizer.eos_token
        config: Any = getattr(model, "config", None)
        if getattr(config, "pad_token_id", 0) is None:
            config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def find_model(path: str | Path) -> Path:
    """Find the folder with the weights that a path stands for, and fetch it from the hub if it is not here.

    Args:
        path: The folder of an adapter or model, or of a run of `ttnet-llm finetune`; or an id on the hub.

    Returns:
        The folder.

    Raises:
        TTFileError: If there is none.
    """
    place = Path(path) if Path(path).exists() else _fetched(str(path))
    for folder in (place / part for part in _PARTS):
        if (folder / CONFIG).is_file() or (folder / "config.json").is_file():
            return folder
    refuse_seeds(place)
    raise TTFileError(
        f"{str(path)!r} holds neither an adapter nor a model (there is no {CONFIG} and no config.json); check the path."
    )


def _fetched(name: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_FILES))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise TTFileError(
            f"There is no folder {name!r}, it is not in the local cache, and the hub has no such model or cannot be "
            "reached; check the name."
        ) from error


def load_whole(name: str, **options: Any) -> PreTrainedModel:
    """Load a whole model, dense or with trains, of the class that its config names.

    Args:
        name: A folder or hub id.
        **options: For `from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        TTFileError: If there is no such model, or its weights cannot be read.
    """
    config = load_config(name)
    classes = [getattr(transformers, each, None) for each in getattr(config, "architectures", None) or []]
    model_cls: Any = next((cls for cls in classes if cls is not None), transformers.AutoModel)
    return _loaded(name, model_cls, **options)


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
    refuse_seeds(path)
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
        raise TTValueError(f"The adapter in {str(adapter)!r} names no base model; say which one with model (--base).")
    return name


def load_adapter(adapter: str | Path, *, model: str | None = None, weights: bool = True, **options: Any) -> PeftModel:
    """Load a base model, of the class that an adapter was made for, and the adapter on it.

    Args:
        adapter: The folder of an adapter of any method, or of a run of `ttnet-llm finetune`.
        model: The base model; `None` takes the one that the adapter names.
        weights: Whether to load the base model's weights. Without them only its config is read, and zeros that take
            no memory stand in their place, which is enough to look at the adapter itself; unless what it adds to a
            weight depends on that, as a turn does: then they are loaded all the same.
        **options: For `from_pretrained` of the base model.

    Returns:
        The model in evaluation mode; a classifier has the adapter's classes.

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
    for name, value in read_class_names(folder).items():
        setattr(config, name, value)
    # Adapters of classifiers bring their own heads, which need not have as many classes as the base model's.
    heads = [t for key, t in read_weights(folder).items() if _HEAD.fullmatch(key)] if fields.get("task_type") else []
    if heads and config.num_labels != heads[0].shape[0]:
        config.num_labels = heads[0].shape[0]
    model_cls = _model_class(fields, config, folder)
    if not (weights or getattr(PEFT_TYPE_TO_CONFIG_MAPPING[fields["peft_type"]], "reads_weights", False)):
        skeleton = _without_weights(model_cls, config)
        return PeftModel.from_pretrained(_on_cpu(skeleton), str(folder)).eval()
    loaded = _loaded(base, model_cls, config=config, ignore_mismatched_sizes=bool(heads), **options)
    return PeftModel.from_pretrained(loaded, str(folder)).eval()


def load_skeleton(adapter: str | Path, *, base: str | None = None) -> nn.Module:
    """Make the model that an adapter or bank is for, on the meta device.

    Args:
        adapter: A folder with an adapter's config.
        base: The base model; `None` takes the one that the config names.

    Returns:
        The model, of the class that the config's task asks for.

    Raises:
        TTFileError: If the base model is not to be found.
        TTTypeError: If the class of the base model cannot be told.
        TTValueError: If the config names no base model and `base` is `None`.
    """
    folder = find_adapter(adapter)
    config = load_config(base_name(folder, base))
    return _without_weights(_model_class(read_config(folder), config, folder), config)


def _without_weights(model_cls: Any, config: Any) -> nn.Module:
    from ttnet_llm.slim.saving import cut_as_said  # which loads adapters by this module

    with torch.device("meta"):
        model: nn.Module = model_cls.from_config(config) if hasattr(model_cls, "from_config") else model_cls(config)
    return cut_as_said(model)


def _loaded(name: str, model_cls: Any, **options: Any) -> Any:
    try:
        return model_cls.from_pretrained(name, **options)
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, TTError) or (isinstance(error, OSError) and error.errno is not None):  # or the disk
            raise
        raise TTFileError(f"The weights of {name!r} cannot be loaded: {error}") from error


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
