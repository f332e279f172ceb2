"""Weights that several layers hold in common: an output head and a table of embeddings, most often.

An adapter acts on one of the layers alone, and so must its update once it is merged. Before merging, an adapted layer
therefore gets a weight of its own; and the config of a model that comes out of it says so, so that it is loaded as it
was saved.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from ttnet_llm.tuner.layer import AdapterLayer


def shared_parameters(model: nn.Module) -> set[int]:
    """Find the parameters that more than one module holds.

    Args:
        model: The model.

    Returns:
        Their ids.

    Example:
        >>> model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        >>> model[1].weight = model[0].weight
        >>> shared_parameters(model) == {id(model[0].weight)}
        True
    """
    held = (parameter for module in model.modules() for parameter in module._parameters.values())
    counts = Counter(id(parameter) for parameter in held if parameter is not None)
    return {parameter for parameter, count in counts.items() if count > 1}


def merge_apart(model: PeftModel, **options: Any) -> Any:
    """Merge adapters of any method of PEFT's, each into the weight of its own layer only.

    The methods of this package see to that themselves.

    Args:
        model: The model with its adapters.
        **options: As `merge_and_unload` takes them.

    Returns:
        The merged base model.
    """
    shared = shared_parameters(model)
    for module in model.modules():
        if not isinstance(module, BaseTunerLayer) or isinstance(module, AdapterLayer):
            continue
        base = module.get_base_layer()
        weight = base._parameters.get("weight")
        if id(weight) in shared:
            base.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    with ties_declared(model.get_base_model()):
        return model.merge_and_unload(**options)


@contextmanager
def ties_declared(model: nn.Module) -> Iterator[None]:
    """Let a model's config say which weights are tied once adapters have been taken out of it.

    PEFT looks at the table that the model calls its input embeddings, which for some encoder-decoder models is the
    encoder's, and no head's; and then says that nothing is tied.

    Args:
        model: The model.
    """
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    before = [getattr(part.config, "tie_word_embeddings", None) for part in parts]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        yield
    for part, tied in zip(parts, before, strict=True):
        if tied is not None:
            part.config.tie_word_embeddings = tied
    _declare_broken_ties(parts)


def _declare_broken_ties(parts: list[PreTrainedModel]) -> None:
    pairs = [(part, part.get_expanded_tied_weights_keys()) for part in parts]
    broken = {id(part.config) for part, names in pairs if not all(_tied(part, *pair) for pair in names.items())}
    for part, names in pairs:
        if id(part.config) not in broken:
            continue
        # The output of encoder-decoder models may be scaled where the config says tied, so that it must go on saying
        # so. They are loaded as they were all the same: transformers ties no weights that differ in the file.
        keep = part.config.is_encoder_decoder
        for config in () if keep else (part.config, part.config.get_text_config()):
            config.tie_word_embeddings = False
        for target, source in names.items():  # what is not tied by its name any more must be in the file by its name
            if not (keep and _tied(part, target, source)):
                _own(part, target)
    for model in parts[:1]:
        names = model.get_expanded_tied_weights_keys(all_submodels=True)
        model.all_tied_weights_keys = {t: s for t, s in names.items() if _tied(model, t, s)}


def _tied(model: nn.Module, target: str, source: str) -> bool:
    return _weight(model, target) is _weight(model, source)


def _weight(model: nn.Module, name: str) -> Tensor | None:
    try:
        return model.get_parameter(name)
    except AttributeError:  # of a layer that makes its weight, such as one of a train
        return None


@torch.no_grad()
def _own(model: nn.Module, name: str) -> None:
    weight = _weight(model, name)
    if weight is not None and id(weight) in shared_parameters(model):
        layer, _, last = name.rpartition(".")
        setattr(model.get_submodule(layer), last, nn.Parameter(weight.clone(), requires_grad=weight.requires_grad))
