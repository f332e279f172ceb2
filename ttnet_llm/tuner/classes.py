"""A head for the classes that an adapter was trained for, in the place of a base model's own."""

from typing import Any

from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from ttnet_llm.class_names import CLASSIFIERS
from ttnet_llm.tuner.config import AdapterConfig

HEADS = frozenset({"classifier", "score"})  # as PEFT has it


def settle_classes(model: nn.Module, config: AdapterConfig) -> None:
    """Let the config name the model's classes, or the model have those that a saved config names.

    A base model has no head yet, or another one, and PEFT keeps neither names nor number of the classes.

    Args:
        model: The base model.
        config: An adapter's config.
    """
    own: Any = getattr(model, "config", None)
    if config.task_type not in CLASSIFIERS or not getattr(own, "id2label", None):
        return
    if config.id2label is None or config.classes_are_the_models:
        config.id2label, config.classes_are_the_models = dict(own.id2label), True
    elif config.id2label != own.id2label and not any(isinstance(m, ModulesToSaveWrapper) for m in model.modules()):
        if len(config.id2label) != own.num_labels:
            resize_head(model, len(config.id2label))
        own.id2label = dict(config.id2label)
        own.label2id = {name: k for k, name in own.id2label.items()}


def resize_head(model: nn.Module, count: int) -> None:
    """Put a new last layer into a model's head.

    Args:
        model: A classifier of transformers'.
        count: The number of classes.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> model = BertForSequenceClassification(config)
        >>> resize_head(model, 3)
        >>> model.classifier
        Linear(in_features=8, out_features=3, bias=True)
    """
    for name, head in list(model.named_modules()):
        layers = [inner for inner, layer in head.named_modules() if type(layer) is nn.Linear]
        if name.rpartition(".")[2] not in HEADS or not layers:
            continue
        full = f"{name}.{layers[-1]}".rstrip(".")
        old: Any = model.get_submodule(full)
        new = nn.Linear(old.in_features, count, bias=old.bias is not None, device=old.weight.device)
        parent, _, last = full.rpartition(".")
        setattr(model.get_submodule(parent), last, new.to(old.weight.dtype))
    if hasattr(model, "num_labels"):
        model.num_labels = count  # type: ignore[assignment]  # a plain attribute
